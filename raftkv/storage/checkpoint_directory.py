"""The checkpoints of a node as files. Synchronous; `checkpoint_store` runs it in threads.

    checkpoints/
      00000000000000000100.manifest   published last: it makes the checkpoint count
      00000000000000000100.data       the copy of the store
      incoming.manifest, incoming.data   a checkpoint that is being received
      creating.data                   one that is being made

A data file without a manifest is garbage. Two checkpoints are kept: the newest, and the newest before it that state
and log may rest on, which takes its place if it turns out to be damaged. Those that are to be installed are kept as
well. More stay on disk only when a crash came between the publication of one and the deletion of others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

import google_crc32c

from raftkv.invariant import invariant
from raftkv.kv.store import Reader
from raftkv.raft.types import Index, Term
from raftkv.storage.checkpoint import (
    CHUNK_BYTES,
    CheckpointManifest,
    CheckpointMeta,
    CheckpointRefused,
    Chunk,
    CopyableStore,
    DamagedCheckpoint,
    StateInfo,
    decode_manifest,
    refuse_when_full,
)
from raftkv.storage.checkpoint_room import CheckpointRoom
from raftkv.storage.files import (
    TEMPORARY_SUFFIX,
    File,
    FileSystem,
    flush,
    flush_dir,
    publish_file,
    read_file,
    write_all,
)
from raftkv.storage.wal_format import FormatError
from raftkv.storage.way_out import REPAIR

MANIFEST_SUFFIX: Final = ".manifest"
DATA_SUFFIX: Final = ".data"
INCOMING: Final = "incoming"
CREATING: Final = "creating"
SYNC_BYTES: Final = 16 << 20
"""What is received is flushed as it grows: a flush of all of it at the end would hold up those of the log."""
COPY_SYNC_BYTES: Final = 2 << 20
"""The same for a copy that is made here, under load; and then the disk is left to the log for as long as the flush has
taken."""

A_COPY: Final = "a copy of the state"


class CheckpointDirectory:
    """What was published, and how to publish more. Methods may be called from several threads."""

    def __init__(
        self,
        files: FileSystem,
        path: Path,
        open_copy: Callable[[Path], AbstractContextManager[Reader]],
        inspect: Callable[[Reader], StateInfo],
        room: CheckpointRoom | None = None,
    ) -> None:
        """`room`: what may be taken on the disk; None: all of it."""
        self.files = files
        self.path = path
        self.room = room or CheckpointRoom(path)
        self.damaged: tuple[str, ...] = ()
        """What is wrong with checkpoints that were found damaged."""
        self._open_copy = open_copy
        self._inspect = inspect
        self._valid: tuple[CheckpointManifest, ...] = ()
        self._held: set[Index] = set()
        self._needed = Index(0)
        """Log and state may rest on the checkpoint of this entry, but on none that was received since."""
        self._lock = threading.Lock()
        """Held by whoever publishes or deletes: as long as the disk takes."""
        self._books = threading.Lock()
        """Held where `_valid`, `_held` and `_needed` change: for no longer than that."""
        self.closing = threading.Event()
        """Ends whatever takes long."""

    @property
    def valid(self) -> tuple[CheckpointManifest, ...]:
        """The checkpoints whose manifest and size are right, newest first. The bytes are judged when they are read."""
        return self._valid

    @property
    def newest(self) -> CheckpointManifest | None:
        return self._valid[0] if self._valid else None

    @property
    def fallback(self) -> CheckpointManifest | None:
        """What takes the place of the newest one if that turns out to be damaged; the log must reach back to it."""
        with self._books:
            return next((manifest for manifest in self._valid[1:] if not self._is_pending(manifest)), None)

    def find(self, index: Index) -> CheckpointManifest | None:
        """Return the checkpoint of entry `index`."""
        return next((manifest for manifest in self._valid if manifest.index == index), None)

    def hold(self, index: Index, term: Term) -> bool:
        """Keep the checkpoint of entry `index` of `term`, whatever is published. False: it is not here. Waits for no
        disk.
        """
        with self._books:
            found = self.find(index)
            if found is None or found.term != term:
                return False
            self._held.add(index)
            return True

    def installed(self, index: Index) -> None:
        """The checkpoint of entry `index` takes the place of state and log from now on."""
        with self._books:
            self._needed = max(self._needed, index)

    def gives_way(self, newer: CheckpointManifest, older: CheckpointManifest) -> bool:
        """Whether one that is here may be replaced by an older one from a peer, or by one of another state.

        It may if it was received and never installed: its leader is gone, and the next one has only the older. What
        comes after the older one in the log is then still to come, or here already. Two of one entry with different
        states mean that one of the two leaders had gone wrong: the one that leads now has been found right since.
        """
        return self._is_pending(newer) and newer.index not in self._held and older.index > self._needed

    def release(self, index: Index) -> None:
        """Undo `hold`. `delete_superseded`, or the next publication, deletes what is not kept."""
        with self._books:
            self._held.discard(index)

    def load(self) -> None:
        """Read what is there and remove what was never published. Raises OSError."""
        self.files.mkdir(self.path)
        self.files.fsync_dir(self.path.parent)
        names = self.files.names(self.path)
        found, damaged = [], []
        for name in names:
            stem = name.removesuffix(MANIFEST_SUFFIX)
            if stem not in {name, INCOMING}:
                try:
                    found.append(self._load(stem))
                except (FormatError, FileNotFoundError) as error:
                    damaged.append(f"{self.path / name}: {error}")
        for name in names:
            stem = name.removesuffix(DATA_SUFFIX)
            orphan = stem not in {name, INCOMING} and stem + MANIFEST_SUFFIX not in names
            if orphan or name.endswith(TEMPORARY_SUFFIX):
                self.files.unlink(self.path / name)
        newest = max((manifest.index for manifest in found), default=Index(0))
        staged = self.incoming_manifest()
        if staged is None or staged.index <= newest or INCOMING + DATA_SUFFIX not in names:
            self.drop_incoming()
        # Also makes durable what a process that died had renamed but not yet synced.
        self.files.fsync_dir(self.path)
        self.damaged = tuple(damaged)
        self._valid = _newest_first(found)
        self._needed = newest  # recovery installs it

    def _load(self, stem: str) -> CheckpointManifest:
        manifest = decode_manifest(read_file(self.files, self.path / (stem + MANIFEST_SUFFIX)))
        if stem != checkpoint_stem(manifest.index):
            raise FormatError(f"the manifest is that of entry {manifest.index}")
        file = self.files.open(self.data_path(manifest))
        try:
            if file.size() != manifest.size:
                raise FormatError(f"{DATA_SUFFIX} has {file.size()} bytes instead of {manifest.size}")
        finally:
            file.close()
        return manifest

    def data_path(self, manifest: CheckpointManifest) -> Path:
        return self.path / (checkpoint_stem(manifest.index) + DATA_SUFFIX)

    def staged(self, stem: str) -> Path:
        return self.path / (stem + DATA_SUFFIX)

    # Making one

    def copy_state(
        self,
        store: CopyableStore,
        stopped: Callable[[], bool],
        progress: Callable[[int], object] = lambda size: None,
    ) -> CheckpointManifest:
        """Copy `store` beside the checkpoints. The configuration is left open. Raises CheckpointRefused.

        `progress` is told how many bytes were copied, piece by piece.
        """
        path = self.staged(CREATING)
        with refuse_when_full():
            file = self.files.create(path)
        try:
            with refuse_when_full(), store.copy() as blocks:
                self.room.require(store.used_bytes(), A_COPY)
                size, crcs = _write_chunks(file, _told(blocks, progress), stopped, self.room)
                flush(file)
        except CheckpointRefused:
            self.files.unlink(path)
            raise
        finally:
            file.close()
        try:
            # From here on the copy decides what it is a copy of.
            info = self.examine(path, stopped)
        except CheckpointRefused:
            self.files.unlink(path)
            raise
        return CheckpointManifest(
            CheckpointMeta(info.index, info.term, b""), size=size, chunk_crcs=crcs, state_hash=info.state_hash
        )

    def copy_aside(self, store: CopyableStore, name: str, stopped: Callable[[], bool]) -> OpenCopy:
        """Copy `store` for somebody to read at leisure, in a file without a name. Raises CheckpointRefused."""
        path = self.path / (name + TEMPORARY_SUFFIX)  # after a crash, the next start removes it
        with refuse_when_full():
            file = self.files.create(path)
        try:
            with refuse_when_full(), store.copy() as blocks:
                self.room.require(store.used_bytes(), A_COPY)
                size, _ = _write_chunks(file, blocks, stopped, self.room)
            opened = self._open_copy(path)
            return OpenCopy(opened, opened.__enter__(), size)
        finally:
            file.close()
            self.files.unlink(path)

    def examine(self, path: Path, stopped: Callable[[], bool]) -> StateInfo:
        """Return what the copy at `path` says of itself. Raises CheckpointRefused when `stopped`."""
        with self._open_copy(path) as reader:
            return self._inspect(_StoppableReader(reader, stopped))

    def publish(self, stem: str, manifest: CheckpointManifest) -> CheckpointManifest:
        """Make the staged copy the newest checkpoint, and delete those that are not kept; return the newest.

        The staged copy is durable, but for its name. One that is not newer than what is there is dropped, unless that
        `gives_way`. Raises CheckpointRefused when the disk is full: the copy is staged as before.
        """
        with self._lock:
            newest = self.newest
            if newest is not None and newest.index >= manifest.index and not self._is_replaced(newest, manifest):
                self.files.unlink(self.staged(stem))
                return newest
            self._make_way(manifest)
            path = self.path / (checkpoint_stem(manifest.index) + MANIFEST_SUFFIX)
            with refuse_when_full():
                self.files.rename(self.staged(stem), self.data_path(manifest))
            try:
                with refuse_when_full():
                    flush_dir(self.files, self.path)
                    publish_file(self.files, path, manifest.encode()).close()
            except CheckpointRefused:
                self._remove(path.name + TEMPORARY_SUFFIX)
                self.files.rename(self.data_path(manifest), self.staged(stem))
                raise
            with self._books:
                # With both on disk, a start goes on from the newer one, as it would have before.
                others = (other for other in self._valid if not self._is_replaced(other, manifest))
                self._valid = _newest_first((manifest, *others))
                self.damaged = ()
                if not manifest.received:
                    self._needed = max(self._needed, manifest.index)
            self._delete_superseded()
            return self._valid[0]

    def _is_replaced(self, other: CheckpointManifest, by: CheckpointManifest) -> bool:
        replaces = other.index > by.index or (other.index == by.index and other.state_hash != by.state_hash)
        return by.received and replaces and self.gives_way(other, by)

    def _make_way(self, manifest: CheckpointManifest) -> None:
        """Delete the one of the same entry and another state: after a crash, no manifest may stand beside data of
        another one. A crash in between leaves what there was before it came. Raises CheckpointRefused.
        """
        with self._books:
            here = self.find(manifest.index)
            if here is None or here.state_hash == manifest.state_hash:
                return
            if here.index in self._held:
                raise CheckpointRefused(f"a checkpoint of entry {here.index} with another state is to be installed")
            self._valid = tuple(other for other in self._valid if other is not here)
        self._delete([checkpoint_stem(here.index)])

    def delete_superseded(self) -> None:
        """Delete the checkpoints that are not kept, if there is a newest one."""
        with self._lock:
            if self._valid:
                self._delete_superseded()

    def forget_above(self, index: Index) -> None:
        """Delete the damaged checkpoints that are newer than entry `index`, lest they hide the ones made later."""
        with self._lock:
            with self._books:
                self._needed = min(self._needed, index)  # what was installed is lost: the node goes on from here
            stem = checkpoint_stem(index)
            self._delete(other for other in self._stems() if other > stem)

    def forget_below(self, index: Index) -> None:
        """Delete checkpoints of entries before `index` that are not held: the log does not reach back to them."""
        with self._lock:
            with self._books:
                gone = [older for older in self._valid if older.index < index and older.index not in self._held]
                self._valid = tuple(manifest for manifest in self._valid if manifest not in gone)
            self._delete({checkpoint_stem(manifest.index) for manifest in gone} & self._stems())

    def _delete_superseded(self) -> None:
        with self._books:
            # First of all: what is about to be deleted can no longer be held.
            self._valid = tuple(self._kept())
            kept = {checkpoint_stem(manifest.index) for manifest in self._valid}
        self._delete(self._stems() - kept)

    def _kept(self) -> Iterator[CheckpointManifest]:
        """Yield the newest, the newest one before it that state and log may rest on, and all that are held."""
        fallback_found = False
        for place, manifest in enumerate(self._valid):
            is_fallback = place > 0 and not fallback_found and not self._is_pending(manifest)
            fallback_found |= is_fallback
            if place == 0 or is_fallback or manifest.index in self._held:
                yield manifest

    def _is_pending(self, manifest: CheckpointManifest) -> bool:
        """Whether it was received, and state and log do not rest on it, or not yet."""
        return manifest.received and manifest.index > self._needed

    def _stems(self) -> set[str]:
        names = self.files.names(self.path)
        return {name.rpartition(".")[0] for name in names if not name.endswith(TEMPORARY_SUFFIX)} - {INCOMING, CREATING}

    def _delete(self, stems: Iterable[str]) -> None:
        """Delete checkpoints: manifests first, so that none is left without its data."""
        others = sorted(stems)
        names = self.files.names(self.path)
        for suffix in (MANIFEST_SUFFIX, DATA_SUFFIX):
            gone = [other + suffix for other in others if other + suffix in names]
            for name in gone:
                self.files.unlink(self.path / name)
            if gone:
                self.files.fsync_dir(self.path)

    # Reading one

    def open_reader(self, manifest: CheckpointManifest) -> CheckpointReader:
        """Open a checkpoint for reading; it stays readable when it is deleted meanwhile. Raises DamagedCheckpoint."""
        try:
            return CheckpointReader(self, manifest, self.files.open(self.data_path(manifest)))
        except FileNotFoundError as error:
            raise self.condemn(manifest, "the file is gone") from error

    def condemn(self, manifest: CheckpointManifest, problem: str) -> DamagedCheckpoint:
        """Do not offer a damaged checkpoint again. Its files stay until the next one is published."""
        message = (
            f"the checkpoint of entry {manifest.index} is damaged: {self.data_path(manifest)}: {problem}. The way out: "
            "nothing as long as the node runs, it makes another one, and starts from the one before; if it refuses to "
            f"start, `{REPAIR}`"
        )
        with self._books:
            self._valid = tuple(other for other in self._valid if other.index != manifest.index)
            self.damaged = (*self.damaged, message)
        return DamagedCheckpoint(message)

    # The checkpoint that is being received

    def incoming_manifest(self) -> CheckpointManifest | None:
        """Return that of an interrupted transfer."""
        name = INCOMING + MANIFEST_SUFFIX
        if name not in self.files.names(self.path):
            return None
        try:
            return decode_manifest(read_file(self.files, self.path / name))
        except FormatError:
            return None

    def begin_incoming(self, manifest: CheckpointManifest) -> None:
        publish_file(self.files, self.path / (INCOMING + MANIFEST_SUFFIX), manifest.encode()).close()

    def drop_incoming(self) -> None:
        for suffix in (MANIFEST_SUFFIX + TEMPORARY_SUFFIX, MANIFEST_SUFFIX, DATA_SUFFIX):
            self._remove(INCOMING + suffix)

    def drop_overtaken(self, newest: CheckpointManifest) -> None:
        """Forget what was received of a checkpoint that is not newer than `newest`. Nothing is writing it."""
        staged = self.incoming_manifest()
        if staged is not None and staged.index <= newest.index:
            self.drop_incoming()

    def drop_created(self) -> None:
        """Forget the copy that was to be published."""
        self._remove(CREATING + DATA_SUFFIX)

    def _remove(self, name: str) -> None:
        if name in self.files.names(self.path):
            self.files.unlink(self.path / name)


class CheckpointReader:
    """An open checkpoint. Used by one thread at a time."""

    def __init__(self, directory: CheckpointDirectory, manifest: CheckpointManifest, file: File) -> None:
        self.manifest = manifest
        self._directory = directory
        self._file = file
        self._start = -1
        self._chunk = b""
        """The chunk read last, found right, and where it begins."""

    def read_chunk(self, offset: int, size: int) -> Chunk:
        """Read up to `size` bytes at `offset`: fewer at the end of a chunk. Raises DamagedCheckpoint."""
        invariant(0 <= offset < self.manifest.size, "byte {} of a checkpoint of {}", offset, self.manifest.size)
        start, _ = self.manifest.chunk_at(offset)
        if start != self._start:
            self._chunk, self._start = self._read(start), start
        data = self._chunk[offset - start : offset - start + size]
        return Chunk(offset, data, google_crc32c.value(data))

    def blocks(self) -> Iterator[bytes]:
        """Read everything. Raises DamagedCheckpoint."""
        for start in range(0, self.manifest.size, CHUNK_BYTES):
            go_on(self._directory.closing.is_set)
            yield self._read(start)

    def close(self) -> None:
        self._file.close()

    def _read(self, start: int) -> bytes:
        start, stop = self.manifest.chunk_at(start)
        data = self._file.pread(stop - start, start)
        if len(data) != stop - start or google_crc32c.value(data) != self.manifest.chunk_crcs[start // CHUNK_BYTES]:
            raise self._directory.condemn(self.manifest, f"byte offset {start}: checksum mismatch")
        return data


class OpenCopy:
    """A copy of a state for somebody to read: a snapshot that keeps nothing from reuse but its own file."""

    def __init__(self, opened: AbstractContextManager[Reader], reader: Reader, size: int) -> None:
        self.size = size
        """Of the file."""
        self._opened = opened
        self._reader = reader

    def reader(self, stopped: Callable[[], bool]) -> Reader:
        """Return what to read it by, in one thread at a time. Scans raise CheckpointRefused once `stopped`."""
        return _StoppableReader(self._reader, stopped)

    def close(self) -> None:
        """Give the file back. Nobody reads any more."""
        self._opened.__exit__(None, None, None)


class _StoppableReader:
    """A `Reader` whose scans end when they are no longer wanted: a large state takes seconds to read."""

    def __init__(self, reader: Reader, stopped: Callable[[], bool]) -> None:
        self._reader = reader
        self._stopped = stopped

    def get(self, key: bytes) -> bytes | None:
        return self._reader.get(key)

    def first(self, start: bytes, stop: bytes | None) -> tuple[bytes, bytes] | None:
        return self._reader.first(start, stop)

    def head(self, start: bytes, stop: bytes | None, most: int) -> tuple[bytes, bytes, int] | None:
        return self._reader.head(start, stop, most)

    def scan(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        for row in self._reader.scan(start, stop):
            go_on(self._stopped)
            yield row

    def heads(self, start: bytes, stop: bytes | None, most: int) -> Iterator[tuple[bytes, bytes, int]]:
        for head in self._reader.heads(start, stop, most):
            go_on(self._stopped)
            yield head


def go_on(stopped: Callable[[], bool]) -> None:
    """Raise CheckpointRefused when `stopped`."""
    if stopped():
        raise CheckpointRefused("the checkpoint was given up: the node stops, or its state is being replaced")


def _newest_first(manifests: Iterable[CheckpointManifest]) -> tuple[CheckpointManifest, ...]:
    return tuple(sorted(manifests, key=lambda manifest: -manifest.index))


def checkpoint_stem(index: Index) -> str:
    return f"{index:020d}"


def complete(manifest: CheckpointManifest, configuration: bytes) -> CheckpointManifest:
    """Put in the configuration that `copy_state` could not know."""
    return replace(manifest, meta=replace(manifest.meta, configuration=configuration))


def _told(blocks: Iterable[bytes], progress: Callable[[int], object]) -> Iterator[bytes]:
    for block in blocks:
        yield block
        progress(len(block))


def _write_chunks(
    file: File, blocks: Iterable[bytes], stopped: Callable[[], bool], room: CheckpointRoom
) -> tuple[int, tuple[int, ...]]:
    size, crc, crcs = 0, 0, []
    for block in blocks:
        go_on(stopped)
        write_all(file, block, size)
        view, synced = memoryview(block), size // COPY_SYNC_BYTES
        while view:
            part = view[: CHUNK_BYTES - size % CHUNK_BYTES]
            crc = google_crc32c.extend(crc, bytes(part))
            size += len(part)
            view = view[len(part) :]
            if size % CHUNK_BYTES == 0:
                crcs.append(crc)
                crc = 0
        if size // COPY_SYNC_BYTES > synced:
            room.require(0, A_COPY)  # the log has grown meanwhile
            begin_s = time.monotonic()
            flush(file)
            time.sleep(time.monotonic() - begin_s)
    if size % CHUNK_BYTES:
        crcs.append(crc)
    return size, tuple(crcs)
