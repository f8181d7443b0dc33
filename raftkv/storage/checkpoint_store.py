"""The checkpoints of a node, as the driver uses them: make, send, receive, restore. The event loop waits for none."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from raftkv.errors import StorageError
from raftkv.kv.store import Reader
from raftkv.raft.types import Index, Term
from raftkv.storage.checkpoint import (
    CheckpointManifest,
    CheckpointRefused,
    Chunk,
    S,
    StateEngine,
    StateInfo,
    refuse_when_full,
)
from raftkv.storage.checkpoint_directory import (
    CREATING,
    CheckpointDirectory,
    CheckpointReader,
    OpenCopy,
    complete,
    go_on,
)
from raftkv.storage.checkpoint_receive import Incoming
from raftkv.storage.checkpoint_room import CheckpointRoom
from raftkv.storage.files import FileSystem, OsFileSystem
from raftkv.storage.progress import UNHEARD, Phase, Progress
from raftkv.storage.wal_segments import describe_os_error
from raftkv.storage.worker import Runner, Worker

T = TypeVar("T")


class CheckpointStore(Generic[S]):
    """The two newest checkpoints, and the one that is being made or received.

    Methods raise StorageError when the disk fails, and from then on: the node must stop. CheckpointRefused and
    DamagedCheckpoint are not that: nothing has changed, and the node goes on.
    """

    def __init__(
        self, directory: CheckpointDirectory, engine: StateEngine[S], make_runner: Callable[[str], Runner] = Worker
    ) -> None:
        self._directory = directory
        self._engine = engine
        self._creating = make_runner("raftkv-checkpoint")
        self._transfers = make_runner("raftkv-transfer")
        self._incoming: Incoming | None = None
        self._give_up_copy = threading.Event()
        self._aside: set[threading.Event] = set()
        """Of copies that are being made for readers: sets one, and it is given up."""
        self._restoring = False
        self._busy = False
        self._closed = False
        self._failure = ""
        """What the disk failed with. Nothing is tried after that: a flush that is repeated lies (raft-bugs 39)."""

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        engine: StateEngine[S],
        inspect: Callable[[Reader], StateInfo],
        files: FileSystem | None = None,
        make_runner: Callable[[str], Runner] = Worker,
        room: CheckpointRoom | None = None,
    ) -> Self:
        """Open or create the directory of checkpoints (the parent must exist). Blocks. Raises StorageError.

        `inspect` says which state a store holds; it is called in another thread, and takes its time. `room`: what may
        be taken on the disk; None: all of it.
        """
        directory = CheckpointDirectory(files or OsFileSystem(), path, engine.open_copy, inspect, room)
        with _storage_errors(path):
            directory.load()
        return cls(directory, engine, make_runner)

    @property
    def newest(self) -> CheckpointManifest | None:
        """The checkpoint that counts; None without one."""
        return self._directory.newest

    @property
    def path(self) -> Path:
        return self._directory.path

    @property
    def valid(self) -> tuple[CheckpointManifest, ...]:
        """All that are there, newest first. More than two only after a crash, or while one is held."""
        return self._directory.valid

    @property
    def fallback(self) -> CheckpointManifest | None:
        """What takes the place of `newest` if that turns out to be damaged, as long as the log reaches back to it."""
        return self._directory.fallback

    @property
    def damaged(self) -> tuple[str, ...]:
        """What is wrong with checkpoints that were found damaged."""
        return self._directory.damaged

    def condemn(self, manifest: CheckpointManifest, problem: str) -> str:
        """Do not offer a checkpoint again that was found damaged. Return what is to be said of it. In any thread."""
        return self._directory.condemn(manifest, problem).message

    async def create(self, store: S, configuration_at: Callable[[Index, Term], bytes]) -> CheckpointManifest:
        """Make a checkpoint of what `store` has committed; return it, durable and the newest.

        Writes go on meanwhile. The copy decides at which entry it was taken; `configuration_at` is then asked, in the
        event loop, for the configuration in force there. When that entry has a checkpoint already, nothing is done.
        Raises CheckpointRefused: no room, nothing applied yet, a newer one has been received, one is being made
        already, or it was stopped by `close` or `restore`.
        """
        self._require_open()
        if self._busy or self._restoring:
            raise CheckpointRefused("a checkpoint is being made or restored already")
        self._busy = True
        give_up = self._give_up_copy = threading.Event()
        try:
            copied = await self._run(self._creating, partial(self._directory.copy_state, store, give_up.is_set))
            go_on(give_up.is_set)
            if not copied.index:
                raise CheckpointRefused("nothing has been applied yet")
            manifest = complete(copied, configuration_at(copied.index, copied.term))
            newest = await self._run(self._creating, partial(self._publish_created, manifest))
            if newest.index != manifest.index:
                raise CheckpointRefused(f"a checkpoint of entry {newest.index} was received meanwhile")
            await self._run(self._transfers, partial(self._drop_overtaken, newest))
            return newest
        finally:
            # Also when cancelled, with the copy still under way.
            give_up.set()
            self._busy = False

    async def copy_aside(self, store: S) -> OpenCopy:
        """Copy what `store` has committed, for a reader who takes his time. Writes go on meanwhile.

        It takes the room of a copy on the disk until it is closed, and is no checkpoint. Raises CheckpointRefused: no
        room, or it was stopped by `close` or `restore`.
        """
        self._require_open()
        if self._restoring:
            raise CheckpointRefused("the state is being replaced")
        give_up = threading.Event()
        self._aside.add(give_up)
        try:
            job = partial(self._directory.copy_aside, store, f"aside-{id(give_up):x}", give_up.is_set)
            return await self._run(self._creating, job)
        finally:
            # Also when cancelled, with the copy still under way.
            give_up.set()
            self._aside.discard(give_up)

    def send(self) -> Sending:
        """Open the newest checkpoint for sending. Raises CheckpointRefused when there is none."""
        self._require_open()
        if self.newest is None:
            raise CheckpointRefused("there is no checkpoint")
        reader = self._guarded(partial(self._directory.open_reader, self.newest))
        return Sending(reader, partial(self._run, self._transfers))

    async def begin(self, manifest: CheckpointManifest) -> Receiving:
        """Begin to receive a checkpoint, or go on where an interrupted transfer of the same one ended.

        A transfer that is under way ends. A checkpoint whose index is that of the newest one here is received
        already. Raises CheckpointRefused: an older one than is here (and needed), or no room.
        """
        self._require_open()
        incoming = await self._run(self._transfers, partial(self._begin, manifest))
        return Receiving(incoming, partial(self._run, self._transfers))

    def hold(self, index: Index, term: Term) -> bool:
        """Keep the checkpoint of entry `index` of `term` until it is restored, also when a newer one is published.

        False: it is not here. At once: nothing waits for a disk.
        """
        return self._directory.hold(index, term)

    def release(self, index: Index) -> None:
        """Undo `hold`: it is not going to be restored."""
        self._directory.release(index)

    async def restore(self, store: S, index: Index) -> S:
        """Replace `store` by the copy in the checkpoint of entry `index`; return the new store. `store` is closed then.

        The old one serves until the very end: it is closed and replaced without giving way to another task. A crash
        leaves the old store or the new one. Raises DamagedCheckpoint and leaves `store` as it is; so does NoRoom, and
        the checkpoint is held on, so that it may be tried again.
        """
        self._require_open()
        manifest = self._directory.find(index)
        if manifest is None:
            raise CheckpointRefused(f"there is no checkpoint of entry {index}")
        await self._run(self._transfers, partial(self._prepare_held, manifest))
        self._restoring = True
        try:
            self._give_up_copies()
            await self._run(self._creating, _nothing)
            return self._engine.swap(store)
        finally:
            self._restoring = False

    async def with_scratch(self, job: Callable[[S], T]) -> T:
        """Run `job`, in a thread, with an empty store that is gone afterwards. Raises CheckpointRefused: no room."""

        def work() -> T:
            with refuse_when_full(), self._engine.scratch() as store:
                return job(store)

        return await self._run(self._transfers, work)

    def restore_at_start(self, manifest: CheckpointManifest, store: S | None, progress: Progress = UNHEARD) -> S:
        """Do what `restore` does, blocking, with the checkpoint of choice. Before the node runs. Raises NoRoom."""
        with (
            _storage_errors(self._directory.path),
            progress.phase("restoring the state from a checkpoint", manifest.size) as phase,
        ):
            self._prepare(manifest, phase)
        return self._engine.swap(store)

    async def forget_above(self, manifest: CheckpointManifest) -> None:
        """Delete damaged checkpoints that are newer than `manifest`: the node goes on from that one."""
        await self._run(self._transfers, partial(self._directory.forget_above, manifest.index))

    async def forget_damaged(self) -> None:
        """Delete what was found damaged, if there is another one. Raises StorageError."""
        await self._run(self._transfers, self._directory.delete_superseded)

    async def forget_below(self, index: Index) -> None:
        """Delete the checkpoints of entries before `index` that are not held: the log begins anew there."""
        await self._run(self._transfers, partial(self._directory.forget_below, index))

    async def close(self) -> None:
        """Give up what is under way. Idempotent. Before the state store is closed, which would wait for its copy."""
        self._closed = True
        self._give_up_copies()
        self._directory.closing.set()
        await self._creating.stop()
        await self._transfers.stop()
        if self._incoming is not None:
            self._incoming.close()

    def _give_up_copies(self) -> None:
        for copying in (self._give_up_copy, *self._aside):
            copying.set()

    def _publish_created(self, manifest: CheckpointManifest) -> CheckpointManifest:
        try:
            return self._directory.publish(CREATING, manifest)
        except CheckpointRefused:
            self._directory.drop_created()
            raise

    def _drop_overtaken(self, newest: CheckpointManifest) -> None:
        """End a transfer that would bring nothing newer, and forget one that nobody has resumed."""
        if self._incoming is not None and self._incoming.manifest.index <= newest.index:
            self._incoming.close()
            self._incoming = None
        self._directory.drop_overtaken(newest)

    def _begin(self, manifest: CheckpointManifest) -> Incoming:
        # In the thread that writes: a piece of the transfer that ends may be under way.
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None
        self._incoming = Incoming(self._directory, manifest)
        return self._incoming

    def _prepare_held(self, manifest: CheckpointManifest) -> None:
        self._prepare(manifest)
        # Durable beside the store by now. If a newer one has been published meanwhile, a start after a crash goes on
        # from that one, and this one is no longer needed.
        self._directory.installed(manifest.index)
        self._directory.release(manifest.index)
        self._directory.delete_superseded()

    def _prepare(self, manifest: CheckpointManifest, phase: Phase | None = None) -> None:
        reader = self._directory.open_reader(manifest)
        try:
            blocks = reader.blocks()
            self._engine.prepare(blocks if phase is None else _told(blocks, phase))
        finally:
            reader.close()

    async def _run(self, runner: Runner, job: Callable[[], T]) -> T:
        self._require_open()
        return await runner.run(partial(self._guarded, job))

    def _guarded(self, job: Callable[[], T]) -> T:
        """Do a job. Its failure counts also when whoever waited for it is gone: a peer that hung up, say."""
        if self._failure:
            raise StorageError(self._failure)
        try:
            return job()
        except OSError as error:
            self._failure = describe_os_error(self._directory.path, error)
            raise StorageError(self._failure) from error

    def _require_open(self) -> None:
        if self._closed:
            raise CheckpointRefused("the checkpoints are closed: the node stops")


class _Run(Protocol):
    def __call__(self, job: Callable[[], T]) -> Awaitable[T]: ...


class Sending:
    """A checkpoint on its way to a peer. It can be read to its end even when a newer one has replaced it."""

    def __init__(self, reader: CheckpointReader, run: _Run) -> None:
        self._reader = reader
        self._run = run

    @property
    def manifest(self) -> CheckpointManifest:
        return self._reader.manifest

    def encoded_manifest(self) -> bytes:
        return self.manifest.encode()

    def size_bytes(self) -> int:
        return self.manifest.size

    async def read_chunk(self, offset: int, size: int) -> Chunk:
        """Read up to `size` bytes at `offset`, fewer at the end of a chunk. One call at a time.

        Raises DamagedCheckpoint: this checkpoint is not offered again, the one before it is, until the next is made.
        """
        return await self._run(partial(self._reader.read_chunk, offset, size))

    def close(self) -> None:
        self._reader.close()


class Receiving:
    """A checkpoint that is on its way here. Dropped without `abort`, it can be resumed; one call at a time."""

    def __init__(self, incoming: Incoming, run: _Run) -> None:
        self._incoming = incoming
        self._run = run

    @property
    def manifest(self) -> CheckpointManifest:
        return self._incoming.manifest

    @property
    def offset(self) -> int:
        """Where the transfer goes on; the size of the checkpoint when nothing is missing."""
        return self._incoming.offset

    async def write_chunk(self, offset: int, data: bytes, crc: int) -> int:
        """Take a piece; return where to go on. See `Incoming.write_chunk`."""
        return await self._run(partial(self._incoming.write_chunk, offset, data, crc))

    async def finish(self) -> CheckpointManifest:
        """Verify everything, down to the state hash, and publish; see `Incoming.finish`.

        From the return on, a node that starts restores its state from this checkpoint if the state is older.
        """
        return await self._run(self._incoming.finish)

    async def abort(self) -> None:
        """Forget what was received."""
        await self._run(self._incoming.abort)


def _told(blocks: Iterator[bytes], phase: Phase) -> Iterator[bytes]:
    for block in blocks:
        yield block
        phase.advance(len(block))


def _nothing() -> None:
    pass


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(describe_os_error(path, error)) from error
