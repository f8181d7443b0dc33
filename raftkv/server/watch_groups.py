"""The watches of one stream that stand at the same place, and what is to be said to them.

Watches that want the same make a `Group`: they are told in one response. Groups that have been told everything up to
the same point make a `Cohort`, which moves on as one. A stream has one cohort once all its watches are up to date, and
another one for each point in the past that watches have been opened at, until one from further behind comes to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from raftkv.kv.history import Cursor, Want
from raftkv.server.watch_events import Event
from raftkv.server.watch_index import Span, SpanIndex
from raftkv.v1 import watch_pb2

_ID_BYTES: Final = 3
"""What a watch_id takes in a response."""


class Wish(NamedTuple):
    """What a watch wants to be told."""

    span: Span
    puts: bool
    deletes: bool
    previous: bool
    fragment: bool
    progress: bool
    since: int
    """Nothing before this revision, which had not been reached when the watch was opened; else 0."""


class Response(NamedTuple):
    """A response with events, not yet put together."""

    head: bytes
    """Whom it is for, encoded."""
    watches: int
    events: list[bytes]
    fragment: bool


class Group:
    """Watches that want the same."""

    __slots__ = (
        "_head",
        "_part",
        "_part_bytes",
        "_split",
        "_whole",
        "_whole_bytes",
        "ids",
        "told",
        "too_large",
        "wish",
    )

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.ids: dict[int, None] = {}
        self.told = False
        """Since somebody looked last."""
        self.too_large = False
        """A revision does not fit into a response, and may not be split: the group must end."""
        self._head: bytes | None = None
        self._whole: list[bytes] = []
        """Events of whole revisions."""
        self._whole_bytes = 0
        self._part: list[bytes] = []
        """Those of the revision under way."""
        self._part_bytes = 0
        self._split = False
        """A fragment of it has been told."""

    def add_id(self, watch_id: int) -> None:
        self.ids[watch_id] = None
        self._head = None

    def remove_id(self, watch_id: int) -> None:
        del self.ids[watch_id]
        self._head = None

    def wants(self, revision: int) -> bool:
        return revision >= self.wish.since

    def take(self, event: Event, message_bytes: int, out: list[Response]) -> int:
        """Take the next event of a revision; return how many bytes will be sent for it."""
        wish = self.wish
        if not (wish.deletes if event.deleted else wish.puts) or self.too_large:
            return 0
        encoded = event.encoded(with_previous=wish.previous)
        if self._part and self._part_bytes + len(encoded) > message_bytes:
            if not wish.fragment:
                self.too_large = True
                self._part = []
                return 0
            self.flush(out)
            out.append(self._response(self._part, fragment=True))
            self._part, self._part_bytes, self._split = [], 0, True
        self._part.append(encoded)
        self._part_bytes += len(encoded)
        return len(encoded)

    def end_revision(self, message_bytes: int, out: list[Response]) -> None:
        """All events of a revision have been taken."""
        part, size = self._part, self._part_bytes
        self._part, self._part_bytes = [], 0
        if self._split:
            self._split = False
            out.append(self._response(part, fragment=False))
            return
        if self._whole_bytes + size > message_bytes:
            self.flush(out)
        self._whole += part
        self._whole_bytes += size

    def flush(self, out: list[Response]) -> None:
        """Say what has been taken of whole revisions."""
        if self._whole:
            out.append(self._response(self._whole, fragment=False))
            self._whole, self._whole_bytes = [], 0

    def _response(self, events: list[bytes], *, fragment: bool) -> Response:
        self.told = True
        if self._head is None:
            self._head = watch_pb2.WatchResponse(watch_ids=self.ids).SerializeToString()
        return Response(self._head, len(self.ids), events, fragment)


class Cohort:
    """Groups that have been told everything before `cursor`."""

    __slots__ = ("_busy", "_open", "cursor", "groups", "index", "noticed_at", "watches")

    def __init__(self, revision: int, now: float) -> None:
        self.cursor = Cursor(revision)
        self.groups: dict[Wish, Group] = {}
        self.index: SpanIndex[Group] = SpanIndex()
        self.watches = 0
        self.noticed_at = now
        """When its watches last heard anything."""
        self._open: dict[Group, None] = {}
        """Groups that have taken events of the revision under way."""
        self._busy: dict[Group, None] = {}
        """Groups that have taken events in the turn under way."""

    def add(self, wish: Wish, watch_id: int) -> Group:
        group = self.groups.get(wish)
        if group is None:
            group = self.groups[wish] = Group(wish)
            self.index.add(wish.span, group)
        group.add_id(watch_id)
        self.watches += 1
        return group

    def remove(self, wish: Wish, watch_id: int) -> None:
        group = self.groups[wish]
        group.remove_id(watch_id)
        self.watches -= 1
        if not group.ids:
            del self.groups[wish]
            self.index.remove(wish.span, group)
            self._open.pop(group, None)
            self._busy.pop(group, None)

    def ids(self) -> list[int]:
        return [watch_id for group in self.groups.values() for watch_id in group.ids]

    def wants(self, revision: int, prefix: bytes) -> Want:
        """Say what of a change must be read (`history`)."""
        return _wanted(self.index, revision, prefix)

    def take(self, events: Iterable[Event], message_bytes: int, out: list[Response]) -> int:
        """Take events of one revision; return how many bytes will be sent for them."""
        size = 0
        for event in events:
            for group in self.index.match(event.change.prefix):
                if group.wants(event.change.revision):
                    taken = group.take(event, message_bytes, out)
                    if taken or group.too_large:
                        size += taken
                        self._open[group] = self._busy[group] = None
        return size

    def end_revision(self, message_bytes: int, out: list[Response]) -> None:
        """The revision that events were taken of is complete."""
        for group in self._open:
            group.end_revision(message_bytes, out)
            self._busy[group] = None
        self._open.clear()

    def flush(self, out: list[Response]) -> list[Group]:
        """Say what has been taken of whole revisions; return the groups that must end."""
        ending = [group for group in self._busy if group.too_large]
        for group in self._busy:
            group.flush(out)
        self._busy.clear()
        return ending


class Company:
    """Whom a step through the past is read for: a cohort, and those that it will come to on its way."""

    def __init__(self, cohort: Cohort, ahead: Iterator[Cohort], max_groups: int, max_bytes: int) -> None:
        """`ahead`: the others, by their places. The step ends early where so many groups have been come to, or where
        watches that want the same as others must be told so often with whom they are that it takes so many bytes."""
        self._cohort = cohort
        self._ahead = ahead
        self._next = next(ahead, None)
        self._groups_left = max_groups
        self._bytes_left = max_bytes
        self._ids: dict[Wish, int] = {}
        """How many watches want it, by now; the cohort's own only if others want the same."""
        self._index: SpanIndex[Group] = SpanIndex()
        """One group for each wish that the cohort does not have itself."""

    def wants(self, revision: int, prefix: bytes) -> Want:
        """Say what of a change must be read (`history`). To be asked in the order of changes."""
        while self._next is not None and self._next.cursor.revision <= revision:
            if self._groups_left <= 0 or self._bytes_left <= 0:
                return Want.STOP
            self._admit(self._next)
            self._next = next(self._ahead, None)
        want = self._cohort.wants(revision, prefix)
        return max(want, _wanted(self._index, revision, prefix)) if self._index else want

    def _admit(self, other: Cohort) -> None:
        self._groups_left -= len(other.groups)
        for wish, group in other.groups.items():
            own = self._cohort.groups.get(wish)
            ids = self._ids.get(wish, 0 if own is None else len(own.ids))
            if not ids:
                self._index.add(wish.span, group)
            # Those that are there already must be told what has been read before these join them.
            self._bytes_left -= _ID_BYTES * ids
            self._ids[wish] = ids + len(group.ids)


def _wanted(index: SpanIndex[Group], revision: int, prefix: bytes) -> Want:
    want = Want.NOTHING
    for group in index.match(prefix):
        if group.wants(revision):
            if group.wish.previous:
                return Want.WITH_PREVIOUS
            want = Want.CHANGE
    return want
