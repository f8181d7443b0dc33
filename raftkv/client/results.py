"""What the client returns: frozen values, each read with the guarantee it really had."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Self

from raftkv.client.node_status import (
    UNTOLD_CHECKPOINT,
    UNTOLD_COMPARISON,
    UNTOLD_DISK,
    UNTOLD_SCRUB,
    CertificateStatus,
    CheckpointStatus,
    CheckpointTransfer,
    DiskStatus,
    Failover,
    RaisedAlarm,
    ScrubStatus,
    SettingsDrift,
    StateComparison,
)
from raftkv.client.receipts import UNTOLD_READ, UNTOLD_WRITE, ReadReceipt, WriteReceipt
from raftkv.errors import RaftKVError
from raftkv.quorum import Guarantee


class ReadLevel(IntEnum):
    """How fresh a read must be; the numbers are those of `raftkv.v1.ReadLevel`."""

    LINEARIZABLE = 0
    """Sees every write that was acknowledged before the read began."""
    LOCAL = 1
    """The asked node's own state: a prefix of the committed history, possibly stale. Works without a leader."""
    LEASE = 2
    """The leader's state while its lease lasts, which spares it asking the others; else as LINEARIZABLE. The answer's
    guarantee says which. FailedPrecondition where leases are off (`raftkv serve --lease-drift-ppm`)."""


class Role(IntEnum):
    """What a node is at the moment; the numbers are those of `raftkv.v1.Role`."""

    UNSPECIFIED = 0
    FOLLOWER = 1
    PRE_CANDIDATE = 2
    CANDIDATE = 3
    LEADER = 4


class Order(IntEnum):
    """What the pairs of a range are sorted by; the numbers are those of `raftkv.v1.RangeRequest.Order`."""

    KEY = 0
    VERSION = 1
    CREATE_REVISION = 2
    MOD_REVISION = 3
    VALUE = 4


@dataclass(frozen=True, slots=True, init=False)
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
    lease: int = 0
    """The key is deleted with this lease; 0: it belongs to none."""

    def __init__(  # noqa: PLR0917 - as a dataclass has it
        self,
        key: bytes,
        value: bytes,
        create_revision: int,
        mod_revision: int,
        version: int,
        guarantee: Guarantee,
        lease: int = 0,
    ) -> None:
        # One for each pair that is read: what a frozen dataclass does by itself takes twice as long.
        _set_key(self, key)
        _set_value(self, value)
        _set_create_revision(self, create_revision)
        _set_mod_revision(self, mod_revision)
        _set_version(self, version)
        _set_guarantee(self, guarantee)
        _set_lease(self, lease)


def _setters(frozen: type) -> Iterator[Callable[[object, object], None]]:
    """Return what sets the slots of a frozen class, for its own `__init__`."""
    return (frozen.__dict__[name].__set__ for name in frozen.__slots__)  # type: ignore[attr-defined]


(
    _set_key,
    _set_value,
    _set_create_revision,
    _set_mod_revision,
    _set_version,
    _set_guarantee,
    _set_lease,
) = _setters(KeyValue)


class _Acknowledged:
    """What a write's receipt says, at hand."""

    __slots__ = ()
    receipt: WriteReceipt

    @property
    def committed(self) -> bool:
        """Whether it is there for ever. Else fewer than a majority had it when it was acknowledged (`concern=`)."""
        return self.receipt.committed

    @property
    def durable_on(self) -> int:
        """How many voters were known to have it on disk; 0: not known."""
        return self.receipt.durable_on


@dataclass(frozen=True, slots=True, init=False)
class PutResult(_Acknowledged):
    """A write that was acknowledged: committed, unless its `concern` asked for less than a majority."""

    revision: int
    """The revision that the write made: the key's mod_revision. 0: it is not committed yet, and has none."""
    previous: KeyValue | None = None
    """The pair before it, where that was asked for (`previous=True`) and there was one."""
    receipt: WriteReceipt = field(default=UNTOLD_WRITE, compare=False)
    """How it was acknowledged. Does not take part in comparisons."""

    def __init__(self, revision: int, previous: KeyValue | None = None, receipt: WriteReceipt = UNTOLD_WRITE) -> None:
        _set_revision(self, revision)  # one for each put: as KeyValue
        _set_previous(self, previous)
        _set_receipt(self, receipt)


_set_revision, _set_previous, _set_receipt = _setters(PutResult)


@dataclass(frozen=True, slots=True)
class DeleteResult(_Acknowledged):
    """A delete that was acknowledged: committed, unless its `concern` asked for less than a majority."""

    revision: int
    """The store's revision after it; a delete that found nothing makes no revision. 0: it is not committed yet."""
    deleted: int | None
    """Number of keys removed. None: it is not committed yet, and nobody knows."""
    previous: tuple[KeyValue, ...] = ()
    """The pairs removed, where that was asked for (`previous=True`)."""
    receipt: WriteReceipt = field(default=UNTOLD_WRITE, compare=False)
    """How it was acknowledged. Does not take part in comparisons."""


@dataclass(frozen=True, slots=True)
class RangeResult:
    """A page of a range, in the order asked for."""

    pairs: tuple[KeyValue, ...]
    more: bool
    """More keys lie in the range than the page holds: the limit, or the server's limit of a page in bytes (1 MiB)."""
    count: int
    """Number of pairs in the page."""
    revision: int
    """The store's revision that the page shows."""
    guarantee: Guarantee
    cursor: bytes = b""
    """Where the next page begins: hand it to the same call. Empty unless `more`."""
    receipt: ReadReceipt = field(default=UNTOLD_READ, compare=False)
    """What the read was. Within a transaction: see the receipt of that. Does not take part in comparisons."""


@dataclass(frozen=True, slots=True)
class ReadResult:
    """A read of one key, told in full."""

    pair: KeyValue | None
    """None: the key does not exist."""
    revision: int
    """The store's revision that the answer shows."""
    receipt: ReadReceipt
    """What the read was."""

    @property
    def guarantee(self) -> Guarantee:
        """What the answer really is."""
        return self.receipt.guarantee


class Count(int):
    """A number of keys, with the receipt of the read that counted them."""

    receipt: ReadReceipt

    def __new__(cls, number: int, receipt: ReadReceipt = UNTOLD_READ) -> Self:
        """Return `number`, with a receipt."""
        made = super().__new__(cls, number)
        made.receipt = receipt
        return made

    @property
    def guarantee(self) -> Guarantee:
        """What the answer really is."""
        return self.receipt.guarantee


@dataclass(frozen=True, slots=True)
class TxnResult(_Acknowledged):
    """A transaction that is committed, or one branch within it."""

    revision: int
    """The store's revision after it; a transaction that changed nothing makes no revision."""
    succeeded: bool
    """All conditions held: `results` are those of `then`, else those of `otherwise`."""
    results: tuple[TxnOutcome, ...]
    """One for each operation, in their order: PutResult of a put, DeleteResult of a delete, KeyValue or None of a get
    of one key, RangeResult of a get of many, int of a count, TxnResult of a nested `when`."""
    receipt: WriteReceipt = field(default=UNTOLD_WRITE, compare=False)
    """How it was acknowledged. One that only reads is in no log: its receipt has index 0. Does not take part in
    comparisons."""


TxnOutcome = PutResult | DeleteResult | KeyValue | RangeResult | int | TxnResult | None
"""What one operation of a transaction gave."""


@dataclass(frozen=True, slots=True)
class LeaseGrant:
    """A lease that was granted."""

    id: int
    ttl: float
    """Seconds that it lasts from its grant, and from each renewal."""


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """What the store knows of a lease."""

    id: int
    ttl: float
    """Seconds that it was granted or renewed for."""
    remaining: float
    """Seconds that it still lasts unless it is renewed. The store's time: it stands still while there is no leader."""
    keys: tuple[bytes, ...]
    """The keys attached to it, where that was asked for."""


class LockKind(IntEnum):
    """What a lock admits at a time; the numbers are those of `raftkv.v1.LockKind`."""

    MUTEX = 0
    READ_WRITE = 1
    SEMAPHORE = 2
    ELECTION = 3


@dataclass(frozen=True, slots=True)
class Contender:
    """Somebody who stands in line for a lock, or holds it."""

    ticket: int
    """Names the place; places are granted in the order of their tickets."""
    token: int
    """Fencing token of the grant; 0: it waits."""
    lease: int
    exclusive: bool
    """It shares the lock with nobody."""
    value: bytes
    """What it shows to observers; the proposal of a candidate."""
    kind: LockKind
    limit: int
    """Of a semaphore: how many may hold it at a time; else 0."""


@dataclass(frozen=True, slots=True)
class LockState:
    """Who holds a lock and who waits for it."""

    contenders: tuple[Contender, ...]
    """In the order of the line: holders first."""
    more: bool
    """More stand in line than the answer holds."""
    newest_token: int
    """The newest token that the lock ever granted; 0: none."""
    floor_token: int
    """A fence of mode MAX_SEEN takes tokens from this one on."""
    revision: int
    """The store's revision that this shows."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads an election."""

    value: bytes
    """What it campaigned with, or proclaimed since."""
    token: int
    """Fencing token of its term: greater than that of every leader before it."""
    ticket: int
    lease: int
    """The lease that its leadership lives on."""
    revision: int
    """The store's revision at which it was so."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One instance of a service."""

    id: str
    address: str
    """Where to reach it; what it registered, unchanged."""
    meta: Mapping[str, str]
    revision: int
    """The revision at which it registered or last changed."""
    lease: int
    """The lease that its registration lives on."""


class InstanceEventKind(Enum):
    """What happened to an instance."""

    JOIN = "join"
    CHANGE = "change"
    LEAVE = "leave"


@dataclass(frozen=True, slots=True)
class InstanceEvent:
    """A change among the instances of a service."""

    kind: InstanceEventKind
    instance: Instance
    """As it is now; one that left, as it was last known."""
    revision: int
    """The store's revision at which it happened; of those that were there at the beginning, that of the look."""


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
    lag_s: float = 0.0
    """For how long the leader has had entries that it has not confirmed, in seconds; 0: none, or for less than a tick.
    What it is behind in entries: last_index - match_index."""
    connected: bool = False
    """The leader's stream to it is open."""


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
    used_bytes: int = 0
    """What the state itself takes of store_bytes: without pages that are free."""
    quota_bytes: int = 0
    """0: no quota."""
    alarms: tuple[RaisedAlarm, ...] = ()
    compacted_revision: int = 0
    """Where history begins."""
    sessions: int = 0
    leases: int = 0
    watches: int = 0
    """Watches that this node serves."""
    disk: DiskStatus = UNTOLD_DISK
    checkpoint: CheckpointStatus = UNTOLD_CHECKPOINT
    transfers: tuple[CheckpointTransfer, ...] = ()
    """Checkpoints on their way from or to this node."""
    scrub: ScrubStatus = UNTOLD_SCRUB
    comparison: StateComparison = UNTOLD_COMPARISON
    """Of the states of all members; only from the leader."""
    certificates: tuple[CertificateStatus, ...] = ()
    """Those that it shows; none where it speaks plain text."""
    started_at: float = 0.0
    """When the node's process started, in seconds since 1970 by its own clock; 0: it does not say."""
    failover: Failover | None = None
    """The newest change of leaders that the node has seen; None: none since it started."""
    http_address: str = ""
    """Of its HTTP server: host:port; empty: it has none."""
    settings_hash: bytes = b""
    """Of the settings that should be the same on all members; empty: it does not say."""
    drift: tuple[SettingsDrift, ...] = ()
    """What of these its peers were given differently."""
    protocol_version: int = 0
    """The newest version of the protocol that all members which this node has heard speak; 0: it does not say."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotProgress:
    """How far a backup has come."""

    endpoint: str
    done_bytes: int
    total_bytes: int
    """As far as can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedSnapshot:
    """A backup that was written to its end."""

    endpoint: str
    member_id: int
    applied_index: int
    """The entry of the log up to which the state was applied."""
    revision: int
    size_bytes: int
