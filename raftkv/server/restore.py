"""Makes the data directories of a new cluster from a backup. Offline; all or nothing.

The new cluster begins where the backup ends: the same keys at the same revisions, in a cluster with an id of its own
and with numbers that go on in a new epoch (raftkv.kv.epoch). Each directory gets what a node has that was sent a
checkpoint by a peer just before its first start: the checkpoint, and no log. What says whose it all is (identity.json)
comes last: until then a node refuses to start there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import Final

from raftkv.errors import ConfigurationError, NoRoom, StorageError
from raftkv.invariant import invariant
from raftkv.kv.epoch import epoch_of, epochs_at, in_epoch, next_epoch
from raftkv.kv.keys import META
from raftkv.kv.records import EMPTY_META, FORMAT, Meta, decode_meta, encode_meta
from raftkv.raft import Configuration, NodeId
from raftkv.raft.membership import encode_configuration
from raftkv.server.disk import inspect_state
from raftkv.server.disk_kind import NAME as KIND_NAME
from raftkv.server.disk_kind import Kind
from raftkv.storage.backup_file import BackupReader
from raftkv.storage.backup_format import HASH_BYTES, BackupHeader, BackupSummary, DamagedBackup
from raftkv.storage.checkpoint import CheckpointRefused
from raftkv.storage.checkpoint_directory import CREATING, CheckpointDirectory, complete
from raftkv.storage.data_dir import (
    CHECKPOINTS_NAME,
    IDENTITY_NAME,
    LOCK_NAME,
    Identity,
    RestoredState,
    lock_data_dir,
    write_identity,
    write_json,
)
from raftkv.storage.files import FileSystem, OsFileSystem
from raftkv.storage.lmdb_store import LmdbEngine, LmdbStore

EPOCH_BEGINS_S: Final = 1_577_836_800
"""2020-01-01 in seconds since 1970: epochs are seconds since."""
CLOCKS_APART_S: Final = 60
"""By so much the clock of the node that made a backup may be ahead."""
NONCE_BYTES: Final = 8
ROWS_PER_TRANSACTION: Final = 20_000
SCRATCH_NAME: Final = "restore.scratch"

_LENGTHS = struct.Struct(">II")

Progress = Callable[[str, int, int], object]
"""Told what is done, how many bytes of it, and of how many."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a restore is to make."""

    members: Mapping[NodeId, str]
    """Peer addresses of all members of the new cluster."""
    directories: Mapping[NodeId, Path]
    """Of those whose data directories are to be made."""
    cluster_name: str
    epoch: int | None
    """None: the next one by the clock. Equal for all members."""

    @property
    def whole(self) -> bool:
        """Whether all members are made at once."""
        return set(self.directories) == set(self.members)


@dataclass(frozen=True, slots=True)
class Restored:
    """What was made."""

    backup: BackupSummary
    cluster_id: int
    epoch: int
    directories: Mapping[NodeId, Path]
    state_hash: bytes
    """Of the new state: equal on all members. That of the backup, but for the numbers in the META row."""


def read_whole(path: Path, progress: Progress) -> tuple[BackupSummary, Meta, list[int]]:
    """Read a backup to its end; return what it is, its META row, and how many rows each table has, by its number.

    Raises ConfigurationError, DamagedBackup.
    """
    done = size = 0

    def read(more: int) -> None:
        nonlocal done
        done += more
        progress("verify", done, max(size, done))

    with BackupReader(path, read) as backup:
        size = backup.size
        meta = None
        counts = [0] * 256
        for key, value in backup.rows():
            if meta is None:
                meta = _meta_of(path, backup, key, value)
            counts[key[0]] += 1
        if meta is None:
            raise DamagedBackup(f"{path}: the backup has no rows")
        return backup.summary, meta, counts


def restore(
    path: Path, plan: Plan, *, progress: Progress, files: FileSystem | None = None, now: Callable[[], float] = time.time
) -> Restored:
    """Make the directories of `plan` from the backup at `path`. Blocks.

    Raises ConfigurationError, DamagedBackup, StorageError; what was there before is then as it was.
    """
    for directory in plan.directories.values():
        _require_empty(directory)
    files = files or OsFileSystem()
    directories = dict(sorted(plan.directories.items()))
    with _claimed(directories.values(), files):
        summary, meta, _ = read_whole(path, progress)
        now_s = now()
        epoch = _epoch(path, plan, summary.header, meta, now_s)
        # Members that are made one by one can only agree on what each of them is told.
        nonce = secrets.token_bytes(NONCE_BYTES) if plan.whole else b""
        cluster_id = restored_cluster_id(plan.cluster_name, plan.members, summary.state_hash, epoch, nonce)
        room = require_room(directories.values(), summary)
        for directory in directories.values():
            _require_empty(directory)
        with _all_or_nothing(directories.values(), room):
            state_hash = _write(path, summary, in_epoch(meta, epoch), plan, files=files, progress=progress)
            for directory in directories.values():
                write_json(files, directory / KIND_NAME, {"kind": Kind.DATA})
            for node, directory in directories.items():
                identity = Identity(
                    cluster_id=cluster_id,
                    node_id=node,
                    members=dict(plan.members),
                    created_at=now_s,
                    founded=True,
                    restored=RestoredState(meta.applied_index, meta.applied_term, state_hash, plan.cluster_name),
                )
                write_identity(files, directory, identity)
    return Restored(summary, cluster_id, epoch, directories, state_hash)


def _write(
    path: Path, summary: BackupSummary, meta: Meta, plan: Plan, *, files: FileSystem, progress: Progress
) -> bytes:
    """Make the checkpoints of all members; return the hash of their state."""
    configuration = encode_configuration(
        Configuration(voters=frozenset(plan.members), addresses=tuple(sorted(plan.members.items())))
    )
    directories = [directory for _, directory in sorted(plan.directories.items())]
    with _scratch(directories[0]) as scratch:
        hashes = {_fill(scratch, path, summary, meta, progress)}
        written, size = 0, scratch.size_bytes() * len(directories)

        def wrote(more: int) -> None:
            nonlocal written
            written += more
            progress("write", written, max(size, written))

        for directory in directories:
            hashes.add(_checkpoint(files, directory, scratch, configuration, wrote))
        progress("write", written, written)
    invariant(len(hashes) == 1, "the copies of one state differ: {}", hashes)
    return hashes.pop()


def epoch_to_give(path: Path, now: Callable[[], float] = time.time) -> int:
    """Return the fencing epoch to give for each member when the backup at `path` is restored on several machines.

    Raises ConfigurationError, DamagedBackup.
    """
    with BackupReader(path) as backup:
        meta = EMPTY_META._replace(last_token=backup.header.last_token)
        return next_epoch(meta, _seconds(path, backup.header, now()))


def restored_cluster_id(
    name: str, members: Mapping[NodeId, str], state_hash: bytes, epoch: int, nonce: bytes = b""
) -> int:
    """Return the identity of the cluster that these members make of a backup: another one for every epoch and nonce."""
    listed = ",".join(f"{node}={address}" for node, address in sorted(members.items()))
    text = f"{name}\n{listed}\nrestored {state_hash.hex()} {epoch} {nonce.hex()}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _meta_of(path: Path, backup: BackupReader, key: bytes, value: bytes) -> Meta:
    """Return the META row, the first one. Raises StorageError unless it is what the header says."""
    header = backup.header
    if header.state_format != FORMAT:
        raise DamagedBackup(
            f"{path} is the backup of a state of format {header.state_format}; this raftkv reads format {FORMAT}. The "
            "way out: take the raftkv that made it, or a newer one"
        )
    if key != META:
        raise DamagedBackup(f"{path}: the backup does not begin with the state's own row")
    meta = decode_meta(value)
    said = (header.index, header.term, header.revision, header.compacted_revision, header.time_ms, header.last_token)
    if said != (*meta[:5], meta.last_token) or not meta.applied_index:
        raise DamagedBackup(f"{path}: the backup's header says something else than its rows")
    return meta


def _seconds(path: Path, header: BackupHeader, now_s: float) -> int:
    """Return the epoch that it is by the clock. Raises ConfigurationError: the clock cannot be right."""
    if now_s + CLOCKS_APART_S < header.made_at_ms / 1000:
        made_at = datetime.fromtimestamp(header.made_at_ms / 1000, UTC).isoformat(timespec="seconds")
        raise ConfigurationError(
            f"{path} was made at {made_at}, later than it is by this machine's clock; fencing epochs go by the "
            "clock. Nothing was changed. The way out: set the clock"
        )
    return int(now_s - EPOCH_BEGINS_S)


def _epoch(path: Path, plan: Plan, header: BackupHeader, meta: Meta, now_s: float) -> int:
    seconds = _seconds(path, header, now_s)
    offered = next_epoch(meta, seconds)
    if plan.epoch is None:
        return offered
    if plan.epoch not in (permitted := epochs_at(meta, seconds)):
        raise ConfigurationError(
            f"the fencing epoch is to be {plan.epoch}, and this backup now takes {permitted.start} to "
            f"{permitted.stop - 1}: it is of epoch {epoch_of(meta)}, tokens never go back, and epochs are the seconds "
            f"since 2020. Nothing was changed. The way out: --fencing-epoch {offered}, the same for all members"
        )
    return plan.epoch


def _require_empty(directory: Path) -> None:
    try:
        found = sorted(entry.name for entry in directory.iterdir() if entry.name not in ("lost+found", LOCK_NAME))
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"{directory} cannot be used as a data directory: {error.strerror}") from error
    if found:
        left = "an interrupted restore" if IDENTITY_NAME not in found and CHECKPOINTS_NAME in found else "other data"
        raise ConfigurationError(
            f"{directory} is not empty: it holds {', '.join(found[:5])}, {left}. Nothing was changed. The way out: "
            "name a directory that is empty or not there yet, or move away what is in it"
        )


@contextmanager
def _claimed(directories: Collection[Path], files: FileSystem) -> Iterator[None]:
    """Make the directories and hold them; if the block fails, take back what was made of them.

    Raises DataDirectoryMismatch: a node, or another restore, holds one.
    """
    made: list[Path] = []
    locks: dict[int, Path | None] = {}
    try:
        for directory in directories:
            for parent in reversed([one for one in (directory, *directory.parents) if not one.exists()]):
                with contextlib.suppress(FileExistsError):  # another restore may be making it
                    parent.mkdir(mode=0o700)
                    made.append(parent)
                files.fsync_dir(parent.parent)
            lock = directory / LOCK_NAME
            is_new = not lock.exists()
            locks[lock_data_dir(directory)] = lock if is_new else None
        yield
    except BaseException as error:
        # Ctrl-C too.
        for lock in filter(None, locks.values()):
            with contextlib.suppress(OSError):
                lock.unlink()
        for parent in reversed(made):
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise StorageError(f"nothing was restored: {error.filename or 'the disk'}: {error.strerror}") from error
        raise
    finally:
        for fd in locks:
            os.close(fd)


@contextmanager
def _all_or_nothing(directories: Collection[Path], room: str) -> Iterator[None]:
    """If the block fails, remove what it has put into the directories: they are held, and were empty.

    `room`: what it needs, to be said where there is not enough of it.
    """
    try:
        yield
    except BaseException as error:
        for directory in directories:
            _empty(directory)
        if _is_full(error):
            raise NoRoom(f"nothing was restored: no room: {room}") from error
        if isinstance(error, CheckpointRefused | StorageError):
            raise StorageError(f"nothing was restored: {error.message}") from error
        raise


def _is_full(error: BaseException) -> bool:
    if isinstance(error, NoRoom):
        return True
    return any(
        isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT) for one in (error, error.__cause__)
    )


def require_room(directories: Collection[Path], summary: BackupSummary) -> str:
    """Return how much room the directories need. Raises NoRoom where there is less of it for sure."""
    by_disk: dict[int, list[Path]] = {}
    for directory in directories:
        by_disk.setdefault(directory.stat().st_dev, []).append(directory)
    first = next(iter(directories))
    said: list[str] = []
    short = False
    for ones in by_disk.values():
        # A copy for each, and the one that they are made from. Pages are never full, so it is more than this.
        needed = summary.row_bytes * (len(ones) + (first in ones))
        free = shutil.disk_usage(ones[0]).free
        short = short or free < needed
        said.append(f"{', '.join(map(str, ones))}: more than {needed} bytes are needed at once, {free} were free")
    room = f"{'; '.join(said)}. The way out: free or add space"
    if short:
        raise NoRoom(f"nothing was restored: no room: {room}")
    return room


@contextmanager
def _scratch(directory: Path) -> Iterator[LmdbStore]:
    """Open an empty store in `directory` that is gone at the end of the block."""
    store = LmdbStore.open(directory / SCRATCH_NAME)
    try:
        yield store
    finally:
        store.discard()
        shutil.rmtree(directory / SCRATCH_NAME)


def _fill(store: LmdbStore, path: Path, verified: BackupSummary, meta: Meta, progress: Progress) -> bytes:
    """Put the rows of a backup that was found whole into `store`, with another META row; return their state hash."""
    done = 0  # bytes of rows
    hashed = blake2b(digest_size=HASH_BYTES)
    with BackupReader(path) as backup:
        rows = chain([(META, encode_meta(meta))], islice(backup.rows(), 1, None))
        while some := list(islice(rows, ROWS_PER_TRANSACTION)):
            with store.write() as writer:
                for key, value in some:
                    writer.put(key, value)
                    hashed.update(_LENGTHS.pack(len(key), len(value)) + key + value)
            done += sum(_LENGTHS.size + len(key) + len(value) for key, value in some)
            # The row that is another one than in the backup may be longer.
            progress("load", done, max(done, verified.row_bytes))
        if backup.summary != verified:
            raise DamagedBackup(f"{path}: the file has changed since it was verified")
    return hashed.digest()


def _checkpoint(
    files: FileSystem, directory: Path, store: LmdbStore, configuration: bytes, wrote: Callable[[int], object]
) -> bytes:
    """Make the checkpoint of a new member; return its state hash."""
    path = directory / CHECKPOINTS_NAME
    checkpoints = CheckpointDirectory(files, path, LmdbEngine(directory).open_copy, inspect_state)
    checkpoints.load()
    made = checkpoints.copy_state(store, lambda: False, wrote)
    # "received": the log need not reach it.
    checkpoints.publish(CREATING, replace(complete(made, configuration), received=True))
    return made.state_hash


def _empty(directory: Path) -> None:
    """Remove what a restore may have put into a directory."""
    # First of all what would let a node start there.
    with contextlib.suppress(OSError):
        (directory / IDENTITY_NAME).unlink()
    for name in (IDENTITY_NAME + ".tmp", KIND_NAME, KIND_NAME + ".tmp"):
        with contextlib.suppress(OSError):
            (directory / name).unlink()
    for name in (CHECKPOINTS_NAME, SCRATCH_NAME):
        shutil.rmtree(directory / name, ignore_errors=True)
