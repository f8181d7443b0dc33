"""Which cluster a node belongs to: one that it founds, one that it enters, or the one that its disk remembers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
import structlog

from raftkv.errors import ConfigurationError, DataDirectoryMismatch, NoLeader, StorageError
from raftkv.raft import NO_MEMBERS, Configuration, NodeId
from raftkv.server.certificates import client_certificate
from raftkv.server.settings import ServerSettings, founded_cluster_id
from raftkv.storage.data_dir import IDENTITY_NAME, Identity, RestoredState, check_identity, read_identity
from raftkv.storage.protocols import RESTORE_FROM_PEERS
from raftkv.storage.way_out import exact
from raftkv.tls.system import system_authorities
from raftkv.v1 import cluster_pb2 as pb
from raftkv.v1.cluster_pb2_grpc import ClusterStub

log = structlog.get_logger("raftkv.cluster")

JOIN_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster, as a node knows it before it has heard anything."""

    cluster_id: int
    founded_with: Configuration
    """Empty on a node that enters: it learns the members from the log."""
    members: Mapping[NodeId, str]
    """Peer addresses, to be recorded with the data."""
    peer_address: str
    """Where peers reach this node."""
    node_id: NodeId
    """Who this node is there: what it was started as, or who came in that one's place when it was repaired (ADR 9)."""
    promote: bool = False
    """See `data_dir.Identity.promote`."""

    @property
    def founded(self) -> bool:
        """Whether this node founded the cluster, rather than joined it."""
        return bool(self.founded_with.members)


def founded_by(settings: ServerSettings) -> Cluster:
    """Return the cluster that the founding members in `settings` make."""
    members = {NodeId(node): address for node, address in settings.member.items()}
    node_id = NodeId(settings.id)
    return Cluster(settings.founded_cluster_id, _founding(members), members, members[node_id], node_id)


async def find_cluster(settings: ServerSettings) -> Cluster:
    """Return the cluster to take part in: the one that the data directory remembers, or else what the flags say.

    Raises ConfigurationError: this node was not added to the cluster, or there is neither a directory nor a flag that
    names one; NoLeader: none of the addresses can tell; StorageError.
    """
    identity = _read_identity(settings)
    if identity is not None:
        return _remembered(identity, settings)
    if settings.member:
        return founded_by(settings)
    if settings.join:
        return await _entered(settings, NodeId(settings.id))
    raise ConfigurationError(
        f"{settings.data_dir} holds no node yet: give --member for every founding member, or --join HOST:PORT to enter "
        "a running cluster"
    )


def _remembered(identity: Identity, settings: ServerSettings) -> Cluster:
    """Return the cluster of a data directory.

    Whether a node founded it is for the directory to say, not for the flags: founding members are not in the log, so a
    founder that starts without them has no members, and one that joined must not make some up.

    Raises DataDirectoryMismatch: it is another node's or another cluster's. StorageError: it is damaged.
    """
    # Its --member is that of the node in whose place it came, in words that no command line has to be changed for.
    named = settings.member and not identity.replaces
    cluster_id = settings.founded_cluster_id if named else identity.cluster_id
    if identity.restored:
        # Its members do not make its id: a backup does, with them. They are to be the same all the same.
        cluster_id = identity.cluster_id
        _require_members(identity, settings)
        _require_name(identity.restored, settings)
    check_identity(settings.data_dir, identity, cluster_id, NodeId(settings.id))
    address = identity.members.get(identity.node_id)
    if address is None:
        raise StorageError(
            exact(
                f"{settings.data_dir / IDENTITY_NAME} does not say where node {identity.node_id} is reached. "
                f"{RESTORE_FROM_PEERS}",
                settings.data_dir,
            )
        )
    founded = identity.founded
    if founded is None:
        # The founding members make this very id. Under a name that was not given they do not, so a flag has to say it.
        name = settings.cluster_name
        founded = bool(settings.member) or founded_cluster_id(name, identity.members.items()) == cluster_id
        if not founded and not settings.join:
            raise ConfigurationError(
                f"{settings.data_dir} was made by an earlier raftkv and does not say whether its node founded the "
                "cluster: give --member as then, or --join if it joined"
            )
    return Cluster(
        cluster_id,
        _founding(identity.members) if founded else NO_MEMBERS,
        identity.members,
        address,
        identity.node_id,
        identity.promote,
    )


def _read_identity(settings: ServerSettings) -> Identity | None:
    """Raises StorageError, which names the way out: whose directory it is, the command line knows."""
    try:
        return read_identity(settings.data_dir)
    except StorageError as error:
        raise StorageError(exact(error.message, settings.data_dir, node_id=settings.id)) from error


def _require_members(identity: Identity, settings: ServerSettings) -> None:
    given = {NodeId(node): address for node, address in settings.member.items()}
    if given and given != identity.members:
        listed = ",".join(f"{node}={address}" for node, address in sorted(identity.members.items()))
        named = ",".join(f"{node}={address}" for node, address in sorted(given.items()))
        raise DataDirectoryMismatch(
            f"the data directory {settings.data_dir} was restored from a backup for the members {listed}, and --member "
            f"names {named}. The way out: give --member {listed}, or no --member at all; for other members, restore "
            "the backup again"
        )


def _require_name(restored: RestoredState, settings: ServerSettings) -> None:
    # Where it is not given, there is nothing to compare: the default is nobody's word.
    given = "cluster_name" in settings.model_fields_set
    if given and restored.cluster_name not in (None, settings.cluster_name):
        raise DataDirectoryMismatch(
            f"the data directory {settings.data_dir} was restored from a backup with --cluster-name "
            f"{restored.cluster_name}, not {settings.cluster_name}. The way out: give that name, or none"
        )


def _founding(members: Mapping[NodeId, str]) -> Configuration:
    return Configuration(voters=frozenset(members), addresses=tuple(sorted(members.items())))


async def _entered(settings: ServerSettings, node_id: NodeId) -> Cluster:
    """Return the cluster behind the addresses of --join, of which this node is a member by now, as one says that knows.

    One of them may have been removed itself, or be out of touch: what it does not know, the next one may.
    """
    refusals: list[ConfigurationError | NoLeader] = []
    for address in settings.join:
        try:
            return await _entered_at(address, node_id, settings)
        except (ConfigurationError, NoLeader) as error:
            refusals.append(error)
    said = "; ".join(refusal.message for refusal in refusals)
    if any(isinstance(refusal, ConfigurationError) for refusal in refusals):
        raise ConfigurationError(said)
    raise NoLeader(f"no member of the cluster lets node {node_id} in: {said}")


async def _entered_at(address: str, node_id: NodeId, settings: ServerSettings) -> Cluster:
    """Ask the node at `address`. Raises NoLeader: it cannot know; ConfigurationError: it does, or is none."""
    try:
        status = await _status(address, settings)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            raise ConfigurationError(
                f"{address} answers, but not to clients: --join wants the client address of a node (its --listen), not "
                "the one where its peers reach it"
            ) from error
        raise NoLeader(f"{address}: {error.code().name}: {error.details()}") from error
    leader = status.header.leader_address
    if not leader:
        raise NoLeader(f"{address} knows no leader: an election is under way, or it was removed from the cluster")
    if leader != address:
        # Through the leader's eyes: a follower may not know yet that this node was added.
        try:
            status = await _status(leader, settings)
        except grpc.aio.AioRpcError as error:
            log.warning("the leader does not answer", leader=leader, reason=error.details())
    members = {NodeId(member.id): member.peer_address for member in status.members}
    if node_id not in members:
        raise ConfigurationError(
            f"node {node_id} is not a member of the cluster at {address} (members: "
            f"{', '.join(map(str, sorted(members)))}): run `raftkv member add {node_id} HOST:PORT` first, with the "
            "address where its peers will reach it"
        )
    return Cluster(status.header.cluster_id, NO_MEMBERS, members, members[node_id], node_id)


async def _status(address: str, settings: ServerSettings) -> pb.StatusResponse:
    async with _dialled(address, settings) as channel:
        return await ClusterStub(channel).Status(pb.StatusRequest(), timeout=JOIN_TIMEOUT_S)


def _dialled(address: str, settings: ServerSettings) -> grpc.aio.Channel:
    """Return a channel to a client address: with TLS if this node's own has it, and with its certificate."""
    options = [("grpc.enable_http_proxy", 0)]
    certificate = client_certificate(settings)
    if certificate is None:
        return grpc.aio.insecure_channel(address, options=options)
    material = certificate.current()
    credentials = grpc.ssl_channel_credentials(
        material.ca_pem or system_authorities(), material.key_pem, material.cert_pem
    )
    return grpc.aio.secure_channel(address, credentials, options=options)
