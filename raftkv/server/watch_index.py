"""Which watches a change concerns, without asking each of them.

Spans of keys are looked up by what they are: one key, all keys that begin alike, or any other range (`watch_ranges`).
They are spans of prefixes (`keys`), so keys and places in lines are treated alike.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from raftkv.errors import InvalidArgument
from raftkv.kv.keys import FROM_KEY, VERSIONS, place_prefix, places_bounds, range_bounds, version_prefix
from raftkv.kv.limits import MAX_KEY_BYTES, MAX_LOCK_NAME_BYTES, range_fault
from raftkv.server.watch_ranges import RangeIndex
from raftkv.v1 import watch_pb2

T = TypeVar("T")


class Span(NamedTuple):
    """What a watch looks at: the prefix `start`; all that begin with it (`stem`); or [start, stop)."""

    start: bytes
    stop: bytes = b""
    stem: bool = False


def span_of(request: watch_pb2.WatchCreate) -> Span:
    """Return the span that a request names. Raises InvalidArgument."""
    if request.HasField("place"):
        if request.key or request.range_end:
            raise InvalidArgument("a watch is of keys or of a lock's places: key and place are both set")
        lock, ticket = request.place.lock, request.place.ticket
        if not lock or len(lock) + lock.count(0) > MAX_LOCK_NAME_BYTES:
            raise InvalidArgument(
                f"the name of a lock has 1 to {MAX_LOCK_NAME_BYTES} bytes, zeros counted twice; this one {len(lock)}"
            )
        return Span(place_prefix(lock, ticket)) if ticket else Span(places_bounds(lock)[0], stem=True)
    key, range_end = request.key, request.range_end
    fault = range_fault(key, range_end)
    if fault is not None:
        raise InvalidArgument(fault)
    if not range_end:
        return Span(version_prefix(key))
    start, stop = range_bounds(key, range_end)
    if range_end != FROM_KEY and len(start) <= len(VERSIONS) + MAX_KEY_BYTES and range_end == _successor(key):
        return Span(start, stem=True)
    return Span(start, stop)


def _successor(key: bytes) -> bytes:
    """Return the first key behind all that begin with `key`; b"" where there is none."""
    stem = key.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b""


class SpanIndex(Generic[T]):
    """Values by span. A value may be added to a span several times, and is there until it was removed as often."""

    __slots__ = ("_exact", "_ranges", "_stems")

    def __init__(self) -> None:
        self._exact: dict[bytes, dict[T, int]] = {}
        self._stems: dict[int, dict[bytes, dict[T, int]]] = {}
        """By the length of the stem: so many look-ups a change costs."""
        self._ranges: RangeIndex[T] | None = None
        """None: none. Most indexes never have any."""

    def __bool__(self) -> bool:
        return bool(self._exact or self._stems or self._ranges)

    def add(self, span: Span, value: T) -> None:
        if span.stop:
            if self._ranges is None:
                self._ranges = RangeIndex()
            self._ranges.add(span.start, span.stop, value)
            return
        if span.stem:
            values = self._stems.setdefault(len(span.start), {}).setdefault(span.start, {})
        else:
            values = self._exact.setdefault(span.start, {})
        values[value] = values.get(value, 0) + 1

    def remove(self, span: Span, value: T) -> None:
        """Undo one `add`."""
        if span.stem:
            stems = self._stems[len(span.start)]
            if _take(stems[span.start], value):
                del stems[span.start]
                if not stems:
                    del self._stems[len(span.start)]
        elif span.stop:
            if self._ranges is None:
                raise KeyError(span)
            self._ranges.remove(span.start, span.stop, value)
            if not self._ranges:
                self._ranges = None
        elif _take(self._exact[span.start], value):
            del self._exact[span.start]

    def match(self, prefix: bytes) -> list[T]:
        """Return the values of all spans that hold `prefix`; one that is in several of them comes several times."""
        found: list[T] = []
        values = self._exact.get(prefix)
        if values is not None:
            found += values
        for length, stems in self._stems.items():
            values = stems.get(prefix[:length])
            if values is not None:
                found += values
        if self._ranges is not None:
            self._ranges.match(prefix, found)
        return found


def _take(values: dict[T, int], value: T) -> bool:
    """Remove one; return whether nothing is left."""
    values[value] -= 1
    if not values[value]:
        del values[value]
    return not values
