"""Which writes of the client are open: what makes a retry the same write, and lets the store forget old results.

A write keeps its sequence however often it is sent, and is **done** as soon as the client will never send it again:
it was answered, its caller went away, or its deadline passed. Whether a copy is still on its way does not matter. What
the client acknowledges lies below every write that is not done; the store refuses a late copy from below that mark, so
acknowledging early can make a write fail that nobody waits for, and can never make one apply twice.

Reads draw their ids from a counter of their own, far above all sequences: an id names one operation of the client for
ever (raft-bugs 41), and reads take up nothing of the window of a session.
"""

from __future__ import annotations

from raftkv.invariant import invariant

FIRST_READ_ID = 1 << 63


class Sequences:
    """Ids of all operations, and which writes are not done.

    1. Ids only grow; no id is given twice.
    2. acknowledged_below never decreases, and lies at or below every write that is not done.
    3. A write is begun only when its sequence is less than `window` above acknowledged_below.
    """

    __slots__ = ("_low", "_next", "_next_read", "_open", "window")

    def __init__(self, window: int = 1) -> None:
        self.window = window
        """How many sequences from acknowledged_below on the store takes; it says so when a session is registered."""
        self._next = 1
        self._next_read = FIRST_READ_ID
        self._low = 1
        self._open: dict[int, None] = {}  # in the order of the ids, so the first one is the lowest

    def next_id(self) -> int:
        """Give out the id of a read, or of anything else that is not a write in a session."""
        given = self._next_read
        self._next_read = given + 1
        return given

    def has_room(self) -> bool:
        """Whether a write may begin now."""
        return self._next - self._low < self.window or self._next - self.acknowledged_below() < self.window

    def begin(self) -> int:
        """Give out the sequence of a write. Only when `has_room`."""
        sequence = self._next
        self._next = sequence + 1
        self._open[sequence] = None
        return sequence

    def done(self, sequence: int) -> None:
        """The client will never send this write again. Once for each `begin`."""
        invariant(sequence in self._open, "write {} is done twice, or was never begun", sequence)
        del self._open[sequence]

    def acknowledged_below(self) -> int:
        """Return the lowest sequence that is not done, or the next one where all are."""
        self._low = next(iter(self._open), self._next)
        return self._low


class Session:
    """The registered session: 0 until there is one, and again once it is known to have expired."""

    __slots__ = ("id",)

    def __init__(self) -> None:
        self.id = 0

    def expired(self, session: int) -> None:
        """A node said that `session` is gone. Answers to late copies of an older session change nothing."""
        if session == self.id:
            self.id = 0
