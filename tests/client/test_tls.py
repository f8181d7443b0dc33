"""A client that speaks TLS; and what it says where the two ends do not agree on it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest

from raftkv.client import AsyncClient, EndpointFailure, Tls
from raftkv.client.tls import tls_from_environment
from raftkv.errors import ConfigurationError, ConnectionFailed
from raftkv.tls.authority import Issued
from raftkv.tls.rotation import RotatingCertificate
from tests.client.fake import FakeCluster
from tests.pki import Pki


@pytest.fixture
async def node(pki: Pki, tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    """Start a node with a certificate (None: plain text); with `asks`, clients must show one. Return its address."""
    cluster = FakeCluster(1)

    async def start(issued: Issued | None = pki.nodes[1], *, asks: bool = False) -> str:
        credentials = None
        if issued is not None:
            pair = [(issued.key_pem, issued.cert_pem)]
            roots = pki.ca.read_bytes() if asks else None
            credentials = grpc.ssl_server_credentials(pair, roots, require_client_auth=asks)
        await cluster[1].start(credentials=credentials)
        return cluster[1].address

    yield start
    await cluster[1].stop()


async def complaint(address: str, tls: Tls | None) -> str:
    """Return what an operation says that no node takes, and see to it that a status says it too."""
    async with AsyncClient(address, tls=tls, timeout=5.0) as client:
        with pytest.raises(ConnectionFailed) as unreachable:
            await client.get("k", timeout=0.7)
        (failure,) = await client.statuses()
        assert isinstance(failure, EndpointFailure)
    said = unreachable.value.message
    assert said.endswith(failure.error.message)
    assert failure.error.message.startswith(f"{address}: ")
    assert said.count("The way out: ") == 1
    assert "\n" not in said
    return said


async def test_a_client_and_a_node_that_know_each_other(node: Callable[..., object], pki: Pki, tmp_path: Path) -> None:
    address = await node(asks=True)  # type: ignore[misc]
    tls = pki.tls(pki.client, tmp_path)
    async with AsyncClient.from_url(f"raftkvs://{address}", tls=tls) as client:
        await client.put("k", "v")
        assert (found := await client.get("k")) is not None
        assert found.value == b"v"
        assert (await client.status()).member_id == 1
        assert client.tls is tls


WRONG = {
    "plain client": (False, None, "the node speaks TLS there, and this client plain text.*--cacert"),
    "plain client, node asks": (True, None, "the node speaks TLS there, and this client plain text.*--cacert"),
    "no certificate": (True, "", "the node demands a client certificate, and this client shows none.*--cert and --key"),
    "expired": (True, "expired_client", r"refuses this client's certificate .*client\.crt: it has expired"),
    "foreign": (
        True,
        "foreign_client",
        r"refuses .*client\.crt: it was issued by none of the authorities",
    ),
}


@pytest.mark.parametrize("what", WRONG)
async def test_what_the_node_does_not_take(node: Callable[..., object], pki: Pki, tmp_path: Path, what: str) -> None:
    """gRPC says no more in these cases than that the connection was closed."""
    asks, shown, said = WRONG[what]
    address = await node(asks=asks)  # type: ignore[misc]
    tls = None if shown is None else pki.tls(getattr(pki, shown) if shown else None, tmp_path)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(await complaint(address, tls))


async def test_what_the_client_does_not_take(node: Callable[..., object], pki: Pki) -> None:
    address = await node()  # type: ignore[misc]
    assert f"none of the authorities in {pki.foreign_ca}" in await complaint(address, Tls(ca=pki.foreign_ca))
    wrong_name = await complaint(address, Tls(ca=pki.ca, server_name="node-2.peer.raftkv"))
    assert "not in the name node-2.peer.raftkv" in wrong_name
    assert "--tls-server-name" in wrong_name


async def test_a_node_whose_certificate_has_expired(node: Callable[..., object], pki: Pki) -> None:
    address = await node(pki.expired)  # type: ignore[misc]
    assert "has expired" in await complaint(address, Tls(ca=pki.ca))


async def test_a_node_that_speaks_plain_text(node: Callable[..., object], pki: Pki) -> None:
    address = await node(None)  # type: ignore[misc]
    assert "the node speaks plain text there, and this client TLS" in await complaint(address, Tls(ca=pki.ca))


async def test_endpoints_with_the_same_trouble_are_named_together(cluster: FakeCluster, pki: Pki) -> None:
    async with AsyncClient(cluster.addresses, tls=Tls(ca=pki.ca)) as client:
        with pytest.raises(ConnectionFailed) as refused:
            await client.get("k", timeout=0.7)
    assert f"{', '.join(cluster.addresses)}: the node speaks plain text" in refused.value.message
    assert refused.value.message.count("The way out") == 1


async def test_a_new_connection_shows_what_the_files_hold_by_then(pki: Pki, tmp_path: Path) -> None:
    """One that was refused for an expired certificate gets in with the next, without a new client."""
    certificate = RotatingCertificate(pki.for_clients(pki.nodes[1], tmp_path, ca=pki.ca))
    cluster = FakeCluster(1)
    await cluster[1].start(credentials=certificate.server_credentials(client_auth=True))
    (tmp_path / "client").mkdir()
    tls = pki.tls(pki.expired_client, tmp_path / "client")
    try:
        async with AsyncClient(cluster.addresses, tls=tls, timeout=20.0) as client:
            getting = asyncio.ensure_future(client.get("k"))
            async with asyncio.timeout(20):
                while not any(one.last_error for one in client.endpoint_states()):  # noqa: ASYNC110 - nobody tells it
                    await asyncio.sleep(0.01)
            pki.tls(pki.client, tmp_path / "client")
            assert await getting is None
    finally:
        await cluster[1].stop()


@pytest.mark.parametrize(
    ("tls", "said"),
    [
        (lambda pki, path: Tls(ca=path / "none"), "authorities .--cacert. .*none: No such file"),
        (lambda pki, path: Tls(ca=pki.file("bad.pem", b"junk")), r"bad\.pem .--cacert. holds no certificate"),
        (
            lambda pki, path: Tls(cert=path / "a.crt", key=path / "a.key"),
            r".--cert. .*a\.crt: No such file",
        ),
        (
            lambda pki, path: pki.tls(Issued(pki.client.cert_pem, pki.nodes[1].key_pem), path),
            "are not a certificate and its key",
        ),
    ],
)
def test_files_of_no_use_are_told_at_once(tls: Callable[[Pki, Path], Tls], said: str, pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{said}.*The way out: "):
        AsyncClient("localhost:1", tls=tls(pki, tmp_path))


def test_a_certificate_needs_its_key() -> None:
    with pytest.raises(ConfigurationError, match="cert is given without key"):
        Tls(cert="a")


def test_the_environment(monkeypatch: pytest.MonkeyPatch, pki: Pki, tmp_path: Path) -> None:
    assert tls_from_environment({"RAFTKV_CACERT": ""}) is None
    cert, key = map(str, pki.put(pki.client, tmp_path))
    tls = Tls(str(pki.ca), cert, key, "node-1.peer.raftkv")
    assert tls_from_environment(tls.variables()) == tls
    for name, value in {**tls.variables(), "RAFTKV_ENDPOINTS": "raftkv://localhost:1"}.items():
        monkeypatch.setenv(name, value)
    assert AsyncClient.from_env().tls == tls
    assert AsyncClient.from_env(tls=Tls()).tls == Tls()


def test_the_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    assert AsyncClient("raftkvs://localhost:1").tls == Tls()
    assert AsyncClient("raftkv://localhost:1").tls is None
    monkeypatch.setenv("RAFTKV_ENDPOINTS", "raftkvs://localhost:1")
    for name in [name for name in os.environ if name.startswith("RAFTKV_") and name != "RAFTKV_ENDPOINTS"]:
        monkeypatch.delenv(name)
    assert AsyncClient.from_env().tls == Tls()
