"""Certificates for tests: made once, of every sort that is good or bad."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.x509.oid import ExtendedKeyUsageOID

from raftkv.client import Tls
from raftkv.tls.authority import Authority, Issued
from raftkv.tls.material import CertificateFiles
from raftkv.tls.names import peer_name

CLUSTER_NAME = "raftkv"
LONG_AGO = timedelta(days=800)
BOTH = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


class Pki:
    """An authority that is known, one that is not, and files of what they issued."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = datetime.now(UTC)
        self.authority = Authority.new(CLUSTER_NAME, self.now - LONG_AGO)
        self.foreign = Authority.new("foreign", self.now - LONG_AGO)
        self.ca = self.file("ca.crt", self.authority.cert_pem)
        self.foreign_ca = self.file("foreign-ca.crt", self.foreign.cert_pem)
        self.nodes = {node: self.issue_node(node) for node in (1, 2, 3)}
        self.other_of_1 = self.issue_node(1)
        """Another certificate for node 1, as good as the first."""
        self.expired = self.issue_node(1, ago=LONG_AGO)
        self.early = self.issue_node(1, ago=-timedelta(days=2))
        self.foreign_node = self.foreign.node(1, CLUSTER_NAME, (), self.now)
        self.service = self.authority._issue("service", ["service.example"], BOTH, self.now)
        """Of the right authority, and of use for both ends: but no node's."""
        self.client = self.authority.client("client", self.now)
        self.expired_client = self.authority.client("client", self.now - LONG_AGO)
        self.foreign_client = self.foreign.client("client", self.now)

    def issue_node(self, node: int, *, hosts: Iterable[str] = (), ago: timedelta = timedelta(0)) -> Issued:
        return self.authority.node(node, CLUSTER_NAME, hosts, self.now - ago)

    def file(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.write_bytes(content)
        return path

    def put(self, issued: Issued, directory: Path, name: str = "node") -> tuple[Path, Path]:
        """Write certificate and key to files, and return these."""
        cert, key = directory / f"{name}.crt", directory / f"{name}.key"
        key.write_bytes(issued.key_pem)
        cert.write_bytes(issued.cert_pem)
        return cert, key

    def for_clients(self, issued: Issued, directory: Path, *, ca: Path | None = None) -> CertificateFiles:
        """Return the files of a listener for clients."""
        cert, key = self.put(issued, directory)
        return CertificateFiles(purpose="clients", cert=cert, key=key, ca=ca)

    def for_peers(
        self, issued: Issued, directory: Path, *, node: int | None, ca: Path | None = None
    ) -> CertificateFiles:
        """Return the files of a node; `node` None: no matter whose name is in them."""
        cert, key = self.put(issued, directory)
        return CertificateFiles(
            purpose="peers",
            cert=cert,
            key=key,
            ca=ca or self.ca,
            name=None if node is None else peer_name(node, CLUSTER_NAME),
            dials=node is not None,
            own_authority=node is not None,
        )

    def tls(self, issued: Issued | None, directory: Path, *, ca: Path | None = None) -> Tls:
        """Return what a client says that shows this certificate."""
        if issued is None:
            return Tls(ca=ca or self.ca)
        cert, key = self.put(issued, directory, "client")
        return Tls(ca=ca or self.ca, cert=cert, key=key)
