"""What all watches of a node share: the recent changes, and who has to be woken for a new one.

A change costs one look-up (`watch_index`) however many watches there are, and wakes the streams that it concerns.
Nothing is queued for any of them: each reads on from the ring of recent changes when it can send more, and what has
left the ring meanwhile from the store (`watch_sender`). So a client that does not read costs nothing but its place.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Protocol

from raftkv.kv.writing import Change
from raftkv.server.watch_events import Event
from raftkv.server.watch_index import SpanIndex

WOKEN_PER_TURN: Final = 64
"""Streams that begin to send in one turn of the loop: the node's other duties have theirs in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchLimits:
    """What bounds the watches of a node. Times are in seconds."""

    ring_bytes: int = 32 << 20
    """Recent changes kept in memory, roughly; whoever lags further behind reads from the store."""
    max_watches: int = 100_000
    max_stream_watches: int = 20_000
    turn_bytes: int = 256 << 10
    """A stream gathers about so much before it sends it."""
    turn_changes: int = 2_000
    """It looks at so many changes in one go: some milliseconds."""
    step_work: int = 500
    """Rows read from the store in one go (`history`): some milliseconds."""
    message_bytes: int = 1 << 20
    """Largest response; a revision that does not fit comes in fragments."""
    progress_s: float = 10.0
    """A watch with progress_notify that was told nothing for so long is told how far it is."""
    notice_s: float = 0.25
    """The same while a watch is being caught up: a client must be able to tell that from a dead node."""
    rest_per_delivery_s: float = 0.0001
    max_rest_s: float = 0.02
    """After a response a stream rests, per watch that it was for: what happens meanwhile costs the client one message
    instead of many. A single watch is told at once."""
    leaderless_s: float = 1.0
    """A node without a leader for so long ends its streams."""


class Listener(Protocol):
    """A stream, as the hub sees it."""

    def touch(self, revision: int) -> None:
        """A change that concerns it was made. It calls `WatchHub.wake` if it had nothing to do."""
        ...

    def wake(self) -> None:
        """Go on."""
        ...


class WatchHub:
    """The recent changes of one node, and the streams that watch them."""

    def __init__(self, revision: int, limits: WatchLimits | None = None) -> None:
        """`revision`: that of the store."""
        self.limits = limits or WatchLimits()
        self.revision = revision
        """The store's: everything up to it can be read, here or in the store."""
        self.watches = 0
        """Of all streams."""
        self.index: SpanIndex[Listener] = SpanIndex()
        self.history_turn = asyncio.Lock()
        """Held by the one stream that reads from the store, until the loop has come round."""
        self._listeners: set[Listener] = set()
        self._ring: dict[int, tuple[Event, ...]] = {}
        """By revision; without a gap up to the newest."""
        self._oldest = 0
        self._ring_bytes = 0
        self._to_wake: deque[Listener] = deque()

    def publish(self, changes: Sequence[Change], revision: int) -> None:
        """An entry was applied: `changes`, in the order of their revisions, have brought the store to `revision`."""
        if not changes:
            return
        if changes[0].revision != self.revision + 1:
            self.reset(changes[0].revision - 1)
        self.revision = revision
        if not self._listeners:
            # Whoever comes later and asks for it reads it from the store.
            self._clear()
            return
        for made_at, group in groupby(changes, _revision):
            events = tuple([Event(change) for change in group])
            if not self._ring:
                self._oldest = made_at
            self._ring[made_at] = events
            self._ring_bytes += sum([event.weight for event in events])
        self._trim()
        match = self.index.match
        for change in changes:
            for listener in match(change.prefix):
                listener.touch(change.revision)

    def reset(self, revision: int) -> None:
        """The store was replaced by a snapshot at `revision`: what lies between is in its history, if anywhere."""
        missed, self.revision = self.revision + 1, revision
        self._clear()
        for listener in tuple(self._listeners):
            listener.touch(missed)

    def recent(self, revision: int) -> tuple[Event, ...] | None:
        """Return what a revision changed; None: it is too long ago."""
        return self._ring.get(revision)

    def enter(self, listener: Listener) -> None:
        self._listeners.add(listener)

    def leave(self, listener: Listener) -> None:
        self._listeners.discard(listener)

    def wake(self, listener: Listener) -> None:
        """Let a stream go on soon: in the order in which they ask, some in each turn of the loop."""
        if not self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)
        self._to_wake.append(listener)

    def _wake_some(self) -> None:
        for _ in range(min(WOKEN_PER_TURN, len(self._to_wake))):
            self._to_wake.popleft().wake()
        if self._to_wake:
            asyncio.get_running_loop().call_soon(self._wake_some)

    def _trim(self) -> None:
        while self._ring_bytes > self.limits.ring_bytes:
            self._ring_bytes -= sum([event.weight for event in self._ring.pop(self._oldest)])
            self._oldest += 1

    def _clear(self) -> None:
        self._ring.clear()
        self._ring_bytes = 0


def _revision(change: Change) -> int:
    return change.revision
