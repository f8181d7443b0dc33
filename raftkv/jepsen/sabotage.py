"""Negative controls: safeguards of the product, switched off one at a time. Would the suite notice?

The product has no such switch: only `raftkv.jepsen.node` comes here, when RAFTKV_JEPSEN_SABOTAGE names one.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from raftkv.errors import ConfigurationError, NotLeader
from raftkv.kv import fence
from raftkv.kv.commands import Fence, Rejected, Result
from raftkv.kv.lease_table import LeaseTable
from raftkv.kv.session import Session
from raftkv.kv.store import Reader
from raftkv.raft import HardState, Index, Role, checks, election, read_index, replication
from raftkv.raft.checks import Footprint
from raftkv.raft.messages import PreVoteRequest, VoteRequest
from raftkv.raft.quorum import has_quorum
from raftkv.raft.state import RaftState
from raftkv.server.node import Node
from raftkv.storage import wal_segments
from raftkv.storage.files import File, flush
from raftkv.storage.log_shape import LogShape
from raftkv.storage.protocols import RecoveredLog
from raftkv.storage.wal import WriteAheadLog
from raftkv.storage.wal_segments import SegmentWriter

UNSYNCED_S: Final = 1.0
"""For so long what was acknowledged stays off the disk under `ack-before-fsync`."""


class Patch(Protocol):
    """Puts something in the place of an attribute: for good, or for the length of a test with pytest's MonkeyPatch."""

    def setattr(self, target: Any, name: str, value: Any, /) -> None: ...


class _ForGood:
    def setattr(self, target: Any, name: str, value: Any, /) -> None:
        getattr(target, name)  # a safeguard that is not there cannot be switched off
        setattr(target, name, value)


def switch_off(name: str, patch: Patch | None = None) -> None:
    """Switch off the safeguard `name` in this process. Raises ConfigurationError for one that is unknown."""
    if name not in SABOTAGES:
        raise ConfigurationError(f"no sabotage is called {name!r}. Known: {', '.join(SABOTAGES)}")
    SABOTAGES[name](patch or _ForGood())


def votes_not_persisted(patch: Patch) -> None:
    """A node has forgotten its vote when it starts, and when it is asked for another one in the same term.

    The second half is what a restart between the two requests does. Restarts are slower than elections here, so that
    without it a run would have to last for days (paper figure 2, raft-bugs 1).
    """
    opened = WriteAheadLog.open.__func__  # type: ignore[attr-defined]

    def forgetful_start(
        cls: type[WriteAheadLog], /, directory: Path, **options: Any
    ) -> tuple[WriteAheadLog, RecoveredLog]:
        log, found = opened(cls, directory, **options)
        return log, dataclasses.replace(found, hard_state=dataclasses.replace(found.hard_state, vote=None))

    def forgetful(rule: Callable[[RaftState, Any], bool]) -> Callable[[RaftState, Any], bool]:
        def judge(state: RaftState, request: VoteRequest | PreVoteRequest) -> bool:
            if state.role is not Role.FOLLOWER:
                return rule(state, request)
            vote, state.vote = state.vote, None
            try:
                return rule(state, request)
            finally:
                state.vote = vote

        return judge

    check_step, violation = checks.check_step, LogShape._hard_state_violation

    def blind_step(before: Footprint, after: Footprint, state: RaftState) -> None:
        check_step((before[0], after[1], *before[2:]), after, state)

    def blind_log(shape: LogShape, new: HardState, last_index: Index) -> str | None:
        shape.hard_state = dataclasses.replace(shape.hard_state, vote=None)
        return violation(shape, new, last_index)

    patch.setattr(WriteAheadLog, "open", classmethod(forgetful_start))
    patch.setattr(election, "may_vote", forgetful(election.may_vote))
    patch.setattr(election, "may_pre_vote", forgetful(election.may_pre_vote))
    # The voter itself would notice otherwise; what is to be noticed is that there are two leaders.
    patch.setattr(checks, "check_step", blind_step)
    patch.setattr(LogShape, "_hard_state_violation", blind_log)


def reads_without_read_index(patch: Patch) -> None:
    """A leader confirms reads by itself, and leads until it hears of another term (thesis 6.4 step 3, raft-bugs 42).

    CheckQuorum would depose it before a client met it. So that clients do not all wait there for their writes, it
    refuses these while it hears no quorum: whoever writes finds the other leader, whoever reads stays here.
    """
    propose = Node.propose

    def trusting(state: RaftState) -> None:
        state.reads.close_round()

    def stubborn(state: RaftState) -> None:
        for progress in state.progress.values():
            progress.silent_ticks += 1

    def choosy(node: Node, *arguments: Any, **options: Any) -> Any:
        state = node.raft._state
        if state.role is Role.LEADER and not has_quorum(state.configuration, replication.active(state)):
            raise NotLeader("no quorum is heard")
        return propose(node, *arguments, **options)

    patch.setattr(read_index, "advance", trusting)
    patch.setattr(election, "check_quorum", stubborn)
    patch.setattr(Node, "propose", choosy)


def unfenced_lock(patch: Patch) -> None:
    """Every fence lets every token pass (notes/testing.md, fencing)."""

    def careless(reader: Reader, leases: LeaseTable, one: Fence, now_ms: int) -> Rejected | None:
        return None

    patch.setattr(fence, "check", careless)


def retries_without_sessions(patch: Patch) -> None:
    """Sessions remember nothing: a write that is sent again is applied again (thesis 6.3, raft-bugs 44)."""

    def forgetful(session: Session, sequence: int) -> Result | None:
        return None

    patch.setattr(Session, "judge", forgetful)
    patch.setattr(Session, "forget_acknowledged", lambda session: [])  # it would stumble over what came twice


def ack_before_fsync(patch: Patch) -> None:
    """Appends are confirmed when they are written, and flushed once a second (raft-bugs 32).

    Nobody notices without a loss of power: run it with lossy disks.
    """
    flushed_s = time.monotonic()

    def lazy(file: File) -> None:
        nonlocal flushed_s
        if time.monotonic() - flushed_s >= UNSYNCED_S:
            flush(file)
            flushed_s = time.monotonic()

    def flushing(step: Callable[..., None]) -> Callable[..., None]:
        # A log with a hole in the middle would not open. Too easy: what is to be noticed is that its end is missing.
        def flush_first(writer: SegmentWriter, *arguments: int) -> None:
            flush(writer._file)
            step(writer, *arguments)

        return flush_first

    patch.setattr(wal_segments, "flush", lazy)
    patch.setattr(SegmentWriter, "_roll", flushing(SegmentWriter._roll))
    patch.setattr(SegmentWriter, "prepare_next", flushing(SegmentWriter.prepare_next))


SABOTAGES: Final[Mapping[str, Callable[[Patch], None]]] = MappingProxyType(
    {
        "votes-not-persisted": votes_not_persisted,
        "reads-without-read-index": reads_without_read_index,
        "unfenced-lock": unfenced_lock,
        "retries-without-sessions": retries_without_sessions,
        "ack-before-fsync": ack_before_fsync,
    }
)
