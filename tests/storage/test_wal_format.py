"""The bytes on disk: they are a promise to every later version."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft.types import Entry, EntryKind, HardState, Index, NodeId, Term
from raftkv.storage.wal_format import (
    Flaw,
    FormatError,
    Record,
    RecordType,
    Segment,
    decode_batch,
    decode_record,
    decode_segment,
    encode_batch,
    encode_record,
    find_record,
    segment_name,
    segment_sequence,
    split_batch,
)
from tests.storage.support import entry, hard, run

SEGMENT = Segment(sequence=7, nonce=0x1122334455667788, size=4096)

u64 = st.integers(0, 2**64 - 1)
hard_states = st.builds(
    HardState,
    term=u64.map(Term),
    vote=st.none() | st.integers(1, 2**64 - 1).map(NodeId),
    commit=u64.map(Index),
)
entry_lists = st.lists(
    st.builds(Entry, term=u64.map(Term), index=u64.map(Index), kind=st.sampled_from(EntryKind), data=st.binary()),
    max_size=5,
).map(tuple)


def test_the_segment_header_is_what_the_document_says() -> None:
    assert SEGMENT.encode().hex(" ", 8) == (
        "524146544b56574c 0100000000000000 0700000000000000 8877665544332211 0010000000000000 "
        f"{SEGMENT.seed.to_bytes(4, 'little').hex()}00000000 0000000000000000 0000000000000000"
    )


def test_the_record_is_what_the_document_says() -> None:
    payload = encode_batch(hard(5, 2, 3), (entry(4, 6, b"data!"),))
    record, crc = encode_record(SEGMENT, 64, 0xAABBCCDD, RecordType.BATCH, payload)
    assert record.hex(" ", -8) == (
        f"88776655{crc.to_bytes(4, 'little').hex()} ddccbbaa3d000000 4000000000000000 0100000000000000 "
        "0500000000000000 0200000000000000 0300000000000000 0100000000000000 "
        "0400000000000000 0600000000000000 0500000001000000 "
        "6461746121000000"
    )


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) as RFC 3720 appendix B.4 defines it, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_checksums_are_computed_as_the_document_says() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    fields = SEGMENT.encode()[:40]
    assert SEGMENT.seed == crc32c(fields)
    content, crc = encode_record(SEGMENT, 64, 0xAABBCCDD, RecordType.BATCH, b"payload")
    # Continuing a checksum is the same as computing that of the concatenation.
    assert crc == crc32c(fields + content[8:])


@given(hard_state=hard_states, entries=entry_lists)
def test_batches_survive_the_round_trip(hard_state: HardState, entries: tuple[Entry, ...]) -> None:
    batch = decode_batch(encode_batch(hard_state, entries))
    assert batch.hard_state == hard_state
    assert batch.entries == entries


@given(
    payload=st.binary(max_size=200), lead=st.integers(0, 50).map(lambda n: n * 8), previous=st.integers(0, 2**32 - 1)
)
def test_records_survive_the_round_trip_and_are_found(payload: bytes, lead: int, previous: int) -> None:
    content, crc = encode_record(SEGMENT, lead, previous, RecordType.BATCH, payload)
    assert len(content) % 8 == 0
    image = b"\xa5" * lead + content + b"\xa5" * 64
    record = decode_record(image, lead, SEGMENT)
    assert record == Record(
        start=lead, end=lead + len(content), crc=crc, previous=previous, type=RecordType.BATCH, payload=payload
    )
    assert find_record(image, 0, SEGMENT) == record
    assert find_record(image, lead + 1, SEGMENT) is None


@given(payload=st.binary(max_size=100), at=st.integers(0), bit=st.integers(0, 7))
def test_every_flipped_bit_invalidates_a_record(payload: bytes, at: int, bit: int) -> None:
    content = bytearray(encode_record(SEGMENT, 0, 1, RecordType.BATCH, payload)[0])
    content[at % len(content)] ^= 1 << bit
    assert isinstance(decode_record(bytes(content), 0, SEGMENT), Flaw)


@given(at=st.integers(0, 63), bit=st.integers(0, 7))
def test_every_flipped_bit_invalidates_a_segment_header(at: int, bit: int) -> None:
    header = bytearray(SEGMENT.encode())
    header[at] ^= 1 << bit
    with pytest.raises(FormatError):
        decode_segment(bytes(header))


@pytest.mark.parametrize("cut", [0, 1, 31, 32, 40])
def test_a_record_cut_short_is_none(cut: int) -> None:
    content, _ = encode_record(SEGMENT, 0, 1, RecordType.BATCH, b"payload" * 2)
    assert decode_record(content[:cut], 0, SEGMENT) is Flaw.LENGTH


def test_a_record_counts_in_its_segment_and_at_its_offset_only() -> None:
    content, _ = encode_record(SEGMENT, 8, 1, RecordType.BATCH, b"payload")
    image = bytes(8) + content
    assert isinstance(decode_record(image, 8, SEGMENT), Record)
    assert decode_record(content, 0, SEGMENT) is Flaw.OFFSET
    same_marker = Segment(sequence=8, nonce=SEGMENT.nonce, size=4096)
    assert same_marker.marker == SEGMENT.marker
    assert decode_record(image, 8, same_marker) is Flaw.CHECKSUM
    assert decode_record(image, 8, Segment(sequence=7, nonce=1, size=4096)) is Flaw.MARKER


def test_markers_in_a_value_do_not_slow_the_search_into_uselessness() -> None:
    marker = SEGMENT.marker.to_bytes(4, "little")
    assert find_record(marker * 100_000, 0, SEGMENT) is None


def test_a_marker_is_never_zero() -> None:
    assert Segment(sequence=1, nonce=1 << 40, size=64).marker != 0


def test_another_format_version_is_named() -> None:
    header = bytearray(SEGMENT.encode())
    header[8] = 2
    with pytest.raises(FormatError, match="format version 2; this raftkv reads version 1"):
        decode_segment(bytes(header))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x" * 31,
        encode_batch(hard(1), run(1, 1, 1))[:-1],
        encode_batch(hard(1), run(1, 1, 1)) + b"x",
        encode_batch(hard(1), run(1, 1, 1)).replace(b"\x04\0\0\0\x01", b"\x04\0\0\0\x77"),
    ],
)
def test_a_payload_that_does_not_add_up_is_refused(payload: bytes) -> None:
    with pytest.raises(FormatError):
        decode_batch(payload)


def test_segment_names() -> None:
    assert segment_name(12) == "0000000000000012.wal"
    assert segment_sequence("0000000000000012.wal") == 12
    for name in ("12.wal", "x.wal", "000000000000001a.wal", "0000000000000012.wal.wal", "0000000000000012"):
        with pytest.raises(FormatError):
            segment_sequence(name)


def test_splitting_keeps_every_prefix_legal() -> None:
    entries = run(4, 5, 14, b"x" * 100)
    parts = list(split_batch(hard(4, 1, 12), entries, 32 + 3 * 124))
    assert [e for part in parts for e in part.entries] == list(entries)
    assert [len(part.entries) for part in parts] == [3, 3, 3, 1]
    assert [part.hard_state for part in parts] == [hard(4, 1, commit) for commit in (7, 10, 12, 12)]


def test_a_batch_that_fits_is_not_split() -> None:
    for entries in ((), run(1, 1, 3)):
        (part,) = split_batch(hard(1, 2, 0), entries, 1000)
        assert part.entries == entries
