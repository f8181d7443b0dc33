from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import StorageError
from raftkv.storage.corrupt_mark import CorruptMark, read_mark, write_mark
from raftkv.storage.data_dir import CORRUPT_NAME as NAME
from raftkv.storage.json_files import in_words, seal, unseal

CONTENT = {"format_version": 1, "node_id": 2, "members": {"2": "host:port"}, "created_at": 1700000000.25, "none": None}
MARK = CorruptMark(index=7, own_hash=b"a" * 16, right_hash=b"b" * 16, agreed=(1, 3), found_at=12.5)


def test_what_was_sealed_is_read_without_its_checksum() -> None:
    assert unseal(seal(CONTENT)) == CONTENT
    assert "crc32c" in json.loads(seal(CONTENT))


def test_a_file_of_before_checksums_is_read_as_it_is() -> None:
    assert unseal(json.dumps(CONTENT).encode()) == CONTENT


def test_how_it_is_laid_out_does_not_matter() -> None:
    assert unseal(json.dumps(json.loads(seal(CONTENT)), sort_keys=True).encode()) == CONTENT


@given(st.integers(0, len(seal(CONTENT)) - 1), st.integers(1, 255))
def test_a_flipped_byte_is_found_or_changes_nothing(offset: int, mask: int) -> None:
    data = bytearray(seal(CONTENT))
    data[offset] ^= mask
    try:
        found = unseal(bytes(data))
    except ValueError:
        return
    # The name of the checksum itself: then the file is one of before, with a word more that nobody reads.
    assert {key: value for key, value in found.items() if key in CONTENT} == CONTENT


def test_a_changed_digit_is_found() -> None:
    with pytest.raises(ValueError, match="checksum"):
        unseal(seal(CONTENT).replace(b'"node_id": 2', b'"node_id": 3'))


def test_no_object() -> None:
    with pytest.raises(ValueError, match="not an object"):
        unseal(b"[1]")


def test_the_mark_of_a_corrupt_state(tmp_path: Path) -> None:
    assert read_mark(tmp_path) is None
    write_mark(tmp_path, MARK)
    assert read_mark(tmp_path) == MARK


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        json.dumps({"format_version": 2, "index": 1}).encode(),
        json.dumps({"format_version": 1, "index": 1, "own_hash": "x", "right_hash": "", "agreed": []}).encode(),
    ],
)
def test_a_damaged_mark_is_refused_and_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / NAME).write_bytes(data)
    with pytest.raises(StorageError, match=r"corrupt\.json is damaged.*raftkv repair"):
        read_mark(tmp_path)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (lambda: unseal(b"{}")["format_version"], "it has no format_version"),
        (lambda: unseal(b'{"a": 1,'), "it is no JSON from line 1, column 9 on"),
        (lambda: unseal(b'{"a": "\xff"}'), "it is no text from byte 7 on"),
        (lambda: unseal(b"[]"), "not an object"),
        (lambda: int(unseal(b'{"a": null}')["a"]), "a value is of another kind than it must be: "),
    ],
)
def test_what_is_wrong_is_said_in_words(read: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)) as refused:
        read()
    assert in_words(refused.value).startswith(words)
