from __future__ import annotations

from contextlib import suppress
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.errors import ErrorCode
from raftkv.kv import commands as c
from raftkv.kv.codec import CorruptCommand, decode_batch, encode_batch
from raftkv.kv.commands import Batch, Delete, Group, Put, RegisterSession
from raftkv.kv.packing import MAX_NESTING
from raftkv.kv.records import CorruptRow, decode_results, encode_results

U64 = st.integers(0, 2**64 - 1)
BYTES = st.binary(max_size=20)
FLAG = st.booleans()


def many(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(one, max_size=3).map(tuple)


PAIRS = st.builds(c.KeyValue, BYTES, U64, U64, U64, U64, BYTES)
COMPARES = st.builds(c.Compare, BYTES, BYTES, U64, U64, BYTES | U64)
OPERATIONS: st.SearchStrategy[Any] = st.recursive(
    st.builds(c.TxnPut, BYTES, BYTES, U64, FLAG)
    | st.builds(c.TxnDelete, BYTES, BYTES, FLAG)
    | st.builds(c.TxnRange, BYTES, BYTES, U64, U64, FLAG, FLAG),
    lambda inner: st.builds(c.Branch, many(COMPARES), many(inner), many(inner)),
    max_leaves=5,
)
DONE: st.SearchStrategy[Any] = st.recursive(
    st.builds(c.PutDone, st.none() | PAIRS)
    | st.builds(c.DeleteDone, U64, many(PAIRS))
    | st.builds(c.RangeDone, many(PAIRS), FLAG, U64),
    lambda inner: st.builds(c.BranchDone, FLAG, many(inner)),
    max_leaves=5,
)
FENCES = st.builds(c.Fence, BYTES, U64, U64)
COMMANDS_BY_KIND: dict[Any, st.SearchStrategy[Any]] = {
    c.Put: st.builds(c.Put, U64, BYTES, BYTES),
    c.Delete: st.builds(c.Delete, U64, BYTES, BYTES),
    c.RegisterSession: st.builds(c.RegisterSession, U64),
    c.Txn: st.builds(c.Txn, U64, many(FENCES), st.builds(c.Branch, many(COMPARES), many(OPERATIONS), many(OPERATIONS))),
    c.GrantLease: st.builds(c.GrantLease, U64, U64, U64),
    c.KeepAlive: st.builds(c.KeepAlive, U64, many(U64)),
    c.RevokeLease: st.builds(c.RevokeLease, U64, U64),
    c.Expire: st.builds(c.Expire, U64),
    c.Acquire: st.builds(c.Acquire, U64, BYTES, U64, U64, FLAG, U64, BYTES, FLAG),
    c.Release: st.builds(c.Release, U64, BYTES, U64),
    c.Proclaim: st.builds(c.Proclaim, U64, BYTES, U64, U64, BYTES),
    c.Compact: st.builds(c.Compact, U64, U64),
    c.Sweep: st.builds(c.Sweep, U64),
    c.CheckState: st.builds(c.CheckState, U64),
}
COMMANDS: st.SearchStrategy[c.Command] = st.one_of(list(COMMANDS_BY_KIND.values()))
BATCHES = st.builds(Batch, U64, many(st.builds(Group, U64, U64, many(COMMANDS))))
RESULTS_BY_KIND: dict[Any, st.SearchStrategy[Any]] = {
    c.Written: st.builds(c.Written, U64),
    c.Deleted: st.builds(c.Deleted, U64, U64),
    c.SessionRegistered: st.builds(c.SessionRegistered, U64),
    c.TxnDone: st.builds(c.TxnDone, U64, st.builds(c.BranchDone, FLAG, many(DONE))),
    c.LeaseGranted: st.builds(c.LeaseGranted, U64, U64),
    c.KeptAlive: st.builds(c.KeptAlive, many(U64)),
    c.Revoked: st.builds(c.Revoked, U64, U64),
    c.Expired: st.builds(c.Expired, U64),
    c.Place: st.builds(c.Place, U64, U64, U64),
    c.Released: st.builds(c.Released, FLAG, U64),
    c.Proclaimed: st.builds(c.Proclaimed, U64),
    c.Compacted: st.builds(c.Compacted, U64),
    c.Swept: st.builds(c.Swept, U64, FLAG),
    c.StateChecked: st.builds(c.StateChecked, U64),
    c.Rejected: st.builds(c.Rejected, st.sampled_from(ErrorCode), st.text(), U64),
}
RESULTS: st.SearchStrategy[c.Result] = st.one_of(list(RESULTS_BY_KIND.values()))


def shape(value: Any) -> Any:
    """NamedTuples of different types compare equal: a Put must not come back as a Delete."""
    return (type(value), [shape(one) for one in value]) if isinstance(value, tuple) else value


def test_every_command_and_result_is_tried_here() -> None:
    assert set(COMMANDS_BY_KIND) == set(get_args(c.Command))
    assert set(RESULTS_BY_KIND) == set(get_args(c.Result))


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.binary(max_size=4), st.text(max_size=4)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@given(BATCHES)
def test_a_batch_survives_the_round_trip(batch: Batch) -> None:
    assert shape(decode_batch(encode_batch(batch))) == shape(batch)


@given(st.lists(st.tuples(U64, RESULTS)))
def test_results_survive_the_round_trip(results: list[tuple[int, c.Result]]) -> None:
    assert shape(tuple(decode_results(encode_results(results)))) == shape(tuple(results))


def nested(depth: int) -> c.Branch:
    inner = (nested(depth - 1),) if depth > 1 else ()
    return c.Branch((), inner, ())


def test_deep_nesting_is_refused_before_it_exhausts_the_stack() -> None:
    def batch(depth: int) -> Batch:
        return Batch(0, (Group(0, 0, (c.Txn(0, (), nested(depth)),)),))

    assert decode_batch(encode_batch(batch(MAX_NESTING))) == batch(MAX_NESTING)
    for depth in (MAX_NESTING + 1, 150):
        with pytest.raises(CorruptCommand, match="nested more than"):
            decode_batch(encode_batch(batch(depth)))


def test_the_format_is_frozen() -> None:
    """Logs written by an earlier build must stay readable: these bytes may never change within version 1."""
    batch = Batch(5, (Group(7, 2, (Put(3, b"k", b"v"), Delete(4, b"a", b"b"))), Group(0, 0, (RegisterSession(0),))))
    frozen = bytes.fromhex("93 01 05 92 93 07 02 92 94 01 03 c4016b c40176 94 02 04 c40161 c40162 93 00 00 91 92 03 00")
    assert encode_batch(batch) == frozen
    assert decode_batch(frozen) == batch


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([2, 0, []], "version 2; this build reads version 1"),
        ([1, 0], "2 fields instead of 3"),
        ([1, -1, []], "time_ms is -1"),
        ([1, True, []], "time_ms is True"),
        ([1, 0, {}], "maps"),
        ([1, 0, [[1, 0]]], "group of 2 fields"),
        ([1, 0, [[1, 0, [[99, 1]]]]], "unknown command tag 99"),
        ([1, 0, [[1, 0, [[]]]]], "unknown command tag None"),
        ([1, 0, [[1, 0, [b"\x03\x01"]]]], "command is a bytes"),
        ([1, 0, [[1, 0, [[1, 1, b"k", "v"]]]]], "value is a str"),
        ([1, 0, [[1, 0, [[1, 1.0, b"k", b"v"]]]]], "sequence is 1.0"),
        ([1, 0, [[1, 0, [[1, 1, b"k", b"v", b"from a newer writer"]]]]], "Put of 4 fields instead of 3"),
        ([1, 0, [[1, 0, [[3]]]]], "RegisterSession of 0 fields"),
        ([1, 0, [[1, 0, [[True, 1, b"k", b"v"]]]]], "unknown command tag True"),
        ([1, 0, [[1, 0, [[4, 1, []]]]]], "Txn of 2 fields instead of 3"),
        ([1, 0, [[1, 0, [[4, -1, [], [[], [], []]]]]]], "Txn.sequence is -1"),
        ([1, 0, [[1, 0, [[4, 1, b"", [[], [], []]]]]]], "Txn.fences is a bytes"),
        ([1, 0, [[1, 0, [[4, 1, [], [[], []]]]]]], "Branch of 2 fields instead of 3"),
        ([1, 0, [[1, 0, [[4, 1, [], [b"", [], []]]]]]], "Branch.compares is a bytes"),
        ([1, 0, [[1, 0, [[4, 1, [], [[], 0, []]]]]]], "Branch.then is a int"),
        ([1, 0, [[1, 0, [[4, 1, [], [[], [], b""]]]]]], "Branch.otherwise is a bytes"),
        ([1, 0, [[1, 0, [[4, 1, [], [[[b"k", b"", 0, True, 0]], [], []]]]]]], "Compare.relation is True"),
        ([1, 0, [[1, 0, [[4, 1, [], [[[b"k", b"", 0, 0, -1]], [], []]]]]]], "Compare.operand is -1"),
        ([1, 0, [[1, 0, [[4, 1, [], [[[b"k", b"", 0, 0]], [], []]]]]]], "Compare of 4 fields instead of 5"),
        ([1, 0, [[1, 0, [[4, 1, [], [[], [[1, b"k", b"v", 0, 1]], []]]]]]], "TxnPut.with_previous is a int"),
        ([1, 0, [[1, 0, [[4, 1, [], [[], [[1, b"k", b"v", 0]], []]]]]]], "TxnPut of 3 fields instead of 4"),
        ([1, 0, [[1, 0, [[4, 1, [], [[], [[1.0, b"k", b"v", 0, False]], []]]]]]], "unknown operation tag 1.0"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(CorruptCommand, match=message):
        decode_batch(msgpack.packb(value))


@given(BATCHES, st.binary(min_size=1, max_size=3))
def test_trailing_bytes_are_refused(batch: Batch, trailing: bytes) -> None:
    with pytest.raises(CorruptCommand):
        decode_batch(encode_batch(batch) + trailing)


@given(BATCHES, st.data())
def test_a_cut_payload_is_refused(batch: Batch, data: st.DataObject) -> None:
    payload = encode_batch(batch)
    with pytest.raises(CorruptCommand):
        decode_batch(payload[: data.draw(st.integers(0, len(payload) - 1))])


def decode_or_refuse(payload: bytes) -> None:
    """Anything but a value or the typed error escapes, and fails the test."""
    with suppress(CorruptCommand):
        decode_batch(payload)
    with suppress(CorruptRow):
        decode_results(payload)


@given(st.binary(max_size=64))
@example(b"")
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x91" * 2000)
@example(b"\xd6\xff\x00\x00\x00\x00")
@example(b"\xc7\x05\xff\x00\x00\x00\x00\x00")
@example(b"\xa1\xff")
def test_garbage_is_refused_and_never_anything_else(garbage: bytes) -> None:
    decode_or_refuse(garbage)


@given(VALUES, VALUES)
def test_well_formed_msgpack_of_the_wrong_shape_is_refused(value: Any, other: Any) -> None:
    for shaped in (value, [1, value, other], [1, 0, [value, other]], [1, 0, [[1, 1, [value, other]]]], [[1, value]]):
        decode_or_refuse(msgpack.packb(shaped))


def leaves(packed: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """The ways to everything in there that is no array with something in it."""
    if isinstance(packed, list) and packed:
        return [leaf for place, one in enumerate(packed) for leaf in leaves(one, (*path, place))]
    return [path]


def replaced(packed: Any, path: tuple[int, ...], value: Any) -> Any:
    if not path:
        return value
    return [replaced(one, path[1:], value) if place == path[0] else one for place, one in enumerate(packed)]


def exact(value: Any) -> Any:
    """A value with its types: True, 1 and 1.0 compare equal."""
    return [exact(one) for one in value] if isinstance(value, list) else (type(value), value)


@given(BATCHES, SCALARS | st.just([]), st.data())
@example(Batch(0, (Group(0, 0, (Put(1, b"k", b"v"),)),)), True, None)
def test_what_is_read_in_place_is_read_as_strictly(batch: Batch, value: Any, data: st.DataObject | None) -> None:
    """Whatever stands in the place of a field: it is refused, or it is what an encoder would have written there."""
    packed = msgpack.unpackb(encode_batch(batch))
    # The first tag, where nothing is drawn.
    path = (2, 0, 2, 0, 0) if data is None else data.draw(st.sampled_from(leaves(packed)))
    payload = msgpack.packb(replaced(packed, path, value))
    with suppress(CorruptCommand):
        assert exact(msgpack.unpackb(encode_batch(decode_batch(payload)))) == exact(msgpack.unpackb(payload))


@given(BATCHES, st.data())
def test_a_flipped_bit_is_refused_or_another_batch(batch: Batch, data: st.DataObject) -> None:
    payload = bytearray(encode_batch(batch))
    position = data.draw(st.integers(0, len(payload) * 8 - 1))
    payload[position // 8] ^= 1 << position % 8
    decode_or_refuse(bytes(payload))
