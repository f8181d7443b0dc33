"""The certificates of a node: those in use, and what to tell of them.

What judges them is loaded where there are some: a node without TLS starts sooner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from raftkv.server.settings import ServerSettings
from raftkv.tls.names import peer_name
from raftkv.v1 import cluster_pb2 as pb

if TYPE_CHECKING:
    from raftkv.tls.rotation import RotatingCertificate
    from raftkv.transport.peer_tls import PeerTls

FOLLOW_S: Final = 5.0
"""How often the files are looked at while nobody connects, so that a bad one is complained about soon."""
_MS: Final = 1_000


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a node shows, and to whom."""

    clients: RotatingCertificate | None = None
    peers: RotatingCertificate | None = None

    def in_use(self) -> Iterator[RotatingCertificate]:
        """Yield those there are."""
        yield from (one for one in (self.clients, self.peers) if one is not None)

    def between_peers(self, cluster_name: str) -> PeerTls | None:
        """Return how nodes prove to each other who they are; None: they speak plain text."""
        if self.peers is None:
            return None
        from raftkv.transport.peer_tls import PeerTls  # noqa: PLC0415 - see above

        return PeerTls(self.peers, cluster_name)

    def status(self) -> list[pb.CertificateStatus]:
        """Return what to tell of them."""
        return [
            pb.CertificateStatus(
                purpose=state.purpose,
                file=state.file,
                subject=state.subject,
                not_before_ms=round(state.not_before * _MS),
                not_after_ms=round(state.not_after * _MS),
                refused=state.refused,
            )
            for state in (one.state() for one in self.in_use())
        ]

    async def follow(self) -> None:
        """Look at the files from time to time, and complain about what ends soon. Ends with the node."""
        while True:
            for one in self.in_use():
                one.warn_of_end()
            await asyncio.sleep(FOLLOW_S)


def client_certificate(settings: ServerSettings) -> RotatingCertificate | None:
    """Return the certificate that clients are shown; None: plain text. Raises ConfigurationError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    from raftkv.tls.material import CertificateFiles  # noqa: PLC0415 - see above
    from raftkv.tls.rotation import RotatingCertificate  # noqa: PLC0415

    return RotatingCertificate(
        CertificateFiles(purpose="clients", cert=settings.tls_cert, key=settings.tls_key, ca=settings.tls_ca)
    )


def peer_certificate(settings: ServerSettings, node_id: int) -> RotatingCertificate | None:
    """Return the certificate that node `node_id` shows to its peers; None: plain text. Raises ConfigurationError."""
    if settings.peer_tls_cert is None or settings.peer_tls_key is None or settings.peer_tls_ca is None:
        return None
    from raftkv.tls.material import CertificateFiles  # noqa: PLC0415 - see above
    from raftkv.tls.rotation import RotatingCertificate  # noqa: PLC0415

    return RotatingCertificate(
        CertificateFiles(
            purpose="peers",
            cert=settings.peer_tls_cert,
            key=settings.peer_tls_key,
            ca=settings.peer_tls_ca,
            name=peer_name(node_id, settings.cluster_name),
            dials=True,
            own_authority=True,
        )
    )
