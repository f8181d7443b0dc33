"""The connections of the HTTP server: bounded in number, time and size, whatever its clients do."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from raftkv.errors import ConfigurationError
from raftkv.server.http import listener
from raftkv.server.http.listener import Handler, Listener, listening
from raftkv.server.http.tls import Contexts, following
from raftkv.testing.processes import LOOPBACK, free_port
from raftkv.tls.material import CertificateFiles
from raftkv.tls.rotation import RotatingCertificate
from tests.server.memory_cluster import until

GET = b"GET /x HTTP/1.1\r\nHost: node\r\n\r\n"


async def hello(request: web.BaseRequest) -> web.StreamResponse:
    response = web.Response(text=f"hello {request.path}\n")
    response.force_close()
    return response


@asynccontextmanager
async def serving(handler: Handler = hello, contexts: Contexts = lambda: None) -> AsyncIterator[tuple[Listener, int]]:
    port = free_port()
    async with listening(f"{LOOPBACK}:{port}", handler, contexts) as served:
        yield served, port


async def talk(port: int, said: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    """Say something and return all that is answered until the connection ends."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=tls, server_hostname="node" if tls else None)
    try:
        writer.write(said)
        return await asyncio.wait_for(reader.read(), 20)
    finally:
        writer.close()


async def test_one_request_a_connection() -> None:
    async with serving() as (served, port):
        answer = await talk(port, GET * 3)
        assert answer.count(b"HTTP/1.1 200 OK") == 1
        assert answer.endswith(b"hello /x\n")
        await until(lambda: not served.connections)


async def test_head_has_no_body() -> None:
    async with serving() as (_, port):
        answer = await talk(port, GET.replace(b"GET", b"HEAD"))
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "said",
    [
        b"hello\r\n\r\n",
        bytes(range(128, 256)) * 4 + b"\r\n\r\n",
        b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: node\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: node\r\nX: " + b"x" * 9000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(500)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64) + b"\r\n\r\n",  # how TLS begins
    ],
)
async def test_what_is_no_request_is_refused(said: bytes) -> None:
    async with serving() as (served, port):
        assert (await talk(port, said)).split(b"\r\n")[0].endswith(b"400 Bad Request")
        assert (await talk(port, GET)).startswith(b"HTTP/1.1 200 OK")
        await until(lambda: not served.connections)


async def test_a_body_is_not_waited_for() -> None:
    async with serving() as (served, port):
        said = b"POST /x HTTP/1.1\r\nHost: node\r\nContent-Length: 1000000000\r\n\r\nabc"
        assert (await talk(port, said)).startswith(b"HTTP/1.1 200 OK")
        await until(lambda: not served.connections)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: no"])
async def test_a_client_that_says_nothing_more_is_cut_off(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LIFETIME_S", 0.1)
    async with serving() as (served, port):
        assert await talk(port, said) == b""
        assert not served.connections


async def test_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    async def much(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=bytes(16 << 20))

    monkeypatch.setattr(listener, "LIFETIME_S", 0.3)
    async with serving(much) as (served, port):
        with socket.create_connection((LOOPBACK, port)) as client:
            client.sendall(GET)
            await until(lambda: served.connections)
            await until(lambda: not served.connections)


async def test_a_handler_that_hangs_ends_with_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = asyncio.Event()

    async def hang(request: web.BaseRequest) -> web.StreamResponse:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("nobody set it")

    monkeypatch.setattr(listener, "LIFETIME_S", 0.1)
    async with serving(hang) as (_, port):
        assert await talk(port, GET) == b""
        await asyncio.wait_for(ended.wait(), 10)


async def test_of_too_many_connections_the_oldest_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a probe gets its answer while others hold on to theirs, and the process keeps its file descriptors."""
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 8)
    async with serving() as (served, port):
        idle = [await asyncio.open_connection(LOOPBACK, port) for _ in range(8)]
        await until(lambda: served.connections == 8)
        for _ in range(20):
            assert (await talk(port, GET)).startswith(b"HTTP/1.1 200 OK")
            assert served.connections <= 8
        assert await asyncio.wait_for(idle[0][0].read(), 10) == b""
        for _, writer in idle:
            writer.close()


async def test_a_mistake_here_is_answered_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(request: web.BaseRequest) -> web.StreamResponse:
        raise ZeroDivisionError("secret")

    async with serving(fail) as (_, port):
        answer = await talk(port, GET)
        assert answer.startswith(b"HTTP/1.1 500")
        assert b"secret" not in answer
        assert b"Connection: close" in answer, "else it stays open until its time is up"


async def test_it_ends_at_once_whoever_is_connected() -> None:
    async with serving() as (_, port):
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"GET / HT")
    with suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(LOOPBACK, port)


@pytest.mark.parametrize("host", [LOOPBACK, "localhost", "[::1]"])
async def test_it_listens_where_it_is_told_to(host: str) -> None:
    port = free_port()
    async with listening(f"{host}:{port}", hello, lambda: None):
        _, writer = await asyncio.open_connection(host.strip("[]"), port)
        writer.close()


@pytest.mark.parametrize("address", [f"{LOOPBACK}:PORT", "192.0.2.1:PORT", "no-such-host.invalid:PORT"])
async def test_an_address_that_cannot_be_had_is_a_configuration_error(address: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        at = address.replace("PORT", str(taken.getsockname()[1]))
        with pytest.raises(ConfigurationError, match=rf"cannot listen on {at} \(for HTTP\)"):
            async with listening(at, hello, lambda: None):
                pass


# --- TLS --------------------------------------------------------------------------------------------------------------


def certificate(directory: Path) -> tuple[Path, Path]:
    """Write a certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, now - timedelta(1), now + timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("node")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    written = directory / "node.crt", directory / "node.key"
    written[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    written[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return written


def contexts(shown: Path, key: Path) -> Contexts:
    return following(RotatingCertificate(CertificateFiles(purpose="clients", cert=shown, key=key)))


async def test_with_a_certificate_it_speaks_tls_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, key = certificate(tmp_path)
    monkeypatch.setattr(listener, "LIFETIME_S", 5.0)
    async with serving(contexts=contexts(shown, key)) as (served, port):
        assert (await talk(port, GET, ssl.create_default_context(cafile=shown))).endswith(b"hello /x\n")
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk(port, GET, ssl.create_default_context())
        assert b"HTTP" not in await talk(port, GET)  # plain text
        assert (await talk(port, GET, ssl.create_default_context(cafile=shown))).endswith(b"hello /x\n")
        await until(lambda: not served.connections)


async def test_a_handshake_that_hangs_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "LIFETIME_S", 0.2)
    async with serving(contexts=contexts(*certificate(tmp_path))) as (served, port):
        assert await talk(port, b"") == b""
        assert not served.connections


async def test_the_next_connection_is_shown_the_certificate_of_now(tmp_path: Path) -> None:
    """A pair of files that do not fit is never shown; the one before goes on."""
    shown, key = certificate(tmp_path)
    before = ssl.create_default_context(cafile=shown)
    async with serving(contexts=contexts(shown, key)) as (_, port):
        assert (await talk(port, GET, before)).endswith(b"/x\n")
        key.write_text("garbage")
        assert (await talk(port, GET, before)).endswith(b"/x\n")
        certificate(tmp_path)
        assert (await talk(port, GET, ssl.create_default_context(cafile=shown))).endswith(b"/x\n")
        with pytest.raises(ssl.SSLCertVerificationError):
            await talk(port, GET, before)


def test_without_a_certificate_it_is_plain_text() -> None:
    assert following(None)() is None
