"""The format of a backup: the rows of one state, independent of the engine that held them. Pure; the file is elsewhere.

    head     magic, version, checksum: 16 bytes, the same in all versions
    frame    kind 0: what it is a backup of (`BackupHeader`), msgpack
    frame    kind 1: rows, in the order of their keys; as many frames as it takes
    frame    kind 2: how many rows and bytes there were, and the state hash
    end

Every frame's checksums go on from those of the frame before, so that none can be missing, repeated, or another file's.
A backup without its last frame is none: it was cut short. `docs/storage-format.md` has the layout.

What rows look like, in a frame and to the state hash, is the same: lengths of key and value, key, value. So the state
hash of a whole state is the one that nodes compare (raftkv.kv.hashing).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from typing import Any, Final

import google_crc32c
import msgpack

from raftkv.errors import StorageError
from raftkv.invariant import invariant
from raftkv.kv.store import MAX_KEY_BYTES
from raftkv.storage.json_files import in_words

VERSION: Final = 1
FRAME_BYTES: Final = 1 << 20
"""A frame of rows is closed once it has so many."""
MAX_HEADER_BYTES: Final = 1 << 20
HASH_BYTES: Final = 16

_MAGIC: Final = b"RAFTKVBK"
_HEAD: Final = struct.Struct("<8sHH")
_FRAME: Final = struct.Struct("<BBHI")
"""Kind, zero, zero, length of the payload."""
_CRC: Final = struct.Struct("<I")
_FOOTER: Final = struct.Struct(f"<QQ{HASH_BYTES}s")
_LENGTHS: Final = struct.Struct(">II")
_HEADER_KIND: Final = 0
_ROWS_KIND: Final = 1
_FOOTER_KIND: Final = 2

Row = tuple[bytes, bytes]
"""(key, value)."""


class DamagedBackup(StorageError):
    """These bytes are no backup that this build can read. The message says at which byte, and what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupHeader:
    """What a backup is of. Numbers of the state are those of its META row."""

    state_format: int
    """Format of the rows: records.FORMAT."""
    cluster_id: int
    """The cluster that it was taken from, and the node of it."""
    node_id: int
    index: int
    """The entry up to which the state was applied, and its term."""
    term: int
    revision: int
    compacted_revision: int
    as_of: int
    """The revision that was asked for, 0: the whole state as it was. Else there are no sessions and no holders of
    locks in it, and `revision` may be a little higher: keys whose leases have ended are deleted there."""
    time_ms: int
    """Cluster time."""
    last_token: int
    made_at_ms: int
    """Since 1970, by the node's clock; for people."""
    software: str
    """The raftkv that wrote it; for people."""


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """What the end of a backup says of it."""

    header: BackupHeader
    rows: int
    row_bytes: int
    """Of keys and values, with their lengths."""
    file_bytes: int
    state_hash: bytes


class BackupEncoder:
    """Writes one backup, in pieces of about FRAME_BYTES."""

    def __init__(self, header: BackupHeader) -> None:
        self.rows = 0
        self.row_bytes = 0
        self._header = header
        self._hash = blake2b(digest_size=HASH_BYTES)
        self._crc = 0

    def encode(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """Yield the bytes of the backup of `rows`, which come in the order of their keys. Once."""
        head = _HEAD.pack(_MAGIC, VERSION, 0)
        self._crc = google_crc32c.value(head)
        yield head + _CRC.pack(self._crc) + self._frame(_HEADER_KIND, msgpack.packb(asdict(self._header)))
        pack = _LENGTHS.pack
        parts: list[bytes] = []
        size = count = 0
        for key, value in rows:
            parts += (pack(len(key), len(value)), key, value)
            size += 8 + len(key) + len(value)
            count += 1
            if size >= FRAME_BYTES:
                yield self._rows(parts, size, count)
                parts = []
                size = count = 0
        if parts:
            yield self._rows(parts, size, count)
        yield self._frame(_FOOTER_KIND, _FOOTER.pack(self.rows, self.row_bytes, self._hash.digest()))

    def _rows(self, parts: list[bytes], size: int, count: int) -> bytes:
        payload = b"".join(parts)
        self._hash.update(payload)
        self.rows += count
        self.row_bytes += size
        return self._frame(_ROWS_KIND, payload)

    def _frame(self, kind: int, payload: bytes) -> bytes:
        head = _FRAME.pack(kind, 0, 0, len(payload))
        head_crc = google_crc32c.extend(self._crc, head)
        self._crc = google_crc32c.extend(head_crc, payload)
        return b"".join((head, _CRC.pack(head_crc), payload, _CRC.pack(self._crc)))


class BackupDecoder:
    """Reads one backup from pieces of any size, and believes nothing of it that its checksums do not confirm.

    Only once `finish` has returned is it known to be whole: what comes before may be used for nothing that lasts.
    """

    def __init__(self) -> None:
        self.header: BackupHeader | None = None
        """Once it has been read."""
        self.rows = 0
        self._row_bytes = 0
        self._summary: BackupSummary | None = None
        self._hash = blake2b(digest_size=HASH_BYTES)
        self._crc = 0
        self._buffer = bytearray()
        self._offset = 0
        """Of the buffer's first byte in the backup."""
        self._begun = False
        self._last_key = b""

    def feed(self, data: bytes) -> list[list[Row]]:
        """Take the next bytes; return the rows of each frame that they complete. Raises DamagedBackup."""
        self._buffer += data
        found: list[list[Row]] = []
        if not self._begun and not self._begin():
            return found
        while (frame := self._take_frame()) is not None:
            kind, payload = frame
            if self.header is None:
                self.header = self._read_header(kind, payload)
            elif kind == _ROWS_KIND:
                found.append(self._read_rows(payload))
            else:
                self._read_footer(kind, payload)
        if self._summary is not None and self._buffer:
            raise self._damaged("there is more behind its end")
        return found

    def finish(self) -> BackupSummary:
        """Return what the whole backup is. Raises DamagedBackup: there is more to come."""
        if self._summary is None:
            if not self._begun and not self._is_begun():
                raise DamagedBackup("this is no backup of raftkv: it does not begin as one")
            raise DamagedBackup(f"the backup is cut short: it ends at byte {self._offset + len(self._buffer)}")
        return self._summary

    def _is_begun(self) -> bool:
        """Whether what there is could be the beginning of a backup."""
        return bool(self._buffer) and _MAGIC.startswith(bytes(self._buffer[: len(_MAGIC)]))

    def _begin(self) -> bool:
        if self._buffer and not self._is_begun():
            raise DamagedBackup("this is no backup of raftkv: it does not begin as one")
        size = _HEAD.size + _CRC.size
        if len(self._buffer) < size:
            return False
        _, version, zero = _HEAD.unpack_from(self._buffer)
        self._crc = google_crc32c.value(bytes(self._buffer[: _HEAD.size]))
        if self._crc != _CRC.unpack_from(self._buffer, _HEAD.size)[0]:
            raise self._damaged("the checksum of its first bytes does not match")
        if version != VERSION or zero:
            raise DamagedBackup(
                f"a backup of version {version}; this raftkv reads version {VERSION}. The way out: take the raftkv "
                "that made it, or a newer one"
            )
        self._drop(size)
        self._begun = True
        return True

    def _take_frame(self) -> tuple[int, bytes] | None:
        buffer, head_size = self._buffer, _FRAME.size + _CRC.size
        if len(buffer) < head_size or self._summary is not None:
            return None
        head_crc = google_crc32c.extend(self._crc, bytes(buffer[: _FRAME.size]))
        if head_crc != _CRC.unpack_from(buffer, _FRAME.size)[0]:
            raise self._damaged("a checksum does not match")
        kind, zero, more_zeros, length = _FRAME.unpack_from(buffer)
        if zero or more_zeros:
            raise self._damaged("a field is not zero")
        end = head_size + length
        if len(buffer) < end + _CRC.size:
            return None
        payload = bytes(buffer[head_size:end])
        crc = google_crc32c.extend(head_crc, payload)
        if crc != _CRC.unpack_from(buffer, end)[0]:
            raise self._damaged(f"the checksum of the {length} bytes that follow does not match")
        self._crc = crc
        self._drop(end + _CRC.size)
        return kind, payload

    def _read_header(self, kind: int, payload: bytes) -> BackupHeader:
        if kind != _HEADER_KIND or len(payload) > MAX_HEADER_BYTES:
            raise self._damaged(f"its first frame is of kind {kind}, with {len(payload)} bytes")
        try:
            packed = msgpack.unpackb(payload)
            return BackupHeader(
                **{field.name: _checked(packed[field.name], field.type) for field in fields(BackupHeader)}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(f"its header cannot be read: {in_words(error)}") from error

    def _read_rows(self, payload: bytes) -> list[Row]:
        rows: list[Row] = []
        at, size, last = 0, len(payload), self._last_key
        unpack = _LENGTHS.unpack_from
        try:
            while at < size:
                key_bytes, value_bytes = unpack(payload, at)
                at += 8 + key_bytes
                key = payload[at - key_bytes : at]
                rows.append((key, payload[at : at + value_bytes]))
                at += value_bytes
                if key <= last or key_bytes > MAX_KEY_BYTES:
                    raise self._damaged("its rows are out of order")
                last = key
        except struct.error:
            at = -1
        if at != size:
            raise self._damaged("a frame ends within a row")
        self._last_key = last
        self._hash.update(payload)
        self.rows += len(rows)
        self._row_bytes += size
        return rows

    def _read_footer(self, kind: int, payload: bytes) -> None:
        if kind != _FOOTER_KIND or len(payload) != _FOOTER.size:
            raise self._damaged(f"a frame of kind {kind} with {len(payload)} bytes")
        found = _FOOTER.pack(self.rows, self._row_bytes, self._hash.digest())
        if payload != found:
            raise self._damaged("its end does not say what is before it")
        invariant(self.header is not None, "a backup that ends has begun")
        assert self.header is not None
        self._summary = BackupSummary(self.header, self.rows, self._row_bytes, self._offset, self._hash.digest())

    def _drop(self, size: int) -> None:
        del self._buffer[:size]
        self._offset += size

    def _damaged(self, problem: str) -> DamagedBackup:
        return DamagedBackup(f"the backup is damaged at byte {self._offset}: {problem}")


def _checked(value: Any, kind: Any) -> Any:
    """Return a field of the header. Raises ValueError."""
    if kind == "str" and isinstance(value, str):
        return value
    if kind == "int" and type(value) is int and 0 <= value < 2**64:
        return value
    raise ValueError(f"{value!r} is no {kind}")
