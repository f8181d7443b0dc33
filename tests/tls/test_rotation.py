"""A certificate follows its files, and a bad file changes nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
import structlog
from cryptography import x509

from raftkv.errors import ConfigurationError
from raftkv.tls.authority import Issued
from raftkv.tls.rotation import RETRY_S, WARN_BEFORE_S, RotatingCertificate
from tests.pki import Pki


class Clock:
    def __init__(self, pki: Pki) -> None:
        self.now = pki.now.timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(pki: Pki) -> Clock:
    return Clock(pki)


@pytest.fixture
def certificate(pki: Pki, tmp_path: Path, clock: Clock) -> RotatingCertificate:
    return RotatingCertificate(pki.for_peers(pki.nodes[1], tmp_path, node=1), now=clock)


def test_a_new_certificate_is_taken_up(certificate: RotatingCertificate, pki: Pki, tmp_path: Path) -> None:
    before = certificate.version
    assert not certificate.changed_since(before)
    pki.put(pki.other_of_1, tmp_path)
    assert certificate.changed_since(before)
    assert certificate.current().cert_pem == pki.other_of_1.cert_pem
    assert certificate.state().refused == ""


def test_files_that_were_only_touched_change_nothing(certificate: RotatingCertificate) -> None:
    before = certificate.version
    os.utime(certificate.files.cert, (1, 1))
    assert not certificate.changed_since(before)


def test_a_link_that_is_switched_counts_as_a_change(pki: Pki, tmp_path: Path, clock: Clock) -> None:
    """Kubernetes replaces the files of a secret so: by a link to another directory."""
    for name, issued in (("old", pki.nodes[1]), ("new", pki.other_of_1)):
        (tmp_path / name).mkdir()
        pki.put(issued, tmp_path / name)
    link = tmp_path / "data"
    link.symlink_to("old")
    files = pki.for_clients(pki.nodes[1], link)
    certificate = RotatingCertificate(files, now=clock)
    (tmp_path / "later").symlink_to("new")
    (tmp_path / "later").replace(link)
    assert certificate.current().cert_pem == pki.other_of_1.cert_pem


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("expired", "expired at"),
        ("foreign_node", "no authority in --peer-tls-ca"),
        ("client", "not issued for"),
        ("mixed", "is not the key"),
        ("junk", "holds no certificate"),
    ],
)
def test_a_bad_new_one_is_refused_and_the_old_one_stays(
    certificate: RotatingCertificate, pki: Pki, tmp_path: Path, bad: str, why: str
) -> None:
    made = {"mixed": Issued(pki.other_of_1.cert_pem, pki.nodes[1].key_pem), "junk": Issued(b"junk", b"junk")}
    with structlog.testing.capture_logs() as logs:
        pki.put(made.get(bad) or getattr(pki, bad), tmp_path)
        for _ in range(3):
            assert certificate.current().cert_pem == pki.nodes[1].cert_pem
    assert why in certificate.state().refused
    assert [entry["event"] for entry in logs] == ["new certificate files are not used; the old certificate stays"]
    pki.put(pki.other_of_1, tmp_path)
    assert certificate.current().cert_pem == pki.other_of_1.cert_pem
    assert certificate.state().refused == ""


def test_a_file_that_is_gone_is_refused_too(certificate: RotatingCertificate, pki: Pki, tmp_path: Path) -> None:
    certificate.files.cert.unlink()
    assert certificate.current().cert_pem == pki.nodes[1].cert_pem
    assert "No such file" in certificate.state().refused


def test_what_was_too_early_is_taken_up_when_its_time_has_come(
    certificate: RotatingCertificate, pki: Pki, tmp_path: Path, clock: Clock
) -> None:
    pki.put(pki.early, tmp_path)
    assert "valid only from" in certificate.state().refused
    clock.now += 3 * 86_400
    assert clock.now > RETRY_S
    assert certificate.state().refused == ""
    assert certificate.current().cert_pem == pki.early.cert_pem


def test_its_end_is_announced_once_a_day(certificate: RotatingCertificate, clock: Clock) -> None:
    with structlog.testing.capture_logs() as logs:
        certificate.warn_of_end()
        clock.now = certificate.state().not_after - WARN_BEFORE_S + 60
        for _ in range(3):
            certificate.warn_of_end()
        assert len(logs) == 1
        clock.now = certificate.state().not_after + 60
        certificate.warn_of_end()
    assert ["expires soon" in logs[0]["event"], "has expired" in logs[1]["event"]] == [True, True]


def test_a_node_does_not_start_with_a_bad_one(pki: Pki, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expired"):
        RotatingCertificate(pki.for_clients(pki.expired, tmp_path))


# --- with real handshakes ---------------------------------------------------------------------------------------------


@pytest.fixture
async def port(certificate: RotatingCertificate) -> AsyncIterator[int]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    found = server.add_secure_port("127.0.0.1:0", certificate.server_credentials(client_auth=False))
    await server.start()
    yield found
    await server.stop(None)


def shown(port: int, pki: Pki) -> bytes:
    """Return the certificate that a new connection is shown, in DER. Any verifies that ends in the right authority."""
    context = ssl.create_default_context(cafile=str(pki.ca))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        found = secure.getpeercert(binary_form=True)
        assert found is not None
        return found


def der(issued: Issued) -> bytes:
    return ssl.PEM_cert_to_DER_cert(issued.cert_pem.decode())


async def test_new_connections_are_shown_the_new_certificate_and_never_a_bad_one(
    port: int, certificate: RotatingCertificate, pki: Pki, tmp_path: Path
) -> None:
    steps = [(pki.nodes[1], pki.nodes[1]), (pki.other_of_1, pki.other_of_1), (pki.expired, pki.other_of_1)]
    for on_disk, in_use in [*steps, (pki.nodes[1], pki.nodes[1])]:
        pki.put(on_disk, tmp_path)
        assert await asyncio.to_thread(shown, port, pki) == der(in_use)


def test_certificates_are_what_they_are_taken_for(pki: Pki) -> None:
    """Of the two for node 1, one could not be told from the other by its names."""
    first, second = (x509.load_pem_x509_certificate(one.cert_pem) for one in (pki.nodes[1], pki.other_of_1))
    assert first.subject == second.subject
    assert first != second
