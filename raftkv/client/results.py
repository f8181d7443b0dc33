"""What the client returns: frozen values, each read with the guarantee it really had."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from raftkv.errors import RaftKVError


class ReadLevel(IntEnum):
    """How fresh a read must be; the numbers are those of `raftkv.v1.ReadLevel`."""

    LINEARIZABLE = 0
    """Sees every write that was acknowledged before the read began."""
    LOCAL = 1
    """The asked node's own state: a prefix of the committed history, possibly stale. Works without a leader."""
    LEASE = 2
    """The leader's state while its lease lasts, which spares it asking the others; else as LINEARIZABLE. The answer's
    guarantee says which. FailedPrecondition where leases are off (`raftkv serve --lease-drift-ppm`)."""


class Guarantee(IntEnum):
    """What an answer really is, never more than is true; the numbers are those of `raftkv.v1.Guarantee`."""

    UNSPECIFIED = 0
    LINEARIZABLE = 1
    STALE_PREFIX = 2
    LEASE = 3
    """Linearizable, provided that no node's clock drifted by more than the nodes' --lease-drift-ppm."""


class Role(IntEnum):
    """What a node is at the moment; the numbers are those of `raftkv.v1.Role`."""

    UNSPECIFIED = 0
    FOLLOWER = 1
    PRE_CANDIDATE = 2
    CANDIDATE = 3
    LEADER = 4


@dataclass(frozen=True, slots=True)
class PutResult:
    """A write that is committed."""

    revision: int
    """The revision that the write made: the key's mod_revision."""


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """A delete that is committed."""

    revision: int
    """The store's revision after it; a delete that found nothing makes no revision."""
    deleted: int
    """Number of keys removed."""


@dataclass(frozen=True, slots=True)
class KeyValue:
    """One version of a key."""

    key: bytes
    value: bytes
    """Empty where the request was keys_only."""
    create_revision: int
    mod_revision: int
    version: int
    """Number of writes since the key was created: 1 at creation."""
    guarantee: Guarantee


@dataclass(frozen=True, slots=True)
class RangeResult:
    """A page of a range, in the order of the keys."""

    pairs: tuple[KeyValue, ...]
    more: bool
    """More keys lie in the range than the page holds: the limit, or the server's limit of a page in bytes (1 MiB)."""
    count: int
    """Number of pairs in the page."""
    revision: int
    """The store's revision that the page shows."""
    guarantee: Guarantee


class MemberKind(IntEnum):
    """What a member takes part in."""

    UNSPECIFIED = 0
    VOTER = 1
    LEARNER = 2
    """It is sent all data, and decides nothing."""
    WITNESS = 3
    """It votes and knows where the log ends, but holds no data: it never leads and answers no reads."""


@dataclass(frozen=True, slots=True)
class Member:
    """One node of the cluster, as the node asked knows it."""

    id: int
    peer_address: str
    client_address: str
    """Where clients reach it; empty until the node asked has heard from it."""
    kind: MemberKind = MemberKind.VOTER
    leaving: bool = False
    """It leaves with the change that is under way."""


@dataclass(frozen=True, slots=True)
class PeerProgress:
    """How far a follower is, as its leader sees it."""

    id: int
    match_index: int
    state: str
    """probe, replicate or snapshot."""
    recently_active: bool
    """It answered within the last election timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What one node knows of itself and of its cluster."""

    endpoint: str
    """host:port under which the client asked it."""
    cluster_id: int
    member_id: int
    version: str
    role: Role
    term: int
    leader_id: int
    """0: it knows of no leader."""
    leader_address: str
    revision: int
    commit_index: int
    applied_index: int
    last_index: int
    durable_index: int
    """Highest log index that its own disk has confirmed."""
    store_bytes: int
    log_bytes: int
    members: tuple[Member, ...]
    progress: tuple[PeerProgress, ...]
    """Of each follower; only from the leader."""

    @property
    def is_witness(self) -> bool:
        """Whether this node holds no data: its state is not to be compared with that of others."""
        return any(member.id == self.member_id and member.kind is MemberKind.WITNESS for member in self.members)


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointFailure:
    """An endpoint that did not answer, and why."""

    endpoint: str
    error: RaftKVError


@dataclass(frozen=True, slots=True, kw_only=True)
class StateHash:
    """A hash of one node's whole state. Equal applied_index and unequal hash: the nodes diverged."""

    endpoint: str
    member_id: int
    applied_index: int
    applied_term: int
    hash: bytes
