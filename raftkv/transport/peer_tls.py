"""TLS between nodes: each proves that it is the node it says it is, by the name in its certificate.

Addresses prove nothing: nodes move, and proxies stand between them. What counts is the name that `raftkv.tls.names`
makes of a node's id and the cluster's name, and that an authority of the cluster has put into a certificate. One that
was issued to a client, by the same authority, is no peer's.
"""

from __future__ import annotations

from typing import Any

import grpc

from raftkv.raft import NodeId
from raftkv.tls.identity import proves, shown_names
from raftkv.tls.names import peer_name
from raftkv.tls.rotation import RotatingCertificate
from raftkv.transport.channel import CHANNEL_OPTIONS


class PeerTls:
    """This node's own certificate, and how others are known by theirs."""

    def __init__(self, certificate: RotatingCertificate, cluster_name: str) -> None:
        self._certificate = certificate
        self._cluster_name = cluster_name

    @property
    def version(self) -> int:
        """Of the certificate in use; see `changed_since`."""
        return self._certificate.version

    def changed_since(self, version: int) -> bool:
        """Whether a channel that was made with that version shows a certificate that was replaced."""
        return self._certificate.changed_since(version)

    def channel(self, peer: NodeId, address: str) -> grpc.aio.Channel:
        """Return a channel on which nobody answers but `peer`."""
        name = peer_name(peer, self._cluster_name)
        return grpc.aio.secure_channel(
            address,
            self._certificate.channel_credentials(),
            options=[*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", name)],
        )

    def refusal(self, claimed: NodeId, context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
        """Return why the caller is not the node that it says it is; None: it is."""
        shown = context.auth_context()
        name = peer_name(claimed, self._cluster_name)
        if proves(shown, name):
            return None
        return (
            f"it says that it is node {claimed}, and its certificate is not in the name {name} (but of: "
            f"{shown_names(shown)}). The way out: give node {claimed} its own --peer-tls-cert; `raftkv certs show` "
            "tells the names in one"
        )
