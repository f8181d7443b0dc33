"""One safeguard of the driver, the request layer or the storage switched off at a time: would the simulator notice?

The core's rules are switched off in tests/raft/sabotage.py; those that a whole node shows are run here as well.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import google_crc32c
import pytest

from raftkv.kv import compaction, fence, line, lock, txn
from raftkv.kv.commands import Branch, BranchDone, Fence, FenceMode, Place, Rejected, Result, Swept
from raftkv.kv.keys import LEASES, LOCKS, META, RESULTS, SESSIONS, lock_key, version_suffix
from raftkv.kv.lease_table import LeaseTable
from raftkv.kv.line import Granting, fits
from raftkv.kv.records import LockHead, PlaceRecord, encode_lock_head, encode_meta, read_meta
from raftkv.kv.session import Session
from raftkv.kv.store import Reader, Writer
from raftkv.raft import Configuration, Entry, HardState, Index, LogWrite, NodeId, Role, Snapshot, core, quorum
from raftkv.raft.log import Log
from raftkv.server import node, wire
from raftkv.server.barriers import Barriers
from raftkv.server.checkpoints import Checkpoints
from raftkv.server.cluster_time import ClusterTime
from raftkv.server.durability import Durability
from raftkv.server.peer_book import PeerBook
from raftkv.server.read_points import ReadPoint, ReadPoints
from raftkv.server.reads import Reads
from raftkv.server.requests import Attempt
from raftkv.server.upkeep import Upkeep
from raftkv.server.watch_hub import WatchHub
from raftkv.server.watch_sender import WatchSender
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
from raftkv.v1 import common_pb2, watch_pb2
from tests.sim.l1.disk import CrashableStore, NodeDisk
from tests.sim.l1.loop import PROCESS
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
    _copies_have(patch, lambda key, value: None if first <= key < SESSIONS_END else value)


def _recovery_goes_by_the_log(patch: Patch) -> None:
    """A log that begins behind a checkpoint is taken for the sign that its installation was finished.

    Harmless, as long as the log is indeed what an installation replaces last (raft-bugs 28).
    """
    needs_restart, restore = recovery.needs_restart, CheckpointStore.restore_at_start
    interrupted: list[bool] = []

    def looks(log: RecoveredLog, checkpoint: CheckpointManifest) -> bool:
        interrupted[:] = [needs_restart(log, checkpoint)]
        return interrupted[0]

    def trusting(
        checkpoints: CheckpointStore[Any], manifest: CheckpointManifest, store: CrashableStore, *_: Any
    ) -> Any:
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

    def trusting(checkpoints: CheckpointStore[Any], manifest: CheckpointManifest, store: Any, *_: Any) -> Any:
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


# --- transactions, leases, locks, watches -----------------------------------------------------------------------------


def leases_are_judged_by_the_nodes_own_clock(patch: Patch) -> None:
    """DESIGN.md section 5, leases: what time it is when an entry is applied, instead of the entry's stamp."""
    for name, place in (("grant", 4), ("renew", 3), ("alive", 2), ("due", 1)):
        judge = getattr(LeaseTable, name)

        def by_own_clock(*arguments: Any, judge: Any = judge, place: int = place) -> Any:
            now_ms = int(asyncio.get_running_loop().time() * 1000)
            return judge(*arguments[:place], now_ms, *arguments[place + 1 :])

        patch.setattr(LeaseTable, name, by_own_clock)


def leases_expire_in_spite_of_renewals(patch: Patch) -> None:
    """Kv/lease_table: what a lease was granted for is all that counts."""

    def forgetful(table: LeaseTable, writer: Writer, lease: int, now_ms: int) -> int:
        found = table._leases.get(lease)
        return found.ttl_ms if found is not None and now_ms < found.deadline_ms else 0

    patch.setattr(LeaseTable, "renew", forgetful)


def leases_outlive_their_deadline_until_they_are_expired(patch: Patch) -> None:
    """Raft-bugs 46: a lease past its deadline is dead for every command."""
    patch.setattr(LeaseTable, "alive", lambda table, lease, now_ms: lease in table)


def nobody_ends_leases(patch: Patch) -> None:
    """Server/upkeep: the leader proposes no Expire."""
    patch.setattr(Upkeep, "_due", lambda upkeep: False)


def tokens_are_left_out_of_checkpoints(patch: Patch) -> None:
    """Raft-bugs 31: whoever was restored from a copy of the state counts tokens from the beginning."""

    def without_token(key: bytes, value: bytes) -> bytes:
        if key != META:
            return value
        kept = MemoryOrderedStore()
        with kept.write() as writer:
            writer.put(META, value)
        with kept.read() as reader:
            return encode_meta(read_meta(reader)._replace(last_token=0))

    _copies_have(patch, without_token)


def leases_are_left_out_of_checkpoints(patch: Patch) -> None:
    """Raft-bugs 31: a copy of the state has the keys, and not the leases that they live on."""
    _copies_have(patch, lambda key, value: None if LEASES <= key < LOCKS else value)


def _skip_fences(patch: Patch, mode: FenceMode) -> None:
    check = fence.check

    def careless(reader: Reader, leases: LeaseTable, one: Fence, now_ms: int) -> Rejected | None:
        return None if one.mode == mode else check(reader, leases, one, now_ms)

    patch.setattr(fence, "check", careless)


def fences_by_holder_are_not_checked(patch: Patch) -> None:
    """Notes/testing.md, fencing."""
    _skip_fences(patch, FenceMode.HOLDER)


def fences_by_newest_token_are_not_checked(patch: Patch) -> None:
    """Notes/testing.md, fencing."""
    _skip_fences(patch, FenceMode.MAX_SEEN)


def places_are_not_remembered_by_sessions(patch: Patch) -> None:
    """Raft-bugs 44: an acquire that is sent again is applied again."""
    remember = Session.remember

    def forgetful(session: Session, sequence: int, result: Result) -> None:
        if not isinstance(result, Place):
            remember(session, sequence, result)

    patch.setattr(Session, "remember", forgetful)


def contenders_overtake(patch: Patch) -> None:
    """Kv/lock: whoever fits beside the holders goes in, although others wait."""
    join = Granting.join

    def pushy(granting: Granting, lock: bytes, head: LockHead, place: PlaceRecord, *, at_once: bool) -> Any:
        return join(granting, lock, head, place, at_once=at_once or fits(head, place.exclusive))

    patch.setattr(Granting, "join", pushy)


def mutexes_let_two_in(patch: Patch) -> None:
    """Kv/line: one more than there may be."""
    patch.setattr(line, "fits", lambda head, exclusive: head.holders < 2)
    patch.setattr(lock, "fits", line.fits)


def releases_grant_nobody(patch: Patch) -> None:
    """Kv/line: whoever is next is not granted in the revision that makes room."""
    patch.setattr(
        Granting,
        "_go_on",
        lambda granting, name, head: granting._writing.writer.put(lock_key(name), encode_lock_head(head)),
    )


def _watches_begin(patch: Patch, shift: int) -> None:
    judge = WatchSender._judge

    def shifted(sender: WatchSender, request: watch_pb2.WatchCreate) -> Any:
        wish, start = judge(sender, request)
        return wish, max(start + shift, 1) if request.start_revision else start

    patch.setattr(WatchSender, "_judge", shifted)
    create = WatchSender._answer

    def denying(
        sender: WatchSender, watch_id: int, *, created: bool = False, revision: int = 0, error: Any = None
    ) -> None:
        create(
            sender, watch_id, created=created, revision=revision - shift if revision > shift else revision, error=error
        )

    patch.setattr(WatchSender, "_answer", denying)


def watches_resume_one_revision_too_late(patch: Patch) -> None:
    """Raft-bugs 45: a gap, which the answer does not admit."""
    _watches_begin(patch, 1)


def watches_resume_one_revision_too_early(patch: Patch) -> None:
    """Raft-bugs 45: a repeat, which the answer does not admit."""
    _watches_begin(patch, -1)


def watches_are_not_told_of_an_installed_snapshot(patch: Patch) -> None:
    """Raft-bugs 45: what lies between the state before and that of the snapshot is skipped."""

    def forgetful(hub: WatchHub, revision: int) -> None:
        hub.revision = revision
        hub._clear()

    patch.setattr(WatchHub, "reset", forgetful)


def a_pause_of_the_leader_counts_as_time(patch: Patch) -> None:
    """Server/cluster_time: leases end by a pause in which nobody could renew them."""
    patch.setattr(ClusterTime, "_step", lambda time, now_ms: now_ms - time._ticked_ms)


def cluster_time_runs_fast(patch: Patch) -> None:
    """Server/cluster_time: a tenth faster than the clock."""
    step = ClusterTime._step
    patch.setattr(ClusterTime, "_step", lambda time, now_ms: 1.1 * step(time, now_ms))


def sweeps_remove_what_can_be_seen(patch: Patch) -> None:
    """Kv/compaction: the newest version before the mark goes, and not the one that it hides."""

    def greedy(writer: Writer, prefix: bytes, revision: int) -> int:
        stored_key = prefix + version_suffix(revision)
        if writer.get(stored_key) is None:
            return 0
        writer.delete(stored_key)
        return 1

    patch.setattr(compaction, "_remove_out_of_sight", greedy)


def one_node_sweeps_less_than_the_others(patch: Patch) -> None:
    """Kv/compaction: the same rows go at the same entry everywhere, or the states differ."""
    sweep = compaction.sweep

    def by_process(writer: Writer, compacted_revision: int) -> Swept:
        process = PROCESS.get()
        odd = process is not None and process.name == "n1"
        return sweep(writer, max(compacted_revision - odd, 0))

    patch.setattr(compaction, "sweep", by_process)


def compares_see_what_the_transaction_wrote(patch: Patch) -> None:
    """Kv/txn: nested conditions see the state before the transaction."""

    def late(run: Any, branch: Branch) -> BranchDone:
        succeeded = all(run._holds(compare) for compare in branch.compares)
        side = branch.then if succeeded else branch.otherwise
        done = [late(run, one) if isinstance(one, Branch) else run._operation(one) for one in side]
        return BranchDone(succeeded, tuple(done))

    patch.setattr(txn._Run, "run", late)


def conditions_are_not_looked_at(patch: Patch) -> None:
    """Kv/txn: whoever compares and sets, sets."""
    patch.setattr(txn._Run, "_holds", lambda run, compare: True)


# --- concerns and levels ----------------------------------------------------------------------------------------------


def quorum_reads_are_not_rinsed(patch: Patch) -> None:
    """Quorum/reading, step 3: whoever coordinates answers from what it has applied."""
    patch.setattr(node, "is_rinsed", lambda target, applied_term, applied_index: True)


def read_points_are_stamped_at_receipt(patch: Patch) -> None:
    """Server/read_points: what the leader said is taken to be as young as its answer."""
    ask = ReadPoints._ask_leader

    async def late(points: ReadPoints) -> ReadPoint:
        point = await ask(points)
        return replace(point, asked_ms=points._node.now_ms())

    patch.setattr(ReadPoints, "_ask_leader", late)


def a_leader_counts_before_it_has_synced(patch: Patch) -> None:
    """Raft/quorum, server/durability: the leader counts as if its disk had all of its log."""
    check = Durability.check

    def hasty(durability: Durability) -> None:
        raft = durability._raft
        state, last = raft._state, raft.log.last_index
        if state.role is not Role.LEADER:
            return
        durable = quorum.durable_on(state.configuration, {**state.durable_match(), state.id: last})
        stand_in: Any = SimpleNamespace(
            durable_on=lambda: durable,
            log=SimpleNamespace(durable=last),
            configuration_index=raft.configuration_index,
        )
        durability._raft = stand_in
        try:
            check(durability)
        finally:
            durability._raft = raft

    patch.setattr(Durability, "check", hasty)


def witnesses_and_learners_count_as_copies(patch: Patch) -> None:
    """Raft/quorum: whoever acknowledges entries is taken for a voter that holds them."""

    def generous(configuration: Configuration, match: Mapping[NodeId, Index]) -> tuple[Index, ...]:
        return tuple(sorted([match.get(member, Index(0)) for member in configuration.members], reverse=True))

    patch.setattr(core, "durable_on", generous)


def tokens_are_ignored(patch: Patch) -> None:
    """Server/reads: what a client has seen is not waited for."""

    async def careless(reads: Reads, group: Any) -> None:
        pass

    patch.setattr(Reads, "_come_to", careless)


def _copies_have(patch: Patch, change: Callable[[bytes, bytes], bytes | None]) -> None:
    """Have every copy of a state contain what `change` makes of each row (None: nothing); nor does a hash tell."""
    copy: Any = CrashableStore.copy

    @contextmanager
    def changed_copy(store: CrashableStore) -> Iterator[Iterator[bytes]]:
        kept = MemoryOrderedStore()
        with store.read() as reader, kept.write() as writer:
            for key, value in reader.scan(b"\0", None):
                row = change(key, value)
                if row is not None:
                    writer.put(key, row)
        with copy(kept) as blocks:
            yield blocks

    patch.setattr(CrashableStore, "copy", changed_copy)
    patch.setattr(Oracle, "hashed", lambda oracle, node, index, digest: None)


def _with_checksum(image: bytes, offset: int, segment: Segment) -> bytes:
    """Return the segment with the checksum of one record made right."""
    end = record_end(image, offset)
    crc: int = google_crc32c.extend(segment.seed, image[offset + 8 : end])
    return image[: offset + 4] + crc.to_bytes(4, "little") + image[offset + 8 :]


def _retrieve(future: asyncio.Future[Any]) -> None:
    if not future.cancelled():
        future.exception()
