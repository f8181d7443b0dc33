"""Which ranges hold a key: what going through all of them finds, without doing so."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.server import watch_ranges
from raftkv.server.watch_ranges import RangeIndex

KEYS = st.binary(max_size=3).map(lambda key: bytes(byte % 4 for byte in key))
RANGES = st.tuples(KEYS, KEYS).map(lambda pair: (min(pair), max(pair) + b"\0"))
STEPS = st.lists(st.one_of(RANGES, st.integers(0, 60), KEYS), max_size=80)
"""Add a range; remove one of those that are there; look up a key."""


@given(STEPS)
def test_the_index_finds_what_going_through_all_ranges_finds(steps: list[tuple[bytes, bytes] | int | bytes]) -> None:
    index: RangeIndex[int] = RangeIndex()
    model: Counter[tuple[bytes, bytes, int]] = Counter()
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            added = (*step, number % 3)
            index.add(*added)
            model[added] += 1
        elif isinstance(step, int):
            there = sorted(model)
            if there:
                removed = there[step % len(there)]
                index.remove(*removed)
                model[removed] -= 1
                model = +model
        else:
            found: list[int] = []
            index.match(step, found)
            expected = [(start, stop, value) for start, stop, value in model if start <= step < stop]
            assert sorted(found) == sorted(value for _, _, value in expected)
            ranges = {(start, stop) for start, stop, _ in model}
            assert len(index) == len(ranges)
    for removed in model.elements():
        index.remove(*removed)
    assert not index


@pytest.mark.parametrize("nested", [False, True])
def test_a_look_up_looks_at_few_ranges(monkeypatch: pytest.MonkeyPatch, nested: bool) -> None:
    """Added in order, as a client does that divides its keys; or one within the other."""
    ranges = 4_000
    index: RangeIndex[int] = RangeIndex()
    for number in range(ranges):
        stop = b"%05d" % (2 * ranges - number if nested else number + 1)
        index.add(b"%05d" % number, stop, number)
    visits = 0
    plain = watch_ranges._match

    def counted(*args: object) -> None:
        nonlocal visits
        visits += 1
        plain(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(watch_ranges, "_match", counted)
    found: list[int] = []
    for number in range(0, ranges, 400):
        index.match(b"%05d" % number if nested else b"%05d+" % number, found)
    if nested:
        assert len(found) == sum(number + 1 for number in range(0, ranges, 400))
        assert visits <= len(found) + 10 * 100
    else:
        assert found == list(range(0, ranges, 400))
        assert visits <= 10 * 100
    for number in range(0, ranges, 2):
        stop = b"%05d" % (2 * ranges - number if nested else number + 1)
        index.remove(b"%05d" % number, stop, number)
    assert len(index) == ranges // 2
    found.clear()
    index.match(b"%05d+" % 1, found)
    assert found == [1]


def test_what_is_not_there_cannot_be_removed() -> None:
    index: RangeIndex[str] = RangeIndex()
    index.add(b"a", b"b", "value")
    with pytest.raises(KeyError):
        index.remove(b"a", b"c", "value")
    with pytest.raises(KeyError):
        index.remove(b"a", b"b", "other")
    index.remove(b"a", b"b", "value")
    assert not index
