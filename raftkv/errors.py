"""The error tree: what went wrong, and what a caller may do about it.

Every error says two things besides its message:

`retryable`
    The same request, sent again as it stands, may succeed. The client library has already retried it until its
    deadline before a caller sees it.
`ambiguous`
    A write may have taken effect, or may yet. It is safe to repeat only within its session (the client library does so
    by itself); a caller who needs to know reads the key.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol


class ErrorCode(IntEnum):
    """Why a request failed; the numbers are those of `raftkv.v1.ErrorCode` on the wire."""

    UNSPECIFIED = 0
    INVALID_ARGUMENT = 1
    NOT_LEADER = 2
    NO_LEADER = 3
    LEADER_CHANGED = 4
    OVERLOADED = 5
    DEADLINE_EXCEEDED = 6
    SHUTTING_DOWN = 7
    SESSION_EXPIRED = 8
    SEQUENCE_OUT_OF_WINDOW = 9
    FUTURE_REVISION = 10
    COMPACTED = 11
    LIMIT_EXCEEDED = 12
    CLUSTER_MISMATCH = 13
    FAILED_PRECONDITION = 14
    LEASE_NOT_FOUND = 15
    LEASE_EXISTS = 16
    STALE_FENCE = 17
    SPACE_EXCEEDED = 18
    LOCK_BUSY = 19
    TOO_STALE = 20
    WRITE_LOST = 21
    TOKEN_OUT_OF_RANGE = 22
    QUORUM_UNAVAILABLE = 23
    CORRUPT_STATE = 24


class RaftKVError(Exception):
    """Base of everything that raftkv raises on purpose."""

    code: ErrorCode = ErrorCode.UNSPECIFIED
    retryable: bool = False

    def __init__(
        self,
        message: str,
        *,
        ambiguous: bool = False,
        leader_id: int = 0,
        leader_address: str = "",
        number: int = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.ambiguous = ambiguous
        self.leader_id = leader_id
        self.leader_address = leader_address
        self.number = number
        """What some errors carry besides their text: see StaleFence, Compacted and FailedPrecondition."""


class InvalidArgument(RaftKVError):
    """The request breaks a limit or makes no sense. The message names the limit."""

    code = ErrorCode.INVALID_ARGUMENT


class WrongEventLoop(InvalidArgument):
    """An AsyncClient was used on another event loop than that of its first call. No effect.

    The way out: one AsyncClient per loop (one per `asyncio.run`), or the blocking `Client`, which any thread may use.
    """


class NotLeader(RaftKVError):
    """The node asked is not the leader. The request had no effect."""

    code = ErrorCode.NOT_LEADER
    retryable = True


class NoLeader(RaftKVError):
    """No leader is known: an election is under way, or a majority is out of reach. No effect."""

    code = ErrorCode.NO_LEADER
    retryable = True


class LeaderChanged(RaftKVError):
    """Leadership changed while a request was under way; a write is ambiguous."""

    code = ErrorCode.LEADER_CHANGED
    retryable = True


class Overloaded(RaftKVError):
    """A bounded queue of the node is full. No effect; try again later."""

    code = ErrorCode.OVERLOADED
    retryable = True


class DeadlineExceeded(RaftKVError):
    """No answer in time. A write that was sent is ambiguous."""

    code = ErrorCode.DEADLINE_EXCEEDED


class ShuttingDown(RaftKVError):
    """The node is stopping. Another node will take the request."""

    code = ErrorCode.SHUTTING_DOWN
    retryable = True


class SessionExpired(RaftKVError):
    """The session ended, so the store can no longer tell a repeated write from a new one.

    Ambiguous when the write had been sent before: an earlier attempt may have been applied.
    """

    code = ErrorCode.SESSION_EXPIRED


class SequenceOutOfWindow(RaftKVError):
    """A sequence below the acknowledged mark or too far above it. This attempt had no effect."""

    code = ErrorCode.SEQUENCE_OUT_OF_WINDOW


class FutureRevision(RaftKVError):
    """The revision asked for lies above the store's."""

    code = ErrorCode.FUTURE_REVISION


class Compacted(RaftKVError):
    """The revision asked for was compacted away."""

    code = ErrorCode.COMPACTED

    @property
    def compacted_revision(self) -> int:
        """The oldest revision that can still be read; 0: not known."""
        return self.number


class LimitExceeded(RaftKVError):
    """One command would change more than it may; the message names the limit. No effect."""

    code = ErrorCode.LIMIT_EXCEEDED


class ClusterMismatch(RaftKVError):
    """The two sides belong to different clusters, or speak different protocol versions."""

    code = ErrorCode.CLUSTER_MISMATCH


class FailedPrecondition(RaftKVError):
    """A condition of the request does not hold. No effect."""

    code = ErrorCode.FAILED_PRECONDITION

    @property
    def spent_id(self) -> int:
        """A node cannot join, because this id is or was a member's; 0: it is refused for something else."""
        return self.number


class LeaseNotFound(RaftKVError):
    """The lease is unknown or has expired. No effect."""

    code = ErrorCode.LEASE_NOT_FOUND


class LeaseExists(RaftKVError):
    """A lease with the id asked for exists already. No effect."""

    code = ErrorCode.LEASE_EXISTS


class StaleFence(RaftKVError):
    """A fencing token was not good: whoever wrote does not hold the lock any more. No effect, and never any later."""

    code = ErrorCode.STALE_FENCE

    @property
    def current_token(self) -> int:
        """The newest token of the lock; 0: it was never granted."""
        return self.number


class SpaceExceeded(RaftKVError):
    """The store has reached its quota, or the leader's disk its reserve. Reads go on. No effect.

    The message says which. With the quota reached, what makes the store grow is refused: delete keys and compact, or
    raise the nodes' --quota-bytes. With too little room on the disk, all writes are, until there is more.
    """

    code = ErrorCode.SPACE_EXCEEDED


class LockBusy(RaftKVError):
    """The lock is not to be had without waiting. No effect."""

    code = ErrorCode.LOCK_BUSY


class TooStale(RaftKVError):
    """The node's state is older than the read allows, and no leader tells it better. Another node may do better."""

    code = ErrorCode.TOO_STALE
    retryable = True


class WriteLost(RaftKVError):
    """A write that was acknowledged by fewer than a majority is lost: another entry stands in its place for ever."""

    code = ErrorCode.WRITE_LOST


class TokenOutOfRange(RaftKVError):
    """A read's token names a place in the log that the node cannot have heard of, or knows nothing of any more."""

    code = ErrorCode.TOKEN_OUT_OF_RANGE


class QuorumUnavailable(RaftKVError):
    """Too few voters answered a quorum read, or a change of the members is under way."""

    code = ErrorCode.QUORUM_UNAVAILABLE
    retryable = True


class CorruptState(RaftKVError):
    """The node's state is not that of a majority: it answers nothing from it. Another node will.

    The way out, for its operator: `raftkv repair`.
    """

    code = ErrorCode.CORRUPT_STATE
    retryable = True


class StoredPair(Protocol):
    """A key's pair, as an error tells of it: `raftkv.client.KeyValue`."""

    @property
    def key(self) -> bytes: ...

    @property
    def value(self) -> bytes: ...

    @property
    def create_revision(self) -> int: ...

    @property
    def mod_revision(self) -> int: ...

    @property
    def version(self) -> int: ...

    @property
    def lease(self) -> int: ...


class Conflict(RaftKVError):
    """The key is not as the writer expected it. No effect."""


class KeyExists(Conflict):
    """A key that was to be created is there already. No effect."""

    def __init__(self, pair: StoredPair) -> None:
        super().__init__(f"key {pair.key!r} exists, since revision {pair.create_revision}")
        self.pair = pair
        """What is there."""

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.pair,), self.__dict__  # not from its text: it crosses processes, as all do


class RevisionMismatch(Conflict):
    """The key was changed or deleted since the revision that the writer knows. No effect."""

    def __init__(self, key: bytes, expected: int, pair: StoredPair | None) -> None:
        now = "does not exist" if pair is None else f"is at revision {pair.mod_revision}"
        super().__init__(f"key {key!r} {now}, not at {expected}")
        self.key = key
        self.expected = expected
        self.pair = pair
        """What is there; None: nothing."""

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.key, self.expected, self.pair), self.__dict__


class LeaseExpired(RaftKVError):
    """A lease of this client has ended, or must be taken for ended: it could not be renewed in time.

    What was attached to it is gone, or will be any moment now.
    """


class LockLost(LeaseExpired):
    """A lock that this client held is lost, with the lease that it lived on. Somebody else may hold it by now."""


class ConnectionFailed(RaftKVError):
    """No endpoint could be reached."""

    retryable = True


class ConfigurationError(RaftKVError):
    """A flag, setting, file or address is malformed or does not fit the others."""


class StorageError(RaftKVError):
    """The data directory cannot be used. The message names the file and the way out."""


class NoRoom(StorageError):
    """The disk, or the store's map, is full. Nothing has happened; the same may be tried again once there is room."""


class CorruptLog(StorageError):
    """The write-ahead log is damaged before its end: acknowledged data may be lost, so the node refuses to start."""


class DataDirectoryMismatch(StorageError):
    """The data directory is another cluster's, node's or kind of member's, or another process holds it."""


def _concrete(base: type[RaftKVError]) -> dict[ErrorCode, type[RaftKVError]]:
    found: dict[ErrorCode, type[RaftKVError]] = {}
    for subclass in base.__subclasses__():
        if subclass.code is not ErrorCode.UNSPECIFIED:
            found[subclass.code] = subclass
    return found


ERROR_TYPES: dict[ErrorCode, type[RaftKVError]] = _concrete(RaftKVError)
"""Which class stands for which code on the wire."""
