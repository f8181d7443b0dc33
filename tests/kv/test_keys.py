from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from raftkv.kv import keys
from raftkv.kv.limits import MAX_KEY_BYTES, key_fault
from raftkv.kv.store import MAX_KEY_BYTES as MAX_STORED_KEY_BYTES

KEYS = st.lists(st.sampled_from([b"\0", b"\x01", b"a", b"\xfe", b"\xff"]), min_size=1, max_size=6).map(b"".join)
REVISIONS = st.integers(2, 2**64 - 1)


def stored(key: bytes, revision: int) -> bytes:
    return keys.version_prefix(key) + keys.version_suffix(revision)


@given(KEYS, REVISIONS)
def test_key_and_revision_are_read_back(key: bytes, revision: int) -> None:
    row = stored(key, revision)
    assert (keys.user_key(row[:-8]), keys.revision_of(row)) == (key, revision)


@given(KEYS, REVISIONS, KEYS, REVISIONS)
def test_rows_are_in_order_of_keys_then_newest_first(a: bytes, ra: int, b: bytes, rb: int) -> None:
    assert (stored(a, ra) < stored(b, rb)) == ((a, -ra) < (b, -rb))


@given(KEYS, REVISIONS, KEYS)
def test_the_history_of_a_key_holds_no_other_key(key: bytes, revision: int, other: bytes) -> None:
    assume(key != other)
    prefix = keys.version_prefix(key)
    assert prefix < stored(key, revision) < prefix + keys.OLDEST
    assert not prefix <= stored(other, revision) < prefix + keys.OLDEST


@given(KEYS, REVISIONS, KEYS, KEYS)
def test_a_range_holds_what_lies_between_its_bounds(key: bytes, revision: int, start: bytes, end: bytes) -> None:
    first, stop = keys.range_bounds(start, end)
    in_range = start <= key if end == b"\0" else start <= key < end
    assert (first <= stored(key, revision) < stop) == in_range
    first, stop = keys.range_bounds(start, b"")
    assert (first <= stored(key, revision) < stop) == (key == start)


LONGEST = [b"k" * MAX_KEY_BYTES, b"\0" * (MAX_KEY_BYTES // 2), b"\0k" * 166 + b"kk", b"k" * 498 + b"\0"]


def test_the_longest_keys_fit_the_store_exactly() -> None:
    for key in LONGEST:
        assert key_fault(key) is None
        assert key_fault(key + b"k") is not None
        assert len(stored(key, 2)) == MAX_STORED_KEY_BYTES
        assert len(keys.version_prefix(key)) == keys.MAX_PREFIX_BYTES


@given(st.sampled_from(LONGEST), st.sampled_from(LONGEST), st.binary(max_size=600))
def test_a_bound_longer_than_any_key_still_divides_them_rightly(key: bytes, base: bytes, more: bytes) -> None:
    bound = base + more
    first, stop = keys.range_bounds(bound, bound)
    assert len(first) <= MAX_STORED_KEY_BYTES
    assert (stored(key, 2) >= first) == (key >= bound)
    assert (stored(key, 2) < stop) == (key < bound)


def test_tables_do_not_overlap() -> None:
    tables = [keys.META, keys.VERSIONS, keys.SESSIONS, keys.RESULTS]
    assert tables == sorted(set(tables))
    assert {len(table) for table in tables} == {1}
    assert keys.session_key(7).startswith(keys.SESSIONS)
    assert keys.results_key(7, 9).startswith(keys.RESULTS)
    assert keys.session_of(keys.session_key(7)) == keys.session_of(keys.results_key(7, 9)) == 7
    assert keys.index_of(keys.results_key(7, 9)) == 9
