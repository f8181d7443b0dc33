"""What a node does not start with though its settings make sense: certificates that are of no use, and plain text that
other machines can reach. For `raftkv config check`, which starts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raftkv.errors import StorageError
from raftkv.raft import NodeId
from raftkv.server.certificates import client_certificate, peer_certificate
from raftkv.server.settings import ServerSettings
from raftkv.storage.data_dir import Identity, read_identity
from raftkv.tls.reach import CLIENTS_TLS, PEERS_TLS, require_tls_or_loopback


def require_may_listen(settings: ServerSettings) -> None:
    """Raise ConfigurationError for what `serve` would refuse. Asks the resolver where a listener has a name.

    Certificates with a file that is not there are not judged: settings may be checked on another machine. Nor is the
    address for peers where only the cluster knows it (`--join`).
    """
    identity = _identity(settings)
    node_id = NodeId(settings.id)
    if identity is not None and identity.may_run_as(node_id):
        node_id = identity.node_id
    if _there(settings.tls_cert, settings.tls_key, settings.tls_ca):
        client_certificate(settings)
    if _there(settings.peer_tls_cert, settings.peer_tls_key, settings.peer_tls_ca):
        peer_certificate(settings, node_id)
    members: Mapping[NodeId, str] = (
        {NodeId(node): address for node, address in settings.member.items()} if identity is None else identity.members
    )
    clients, peers = settings.tls_cert is not None, settings.peer_tls_cert is not None
    for address, purpose, flags, tls in (
        (settings.http_listen, "HTTP", CLIENTS_TLS, clients),
        (settings.peer_listen or members.get(node_id), "peers", PEERS_TLS, peers),
        (settings.listen, "clients", CLIENTS_TLS, clients),
    ):
        if address is not None:
            require_tls_or_loopback(address, purpose=purpose, flags=flags, tls=tls, insecure=settings.insecure)


def _identity(settings: ServerSettings) -> Identity | None:
    try:
        return read_identity(settings.data_dir)
    except (StorageError, OSError):
        return None  # `settings_hints` says so


def _there(*files: Path | None) -> bool:
    return all(path is None or path.is_file() for path in files)
