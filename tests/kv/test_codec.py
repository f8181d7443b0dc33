from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raftkv.errors import ErrorCode
from raftkv.kv.codec import CorruptCommand, decode_batch, encode_batch
from raftkv.kv.commands import (
    Batch,
    Command,
    Delete,
    Deleted,
    Group,
    Put,
    RegisterSession,
    Rejected,
    Result,
    SessionRegistered,
    Written,
)
from raftkv.kv.records import CorruptState, decode_results, encode_results

U64 = st.integers(0, 2**64 - 1)
COMMANDS: st.SearchStrategy[Command] = st.one_of(
    st.builds(Put, U64, st.binary(), st.binary()),
    st.builds(Delete, U64, st.binary(), st.binary()),
    st.builds(RegisterSession, U64),
)
BATCHES = st.builds(Batch, U64, st.lists(st.builds(Group, U64, U64, st.lists(COMMANDS).map(tuple))).map(tuple))
RESULTS: st.SearchStrategy[Result] = st.one_of(
    st.builds(Written, U64),
    st.builds(Deleted, U64, U64),
    st.builds(SessionRegistered, U64),
    st.builds(Rejected, st.sampled_from(ErrorCode), st.text()),
)
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
    decoded = decode_batch(encode_batch(batch))
    assert decoded == batch
    # NamedTuples of different types compare equal: a Put must not come back as a Delete.
    kinds = [[type(command) for command in group.commands] for group in batch.groups]
    assert [[type(command) for command in group.commands] for group in decoded.groups] == kinds


@given(st.lists(st.tuples(U64, RESULTS)))
def test_results_survive_the_round_trip(results: list[tuple[int, Result]]) -> None:
    decoded = decode_results(encode_results(results))
    assert decoded == results
    assert [type(result) for _, result in decoded] == [type(result) for _, result in results]


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
        ([1, 0, [[1, 0, [[9, 1]]]]], "unknown command tag 9"),
        ([1, 0, [[1, 0, [[]]]]], "unknown command tag None"),
        ([1, 0, [[1, 0, [b"\x03\x01"]]]], "command is a bytes"),
        ([1, 0, [[1, 0, [[1, 1, b"k", "v"]]]]], "value is a str"),
        ([1, 0, [[1, 0, [[1, 1.0, b"k", b"v"]]]]], "sequence is 1.0"),
        ([1, 0, [[1, 0, [[1, 1, b"k", b"v", b"from a newer writer"]]]]], "put of 5 fields instead of 4"),
        ([1, 0, [[1, 0, [[3]]]]], "register_session of 1 fields"),
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
    with suppress(CorruptState):
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


@given(BATCHES, st.data())
def test_a_flipped_bit_is_refused_or_another_batch(batch: Batch, data: st.DataObject) -> None:
    payload = bytearray(encode_batch(batch))
    position = data.draw(st.integers(0, len(payload) * 8 - 1))
    payload[position // 8] ^= 1 << position % 8
    decode_or_refuse(bytes(payload))
