"""What a watcher is told, compared with what the log says: see "watch" in `oracle`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raftkv.v1 import watch_pb2
from tests.sim.l1.answers import pair_of
from tests.sim.l1.state import EVERYTHING, Event, State

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is watched."""

    key: bytes = b""
    range_end: bytes = b""
    lock: bytes = b""
    """Instead of keys: the places in its line."""
    puts: bool = True
    deletes: bool = True
    previous: bool = False

    def covers(self, event: Event) -> bool:
        """Whether a change is asked for."""
        if event.key:
            gone = event.pair is None
            within = self._covers(event.key)
        else:
            gone = event.place is None
            within = bool(self.lock) and event.lock == self.lock
        return within and (self.deletes if gone else self.puts)

    def _covers(self, key: bytes) -> bool:
        if self.lock:
            return False
        if not self.range_end:
            return key == self.key
        return self.key <= key and (self.range_end == EVERYTHING or key < self.range_end)


class Watched:
    """One watch, over all the streams that it was resumed on."""

    def __init__(self, state: State, report: Report, wish: Wish) -> None:
        self._state = state
        self._report = report
        self.wish = wish
        self.next = 0
        """It was told everything before this revision; 0: it has not begun."""
        self.events = 0
        self._told = 0
        """Events of revision `next` that it was told of: the rest is to follow."""

    def resumed(self) -> None:
        """Another stream goes on from `next`."""
        self._told = 0

    def created(self, revision: int) -> None:
        """The watch exists; it will not be told of anything up to `revision`."""
        if self.next and revision != self.next - 1:
            self._report(f"watch: {self.wish} was to begin at {self.next}, and begins behind {revision}")
        self.next = revision + 1

    def told(self, events: list[watch_pb2.Event], *, fragment: bool) -> None:
        """A response has come; `fragment`: the last revision in it goes on in the next one."""
        for number, event in enumerate(events):
            expected = self._next_event()
            said = said_of(event)
            if expected is None or not self._is_said(said, expected):
                self._report(f"watch: {self.wish} is told {said} after {self.next - 1}, the log has {expected}")
                return
            self.next, self._told = expected.revision, self._told + 1
            self.events += 1
            ends = number + 1 == len(events) or events[number + 1].kv.mod_revision != event.kv.mod_revision
            if ends and not (fragment and number + 1 == len(events)):
                self._end_revision()

    def _end_revision(self) -> None:
        wanted = self._wanted(self.next)
        if len(wanted) != self._told:
            self._report(f"watch: {self.wish} was told {self._told} changes of revision {self.next}, of {wanted}")
        self.next, self._told = self.next + 1, 0

    def everything_up_to(self, revision: int) -> None:
        """It was told that it has been told everything up to a revision."""
        if revision > self._state.revision:
            self._report(f"watch: {self.wish} is told of revision {revision}, the log ends at {self._state.revision}")
            return
        expected = self._next_event()
        if expected is not None and expected.revision <= revision:
            self._report(f"watch: {self.wish} was told everything up to {revision}, and not {expected}")
        if revision >= self.next:
            self.next, self._told = revision + 1, 0

    def compacted(self, begins: int) -> None:
        """It was ended, since history begins at a revision; it goes on there."""
        if not self.next < begins <= self._state.compacted:
            self._report(
                f"compaction: {self.wish} at {self.next} is told that history begins at {begins}, it does at "
                f"{self._state.compacted}"
            )
        self.next, self._told = max(self.next, begins), 0

    def _wanted(self, revision: int) -> list[Event]:
        return [event for event in self._state.events.get(revision, []) if self.wish.covers(event)]

    def _next_event(self) -> Event | None:
        for revision in range(self.next, self._state.revision + 1):
            wanted = self._wanted(revision)
            done = self._told if revision == self.next else 0
            if done < len(wanted):
                return wanted[done]
        return None

    def _is_said(self, said: tuple[Any, ...], event: Event) -> bool:
        before = event.before if self.wish.previous else None
        if event.key:
            pair = event.pair if event.pair is not None else (event.key, event.revision)
            if said == ("key", event.revision, pair, before):
                return True
            # What came before may have been compacted away, and nothing else.
            gone = before is not None and event.revision <= self._state.compacted
            return gone and said == ("key", event.revision, pair, None)
        return said == ("place", event.revision, event.ticket, tuple(event.place) if event.place is not None else None)


def said_of(event: watch_pb2.Event) -> tuple[Any, ...]:
    """Return what an event says."""
    revision, gone = event.kv.mod_revision, event.kind == watch_pb2.Event.DELETE
    if event.HasField("contender"):
        one = event.contender
        place = None if gone else (one.token, one.lease, one.kind, one.exclusive, one.limit, one.value)
        return "place", revision, one.ticket, place
    pair = (event.kv.key, revision) if gone else pair_of(event.kv)
    return "key", revision, pair, pair_of(event.prev_kv) if event.HasField("prev_kv") else None
