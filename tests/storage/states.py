"""State stores for the tests of checkpoints: rows, and one that says where the state stands."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from random import Random

from raftkv.kv.store import OrderedStore, Reader
from raftkv.raft.types import Index, Term
from raftkv.storage.checkpoint import CheckpointManifest, CopyableStore, StateInfo
from raftkv.storage.checkpoint_store import CheckpointStore, Receiving, Sending
from raftkv.storage.lmdb_store import LmdbEngine
from raftkv.storage.memory import MemoryOrderedStore

_POSITION = struct.Struct(">QQ")
_META = b"\x01"


def apply_entry(store: OrderedStore, index: int, term: int, rows: dict[bytes, bytes] | None = None) -> None:
    """Bring `store` to entry `index`, as a state machine does: position and rows in one transaction."""
    with store.write() as writer:
        writer.put(_META, _POSITION.pack(index, term))
        for key, value in (rows or {}).items():
            writer.put(key, value)


def inspect(reader: Reader) -> StateInfo:
    """Say which state a store holds."""
    index, term = _POSITION.unpack(reader.get(_META) or bytes(16))
    state_hash = blake2b(digest_size=16)
    for key, value in reader.scan(b"\0", None):
        state_hash.update(_POSITION.pack(len(key), len(value)) + key + value)
    return StateInfo(Index(index), Term(term), state_hash.digest())


def applied_index(store: OrderedStore) -> Index:
    with store.read() as reader:
        return inspect(reader).index


def rows_of(store: OrderedStore) -> dict[bytes, bytes]:
    with store.read() as reader:
        return dict(reader.scan(b"\0", None))


def large_rows(seed: int, megabytes: float = 2.5) -> dict[bytes, bytes]:
    """Rows that take several chunks and do not compress into one another."""
    random = Random(seed)
    return {b"key %06d" % at: random.randbytes(50_000) for at in range(int(megabytes * 20))}


def configuration_at(index: Index, term: Term) -> bytes:
    return b"configuration at %d of term %d" % (index, term)


async def transfer(sending: Sending, receiving: Receiving, *, pieces: int = 1 << 20, stop_at: int = 1 << 62) -> None:
    """Send until everything is there, or until `stop_at`."""
    while receiving.offset < min(stop_at, sending.manifest.size):
        chunk = await sending.read_chunk(receiving.offset, pieces)
        await receiving.write_chunk(chunk.offset, chunk.data, chunk.crc)


async def whole_copy(source: CheckpointStore[CopyableStore]) -> tuple[CheckpointManifest, bytes]:
    """Read the newest checkpoint."""
    sending = source.send()
    try:
        size = sending.manifest.size
        chunks = [await sending.read_chunk(offset, 1 << 20) for offset in range(0, size, 1 << 20)]
    finally:
        sending.close()
    return sending.manifest, b"".join(chunk.data for chunk in chunks)


class SimStore(MemoryOrderedStore):
    """A store in memory that a `SimEngine` keeps in a file."""

    def discard(self) -> None:
        self.close()


class SimEngine(LmdbEngine):
    """Prepares and swaps files exactly as the engine of LMDB does, on any file system, with the in-memory store."""

    def open(self) -> SimStore:  # type: ignore[override]
        if "data.mdb" not in self._files.names(self._path):
            return SimStore()
        return SimStore.of_copy(self._content(self._path / "data.mdb"))

    @contextmanager
    def open_copy(self, path: Path) -> Iterator[Reader]:  # type: ignore[override]
        with SimStore.of_copy(self._content(path)).read() as reader:
            yield reader

    def _content(self, path: Path) -> bytes:
        file = self._files.open(path)
        return file.pread(file.size(), 0)
