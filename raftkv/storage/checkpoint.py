"""What a checkpoint is: a copy of the state store, and a manifest that says which state it is and what its bytes are.

The copy is a stream of bytes that only the engine of the store understands (LMDB's file, or the rows of the in-memory
twin). Everything here is a value; `checkpoint_directory` has the files, `checkpoint_store` what the driver uses.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol, TypeVar

import google_crc32c

from raftkv.errors import RaftKVError, StorageError
from raftkv.kv.store import OrderedStore, Reader
from raftkv.raft.types import Index, Term
from raftkv.storage.files import FlushFailed
from raftkv.storage.wal_format import FormatError

CHUNK_BYTES: Final = 1 << 20
"""The unit of checksums, and the most that is sent at once."""

_MAGIC: Final = b"RAFTKVCP"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHBB4xQQQIII4x")
"""Magic, version, received, length of the state hash; index, term, size; chunk size, chunks, bytes of configuration."""
_CRC: Final = struct.Struct("<I")


class CheckpointRefused(RaftKVError):
    """A checkpoint, or a piece of it, cannot be made or received. Nothing that counts has changed; the node goes on."""

    retryable = True


@contextmanager
def refuse_when_full() -> Iterator[None]:
    """Let a full disk end what is done for a checkpoint, not the node: nothing that counts is written for it.

    A flush that fails ends the node, for want of room too.
    """
    try:
        yield
    except FlushFailed:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise CheckpointRefused(f"no room for the checkpoint: {error}") from error


class DamagedCheckpoint(StorageError):
    """A checkpoint whose bytes are not those of its manifest. Take another one; the node goes on."""


@dataclass(frozen=True, slots=True)
class CheckpointMeta:
    """Which state a checkpoint holds."""

    index: Index
    """The last entry applied to it."""
    term: Term
    """The term of that entry."""
    configuration: bytes
    """The configuration in force at that entry, encoded; opaque here."""


@dataclass(frozen=True, slots=True)
class StateInfo:
    """What a state store says of itself."""

    index: Index
    term: Term
    state_hash: bytes


@dataclass(frozen=True, slots=True)
class CheckpointManifest:
    """A checkpoint, but for its bytes. Two with the same checksums are copies of the same bytes."""

    meta: CheckpointMeta
    size: int
    chunk_crcs: tuple[int, ...]
    """CRC-32C of every `CHUNK_BYTES`, the last one shorter."""
    state_hash: bytes
    """See raftkv.kv.hashing; of the state, so that it is the same on every node."""
    received: bool = False
    """It came from a peer, so the log need not reach it. One that was made here never is ahead of the log."""

    @property
    def index(self) -> Index:
        return self.meta.index

    @property
    def term(self) -> Term:
        return self.meta.term

    def chunk_at(self, offset: int) -> tuple[int, int]:
        """Return where the chunk with the byte at `offset` begins and ends."""
        start = offset - offset % CHUNK_BYTES
        return start, min(start + CHUNK_BYTES, self.size)

    def same_bytes(self, other: CheckpointManifest) -> bool:
        return replace(self, received=other.received) == other

    def encode(self) -> bytes:
        header = _HEADER.pack(
            *(_MAGIC, _VERSION, self.received, len(self.state_hash), self.meta.index, self.meta.term, self.size),
            *(CHUNK_BYTES, len(self.chunk_crcs), len(self.meta.configuration)),
        )
        crcs = struct.pack(f"<{len(self.chunk_crcs)}I", *self.chunk_crcs)
        content = b"".join((header, self.state_hash, self.meta.configuration, crcs))
        return content + _CRC.pack(google_crc32c.value(content))


def decode_manifest(content: bytes) -> CheckpointManifest:
    """Decode a manifest, from a file or from a peer. Raises FormatError."""
    if len(content) < _HEADER.size + _CRC.size:
        raise FormatError(f"a manifest of {len(content)} bytes is cut short")
    header = _HEADER.unpack_from(content)
    magic, version, received, hash_bytes, index, term, size, chunk_bytes, chunks, configuration_bytes = header
    if magic != _MAGIC:
        raise FormatError("this is no manifest of a raftkv checkpoint")
    if version != _VERSION:
        raise FormatError(f"manifest version {version}; this raftkv reads version {_VERSION}")
    if len(content) != _HEADER.size + hash_bytes + configuration_bytes + 4 * chunks + _CRC.size:
        raise FormatError(f"a manifest of {len(content)} bytes, which is not what its header says")
    if google_crc32c.value(content[: -_CRC.size]) != _CRC.unpack_from(content, len(content) - _CRC.size)[0]:
        raise FormatError("the manifest's checksum does not match")
    if chunk_bytes != CHUNK_BYTES or chunks != -(-size // CHUNK_BYTES) or not size or not index or received > 1:
        raise FormatError(f"a manifest of entry {index} with {size} bytes in {chunks} chunks of {chunk_bytes}")
    at = _HEADER.size
    state_hash, at = content[at : at + hash_bytes], at + hash_bytes
    configuration, at = content[at : at + configuration_bytes], at + configuration_bytes
    return CheckpointManifest(
        meta=CheckpointMeta(Index(index), Term(term), configuration),
        size=size,
        chunk_crcs=struct.unpack_from(f"<{chunks}I", content, at),
        state_hash=state_hash,
        received=bool(received),
    )


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a checkpoint on its way to a peer."""

    offset: int
    data: bytes
    crc: int


class CopyableStore(OrderedStore, Protocol):
    """A state store that a checkpoint can be made of."""

    def copy(self) -> AbstractContextManager[Iterator[bytes]]:
        """Stream a copy of the committed state of this moment, in blocks of any size.

        In any thread; neither the writer nor readers wait for it. Leaving the block early ends the copy.
        """
        ...

    def used_bytes(self) -> int:
        """Bytes that the state takes, without space that is free to be used again. Cheap."""
        ...

    def close(self) -> None: ...


S = TypeVar("S", bound=CopyableStore)


class StateEngine(Protocol[S]):
    """What becomes of the bytes of a copy. One for each kind of store."""

    def scratch(self) -> AbstractContextManager[S]:
        """Open an empty store that is gone at the end of the block. Blocks; in a thread of its own."""
        ...

    def open_copy(self, path: Path) -> AbstractContextManager[Reader]:
        """Read the copy in the file at `path`, whose checksums were found right."""
        ...

    def prepare(self, blocks: Iterator[bytes]) -> None:
        """Write a store that holds this copy beside the working one, durably. Blocks; in a thread of its own.

        When `blocks` raises, so does this, and nothing has happened. Raises NoRoom, and takes no room then.
        """
        ...

    def swap(self, store: S | None) -> S:
        """Close `store` without saving it, put what was prepared in its place, atomically, and open it."""
        ...
