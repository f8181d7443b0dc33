"""Checksums of the state store's file, written at a clean shutdown and compared at the next start.

LMDB keeps no checksums of its own, and walks into whatever a rotten page says. The store is a cache of what checkpoint
and log say, so it costs little not to trust it: what does not match is thrown away and rebuilt.

The sums are those of the file as the page cache has it, right after it was flushed: what the disk makes of it later is
what they are for. After an unclean end there are none; a store that outlived its process, and not its machine, is taken
as it is (`data_dir.store_is_trustworthy`), and it is for the comparison of states between nodes to find it wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import google_crc32c

from raftkv.storage.files import File, FileSystem, publish_file, read_file
from raftkv.storage.wal_format import FormatError

SUMS_NAME: Final = "store.sums"
CHUNK_BYTES: Final = 1 << 20

_MAGIC: Final = b"RAFTKVSS"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sH6xQII")
"""Magic, version, size of the file; chunk size, chunks."""
_CRC: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class StoreSums:
    """What the file of a state store was when it was closed."""

    size: int
    crcs: tuple[int, ...]
    """CRC-32C of every `CHUNK_BYTES`, the last one shorter."""

    def encode(self) -> bytes:
        content = _HEADER.pack(_MAGIC, _VERSION, self.size, CHUNK_BYTES, len(self.crcs))
        content += struct.pack(f"<{len(self.crcs)}I", *self.crcs)
        return content + _CRC.pack(google_crc32c.value(content))


def decode_sums(content: bytes) -> StoreSums:
    """Invert `StoreSums.encode`. Raises FormatError."""
    if len(content) < _HEADER.size + _CRC.size:
        raise FormatError(f"checksums of {len(content)} bytes are cut short")
    magic, version, size, chunk_bytes, chunks = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise FormatError("these are no checksums of a raftkv state store")
    if version != _VERSION:
        raise FormatError(f"format version {version}; this raftkv reads version {_VERSION}")
    if len(content) != _HEADER.size + 4 * chunks + _CRC.size:
        raise FormatError(f"{len(content)} bytes, which is not what the header says")
    if google_crc32c.value(content[: -_CRC.size]) != _CRC.unpack_from(content, len(content) - _CRC.size)[0]:
        raise FormatError("the checksum of the checksums does not match")
    if chunk_bytes != CHUNK_BYTES or chunks != -(-size // CHUNK_BYTES):
        raise FormatError(f"{chunks} chunks of {chunk_bytes} for {size} bytes")
    return StoreSums(size, struct.unpack_from(f"<{chunks}I", content, _HEADER.size))


def write_sums(files: FileSystem, data: Path, path: Path) -> None:
    """Sum up the file `data`, which was flushed and which nobody writes, durably into `path`. Raises OSError."""
    file = files.open(data)
    try:
        size = file.size()
        crcs = tuple(_crc(file, size, start) for start in range(0, size, CHUNK_BYTES))
    finally:
        file.close()
    publish_file(files, path, StoreSums(size, crcs).encode()).close()


def problem_with(
    files: FileSystem, data: Path, path: Path, progress: Callable[[int, int], None] = lambda done, size: None
) -> str | None:
    """Say what is wrong with the file `data`, whose sums are in `path`: file and offset. None: nothing.

    `progress` is told bytes done and bytes in all. Raises OSError where the disk cannot be read.
    """
    try:
        sums = decode_sums(read_file(files, path))
    except FileNotFoundError:
        return f"{path} is missing"
    except FormatError as error:
        return f"{path} is damaged: {error}"
    try:
        file = files.open(data)
    except FileNotFoundError:
        return f"{data} is missing"
    try:
        if file.size() != sums.size:
            return f"{data} has {file.size()} bytes, and had {sums.size} when the node was shut down"
        for number, expected in enumerate(sums.crcs):
            start = number * CHUNK_BYTES
            if _crc(file, sums.size, start) != expected:
                return f"{data}, byte offset {start}: checksum mismatch"
            progress(min(start + CHUNK_BYTES, sums.size), sums.size)
    finally:
        file.close()
    return None


def _crc(file: File, size: int, start: int) -> int:
    return int(google_crc32c.value(file.pread(min(CHUNK_BYTES, size - start), start)))
