"""The ordered store on LMDB: a memory-mapped copy-on-write B+tree with one writer and lock-free snapshots.

Commits are not synced: the write-ahead log is the durable truth. What is committed here survives the process, since
the kernel has it, but not a power loss, which can leave any mixture of pages; `data_dir` discards the store then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

import lmdb

from raftkv.errors import StorageError
from raftkv.invariant import invariant
from raftkv.kv.store import MAX_KEY_BYTES

MAP_SIZE_BYTES: Final = 64 << 30
"""Default limit of the store's size. Address space only: the file grows as it is used."""
MAX_READERS: Final = 1024
SPARE_TRANSACTIONS: Final = 64
"""Snapshots whose memory is kept for the next ones."""


class LmdbReader:
    """A `Reader` of one LMDB transaction. LMDB's errors leave its methods as they are; the block translates them."""

    __slots__ = ("_cursor", "_transaction")

    def __init__(self, transaction: lmdb.Transaction[bytes]) -> None:
        self._transaction = transaction
        self._cursor = transaction.cursor()

    def get(self, key: bytes) -> bytes | None:
        return self._transaction.get(key)

    def first(self, start: bytes, stop: bytes | None) -> tuple[bytes, bytes] | None:
        cursor = self._cursor
        if not cursor.set_range(start):
            return None
        # The key decides: the value, which may be large, is copied only when it is wanted.
        return cursor.item() if stop is None or cursor.key() < stop else None

    def scan(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        # A cursor of its own: `first` may be called, and other scans may run, between two of its steps.
        cursor = self._transaction.cursor()
        if not cursor.set_range(start):
            return
        for pair in cursor:
            if stop is not None and pair[0] >= stop:
                return
            yield pair


class LmdbWriter(LmdbReader):
    """The `Writer` of one LMDB transaction."""

    __slots__ = ()

    def put(self, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value)

    def delete(self, key: bytes) -> None:
        self._transaction.delete(key)


class LmdbStore:
    """The `OrderedStore` on LMDB. Used from one thread; snapshots stay open across awaits while the writer commits."""

    def __init__(self, environment: lmdb.Environment, path: Path) -> None:
        self._environment = environment
        self._path = path
        self._writing = False
        self._closed = False

    @classmethod
    def open(cls, path: Path, *, map_size: int = MAP_SIZE_BYTES, max_readers: int = MAX_READERS) -> Self:
        """Open or create the store in the directory `path`, whose parent must exist. Raises StorageError."""
        try:
            environment = lmdb.open(
                str(path),
                map_size=map_size,
                sync=False,
                metasync=False,
                mode=0o600,
                max_readers=max_readers,
                max_spare_txns=SPARE_TRANSACTIONS,
            )
        except (lmdb.Error, OSError) as error:
            raise StorageError(f"the state store in {path} cannot be opened: {error}") from error
        return cls(environment, path)

    @contextmanager
    def read(self) -> Iterator[LmdbReader]:
        """Open a snapshot. One that stays open keeps every page it sees from reuse: hold it briefly."""
        with self._errors(), self._environment.begin() as transaction:
            yield LmdbReader(transaction)

    @contextmanager
    def write(self) -> Iterator[LmdbWriter]:
        """Open the one writer. Raises StorageError when the store is full or the disk fails; nothing is kept then."""
        # LMDB would wait for the writer that this very thread holds.
        invariant(not self._writing, "a second writer was opened while the first one is open")
        self._writing = True
        try:
            with self._errors(), self._environment.begin(write=True) as transaction:
                yield LmdbWriter(transaction)
        finally:
            self._writing = False

    def size_bytes(self) -> int:
        """Bytes of the pages in use and of those that were in use once."""
        return int(self._environment.info()["last_pgno"] + 1) * int(self._environment.stat()["psize"])

    def close(self) -> None:
        """Flush everything and release the store. Idempotent; open snapshots become unusable.

        Only after it returned may a clean shutdown be recorded. Raises StorageError when the flush failed.
        """
        if self._closed:
            return
        self._closed = True
        try:
            with self._errors():
                self._environment.sync(True)
        finally:
            self._environment.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except lmdb.BadValsizeError as error:
            raise ValueError(f"a key must have 1 to {MAX_KEY_BYTES} bytes") from error
        except lmdb.MapFullError as error:
            limit = self._environment.info()["map_size"]
            raise StorageError(
                f"the state store in {self._path} has reached its limit of {limit} bytes. The way out: start the node "
                "with a larger --store-map-size"
            ) from error
        except lmdb.Error as error:
            raise StorageError(f"the state store in {self._path} failed: {error}") from error
