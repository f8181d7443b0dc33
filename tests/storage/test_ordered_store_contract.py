"""One suite for every OrderedStore."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.invariant import InvariantViolation
from raftkv.kv.store import MAX_KEY_BYTES, OrderedStore, Reader
from raftkv.storage.lmdb_store import LmdbStore
from raftkv.storage.memory import MemoryOrderedStore

KINDS = ("lmdb", "memory")


@contextlib.contextmanager
def opened(kind: str, directory: Path) -> Iterator[OrderedStore]:
    store = LmdbStore.open(directory / "store", map_size=64 << 20) if kind == "lmdb" else MemoryOrderedStore()
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OrderedStore]:
    with opened(request.param, tmp_path) as store:
        yield store


def fill(store: OrderedStore, *keys: bytes) -> None:
    with store.write() as writer:
        for key in keys:
            writer.put(key, b"value of " + key)


class Interrupted(Exception):
    pass


def interrupted_write(store: OrderedStore) -> None:
    with store.write() as writer:
        writer.put(b"applied", b"7")
        writer.put(b"data", b"new")
        writer.put(b"more", b"new")
        writer.delete(b"gone")
        raise Interrupted


def content(store: OrderedStore) -> dict[bytes, bytes]:
    with store.read() as reader:
        return dict(reader.scan(b"", None))


def keys(reader: Reader, start: bytes, stop: bytes | None) -> list[bytes]:
    return [key for key, _ in reader.scan(start, stop)]


def test_an_empty_store(store: OrderedStore) -> None:
    with store.read() as reader:
        assert reader.get(b"a") is None
        assert reader.first(b"", None) is None
        assert reader.head(b"", None, 1) is None
        assert list(reader.scan(b"", None)) == []


def test_put_get_replace_delete(store: OrderedStore) -> None:
    with store.write() as writer:
        writer.put(b"a", b"1")
        writer.put(b"b", b"")
        assert writer.get(b"a") == b"1"
        writer.put(b"a", b"2")
        assert writer.get(b"a") == b"2"
        writer.delete(b"never there")
        writer.put(b"c", b"3")
        writer.delete(b"c")
        assert writer.get(b"c") is None
    assert content(store) == {b"a": b"2", b"b": b""}


def test_keys_are_ordered_as_unsigned_bytes(store: OrderedStore) -> None:
    ordered = [b"\x00", b"\x00\x00", b"\x01", b"a", b"a\x00", b"aa", b"b", b"\x7f", b"\x80", b"\xff", b"\xff\xff"]
    assert ordered == sorted(ordered)
    fill(store, *reversed(ordered))
    with store.read() as reader:
        assert keys(reader, b"", None) == ordered


def test_bounds(store: OrderedStore) -> None:
    fill(store, b"a", b"b", b"c", b"d")
    with store.read() as reader:
        assert keys(reader, b"b", b"d") == [b"b", b"c"]
        assert keys(reader, b"b", None) == [b"b", b"c", b"d"]
        assert keys(reader, b"aa", b"c\x00") == [b"b", b"c"]
        assert keys(reader, b"c", b"c") == []
        assert keys(reader, b"d", b"a") == []
        assert keys(reader, b"e", None) == []
        assert reader.first(b"b", None) == (b"b", b"value of b")
        assert reader.first(b"bb", b"d") == (b"c", b"value of c")
        assert reader.first(b"bb", b"c") is None
        assert reader.first(b"d\x00", None) is None


def test_heads_of_values(store: OrderedStore) -> None:
    values = {b"a": b"", b"b": b"12", b"c": b"123", b"d": b"x" * 300_000}
    with store.write() as writer:
        for key, value in values.items():
            writer.put(key, value)
        written = [*writer.heads(b"", None, 2)]
        heads = [writer.head(key, None, 2) for key in values]
        writer.put(b"b", b"later")
        assert writer.head(b"b", b"c", 2) == (b"b", b"la", 5)
        writer.put(b"b", b"12")
    with store.read() as reader:
        expected = [(key, value[:2], len(value)) for key, value in values.items()]
        assert heads == written == expected == [*reader.heads(b"", None, 2)]
        assert [reader.head(key, None, 2) for key in values] == expected
        assert [*reader.heads(b"b", b"d", 9)] == [(b"b", b"12", 2), (b"c", b"123", 3)]
        assert reader.head(b"aa", b"b", 2) is None
        assert reader.head(b"e", None, 2) is None
        assert reader.head(b"c\0", None, 0) == (b"d", b"", 300_000)


def test_what_a_writer_returns_stays_when_it_writes(store: OrderedStore) -> None:
    """LMDB shows memory that the next write may use anew."""
    with store.write() as writer:
        for number in range(50):
            writer.put(b"%02d" % number, b"%02d" % number * 2_000)
        expected = b"07" * 2_000
        pair = next(writer.scan(b"07", None))
        head = next(writer.heads(b"07", None, 4))
        returned = [writer.get(b"07"), *(writer.first(b"07", None) or ()), *pair, *head[:2]]
        returned += (writer.head(b"07", None, 4) or ())[:2]
        for number in range(50):
            writer.put(b"%02d" % number, b"new" * 3_000)
        assert [type(one) for one in returned] == [bytes] * len(returned)
        assert returned == [expected, b"07", expected, b"07", expected, b"07", b"0707", b"07", b"0707"]


def test_a_writer_reads_no_more_of_a_value_than_its_head(store: OrderedStore) -> None:
    with store.write() as writer:
        writer.put(b"k", b"v" * (8 << 20))
    with store.write() as writer:
        tracemalloc.start()
        try:
            assert writer.head(b"k", None, 4) == (b"k", b"vvvv", 8 << 20)
            assert [*writer.heads(b"k", None, 4)] == [(b"k", b"vvvv", 8 << 20)]
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20


def test_keys_of_the_greatest_length(store: OrderedStore) -> None:
    longest = b"\xff" * MAX_KEY_BYTES
    fill(store, longest, longest[:-1])
    with store.read() as reader:
        assert reader.get(longest) == b"value of " + longest
        assert reader.first(longest, None) == (longest, b"value of " + longest)
        # A bound may be longer than any key: what comes right after a key.
        assert reader.first(longest + b"\x00", None) is None
        assert keys(reader, b"", longest + b"\x00") == [longest[:-1], longest]


@pytest.mark.parametrize("key", [b"", b"x" * (MAX_KEY_BYTES + 1)])
def test_a_key_of_an_impossible_length_is_refused_and_nothing_is_kept(store: OrderedStore, key: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 511 bytes"):
        fill(store, b"a", key)
    assert content(store) == {}


def test_large_values(store: OrderedStore) -> None:
    values = {bytes([size]): bytes([size]) * (size * 30_000) for size in range(1, 20)}
    with store.write() as writer:
        for key, value in values.items():
            writer.put(key, value)
    assert content(store) == values


def test_bug_37_an_exception_discards_everything(store: OrderedStore) -> None:
    """The applied index is in the same transaction as the data: both advance, or neither."""
    fill(store, b"applied", b"data", b"gone")
    before = content(store)
    with pytest.raises(Interrupted):
        interrupted_write(store)
    assert content(store) == before
    fill(store, b"after")
    assert content(store) == {**before, b"after": b"value of after"}


def test_a_snapshot_does_not_change(store: OrderedStore) -> None:
    fill(store, b"a", b"b")
    with store.read() as old:
        with store.write() as writer:
            writer.put(b"a", b"new")
            writer.delete(b"b")
            writer.put(b"c", b"new")
        with store.read() as new:
            fill(store, b"d")
            assert dict(new.scan(b"", None)) == {b"a": b"new", b"c": b"new"}
        assert dict(old.scan(b"", None)) == {b"a": b"value of a", b"b": b"value of b"}
        assert old.first(b"b", None) == (b"b", b"value of b")
        assert old.get(b"c") is None
    assert set(content(store)) == {b"a", b"c", b"d"}


def test_a_snapshot_does_not_see_a_write_that_is_aborted(store: OrderedStore) -> None:
    fill(store, b"data", b"gone")
    with store.read() as reader:
        with pytest.raises(Interrupted):
            interrupted_write(store)
        assert reader.get(b"data") == b"value of data"
        assert keys(reader, b"", None) == [b"data", b"gone"]
    assert content(store) == {b"data": b"value of data", b"gone": b"value of gone"}


def test_many_snapshots_at_once(store: OrderedStore) -> None:
    with contextlib.ExitStack() as stack:
        snapshots = []
        for number in range(200):
            with store.write() as writer:
                writer.put(b"number", b"%d" % number)
            snapshots.append(stack.enter_context(store.read()))
        assert [reader.get(b"number") for reader in snapshots] == [b"%d" % number for number in range(200)]


def test_scans_and_lookups_of_one_view_do_not_disturb_each_other(store: OrderedStore) -> None:
    fill(store, b"a", b"b", b"c", b"d")
    with store.read() as reader:
        seen = []
        for key, _ in reader.scan(b"a", None):
            inner = next(reader.scan(b"c", None))[0]
            assert reader.first(b"b", None) == (b"b", b"value of b")
            seen.append((key, inner))
        assert seen == [(key, b"c") for key in (b"a", b"b", b"c", b"d")]


def test_first_finds_the_next_key_while_the_writer_deletes(store: OrderedStore) -> None:
    """How the layers above empty a range: `scan` must not be used on a view that is written meanwhile."""
    fill(store, *(b"%03d" % number for number in range(100)))
    with store.write() as writer:
        count = 0
        while (pair := writer.first(b"010", b"090")) is not None:
            writer.delete(pair[0])
            writer.put(b"zz%d" % count, b"")
            count += 1
    assert count == 80
    assert len(content(store)) == 20 + 80


def test_one_writer_at_a_time(store: OrderedStore) -> None:
    with store.write() as writer:
        writer.put(b"a", b"1")
        with pytest.raises(InvariantViolation, match="second writer"), store.write():
            pytest.fail("two writers")
        writer.put(b"b", b"2")
    assert content(store) == {b"a": b"1", b"b": b"2"}


short_keys = st.binary(min_size=1, max_size=3)
operations = st.one_of(
    st.tuples(st.just("put"), short_keys, st.binary(max_size=4)),
    st.tuples(st.just("delete"), short_keys, st.just(b"")),
    st.tuples(st.just("first"), st.binary(max_size=3), short_keys),
)
transactions = st.lists(st.tuples(st.lists(operations, max_size=12), st.booleans()), max_size=6)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(transactions=transactions)
def test_it_behaves_as_a_sorted_dict(
    kind: str, transactions: list[tuple[list[tuple[str, bytes, bytes]], bool]]
) -> None:
    with TemporaryDirectory() as directory, opened(kind, Path(directory)) as store, contextlib.ExitStack() as stack:
        model: dict[bytes, bytes] = {}
        snapshots = []
        for steps, aborts in transactions:
            changed = dict(model)
            with contextlib.suppress(Interrupted), store.write() as writer:
                for step, key, value in steps:
                    if step == "put":
                        writer.put(key, value)
                        changed[key] = value
                    elif step == "delete":
                        writer.delete(key)
                        changed.pop(key, None)
                    else:
                        expected = min((pair for pair in changed.items() if key <= pair[0] < value), default=None)
                        assert writer.first(key, value) == expected
                        head = None if expected is None else (expected[0], expected[1][:2], len(expected[1]))
                        assert writer.head(key, value, 2) == head
                        assert next(writer.heads(key, value, 2), None) == head
                assert list(writer.scan(b"", None)) == sorted(changed.items())
                if aborts:
                    raise Interrupted
                model = changed
            snapshots.append((stack.enter_context(store.read()), model))
        for reader, expected_content in snapshots:
            assert list(reader.scan(b"", None)) == sorted(expected_content.items())
