from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client.results import KeyValue, RangeResult
from raftkv.client.spans import NO_UPPER_BOUND, Pages, Span, between, selected, to_bytes, under
from raftkv.errors import InvalidArgument, RaftKVError
from raftkv.quorum import Guarantee

small_bytes = st.lists(st.sampled_from([0, 1, 0x61, 0xFE, 0xFF]), max_size=4).map(bytes)


def covers(span: Span, key: bytes) -> bool:
    return span.key <= key and (span.range_end == NO_UPPER_BOUND or key < span.range_end)


@given(prefix=small_bytes, key=small_bytes.filter(bool))
def test_a_prefix_covers_exactly_the_keys_that_begin_with_it(prefix: bytes, key: bytes) -> None:
    assert covers(under(prefix), key) == key.startswith(prefix)


@given(start=small_bytes, end=small_bytes, key=small_bytes.filter(bool))
def test_between_covers_its_bounds_or_is_refused(start: bytes, end: bytes, key: bytes) -> None:
    try:
        span = between(start, end)
    except InvalidArgument:
        assert not start <= key < end
    else:
        assert covers(span, key) == (start <= key < end)


def test_bounds_that_would_mean_everything_on_the_wire_are_never_sent() -> None:
    with pytest.raises(InvalidArgument, match="empty"):
        between(b"", b"\0")
    with pytest.raises(InvalidArgument, match="empty"):
        between(b"a", b"")
    assert between("a", None) == Span(b"a", NO_UPPER_BOUND)


def test_text_is_utf8_and_nothing_else_is_taken() -> None:
    assert to_bytes("\N{EURO SIGN}") == b"\xe2\x82\xac"
    with pytest.raises(InvalidArgument, match="not int"):
        to_bytes(7)  # type: ignore[arg-type]


def page(*keys: bytes, cursor: bytes, revision: int = 9) -> RangeResult:
    pairs = tuple(KeyValue(key, b"", 1, 1, 1, Guarantee.LINEARIZABLE) for key in keys)
    return RangeResult(pairs, bool(cursor), len(pairs), revision, Guarantee.LINEARIZABLE, cursor)


def test_pages_go_on_at_the_cursor_at_the_revision_of_the_first() -> None:
    pages = Pages("k", size=2, revision=0)
    assert (pages.start, pages.end, pages.revision, pages.cursor, pages.done) == (b"k", b"l", 0, b"", False)
    assert len(pages.take(page(b"k1", b"k2", cursor=b"c"))) == 2
    assert (pages.start, pages.end, pages.revision, pages.cursor, pages.done) == (b"k", b"l", 9, b"c", False)
    pages.take(page(b"k3", cursor=b""))
    assert pages.done


def test_an_empty_page_need_not_be_the_last_one() -> None:
    pages = Pages("k", size=2, revision=0)
    pages.take(page(cursor=b"c"))
    assert not pages.done


def test_pages_never_go_round_in_circles_nor_end_early() -> None:
    pages = Pages("k", size=2, revision=0)
    pages.take(page(b"k1", cursor=b"c"))
    with pytest.raises(RaftKVError, match="not where"):
        pages.take(page(b"k1", cursor=b"c"))
    with pytest.raises(RaftKVError, match="not where"):
        pages.take(RangeResult((), True, 0, 9, Guarantee.LINEARIZABLE))


def test_a_selection_is_one_key_a_prefix_or_a_range() -> None:
    assert selected("a") == Span(b"a")
    assert selected(None, prefix="a") == under("a")
    assert selected(None, prefix="") == under("")
    assert selected(None, start="a", end="c") == between("a", "c")
    assert selected(None, start="a") == between("a", None)
    assert selected(None, end="c") == between("", "c")
    for nonsense in ({}, {"prefix": "a", "start": "b"}, {"prefix": "a", "end": "b"}):
        with pytest.raises(InvalidArgument, match="say which keys"):
            selected(None, **nonsense)
    with pytest.raises(InvalidArgument, match="say which keys"):
        selected("a", prefix="b")
