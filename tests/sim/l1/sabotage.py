"""One safeguard of the driver, the request layer or the storage switched off at a time: would the simulator notice?

The core's rules are switched off in tests/raft/sabotage.py; those that a whole node shows are run here as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from raftkv.kv.commands import Result
from raftkv.kv.keys import RESULTS, SESSIONS
from raftkv.kv.session import Session
from raftkv.raft import Entry, HardState, Index, LogWrite, NodeId, Snapshot
from raftkv.raft.log import Log
from raftkv.server import wire
from raftkv.server.barriers import Barriers
from raftkv.server.checkpoints import Checkpoints
from raftkv.server.peer_book import PeerBook
from raftkv.server.requests import Attempt
from raftkv.storage import data_dir, recovery, wal_recovery
from raftkv.storage.checkpoint import CheckpointManifest
from raftkv.storage.checkpoint_directory import CheckpointDirectory
from raftkv.storage.checkpoint_receive import Incoming
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.data_dir import DataDir
from raftkv.storage.memory import MemoryOrderedStore
from raftkv.storage.protocols import RecoveredLog
from raftkv.storage.wal import WriteAheadLog
from raftkv.storage.wal_format import Flaw, Record, Segment, decode_record, record_end
from raftkv.storage.wal_segments import SegmentWriter
from raftkv.v1 import common_pb2
from tests.sim.l1.disk import CrashableStore, NodeDisk
from tests.sim.l1.oracle import Oracle

SESSIONS_END = bytes([RESULTS[0] + 1])

Patch = pytest.MonkeyPatch


def repeated_writes_are_applied_again(patch: Patch) -> None:
    """Thesis 6.3, raft-bugs 44: sessions remember nothing."""

    def forgetful(session: Session, sequence: int) -> Result | None:
        return None

    patch.setattr(Session, "judge", forgetful)
    patch.setattr(Session, "forget_acknowledged", lambda session: [])  # it would stumble over what came twice


def entries_are_applied_before_they_are_durable_here(patch: Patch) -> None:
    """DESIGN.md section 4, L2: what is committed is applied although the node's own disk may lose it."""

    def hasty(log: Log, max_bytes: int) -> tuple[Entry, ...]:
        start, stop = Index(log.handed_out + 1), Index(log.commit + 1)
        return log.slice(start, stop, max_bytes) if start < stop else ()

    patch.setattr(Log, "applicable", hasty)
    patch.setattr(Log, "validate", lambda log: None)  # else it stops the node, and nobody has to look for the damage


def appends_are_confirmed_before_they_are_durable(patch: Patch) -> None:
    """Paper 5.1, raft-bugs 32: the log's answer does not wait for the disk."""

    async def hasty(log: WriteAheadLog, hard_state: HardState, entries: Sequence[Entry]) -> None:
        batch = tuple(entries)
        log._shape.advance(hard_state, batch)
        log._worker.run(lambda: log._writer.append(hard_state, batch)).add_done_callback(_retrieve)
        await asyncio.sleep(0)

    patch.setattr(WriteAheadLog, "append", hasty)


def appends_are_not_synced(patch: Patch) -> None:
    """Raft-bugs 32: a record is written, and never flushed."""
    append_record = SegmentWriter._append_record

    def lazy(writer: SegmentWriter, *record: Any) -> None:
        sync, writer._file.fdatasync = writer._file.fdatasync, lambda: None  # type: ignore[method-assign]
        try:
            append_record(writer, *record)
        finally:
            writer._file.fdatasync = sync  # type: ignore[method-assign]

    patch.setattr(SegmentWriter, "_append_record", lazy)


def the_store_is_kept_over_a_power_loss(patch: Patch) -> None:
    """DESIGN.md section 4: the boot id is not looked at."""
    patch.setattr(data_dir, "store_is_trustworthy", lambda recorded, current, clean: True)


def directories_are_not_synced(patch: Patch) -> None:
    """Raft-bugs 33: names are not durable."""

    def nothing(disk: NodeDisk, directory: Path) -> None:
        pass

    patch.setattr(NodeDisk, "fsync_dir", nothing)


def torn_records_are_accepted(patch: Patch) -> None:
    """Raft-bugs 34: the checksum of a record is not looked at."""

    def trusting(image: bytes, offset: int, segment: Segment) -> Record | Flaw:
        found = decode_record(image, offset, segment)
        if found is not Flaw.CHECKSUM:
            return found
        return decode_record(_with_checksum(image, offset, segment), offset, segment)

    patch.setattr(wal_recovery, "decode_record", trusting)


def a_torn_tail_is_left_where_it_is(patch: Patch) -> None:
    """Raft-bugs 34: recovery goes on behind a torn write without removing it."""
    resume = SegmentWriter.resume

    def careless(writer: SegmentWriter, found: Any) -> None:
        resume(writer, found)
        if found.torn is not None:
            writer._offset = found.torn.stop + (-found.torn.stop) % 8

    patch.setattr(SegmentWriter, "resume", careless)


def reads_do_not_wait_for_the_state(patch: Patch) -> None:
    """Thesis 6.4, step 4: a confirmed read is served from whatever is applied."""

    def hasty(barriers: Barriers, request: int, index: int) -> None:
        for barrier in barriers._asked.pop(request):
            if not barrier.done():
                barrier.set_result(None)

    patch.setattr(Barriers, "confirmed", hasty)


def open_outcomes_are_answered_as_no_effect(patch: Patch) -> None:
    """Raft-bugs 44: nobody is told that a write may have taken effect."""
    to_error = wire.to_error

    def denying(error: Any) -> common_pb2.Error:
        told = to_error(error)
        told.ambiguous = False
        return told

    patch.setattr(wire, "to_error", denying)
    patch.setattr(Attempt, "admit_uncertainty", lambda attempt: None)


def writes_without_a_session_are_repeated(patch: Patch) -> None:
    """Raft-bugs 44: a follower forwards a write again although the first attempt's outcome is open."""
    patch.setattr(Attempt, "repeatable", property(lambda attempt: True))


def a_node_votes_again_after_a_restart(patch: Patch) -> None:
    """Paper figure 2, raft-bugs 1: recovery forgets the vote."""
    opened = WriteAheadLog.open.__func__  # type: ignore[attr-defined]

    def forgetful(cls: type[WriteAheadLog], /, directory: Path, **options: Any) -> tuple[WriteAheadLog, RecoveredLog]:
        log, found = opened(cls, directory, **options)
        hard_state = HardState(term=found.hard_state.term, vote=None, commit=found.hard_state.commit)
        return log, dataclasses.replace(found, hard_state=hard_state)

    patch.setattr(WriteAheadLog, "open", classmethod(forgetful))


def a_failed_sync_is_tried_again(patch: Patch) -> None:
    """Raft-bugs 39: the log goes on after an error."""
    append = SegmentWriter.append

    def stubborn(writer: SegmentWriter, hard_state: HardState, entries: Sequence[Entry]) -> None:
        try:
            append(writer, hard_state, entries)
        except Exception:  # noqa: BLE001 - that is the sabotage
            writer._failure = ""
            writer._file.fdatasync()

    patch.setattr(SegmentWriter, "append", stubborn)


def sessions_are_left_out_of_checkpoints(patch: Patch) -> None:
    """Raft-bugs 31: a copy of the state has all keys, and nobody's sessions; nor does the hash of a state tell."""
    _copies_lack(patch, SESSIONS)


def results_are_left_out_of_checkpoints(patch: Patch) -> None:
    """Raft-bugs 31: a copy of the state knows the sessions, and not what they were answered."""
    _copies_lack(patch, RESULTS)


def _copies_lack(patch: Patch, first: bytes) -> None:
    """Leave the rows from `first` to the end of the sessions out of every copy."""
    copy: Any = CrashableStore.copy

    @contextmanager
    def partial_copy(store: CrashableStore) -> Iterator[Iterator[bytes]]:
        kept = MemoryOrderedStore()
        with store.read() as reader, kept.write() as writer:
            for key, value in reader.scan(b"\0", None):
                if not first <= key < SESSIONS_END:
                    writer.put(key, value)
        with copy(kept) as blocks:
            yield blocks

    patch.setattr(CrashableStore, "copy", partial_copy)
    patch.setattr(Oracle, "hashed", lambda oracle, node, index, digest: None)


def _recovery_goes_by_the_log(patch: Patch) -> None:
    """A log that begins behind a checkpoint is taken for the sign that its installation was finished.

    Harmless, as long as the log is indeed what an installation replaces last (raft-bugs 28).
    """
    needs_restart, restore = recovery.needs_restart, CheckpointStore.restore_at_start
    interrupted: list[bool] = []

    def looks(log: RecoveredLog, checkpoint: CheckpointManifest) -> bool:
        interrupted[:] = [needs_restart(log, checkpoint)]
        return interrupted[0]

    def trusting(checkpoints: CheckpointStore[Any], manifest: CheckpointManifest, store: CrashableStore) -> Any:
        if store.size_bytes() and not interrupted[0]:
            return store
        return restore(checkpoints, manifest, store)

    patch.setattr(recovery, "needs_restart", looks)
    patch.setattr(CheckpointStore, "restore_at_start", trusting)


def _the_log_is_replaced_first(patch: Patch) -> None:
    """Raft-bugs 28: the old log is given up before the state is there. By itself, recovery makes up for that."""

    async def hasty(checkpoints: Checkpoints, write: LogWrite, snapshot: Snapshot) -> None:
        state = replace(write.hard_state, commit=snapshot.index)
        await checkpoints._log_store.restart(state, snapshot.index, snapshot.term)
        if write.entries:
            await checkpoints._log_store.append(write.hard_state, write.entries)
        await checkpoints._keeper.restore(snapshot)
        checkpoints._policy.restored(snapshot.index)

    patch.setattr(Checkpoints, "restore", hasty)


def an_install_replaces_the_log_first(patch: Patch) -> None:
    """Raft-bugs 28: log before state, and a recovery that relies on the other order."""
    _recovery_goes_by_the_log(patch)
    _the_log_is_replaced_first(patch)


def the_state_is_not_restored_at_recovery(patch: Patch) -> None:
    """Raft-bugs 28, 29: an interrupted installation is not finished; the store that is there goes on."""

    def trusting(checkpoints: CheckpointStore[Any], manifest: CheckpointManifest, store: Any) -> Any:
        return store

    patch.setattr(CheckpointStore, "restore_at_start", trusting)
    patch.setattr(recovery, "_require_state", lambda checkpoint, applied: None)
    patch.setattr(RecoveredLog, "require_covers", lambda log, applied: None)


def the_log_is_kept_at_recovery(patch: Patch) -> None:
    """Raft-bugs 26, 27, 28: after an interrupted installation the old log goes on behind the new state."""
    patch.setattr(recovery, "needs_restart", lambda log, checkpoint: False)


def checkpoints_are_not_synced(patch: Patch) -> None:
    """Raft-bugs 28, 33: a checkpoint counts, and the log is compacted, before its bytes are on the disk."""
    copy_state, finish = CheckpointDirectory.copy_state, Incoming.finish

    def unsynced(file: Any) -> Any:
        file.fdatasync = lambda: None
        return file

    def lazy_copy(directory: Any, store: Any, stopped: Any) -> CheckpointManifest:
        create = directory.files.create
        directory.files.create = lambda path: unsynced(create(path))
        try:
            return copy_state(directory, store, stopped)
        finally:
            del directory.files.create

    def lazy_finish(incoming: Incoming) -> CheckpointManifest:
        if incoming._file is not None:
            unsynced(incoming._file)
        return finish(incoming)

    patch.setattr(CheckpointDirectory, "copy_state", lazy_copy)
    patch.setattr(Incoming, "finish", lazy_finish)


def a_lost_disk_is_not_noticed(patch: Patch) -> None:
    """ADR 0004: nobody asks which disk stands behind an id."""
    admits = PeerBook.admits

    def blind(book: PeerBook, node: NodeId, incarnation: int) -> bool:
        admits(book, node, incarnation)
        return True

    patch.setattr(PeerBook, "admits", blind)


def a_clean_mark_is_left_where_it_is(patch: Patch) -> None:
    """DESIGN.md section 4: a node that was shut down in order once counts as such for ever."""
    mark_running = DataDir.mark_running

    def lazy(directory: DataDir) -> None:
        if directory.clean_shutdown is None:
            mark_running(directory)

    patch.setattr(DataDir, "mark_running", lazy)


def _with_checksum(image: bytes, offset: int, segment: Segment) -> bytes:
    """Return the segment with the checksum of one record made right."""
    end = record_end(image, offset)
    crc: int = google_crc32c.extend(segment.seed, image[offset + 8 : end])
    return image[: offset + 4] + crc.to_bytes(4, "little") + image[offset + 8 :]


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
