"""One operation on its way, and what to do when it is refused or out of time. Decisions only; no I/O."""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import Final

from raftkv.client.receipts import ReadReceipt, WriteReceipt
from raftkv.errors import (
    ConnectionFailed,
    CorruptState,
    DeadlineExceeded,
    ErrorCode,
    FailedPrecondition,
    NoLeader,
    Overloaded,
    QuorumUnavailable,
    RaftKVError,
    TooStale,
)
from raftkv.quorum import DEFAULT
from raftkv.v1 import kv_pb2

COMMON: Final = 0
"""The lane of most operations; for the others, see `raftkv.client.batches`."""


class Kind(Enum):
    """What sets operations apart on the way."""

    WRITE = auto()
    """Has a sequence of the session, which it keeps: however often it is sent, it applies once."""
    READ = auto()
    """Sent again under a new id: an answer to an earlier attempt may be older than the retry (raft-bugs 41)."""
    LOCAL_READ = auto()
    """A read that the asked node answers from its own state, so it says nothing about who leads."""
    REGISTER = auto()
    """Opens a session. Repeated freely: a session that nobody uses expires."""
    PROBE = auto()
    """Asks a silent node for a sign of life. Belongs to one stream and dies with it."""


class Call:
    """One operation: what to send, who waits for it, and what is known of its fate."""

    __slots__ = (
        "attempts",
        "deadline",
        "doubtful",
        "future",
        "id",
        "in_flight",
        "kind",
        "lane",
        "last_error",
        "operation",
        "read",
        "sent_at",
        "session",
        "size_bytes",
        "timeout",
        "tried",
        "wrote",
    )

    wrote: WriteReceipt
    """What the answer to a write says of itself; set with it, and not before."""
    read: ReadReceipt
    """What the answer to anything else says of itself; set with it, and not before."""

    def __init__(
        self,
        kind: Kind,
        operation: kv_pb2.Operation,
        size_bytes: int,
        *,
        timeout: float,
        deadline: float,
        future: asyncio.Future[kv_pb2.OperationResult],
        lane: int = COMMON,
    ) -> None:
        """`timeout` in seconds, `deadline` on the loop's clock. `lane`: what it may share a message with."""
        self.kind = kind
        self.operation = operation
        self.size_bytes = size_bytes
        self.timeout = timeout
        self.deadline = deadline
        self.future = future
        self.lane = lane
        self.id = 0
        """Operation.id; 0 until it is first sent on its way."""
        self.session = 0
        """Session of a write, from its first attempt on."""
        self.in_flight = False
        """It was written to a stream that owes the answer."""
        self.doubtful = False
        """An earlier attempt may have taken effect, or may yet: its stream ended unanswered, or the answer said so."""
        self.sent_at = 0.0
        """When a read was last sent to a node that answers it from its own state."""
        self.attempts = 0
        """Refusals so far that asked for a wait."""
        self.tried: tuple[str, ...] = ()
        """Endpoints that refused it since it was last parked."""
        self.last_error: RaftKVError | None = None

    @property
    def is_write(self) -> bool:
        """Whether it is subject to the session."""
        return self.kind is Kind.WRITE

    @property
    def ambiguous(self) -> bool:
        """Whether giving up now leaves it open if a write takes effect."""
        return self.is_write and (self.in_flight or self.doubtful)

    def unanswered(self) -> None:
        """Its stream ended, or is given up, without an answer."""
        if self.in_flight:
            self.in_flight = False
            self.doubtful = True


class Verdict(Enum):
    """What to do with an operation that was refused."""

    ELSEWHERE = auto()
    """Try another node at once; when all have refused, poll."""
    ANOTHER = auto()
    """This node cannot answer such a read now: try another one. That says nothing about who leads, or of its health."""
    LATER = auto()
    """Try again after a growing wait."""
    NEW_SESSION = auto()
    """It provably had no effect: register a session and send it under that one."""
    FAIL = auto()
    """Tell the caller."""


LAST_ATTEMPT_S: Final = 0.050
"""Attempts at an operation that provably had no effect so far end this long before its deadline."""

_ELSEWHERE: Final = frozenset(
    {
        ErrorCode.NOT_LEADER,
        ErrorCode.NO_LEADER,
        ErrorCode.LEADER_CHANGED,
        ErrorCode.SHUTTING_DOWN,
        ErrorCode.CORRUPT_STATE,
    }
)
# FAILED_PRECONDITION: a witness, or a node that was removed, has nothing to answer from.
_ANOTHER: Final = frozenset({ErrorCode.TOO_STALE, ErrorCode.QUORUM_UNAVAILABLE, ErrorCode.FAILED_PRECONDITION})
# DEADLINE_EXCEEDED: the node was less patient than the caller, who has time left or would not be asking.
_LATER: Final = frozenset({ErrorCode.OVERLOADED, ErrorCode.DEADLINE_EXCEEDED})

# Judged from the operation alone, so every attempt at a write is judged alike: if this one had no effect, none had
# (but for a write concern: see `_is_conclusive`). Or judged where the write is applied, and only there: the session
# remembers that as the result of the write, and whatever copies of it come later get the same.
_CONCLUSIVE: Final = frozenset(
    {
        ErrorCode.INVALID_ARGUMENT,
        ErrorCode.LIMIT_EXCEEDED,
        ErrorCode.LEASE_NOT_FOUND,
        ErrorCode.LEASE_EXISTS,
        ErrorCode.STALE_FENCE,
        ErrorCode.LOCK_BUSY,
    }
)


def judge(call: Call, error: RaftKVError) -> Verdict:
    """Decide about a node's refusal. `call.doubtful` already includes `error.ambiguous`."""
    code = error.code
    if call.kind is Kind.LOCAL_READ and (code in _ELSEWHERE or code in _ANOTHER):
        return Verdict.ANOTHER
    if code is ErrorCode.SESSION_EXPIRED and call.is_write:
        # Without its session the store cannot tell a repeat from a new write. Only a write of which every attempt was
        # answered "no effect" may go on under another session.
        return Verdict.FAIL if call.doubtful else Verdict.NEW_SESSION
    if code in _ELSEWHERE:
        return Verdict.ELSEWHERE
    if code in _LATER or error.retryable:
        return Verdict.LATER
    return Verdict.FAIL


def worth_retrying(call: Call, now: float) -> bool:
    """Whether to send a refused operation again with the time that it has left.

    A last attempt that is still under way at the deadline would turn "no effect" into "unknown", for next to no chance
    of success. An operation that is in doubt already has nothing to lose.
    """
    return call.doubtful or call.last_error is None or call.deadline - now > LAST_ATTEMPT_S


def final_error(call: Call, error: RaftKVError) -> RaftKVError:
    """Return what to raise for a refusal that is not retried: an earlier attempt may have left the outcome open."""
    if not _is_conclusive(call, error):
        error.ambiguous = error.ambiguous or (call.is_write and call.doubtful)
    return error


def _is_conclusive(call: Call, error: RaftKVError) -> bool:
    """Whether the refusal of one attempt tells of all attempts that they had no effect."""
    if error.code is ErrorCode.INVALID_ARGUMENT and _has_concern(call.operation):
        # A leader judges a concern by its own configuration: an earlier attempt may have met with another one, which
        # allowed it.
        return False
    return error.code in _CONCLUSIVE


def _has_concern(operation: kv_pb2.Operation) -> bool:
    request = getattr(operation, str(operation.WhichOneof("operation")), None)
    return getattr(request, "write_concern", DEFAULT) != DEFAULT


def out_of_time(call: Call, unreachable: str) -> RaftKVError:
    """Return what to raise at the deadline. `unreachable`: why no endpoint takes operations; empty: some do."""
    last = call.last_error
    after = f"no result after {call.timeout:.4g} s"
    because = f"; last error: {last.message}" if last is not None else ""
    if isinstance(last, TooStale | QuorumUnavailable | CorruptState):
        return type(last)(f"{after}: {last.message}")
    if call.in_flight or call.ambiguous:
        fate = "; the write may have taken effect, or may yet" if call.is_write else ""
        return DeadlineExceeded(f"{after}{fate}{because}", ambiguous=call.is_write)
    effect = ", and no effect" if call.is_write else ""
    match last:
        case Overloaded():
            return Overloaded(f"{after}{effect}: {last.message}")
        case DeadlineExceeded():
            return DeadlineExceeded(f"{after}{effect}{because}")
        case FailedPrecondition():
            return FailedPrecondition(f"{after}: {last.message}")
        case None | ConnectionFailed():
            if unreachable:
                return ConnectionFailed(f"{after}{effect}: no endpoint can be reached: {unreachable}")
            return DeadlineExceeded(f"{after}{effect}{because or ': the operation was still queued'}")
        case _:
            return NoLeader(f"{after}{effect}: no leader took it: {last.message}")


def closed(call: Call) -> RaftKVError:
    """Return what to raise when the client is closed under a call."""
    fate = "; the write may have taken effect, or may yet" if call.ambiguous else ""
    return ConnectionFailed(f"the client was closed{fate}", ambiguous=call.ambiguous)
