from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client.results import Guarantee, KeyValue, RangeResult
from raftkv.client.spans import NO_UPPER_BOUND, Pages, Span, between, to_bytes, under
from raftkv.errors import InvalidArgument

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


def page(*keys: bytes, more: bool, revision: int) -> RangeResult:
    pairs = tuple(KeyValue(key, b"", 1, 1, 1, Guarantee.LINEARIZABLE) for key in keys)
    return RangeResult(pairs, more, len(pairs), revision, Guarantee.LINEARIZABLE)


def test_pages_go_on_behind_the_last_key_at_the_revision_of_the_first() -> None:
    pages = Pages("k", size=2, revision=0)
    assert (pages.start, pages.end, pages.revision, pages.done) == (b"k", b"l", 0, False)
    pages.take(page(b"k1", b"k2", more=True, revision=9))
    assert (pages.start, pages.end, pages.revision, pages.done) == (b"k2\0", b"l", 9, False)
    pages.take(page(b"k3", more=False, revision=9))
    assert pages.done


def test_pages_end_on_an_empty_page_whatever_it_says() -> None:
    pages = Pages("k", size=2, revision=0)
    pages.take(page(more=True, revision=9))
    assert pages.done
