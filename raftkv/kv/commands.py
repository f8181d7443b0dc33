"""Commands and their results, as plain values.

NamedTuples: msgpack writes them as arrays without a conversion, and they cost a tenth of a frozen dataclass on the
path that every write of every node takes.

`Put` is the fast path. A put with a lease, a condition or a fence is a `Txn` of one operation.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from raftkv.errors import ErrorCode


class Put(NamedTuple):
    """Set a key, of no lease. Makes one revision."""

    sequence: int
    key: bytes
    value: bytes


class Delete(NamedTuple):
    """Delete one key (`range_end` empty), [key, range_end), or all from key on (`range_end` one zero byte).

    Makes one revision when it deletes anything, else none.
    """

    sequence: int
    key: bytes
    range_end: bytes


class RegisterSession(NamedTuple):
    """Open a session; its id is the answer."""

    sequence: int


class FenceMode(IntEnum):
    """What a fencing token must be."""

    HOLDER = 0
    """That of a grant which holds the lock now."""
    MAX_SEEN = 1
    """Not older than the newest grant that excludes earlier ones, whether or not it still holds the lock."""


class Fence(NamedTuple):
    """A write is refused unless this token is good for this lock (notes/testing.md, fencing)."""

    lock: bytes
    token: int
    mode: int


class Target(IntEnum):
    """What a compare looks at."""

    VALUE = 0
    VERSION = 1
    CREATE_REVISION = 2
    MOD_REVISION = 3
    LEASE = 4


class Relation(IntEnum):
    """How the key's side must relate to the operand."""

    EQUAL = 0
    NOT_EQUAL = 1
    LESS = 2
    GREATER = 3


class Compare(NamedTuple):
    """A condition on one key, or on every key of a range.

    A key that does not exist has version, revisions and lease 0, and no value: a compare of its value fails. A range
    without keys is like such a key, as in etcd.
    """

    key: bytes
    range_end: bytes
    target: int
    relation: int
    operand: bytes | int
    """Bytes for VALUE, else a number."""


class TxnPut(NamedTuple):
    """Set a key."""

    key: bytes
    value: bytes
    lease: int
    """0: none. The lease that it was attached to before loses it either way."""
    with_previous: bool


class TxnDelete(NamedTuple):
    """Delete a key or a range, as `Delete`."""

    key: bytes
    range_end: bytes
    with_previous: bool


class TxnRange(NamedTuple):
    """Read a page; it shows what the operations before it in the transaction wrote."""

    key: bytes
    range_end: bytes
    limit: int
    revision: int
    """0: as the transaction leaves it so far."""
    keys_only: bool
    count_only: bool


class Branch(NamedTuple):
    """If all `compares` hold, `then`, else `otherwise`.

    Compares, nested ones too, see the state before the transaction.
    """

    compares: tuple[Compare, ...]
    then: tuple[TxnOperation, ...]
    otherwise: tuple[TxnOperation, ...]


TxnOperation = TxnPut | TxnDelete | TxnRange | Branch


class Txn(NamedTuple):
    """Operations that take effect together, at one revision, or not at all."""

    sequence: int
    fences: tuple[Fence, ...]
    """All of them must be good, else nothing is done."""
    branch: Branch


class GrantLease(NamedTuple):
    """Open a lease that ends `ttl_ms` of cluster time after it was last renewed."""

    sequence: int
    lease: int
    """0: the store chooses."""
    ttl_ms: int


class KeepAlive(NamedTuple):
    """Renew leases."""

    sequence: int
    leases: tuple[int, ...]


class RevokeLease(NamedTuple):
    """End a lease; the keys attached to it are deleted, at one revision."""

    sequence: int
    lease: int


class Expire(NamedTuple):
    """End leases that are due at the cluster time of the entry, as many as an entry may. Proposed by leaders."""

    sequence: int


class LockKind(IntEnum):
    """What a lock admits at a time. The numbers are stored."""

    MUTEX = 0
    READ_WRITE = 1
    SEMAPHORE = 2
    ELECTION = 3


class Acquire(NamedTuple):
    """Stand in line for a lock, or take it at once where nobody is before.

    A lease holds at most one place per lock: to ask again is answered with the place that it has.
    """

    sequence: int
    lock: bytes
    lease: int
    kind: int
    exclusive: bool
    """READ_WRITE: as its writer. Always true for MUTEX and ELECTION, never for SEMAPHORE."""
    limit: int
    """SEMAPHORE: how many may hold it at a time, 1 or more; else 0. All contenders of a time must agree."""
    value: bytes
    """Shown to observers; an election's proposal."""
    wait: bool
    """False: do not stand in line; refused unless granted at once."""


class Release(NamedTuple):
    """Give a lock back, or leave the line. Without effect where the lease has no place."""

    sequence: int
    lock: bytes
    lease: int


class Proclaim(NamedTuple):
    """Change the value that a holder shows."""

    sequence: int
    lock: bytes
    lease: int
    token: int
    value: bytes


class Compact(NamedTuple):
    """Give up the history before `revision`: what a read at `revision` or later cannot see. `Sweep` removes it."""

    sequence: int
    revision: int


class Sweep(NamedTuple):
    """Remove some of what compaction gave up. Proposed by leaders, until nothing is left."""

    sequence: int


class CheckState(NamedTuple):
    """Marks an entry at which nodes compare the hashes of their states. Proposed by leaders; changes nothing."""

    sequence: int


Command = (
    Put
    | Delete
    | RegisterSession
    | Txn
    | GrantLease
    | KeepAlive
    | RevokeLease
    | Expire
    | Acquire
    | Release
    | Proclaim
    | Compact
    | Sweep
    | CheckState
)


class Group(NamedTuple):
    """Commands of one session, in the order in which they are applied.

    `session` 0: no session, so nothing is remembered and a repeated command is applied again.
    """

    session: int
    acknowledged_below: int
    """The client has all answers below this sequence: their results may be forgotten (thesis 6.3)."""
    commands: tuple[Command, ...]


class Batch(NamedTuple):
    """The payload of one COMMANDS entry."""

    time_ms: int
    """Cluster time, stamped by the leader; the state machine clamps it to be monotonic."""
    groups: tuple[Group, ...]


class KeyValue(NamedTuple):
    """One version of a key."""

    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    """Number of writes since the key was created: 1 at creation."""
    lease: int
    value: bytes
    """Empty where the request was keys_only."""


class Written(NamedTuple):
    """A put's result."""

    revision: int


class Deleted(NamedTuple):
    """A delete's result: the store revision after it, and how many keys it removed."""

    revision: int
    deleted: int


class SessionRegistered(NamedTuple):
    """The id of a new session."""

    session: int


class PutDone(NamedTuple):
    """A `TxnPut` was done."""

    previous: KeyValue | None
    """The pair before it, where that was asked for and there was one."""


class DeleteDone(NamedTuple):
    """A `TxnDelete` was done."""

    deleted: int
    previous: tuple[KeyValue, ...]
    """The pairs that it removed, where that was asked for."""


class RangeDone(NamedTuple):
    """A `TxnRange` was done."""

    pairs: tuple[KeyValue, ...]
    more: bool
    counted: int
    """See `ranges.RangeResult.count`."""


class BranchDone(NamedTuple):
    """A branch was taken."""

    succeeded: bool
    """All compares held: what follows are the results of `then`, else those of `otherwise`."""
    results: tuple[OperationDone, ...]


OperationDone = PutDone | DeleteDone | RangeDone | BranchDone


class TxnDone(NamedTuple):
    """A transaction's result: the store revision after it, and what its operations gave."""

    revision: int
    branch: BranchDone


class LeaseGranted(NamedTuple):
    """A new lease."""

    lease: int
    ttl_ms: int


class KeptAlive(NamedTuple):
    """Per lease of a `KeepAlive`: how long it lasts from now, in milliseconds of cluster time; 0: there is none."""

    ttls_ms: tuple[int, ...]


class Revoked(NamedTuple):
    """A lease has ended: the store revision after it, and how many keys that removed."""

    revision: int
    deleted: int


class Expired(NamedTuple):
    """So many leases have ended; more may be due."""

    leases: int


class Place(NamedTuple):
    """Where a contender for a lock stands."""

    token: int
    """Fencing token of its grant; 0: it waits."""
    ticket: int
    """Places are granted in the order of their tickets. Names the place: (lock, ticket) is its key for a watch."""
    revision: int
    """The store revision at which it stood there: watch from the next one."""


class Released(NamedTuple):
    """The place is given back. `held`: there was one."""

    held: bool
    revision: int


class Proclaimed(NamedTuple):
    """The holder's value has changed."""

    revision: int


class Compacted(NamedTuple):
    """Reads below this revision fail from now on."""

    revision: int


class Swept(NamedTuple):
    """So many versions were removed; `more`: some are left."""

    versions: int
    more: bool


class StateChecked(NamedTuple):
    """The state is to be hashed as it stands after this entry."""

    revision: int
    """The store's."""


class Rejected(NamedTuple):
    """Judged at apply: no effect, on every node alike."""

    code: ErrorCode
    message: str
    number: int = 0
    """STALE_FENCE: the current token of the lock. COMPACTED: the revision at which history begins."""


Result = (
    Written
    | Deleted
    | SessionRegistered
    | TxnDone
    | LeaseGranted
    | KeptAlive
    | Revoked
    | Expired
    | Place
    | Released
    | Proclaimed
    | Compacted
    | Swept
    | StateChecked
    | Rejected
)
