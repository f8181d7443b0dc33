"""The ordered store on LMDB: a memory-mapped copy-on-write B+tree with one writer and lock-free snapshots.

Commits are not synced: the write-ahead log is the durable truth. What is committed here survives the process, since
the kernel has it, but not a power loss, which can leave any mixture of pages; `data_dir` discards the store then.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NoReturn, Self

import lmdb

from raftkv.errors import NoRoom, StorageError
from raftkv.invariant import invariant
from raftkv.kv.store import MAX_KEY_BYTES
from raftkv.storage.files import (
    TEMPORARY_SUFFIX,
    File,
    FileSystem,
    OsFileSystem,
    flush,
    free_bytes,
    is_full,
    write_all,
)
from raftkv.storage.wal_segments import describe_os_error

MAP_SIZE_BYTES: Final = 64 << 30
"""Default limit of the store's size. Address space only: the file grows as it is used."""
MAX_READERS: Final = 1024
SCRATCH_BYTES: Final = 1 << 20
"""Upper bound of a store that holds next to nothing."""
COPY_BLOCK_BYTES: Final = 256 << 10
"""A block is summed and handed on without letting go of the interpreter: a tenth of a millisecond."""
COPY_NAME: Final = "data.mdb"
"""What LMDB calls its file."""
LOCK_NAME: Final = "lock.mdb"
"""And the one through which readers and the writer know of each other; worth nothing once all have gone."""
SPARE_TRANSACTIONS: Final = 64
"""Snapshots whose memory is kept for the next ones."""
NOTHING_FREE_BYTES: Final = 1 << 20
"""With less free than this, a write that was cut short was so for want of room."""


class DamagedStore(StorageError):
    """The file of a store is none of LMDB's any more. It is a cache: throw it away and rebuild it."""


_DAMAGE: Final = (
    lmdb.InvalidError,
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.VersionMismatchError,
    # "Internal error", both: no page that LMDB wrote makes them come up.
    lmdb.PageFullError,
    lmdb.CursorFullError,
)


def _unheard(error: DamagedStore) -> None:
    pass


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

    def head(self, start: bytes, stop: bytes | None, most: int) -> tuple[bytes, bytes, int] | None:
        found = self.first(start, stop)
        return None if found is None else (found[0], found[1][:most], len(found[1]))

    def scan(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        # A cursor of its own: `first` may be called, and other scans may run, between two of its steps.
        cursor = self._transaction.cursor()
        if not cursor.set_range(start):
            return
        for pair in cursor:
            if stop is not None and pair[0] >= stop:
                return
            yield pair

    def heads(self, start: bytes, stop: bytes | None, most: int) -> Iterator[tuple[bytes, bytes, int]]:
        for key, value in self.scan(start, stop):
            yield key, value[:most], len(value)


class LmdbWriter:
    """The `Writer` of one LMDB transaction.

    LMDB shows it where keys and values lie instead of copying them, so that the head of a large value costs no more
    than that of a small one. What it shows is void with the next write: nothing of it leaves a method uncopied.

    Snapshots do not read so: to copy a small value at once is cheaper (0.3 us a row, of a scan, instead of 0.9).
    """

    __slots__ = ("_cursor", "_transaction")

    def __init__(self, transaction: lmdb.Transaction[memoryview]) -> None:
        self._transaction = transaction
        self._cursor = transaction.cursor()

    def get(self, key: bytes) -> bytes | None:
        value = self._transaction.get(key)
        return None if value is None else bytes(value)

    def first(self, start: bytes, stop: bytes | None) -> tuple[bytes, bytes] | None:
        cursor = self._cursor
        if not cursor.set_range(start):
            return None
        key = bytes(cursor.key())
        return (key, bytes(cursor.value())) if stop is None or key < stop else None

    def head(self, start: bytes, stop: bytes | None, most: int) -> tuple[bytes, bytes, int] | None:
        cursor = self._cursor
        if not cursor.set_range(start):
            return None
        key = bytes(cursor.key())
        if stop is not None and key >= stop:
            return None
        value = cursor.value()
        size = len(value)
        return key, bytes(value if size <= most else value[:most]), size

    def scan(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._pairs(start, stop):
            yield key, bytes(value)

    def heads(self, start: bytes, stop: bytes | None, most: int) -> Iterator[tuple[bytes, bytes, int]]:
        for key, value in self._pairs(start, stop):
            yield key, bytes(value[:most]), len(value)

    def _pairs(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, memoryview]]:
        cursor = self._transaction.cursor()  # of its own, as for snapshots
        if not cursor.set_range(start):
            return
        for shown, value in cursor:
            key = bytes(shown)
            if stop is not None and key >= stop:
                return
            yield key, value

    def put(self, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value)

    def delete(self, key: bytes) -> None:
        self._transaction.delete(key)


class LmdbStore:
    """The `OrderedStore` on LMDB. Used from one thread; snapshots stay open across awaits while the writer commits."""

    def __init__(
        self, environment: lmdb.Environment, path: Path, on_damage: Callable[[DamagedStore], None] = _unheard
    ) -> None:
        self._environment = environment
        self._on_damage = on_damage
        self._path = path
        self._writing = False
        self._closed = False
        self._views = 0
        """Open snapshots."""
        self._discarded = False
        """The last of them releases the store."""
        self._copying = threading.Lock()
        """Held while LMDB reads the environment in another thread."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        map_size: int = MAP_SIZE_BYTES,
        max_readers: int = MAX_READERS,
        on_damage: Callable[[DamagedStore], None] = _unheard,
    ) -> Self:
        """Open or create the store in the directory `path`, whose parent must exist. Raises StorageError.

        `on_damage` is told of damage that a later transaction meets, before whoever met it is: in its thread.
        """
        try:
            # LMDB would give it the mode of its files, and nobody but root can look into a directory with that.
            path.mkdir(mode=0o700, exist_ok=True)
            environment = lmdb.open(
                str(path),
                map_size=map_size,
                sync=False,
                metasync=False,
                mode=0o600,
                max_readers=max_readers,
                max_spare_txns=SPARE_TRANSACTIONS,
            )
        except _DAMAGE as error:
            raise DamagedStore(f"the state store is damaged: {_damage(path, error)}") from error
        except (lmdb.Error, OSError) as error:
            raise StorageError(f"the state store in {path} cannot be opened: {error}") from error
        return cls(environment, path, on_damage)

    @contextmanager
    def read(self) -> Iterator[LmdbReader]:
        """Open a snapshot. One that stays open keeps every page it sees from reuse: hold it briefly."""
        if self._closed:
            raise StorageError(f"the state store in {self._path} is closed")
        self._views += 1
        try:
            with self._errors(), self._environment.begin() as transaction:
                yield LmdbReader(transaction)
        finally:
            self._views -= 1
            if self._discarded and not self._views:
                self._environment.close()

    @contextmanager
    def write(self) -> Iterator[LmdbWriter]:
        """Open the one writer. Raises NoRoom when store or disk are full, StorageError when the disk fails.

        Nothing is kept then.
        """
        # LMDB would wait for the writer that this very thread holds.
        invariant(not self._writing, "a second writer was opened while the first one is open")
        self._writing = True
        try:
            with self._errors(), self._no_room(), self._environment.begin(write=True, buffers=True) as transaction:
                yield LmdbWriter(transaction)
        finally:
            self._writing = False

    @contextmanager
    def copy(self) -> Iterator[Iterator[bytes]]:
        """Stream a compact copy of the last commit, as LMDB's one file. See `CopyableStore`; in any thread.

        `close` and `discard` wait for it, so whoever wants to close the store ends the copy first.
        """
        with self._copying:
            if self._closed:
                raise StorageError(f"the state store in {self._path} is closed")
            # A pipe rather than a file: what is copied can be summed, paced and given up on its way.
            source, sink = os.pipe()
            _widen(sink)
            failures: list[lmdb.Error] = []
            thread = threading.Thread(target=self._copy_into, args=(sink, failures), name="raftkv-copy", daemon=True)
            thread.start()
            try:
                yield iter(lambda: os.read(source, COPY_BLOCK_BYTES), b"")
                if failures and isinstance(failures[0], _DAMAGE):
                    self._refuse_damaged(failures[0])
                if failures:
                    raise StorageError(f"the state store in {self._path} cannot be copied: {failures[0]}")
            finally:
                # LMDB's writer finds the pipe broken if there is anything left to write.
                os.close(source)
                thread.join()

    def _copy_into(self, sink: int, failures: list[lmdb.Error]) -> None:
        try:
            self._environment.copyfd(sink, compact=True)
        except lmdb.Error as error:
            failures.append(error)
        finally:
            os.close(sink)

    def size_bytes(self) -> int:
        """Bytes of the pages in use and of those that were in use once."""
        return int(self._environment.info()["last_pgno"] + 1) * int(self._environment.stat()["psize"])

    def used_bytes(self) -> int:
        """Bytes of the pages in use: what `size_bytes` counts without those that are free to be used again."""
        stat = self._environment.stat()
        return int((stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]) * stat["psize"])

    def row_count(self) -> int:
        """How many rows there are. Cheap."""
        return int(self._environment.stat()["entries"])

    def close(self) -> None:
        """Flush everything and release the store. Idempotent; open snapshots become unusable.

        Only after it returned may a clean shutdown be recorded. Raises StorageError when the flush failed.
        """
        with self._copying:
            if self._closed:
                return
            self._closed = True
            try:
                with self._errors():
                    self._environment.sync(True)
            finally:
                self._environment.close()

    def discard(self) -> None:
        """Release the store without flushing it: it is about to be replaced. Idempotent.

        Open snapshots stay what they are, and keep the old files, which have lost their names, until the last one ends.
        """
        with self._copying:
            if not self._closed:
                self._closed = self._discarded = True
                if not self._views:
                    self._environment.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except lmdb.BadValsizeError as error:
            raise ValueError(f"a key must have 1 to {MAX_KEY_BYTES} bytes") from error
        except lmdb.MapFullError as error:
            limit = self._environment.info()["map_size"]
            raise NoRoom(
                f"the state store in {self._path} has reached its limit of {limit} bytes. The way out: start the node "
                "with a larger --store-map-size"
            ) from error
        except _DAMAGE as error:
            self._refuse_damaged(error)
        except lmdb.Error as error:
            raise StorageError(f"the state store in {self._path} failed: {error}") from error

    @contextmanager
    def _no_room(self) -> Iterator[None]:
        """Tell a transaction that found no room from one that met a broken disk.

        A write that the kernel cuts short, as the last one before a disk is full may be, is an I/O error to LMDB. By
        then it has taken what was left. No flush is among what fails here: a transaction has none (`open`).
        """
        try:
            yield
        except lmdb.Error as error:
            full = isinstance(error, lmdb.DiskError) or _is(error, errno.EDQUOT)  # LMDB's name for ENOSPC, and none
            if full or (_is(error, errno.EIO) and free_bytes(self._path) < NOTHING_FREE_BYTES):
                raise NoRoom(
                    f"no space left for the state store in {self._path} ({error}). The way out: free or add space"
                ) from error
            raise

    def _refuse_damaged(self, error: lmdb.Error) -> NoReturn:
        damaged = DamagedStore(_damage(self._path, error))
        self._on_damage(damaged)
        raise damaged from error


def _is(error: lmdb.Error, number: int) -> bool:
    """Whether LMDB passes on this error of the system; not every version of its module tells the number."""
    return os.strerror(number) in str(error)


def _damage(path: Path, error: lmdb.Error) -> str:
    return f"{path / COPY_NAME}: {error}"


def _widen(pipe: int) -> None:
    """Make room for a whole block: every read costs a wait for the interpreter. It is a wish, and may be refused."""
    with suppress(AttributeError, OSError):
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, COPY_BLOCK_BYTES)


class LmdbEngine:
    """The `StateEngine` of the store in the directory `path`: a copy is its file."""

    def __init__(self, path: Path, *, map_size: int = MAP_SIZE_BYTES, files: FileSystem | None = None) -> None:
        self._path = path
        self._map_size = map_size
        self._files = files or OsFileSystem()
        self.on_damage: Callable[[DamagedStore], None] = _unheard
        """See `LmdbStore.open`; of whichever working store is in place."""

    def open(self) -> LmdbStore:
        """Open or create the working store."""
        return LmdbStore.open(self._path, map_size=self._map_size, on_damage=self._damaged)

    def _damaged(self, error: DamagedStore) -> None:
        self.on_damage(error)

    @contextmanager
    def scratch(self) -> Iterator[LmdbStore]:
        """See `StateEngine.scratch`."""
        with TemporaryDirectory(prefix="raftkv-") as directory:
            store = LmdbStore.open(Path(directory) / "store", map_size=SCRATCH_BYTES)
            try:
                yield store
            finally:
                store.discard()

    @contextmanager
    def open_copy(self, path: Path) -> Iterator[LmdbReader]:
        """See `StateEngine.open_copy`."""
        try:
            environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False)
        except _DAMAGE as error:
            raise DamagedStore(f"{path} is damaged: {error}") from error
        except (lmdb.Error, OSError) as error:
            raise StorageError(f"{path} is no copy of a state store: {error}") from error
        try:
            with environment.begin() as transaction:
                yield LmdbReader(transaction)
        except _DAMAGE as error:
            raise DamagedStore(f"{path} is damaged: {error}") from error
        except lmdb.Error as error:
            raise StorageError(f"the copy of a state store in {path} cannot be read: {error}") from error
        finally:
            environment.close()

    def prepare(self, blocks: Iterator[bytes]) -> None:
        """See `StateEngine.prepare`."""
        try:
            self._files.mkdir(self._path)
            self._files.fsync_dir(self._path.parent)
            file = self._files.create(self._prepared)
            try:
                size = 0
                for block in blocks:
                    write_all(file, block, size)
                    size += len(block)
                flush(file)
            finally:
                file.close()
        except OSError as error:
            if not is_full(error):
                raise StorageError(describe_os_error(self._path, error)) from error
            self._drop_prepared()
            raise NoRoom(
                f"no room for the copy of a checkpoint in {self._path} ({error}). The way out: free or add space; a "
                "node that runs goes on by itself then, one that did not start can be started again"
            ) from error

    def _drop_prepared(self) -> None:
        try:
            if self._prepared.name in self._files.names(self._path):
                self._files.unlink(self._prepared)
        except OSError as error:
            raise StorageError(describe_os_error(self._path, error)) from error

    def swap(self, store: LmdbStore | None) -> LmdbStore:
        """See `StateEngine.swap`. One rename: a crash leaves the old store or the new one."""
        replaced: File | None = None
        if store is not None:
            store.discard()
        try:
            if COPY_NAME in self._files.names(self._path):
                # Or the rename would free it, which takes long for a large one, and the event loop waits for this.
                replaced = self._files.open(self._path / COPY_NAME)
            self._files.rename(self._prepared, self._path / COPY_NAME)
            if LOCK_NAME in self._files.names(self._path):
                # A table of readers of its own: those of the old store may be in the old one, and their end wipes it.
                self._files.unlink(self._path / LOCK_NAME)
            self._files.fsync_dir(self._path)
        except OSError as error:
            raise StorageError(describe_os_error(self._path, error)) from error
        finally:
            if replaced is not None:
                threading.Thread(target=replaced.close, name="raftkv-free", daemon=True).start()
        return self.open()

    @property
    def _prepared(self) -> Path:
        return self._path / (COPY_NAME + TEMPORARY_SUFFIX)
