"""What a leader knows of one follower, and how much it may send it.

  PROBE      where the logs match is not known: one request at a time.
  REPLICATE  known: requests are sent without waiting for answers, up to max_inflight_bytes.
  SNAPSHOT   what the follower needs is compacted: nothing is sent until a snapshot has arrived.

Invariants: match < next (raft-bugs 12); match never decreases within a term of leadership; match is what the follower
has *durably*.
"""

from __future__ import annotations

from collections import deque
from enum import Enum

from raftkv.invariant import InvariantViolation, invariant
from raftkv.raft.types import Index


class ProgressState(Enum):
    """How a follower is sent the log."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """One follower, in one term of leadership. A new term starts from nothing."""

    __slots__ = (
        "_inflight",
        "commit_sent",
        "excused",
        "full",
        "hindered",
        "inflight_bytes",
        "installing",
        "lease_sequence",
        "match",
        "next",
        "priority",
        "probe_sent",
        "read_sequence",
        "retry_ticks",
        "silent_ticks",
        "snapshot_index",
        "stalled_ticks",
        "state",
        "witness",
    )

    def __init__(self, *, next_index: Index, witness: bool = False) -> None:
        self.state = ProgressState.PROBE
        self.witness = witness
        """Whether it takes no payloads, and no checkpoints. A node is one for ever, also while it is being removed."""
        self.match = Index(0)
        self.next = next_index
        """The index that the next request starts at."""
        self.probe_sent = False
        self.silent_ticks = 0
        """Ticks since the follower last answered, or since this leader took office."""
        self.retry_ticks = 0
        """Ticks since the last attempt to make good what may have been lost."""
        self.read_sequence = 0
        """The newest ReadIndex round that the follower has confirmed."""
        self.lease_sequence = 0
        """The newest round with which it has also promised to vote for nobody for as long as a lease lasts."""
        self.commit_sent = Index(0)
        """The commit index that it was last told."""
        self.snapshot_index = Index(0)
        self.installing = False
        """In SNAPSHOT: it holds the bytes and was told to install them."""
        self.stalled_ticks = 0
        """Ticks since it last took something in while there was something to take in."""
        self.excused = False
        """Whether a witness may stand in for it (`replication.excuse`)."""
        self.priority = 0
        """How much it is preferred as a leader; it says so itself."""
        self.hindered: bool | None = None
        """Whether it says that it should not lead (`Fitness`); None: it has not been heard yet."""
        self.full = False
        """Whether it says that its disk is full: `replication.spared`."""
        self.inflight_bytes = 0
        self._inflight: deque[tuple[Index, int]] = deque()
        """(last index, bytes) of each unanswered request, oldest first."""

    def paused(self, max_inflight_bytes: int) -> bool:
        """Return whether nothing may be sent now."""
        match self.state:
            case ProgressState.PROBE:
                return self.probe_sent
            case ProgressState.REPLICATE:
                return self.inflight_bytes >= max_inflight_bytes
            case ProgressState.SNAPSHOT:
                return True

    def sent(self, last_index: Index, size_bytes: int) -> None:
        """Note a request with entries up to `last_index` (optimistic in REPLICATE: the answer is not awaited)."""
        if self.state is ProgressState.REPLICATE:
            invariant(last_index >= self.next, "a request with entries must move next forward")
            self.next = Index(last_index + 1)
            self._inflight.append((last_index, size_bytes))
            self.inflight_bytes += size_bytes
        else:
            self.probe_sent = True

    def accepted(self, index: Index) -> bool:
        """Note that the follower holds everything up to `index` durably. Return whether that is news."""
        while self._inflight and self._inflight[0][0] <= index:
            self.inflight_bytes -= self._inflight.popleft()[1]
        news = index > self.match
        if news:
            self.stalled_ticks = 0
            self.match = index
            self.next = Index(max(self.next, index + 1))
        if self.state is ProgressState.PROBE or (
            self.state is ProgressState.SNAPSHOT and self.match >= self.snapshot_index
        ):
            self._enter(ProgressState.REPLICATE)
            self.next = Index(self.match + 1)
        return news

    def rejected(self, previous_index: Index, next_probe: Index) -> bool:
        """Note that the logs do not match at `previous_index`; go on probing from `next_probe`.

        Return False for an answer that is out of date: it must change nothing.
        """
        if self.state is ProgressState.REPLICATE:
            if previous_index <= self.match:
                return False
            self.probe(Index(self.match + 1))
            return True
        if self.state is ProgressState.SNAPSHOT or previous_index != self.next - 1:
            return False
        self.next = Index(max(min(previous_index, next_probe + 1), self.match + 1))
        self.probe_sent = False
        return True

    def probe(self, next_index: Index) -> None:
        """Forget what is in flight: find out from `next_index` on what has arrived."""
        self._enter(ProgressState.PROBE)
        self.next = Index(max(next_index, self.match + 1))

    def await_snapshot(self, snapshot_index: Index) -> None:
        """Send nothing until a snapshot that reaches `snapshot_index` has been accepted."""
        self._enter(ProgressState.SNAPSHOT)
        self.snapshot_index = snapshot_index

    def validate(self) -> None:
        """Raise InvariantViolation unless match < next and the accounting adds up."""
        if self.match >= self.next:
            raise InvariantViolation(f"P1: next {self.next} must be above match {self.match}")
        if self.inflight_bytes < 0 or (self.inflight_bytes > 0) != bool(self._inflight):
            raise InvariantViolation(f"P1: {self.inflight_bytes} bytes are in flight in {len(self._inflight)} requests")

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.probe_sent = False
        self.snapshot_index = Index(0)
        self.installing = False
        self._inflight.clear()
        self.inflight_bytes = 0
