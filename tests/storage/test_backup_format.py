"""The format of backups: nothing but a whole one is believed."""

from __future__ import annotations

from hashlib import blake2b
from random import Random

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.storage import backup_format
from raftkv.storage.backup_format import BackupDecoder, BackupEncoder, BackupHeader, BackupSummary, DamagedBackup, Row

HEADER = BackupHeader(
    state_format=2,
    cluster_id=7,
    node_id=2,
    index=100,
    term=3,
    revision=41,
    compacted_revision=5,
    as_of=0,
    time_ms=12345,
    last_token=9,
    made_at_ms=1_700_000_000_000,
    software="0.1",
)
ROWS = st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=60), max_size=30).map(
    lambda rows: sorted(rows.items())
)


def encoded(rows: list[Row], header: BackupHeader = HEADER) -> bytes:
    return b"".join(BackupEncoder(header).encode(rows))


def decoded(backup: bytes, piece: int = 1 << 30) -> tuple[list[Row], BackupSummary]:
    decoder = BackupDecoder()
    rows = [
        row for at in range(0, len(backup), piece) for frame in decoder.feed(backup[at : at + piece]) for row in frame
    ]
    return rows, decoder.finish()


@given(ROWS, st.integers(1, 200), st.integers(1, 100))
def test_what_was_encoded_is_decoded_in_pieces_of_any_size(rows: list[Row], frame: int, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backup_format, "FRAME_BYTES", frame)
        backup = encoded(rows)
    found, summary = decoded(backup, piece)
    assert found == rows
    hashed = blake2b(digest_size=16)
    for key, value in rows:
        hashed.update(len(key).to_bytes(4, "big") + len(value).to_bytes(4, "big") + key + value)
    assert summary == BackupSummary(
        HEADER, len(rows), sum(8 + len(key) + len(value) for key, value in rows), len(backup), hashed.digest()
    )


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A backup of several frames."""
    monkeypatch.setattr(backup_format, "FRAME_BYTES", 64)
    return encoded([(b"key %03d" % number, b"value" * (number % 7)) for number in range(40)])


def refusal(backup: bytes) -> str:
    with pytest.raises(DamagedBackup) as refused:
        decoded(backup)
    return refused.value.message


def test_every_flipped_bit_is_refused(small: bytes) -> None:
    for at in range(len(small)):
        for bit in range(8):
            flipped = bytearray(small)
            flipped[at] ^= 1 << bit
            assert "backup" in refusal(bytes(flipped))


def test_every_truncation_is_refused(small: bytes) -> None:
    for size in range(len(small)):
        assert "cut short" in refusal(small[:size]) if size else "no backup" in refusal(b"")


def test_more_behind_the_end_is_refused(small: bytes) -> None:
    for more in (b"\0", small, small[:16]):
        assert "more behind its end" in refusal(small + more)


def test_many_random_damages_are_refused(small: bytes) -> None:
    """Misplaced, repeated, dropped and foreign blocks, as disks and tools make them."""
    random = Random(6)
    other = encoded([(b"key %03d" % number, b"other") for number in range(40)])
    for _ in range(3000):
        start, size = random.randrange(len(small)), random.randrange(1, 200)
        block = random.choice(
            [
                random.randbytes(size),
                bytes(size),
                small[random.randrange(len(small)) :][:size],
                other[start:][:size],
                b"",
            ]
        )
        damaged = small[:start] + block + small[start + size :]
        if damaged != small:
            refusal(damaged)


def test_a_frame_of_another_place_or_backup_is_refused(small: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_format, "FRAME_BYTES", 10)
    rows = [(bytes((number,)) * 4, b"value") for number in range(1, 6)]
    pieces = list(BackupEncoder(HEADER).encode(rows))
    assert len(pieces) == 7
    for wrong in (
        [*pieces[:2], *pieces[3:]],
        [*pieces[:2], pieces[3], pieces[2], *pieces[4:]],
        [*pieces[:3], *pieces[2:]],
    ):
        assert "checksum" in refusal(b"".join(wrong))
    foreign = list(BackupEncoder(HEADER).encode([(key, b"VALUE") for key, _ in rows]))
    assert "checksum" in refusal(b"".join([*pieces[:2], *foreign[2:]]))


@pytest.mark.parametrize("foreign", [b"x", b"RAFTKVCP" + bytes(60), b"RAFTKVBJ", b"PK\3\4" + bytes(60), b"\0" * 100])
def test_a_foreign_file_is_named_one(foreign: bytes) -> None:
    assert "no backup of raftkv" in refusal(foreign)


def test_a_newer_version_says_so_whatever_follows(small: bytes) -> None:
    head = small[:8] + (2).to_bytes(2, "little") + small[10:12]
    newer = head + google_crc32c.value(head).to_bytes(4, "little")
    for rest in (b"", small[16:], b"anything"):
        message = refusal(newer + rest)
        assert "version 2; this raftkv reads version 1" in message
        assert "The way out" in message


def test_rows_out_of_order_are_refused() -> None:
    for rows in ([(b"b", b""), (b"a", b"")], [(b"a", b""), (b"a", b"")], [(b"", b"")], [(b"k" * 512, b"")]):
        assert "out of order" in refusal(encoded(rows))
