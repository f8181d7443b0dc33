from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import StorageError
from raftkv.invariant import InvariantViolation
from raftkv.kv.codec import CorruptCommand, encode_batch
from raftkv.kv.commands import Batch, Group, RegisterSession, Written
from raftkv.kv.hashing import StateHasher
from raftkv.kv.keys import META
from raftkv.kv.machine import AppliedEntry, StateMachine
from raftkv.kv.ranges import RangeQuery
from raftkv.kv.records import CorruptRow

from .dict_store import DictStore, DictView, DictWriter
from .host import Host, delete, entry, put, state_hash


def test_an_empty_store_is_the_initial_state() -> None:
    machine = StateMachine(DictStore())
    assert (machine.applied_index, machine.applied_term, machine.revision, machine.time_ms) == (0, 0, 1, 0)
    assert machine.session_count == 0
    assert machine.apply([]) == []


def test_entries_without_a_payload_only_move_the_applied_index() -> None:
    host = Host()
    applied = host.machine.apply(
        [AppliedEntry(1, 3, None), entry(2, Group(0, 0, (put(b"k"),))), AppliedEntry(3, 4, None)]
    )
    assert [one.results for one in applied] == [
        (),
        ([Written(2)],),
        (),
    ]
    host.reopen()
    assert (host.machine.applied_index, host.machine.applied_term, host.machine.revision) == (3, 4, 2)


@pytest.mark.parametrize("index", [1, 3])
def test_entries_must_follow_the_applied_index(index: int) -> None:
    host = Host()
    host.do(put(b"k"))
    before = host.hash()
    with pytest.raises(InvariantViolation, match="where 2 is next"):
        host.machine.apply([AppliedEntry(index, 1, None)])
    with pytest.raises(InvariantViolation, match="where 3 is next"):
        host.machine.apply([AppliedEntry(2, 1, None), AppliedEntry(2, 1, None)])
    assert host.hash() == before


def test_cluster_time_never_goes_back() -> None:
    host = Host()
    for host.now, expected in ((5, 5), (3, 5), (9, 9)):
        host.do()
        assert host.machine.time_ms == expected
    host.reopen()
    assert host.machine.time_ms == 9


def test_a_payload_that_cannot_be_read_applies_nothing() -> None:
    host = Host()
    host.do(put(b"k"))
    before = host.hash()
    with pytest.raises(CorruptCommand, match=r"entry 3 of term 8: payload of 7 bytes"):
        host.machine.apply([entry(2, Group(0, 0, (put(b"k"),))), AppliedEntry(3, 8, b"garbage")])
    assert host.hash() == before
    assert host.machine.applied_index == 1


def test_a_batch_at_hand_is_not_decoded_again() -> None:
    decoding, given = Host(), Host()
    batch = Batch(5, (Group(0, 0, (put(b"k"), put(b"l"))),))
    payload = encode_batch(batch)
    assert decoding.machine.apply([AppliedEntry(1, 1, payload)]) == given.machine.apply(
        [AppliedEntry(1, 1, b"never looked at", batch)]
    )
    assert decoding.hash() == given.hash()


class FullStore(DictStore):
    @contextmanager
    def write(self) -> Iterator[DictWriter]:
        with super().write() as writer:
            yield writer
            raise StorageError("disk full")


def test_a_failed_transaction_ends_the_machine_but_not_the_store() -> None:
    host = Host()
    session = host.register()
    before = host.hash()
    assert isinstance(host.store, DictStore)
    store = FullStore(host.store.rows)
    machine = StateMachine(store)
    lost = entry(2, Group(session, 1, (put(b"k", b"v", 1),)))
    with pytest.raises(StorageError):
        machine.apply([lost])
    # The machine remembers a result that the store does not have: it must not answer from it.
    with pytest.raises(InvariantViolation, match="must not be used again"):
        machine.apply([lost])
    again = StateMachine(DictStore(store.rows))
    assert state_hash(again) == before
    assert [one.results for one in again.apply([lost])] == [([Written(2)],)]


@pytest.mark.parametrize("row", [b"", b"\x01", b"\x02" + b"\0" * 48])
def test_a_store_of_another_format_is_refused(row: bytes) -> None:
    with pytest.raises(CorruptRow):
        StateMachine(DictStore({META: row}))


def test_the_state_hash_tells_states_apart_and_nothing_else() -> None:
    one, two, three = Host(), Host(), Host()
    for host in (one, two):
        host.do(put(b"k", b"v"))
        host.register()
    three.do(put(b"k", b"w"))
    three.register()
    assert one.hash() == two.hash() != three.hash()
    assert len({state_hash(one.machine, max_rows) for max_rows in (1, 2, 1000)}) == 1
    with one.machine.view() as view:
        hasher = view.hasher()
        assert not hasher.step(1)
        with pytest.raises(InvariantViolation):
            hasher.digest()


def test_the_state_hash_knows_where_a_row_ends() -> None:
    def hash_of(rows: dict[bytes, bytes]) -> bytes:
        hasher = StateHasher(DictView(rows, sorted(rows)))
        assert hasher.step(100)
        return hasher.digest()

    one_string = [{b"\x02ab": b"cd"}, {b"\x02abc": b"d"}, {b"\x02ab": b"", b"c": b"d"}, {b"\x02": b"ab", b"c": b"d"}]
    assert len({hash_of(rows) for rows in one_string}) == len(one_string)


COMMANDS = st.one_of(
    st.builds(put, st.sampled_from([b"a", b"b", b"\0"]), st.binary(max_size=2), st.integers(0, 6)),
    st.builds(delete, st.sampled_from([b"a", b"b"]), st.sampled_from([b"", b"b", b"\0"]), st.integers(0, 6)),
    st.builds(RegisterSession, st.integers(0, 6)),
)
GROUPS = st.builds(Group, st.integers(0, 4), st.integers(0, 5), st.lists(COMMANDS, max_size=4).map(tuple))
STAMPED = st.tuples(st.lists(GROUPS, max_size=3), st.integers(0, 8).map(lambda hours: hours * 1_000_000), st.booleans())


@given(st.lists(STAMPED, max_size=12), st.data())
def test_equal_logs_give_equal_states_in_whatever_slices(
    stamped: list[tuple[list[Group], int, bool]], data: st.DataObject
) -> None:
    log = [entry(1, Group(0, 0, (RegisterSession(0), RegisterSession(0))))]
    for index, (groups, time_ms, empty) in enumerate(stamped, 2):
        log.append(AppliedEntry(index, 1, None) if empty else entry(index, *groups, time_ms=time_ms))
    whole = StateMachine(DictStore())
    expected = whole.apply(log)

    store = DictStore()
    sliced = StateMachine(store)
    results = []
    while sliced.applied_index < len(log):
        length = data.draw(st.integers(1, 5), label="slice")
        results += sliced.apply(log[sliced.applied_index : sliced.applied_index + length])
        if data.draw(st.booleans(), label="reopen"):
            sliced = StateMachine(store)
    assert results == expected
    assert [[type(one) for group in entry for one in group] for entry in results] == [
        [type(one) for group in entry for one in group] for entry in expected
    ]
    assert state_hash(sliced) == state_hash(whole)
    assert sliced.session_count == whole.session_count


def test_a_view_reads_one_state_while_entries_are_applied() -> None:
    host = Host()
    host.do(put(b"k", b"1"))
    with host.machine.view() as view:
        host.do(put(b"k", b"2"))
        pair = view.get(b"k")
        assert pair is not None
        assert pair.value == b"1"
        assert (view.meta.applied_index, view.meta.revision) == (1, 2)
        assert view.range(RangeQuery(b"k")).pairs == (pair,)
