"""Which watches a change concerns."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from raftkv.errors import InvalidArgument
from raftkv.kv.keys import place_prefix, version_prefix
from raftkv.server.watch_index import Span, SpanIndex, span_of
from raftkv.v1 import watch_pb2


def span(key: bytes = b"", range_end: bytes = b"", **settings: Any) -> Span:
    return span_of(watch_pb2.WatchCreate(key=key, range_end=range_end, **settings))


def place(lock: bytes, ticket: int = 0) -> watch_pb2.LockPlace:
    return watch_pb2.LockPlace(lock=lock, ticket=ticket)


def random_key(random: Random) -> bytes:
    return bytes(random.choices(b"\x00\x01ab\xff", k=random.randint(1, 4)))


def test_the_index_finds_what_asking_each_finds() -> None:
    random = Random(7)
    index: SpanIndex[int] = SpanIndex()
    spans: dict[int, tuple[bytes, bytes]] = {}
    for number in range(300):
        key, end = random_key(random), random.choice((b"", b"\0", None, random_key(random)))
        if end is None:  # all that begin with the key
            stem = key.rstrip(b"\xff")
            end = stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\0"
        if end and end != b"\0" and end < key:
            key, end = end, key
        spans[number] = (key, end)
        index.add(span(key, end), number)
    kinds = {(one.stem, bool(one.stop)) for one in (span(*bounds) for bounds in spans.values())}
    assert kinds == {(True, False), (False, True), (False, False)}
    for round_ in range(3):
        for _ in range(500):
            key = random_key(random)
            expected = {
                number
                for number, (start, end) in spans.items()
                if (key == start if not end else key >= start and (end == b"\0" or key < end))
            }
            found = index.match(version_prefix(key))
            assert sorted(found) == sorted(expected), (round_, key)
        for number in list(spans)[::2]:
            index.remove(span(*spans.pop(number)), number)
    for number, bounds in spans.items():
        index.remove(span(*bounds), number)
    assert not index
    assert not index.match(version_prefix(b"a"))


def test_a_span_that_is_added_twice_is_removed_twice() -> None:
    index: SpanIndex[str] = SpanIndex()
    one = span(b"k")
    index.add(one, "stream")
    index.add(one, "stream")
    index.remove(one, "stream")
    assert index.match(version_prefix(b"k")) == ["stream"]
    index.remove(one, "stream")
    assert index.match(version_prefix(b"k")) == []


def test_places_and_keys_do_not_meet() -> None:
    index: SpanIndex[str] = SpanIndex()
    index.add(span(b"\0", b"\0"), "all keys")
    index.add(span(b"\0", b"\1"), "keys that begin with a zero byte")
    index.add(span(place=place(b"lock")), "line")
    index.add(span(place=place(b"lock", 7)), "place")
    assert index.match(place_prefix(b"lock", 7)) == ["place", "line"]
    assert index.match(place_prefix(b"lock", 8)) == ["line"]
    assert index.match(place_prefix(b"lock\0", 7)) == []
    assert index.match(place_prefix(b"loc", 7)) == []
    assert index.match(version_prefix(b"\0\1lock")) == ["keys that begin with a zero byte", "all keys"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "key is empty"),
        ({"range_end": b"b"}, "key is empty"),
        ({"key": b"b", "range_end": b"a"}, "range_end lies before key"),
        ({"key": b"k" * 501}, "key is too long"),
        ({"key": b"k", "place": place(b"lock")}, "key and place are both set"),
        ({"range_end": b"k", "place": place(b"lock")}, "key and place are both set"),
        ({"place": place(b"")}, "1 to 200 bytes"),
        ({"place": place(b"k" * 201)}, "1 to 200 bytes"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        span(**settings)
