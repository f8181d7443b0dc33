"""Log, checkpoint and store after a crash: the node goes on from the old state or from the new one, never a mixture."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from raftkv.errors import StorageError
from raftkv.raft.types import Entry, HardState, Index, Term
from raftkv.storage.checkpoint import CheckpointManifest, CheckpointMeta, StateInfo
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.files import FileSystem
from raftkv.storage.memory import MemoryDisk, MemoryEngine, MemoryLogStore, MemoryOrderedStore
from raftkv.storage.memory_files import MemoryFileSystem
from raftkv.storage.protocols import RecoveredLog
from raftkv.storage.recovery import Recovered, needs_restart, recover_node
from raftkv.storage.wal import WriteAheadLog
from raftkv.storage.worker import Inline
from tests.storage.simdisk import PowerLoss, SimDisk
from tests.storage.states import (
    SimEngine,
    SimStore,
    applied_index,
    apply_entry,
    configuration_at,
    inspect,
    rows_of,
    transfer,
)
from tests.storage.support import hard, run

DATA = Path("/data")
Checkpoints = CheckpointStore[Any]


def open_checkpoints(files: FileSystem, engine: Any) -> Checkpoints:
    return CheckpointStore.open(
        DATA / "checkpoints", engine=engine, inspect=inspect, files=files, make_runner=lambda _: Inline()
    )


async def checkpoint_of(index: int, term: int = 1) -> Checkpoints:
    """A leader with a checkpoint."""
    files = MemoryFileSystem()
    leader = open_checkpoints(files, MemoryEngine(files))
    store = MemoryOrderedStore()
    apply_entry(store, index, term, {b"applied": b"%d" % index})
    await leader.create(store, configuration_at)
    return leader


async def receive(checkpoints: Checkpoints, leader: Checkpoints) -> None:
    receiving = await checkpoints.begin(leader.send().manifest)
    await transfer(leader.send(), receiving)
    await receiving.finish()


class Node:
    """A node in memory: what its disk holds, and its start."""

    def __init__(self, hard_state: HardState, entries: tuple[Entry, ...], *, base: tuple[int, int] = (0, 0)) -> None:
        self.disk = MemoryDisk()
        self.disk.hard_state, self.disk.entries = hard_state, list(entries)
        self.disk.base = Index(base[0]), Term(base[1])
        self.files = MemoryFileSystem()
        self.store = MemoryOrderedStore()
        """The working store; replace it by a new one to discard it."""

    def checkpoints(self) -> Checkpoints:
        return open_checkpoints(self.files, MemoryEngine(self.files))

    def apply(self, index: int, term: int = 1) -> None:
        apply_entry(self.store, index, term, {b"applied": b"%d" % index})

    async def start(self) -> Recovered[MemoryOrderedStore]:
        wal, log = MemoryLogStore.open(self.disk)
        node = await recover_node(
            wal, log, self.checkpoints(), open_store=lambda: self.store, applied_index=applied_index
        )
        self.store = node.store
        # What it decided is durable: another start finds nothing to do.
        _, again = MemoryLogStore.open(self.disk)
        commit = max(again.hard_state.commit, node.checkpoint.index if node.checkpoint else 0)
        assert replace(again, hard_state=replace(again.hard_state, commit=Index(commit))) == node.log
        return node

    def damage(self, index: int, suffix: str = "data") -> None:
        file = self.files.open(DATA / "checkpoints" / f"{index:020d}.{suffix}")
        file.pwrite(bytes((file.pread(1, 20)[0] ^ 1,)), 20)


async def test_a_new_node_starts_empty() -> None:
    node = await Node(HardState(), ()).start()
    assert node.checkpoint is None
    assert node.log == RecoveredLog(hard_state=HardState(), entries=())
    assert not node.store_restored


async def test_without_a_checkpoint_the_store_is_rebuilt_from_the_log() -> None:
    node = await Node(hard(1, 1, 5), run(1, 1, 9)).start()
    assert applied_index(node.store) == 0
    assert node.log.entries == run(1, 1, 9)


async def test_a_discarded_store_is_restored_from_the_checkpoint_and_the_log_replays_what_follows() -> None:
    disk = Node(hard(1, 1, 5), run(1, 1, 9))
    disk.apply(6)
    await disk.checkpoints().create(disk.store, configuration_at)
    disk.apply(8)
    disk.store = MemoryOrderedStore()
    node = await disk.start()
    assert (node.store_restored, node.log_restarted) == (True, False)
    assert rows_of(node.store)[b"applied"] == b"6"
    assert node.checkpoint is not None
    assert node.checkpoint.meta.configuration == b"configuration at 6 of term 1"
    assert node.log.entries == run(1, 1, 9)
    assert node.log.after(Index(6)) == run(1, 7, 9)
    assert node.log.hard_state == hard(1, 1, 6)


async def test_a_store_that_is_newer_than_the_checkpoint_is_kept() -> None:
    disk = Node(hard(1, 1, 5), run(1, 1, 9))
    disk.apply(6)
    await disk.checkpoints().create(disk.store, configuration_at)
    disk.apply(8)
    # Its bytes are not even looked at.
    disk.damage(6)
    node = await disk.start()
    assert not node.store_restored
    assert applied_index(node.store) == 8
    assert node.damaged == ()


@pytest.mark.parametrize("applied", [2, 100])
async def test_bug_28_an_install_that_a_crash_interrupted_is_completed(applied: int) -> None:
    """Published, and perhaps the store swapped; the log still holds old entries."""
    disk = Node(hard(4, 3, 6), run(1, 1, 9))
    disk.apply(applied)
    await receive(disk.checkpoints(), await checkpoint_of(100, 3))
    for _ in range(2):
        node = await disk.start()
        assert rows_of(node.store)[b"applied"] == b"100"
        assert node.log == RecoveredLog(
            hard_state=hard(4, 3, 100), entries=(), first_index=Index(101), base_term=Term(3)
        )
    wal, _ = MemoryLogStore.open(disk.disk)
    await wal.append(hard(4, 3, 100), run(4, 101, 102))
    assert (await disk.start()).log.entries == run(4, 101, 102)


async def test_bug_26_a_trailing_log_of_another_history_is_dropped_with_the_install() -> None:
    # Entries up to 120, of which 100 has another term than the snapshot: none of them may stay, a configuration
    # among those after 100 would be in force.
    disk = Node(hard(4, 3, 6), (*run(1, 1, 50), *run(2, 51, 120)))
    await receive(disk.checkpoints(), await checkpoint_of(100, 3))
    node = await disk.start()
    assert node.log_restarted
    assert node.log.entries == ()
    assert (node.log.first_index, node.log.base_term) == (101, 3)
    assert node.log.hard_state == hard(4, 3, 100)


async def test_a_trailing_log_of_the_same_history_is_kept() -> None:
    # It may hold entries that this node has acknowledged: a majority may count on them.
    disk = Node(hard(4, 3, 6), (*run(1, 1, 50), *run(3, 51, 120)))
    await receive(disk.checkpoints(), await checkpoint_of(100, 3))
    node = await disk.start()
    assert node.store_restored
    assert not node.log_restarted
    assert node.log.after(Index(100)) == run(3, 101, 120)
    assert node.log.hard_state == hard(4, 3, 100)


async def test_bug_27_a_conflict_at_the_last_included_index_is_resolved_for_good() -> None:
    disk = Node(hard(4, 3, 6), (*run(1, 1, 50), *run(2, 51, 100)))
    await receive(disk.checkpoints(), await checkpoint_of(100, 3))
    first = await disk.start()
    assert first.log_restarted
    # What the leader sends next fits, and no start after this one finds the conflict again.
    wal, _ = MemoryLogStore.open(disk.disk)
    await wal.append(hard(4, 3, 100), run(4, 101, 101))
    second = await disk.start()
    assert not second.log_restarted
    assert second.log.entries == run(4, 101, 101)


async def test_bug_29_a_gap_between_checkpoint_and_log_is_refused() -> None:
    disk = Node(hard(4, 3, 60), run(4, 61, 80), base=(60, 4))
    for store_at in (60, 70):
        disk.apply(store_at, 4)
        with pytest.raises(StorageError, match=r"log begins at entry 61, and no checkpoint .*: there is none.*way out"):
            await disk.start()
    await receive(disk.checkpoints(), await checkpoint_of(50, 3))
    with pytest.raises(
        StorageError, match=r"entry 50 of term 3 .* there is a gap: the log begins at entry 61.*way out"
    ):
        await disk.start()


async def test_bug_29_two_installs_in_quick_succession() -> None:
    for crash in (False, True):
        disk = Node(hard(4, 3, 6), run(1, 1, 9))
        await receive(disk.checkpoints(), await checkpoint_of(100, 3))
        if not crash:
            await disk.start()
        await receive(disk.checkpoints(), await checkpoint_of(150, 4))
        node = await disk.start()
        assert rows_of(node.store)[b"applied"] == b"150"
        assert (node.log.first_index, node.log.base_term, node.log.entries) == (151, 4, ())


async def test_a_term_that_the_node_has_not_heard_of_is_taken_from_the_checkpoint_and_has_no_vote() -> None:
    disk = Node(hard(2, 3, 6), run(1, 1, 9))
    await receive(disk.checkpoints(), await checkpoint_of(100, 5))
    assert (await disk.start()).log.hard_state == hard(5, None, 100)


async def test_a_vote_in_the_term_of_the_checkpoint_is_kept() -> None:
    disk = Node(hard(5, 3, 6), run(1, 1, 9))
    await receive(disk.checkpoints(), await checkpoint_of(100, 5))
    assert (await disk.start()).log.hard_state == hard(5, 3, 100)


@pytest.mark.parametrize("suffix", ["data", "manifest"])
@pytest.mark.parametrize("stored", [0, 6])
async def test_a_damaged_checkpoint_costs_nothing_where_the_one_before_it_is_whole(suffix: str, stored: int) -> None:
    """`stored`: what the store has applied that the machine's crash has left."""
    disk = Node(hard(4, 3, 6), run(1, 6, 9), base=(5, 1))
    for index in (3, 5, 8):
        disk.apply(index)
        await disk.checkpoints().create(disk.store, configuration_at)
    disk.store = MemoryOrderedStore()
    if stored:
        disk.apply(stored)
    disk.damage(8, suffix)
    node = await disk.start()
    assert node.checkpoint is not None
    assert node.checkpoint.index == 5
    assert rows_of(node.store)[b"applied"] == b"%d" % (stored or 5)
    assert node.log.after(Index(5)) == run(1, 6, 9)
    assert f"{8:020d}.{suffix}" in node.damaged[0]
    # It does not hide the ones that are made later.
    disk.apply(7)
    assert (await disk.checkpoints().create(disk.store, configuration_at)).index == 7
    assert disk.checkpoints().newest == (await disk.start()).checkpoint
    assert len(disk.files.names(DATA / "checkpoints")) == 4


async def test_a_received_checkpoint_that_is_damaged_before_it_was_installed_costs_nothing() -> None:
    disk = Node(hard(4, 3, 6), run(1, 1, 9))
    disk.apply(6)
    await disk.checkpoints().create(disk.store, configuration_at)
    leader = await checkpoint_of(100, 4)
    await receive(disk.checkpoints(), leader)
    disk.damage(100)
    node = await disk.start()
    assert (node.checkpoint and node.checkpoint.index, node.log.last_index) == (6, 9)
    # The leader sends it once more.
    await receive(disk.checkpoints(), leader)
    assert rows_of((await disk.start()).store)[b"applied"] == b"100"


async def test_what_an_install_has_replaced_takes_the_place_of_nothing() -> None:
    """A crash came before the old checkpoint was deleted: what follows it in the log is gone."""
    disk = Node(hard(4, 3, 6), run(1, 1, 9))
    disk.apply(6)
    await disk.checkpoints().create(disk.store, configuration_at)
    await receive(disk.checkpoints(), await checkpoint_of(100, 4))
    disk.disk.entries, disk.disk.base = [], (Index(100), Term(4))
    disk.disk.hard_state = hard(4, 3, 100)
    disk.damage(100)
    with pytest.raises(StorageError, match=r"begins at entry 101, and no checkpoint .*entry 100 is damaged.* way out"):
        await disk.start()


@pytest.mark.parametrize("suffix", ["data", "manifest"])
async def test_a_damaged_checkpoint_that_the_log_cannot_replace_is_refused(suffix: str) -> None:
    disk = Node(hard(4, 3, 100), run(4, 101, 110), base=(100, 3))
    await receive(disk.checkpoints(), await checkpoint_of(100, 3))
    file = disk.files.open(DATA / "checkpoints" / f"{100:020d}.{suffix}")
    file.pwrite(b"\xff", 20)
    for _ in range(2):
        with pytest.raises(StorageError, match=rf"begins at entry 101, and no checkpoint .*100\.{suffix}.* way out"):
            await disk.start()
    assert disk.disk.entries == list(run(4, 101, 110))


async def test_a_damaged_checkpoint_of_a_whole_log_is_passed_over() -> None:
    disk = Node(hard(1, 1, 9), run(1, 1, 9))
    await receive(disk.checkpoints(), await checkpoint_of(5))
    disk.damage(5)
    node = await disk.start()
    assert node.checkpoint is None
    assert applied_index(node.store) == 0
    assert "damaged" in node.damaged[0]


async def test_a_log_that_ends_before_a_checkpoint_made_here_has_lost_entries() -> None:
    disk = Node(hard(1, 1, 5), run(1, 1, 9))
    disk.apply(8)
    await disk.checkpoints().create(disk.store, configuration_at)
    del disk.disk.entries[7:]
    with pytest.raises(StorageError, match=r"ends at entry 7, do not belong together: it was made here.*way out"):
        await disk.start()
    assert disk.disk.entries == list(run(1, 1, 7))


async def test_a_store_that_is_ahead_of_the_log_is_refused() -> None:
    disk = Node(hard(1, 1, 5), run(1, 1, 9))
    disk.apply(6)
    await disk.checkpoints().create(disk.store, configuration_at)
    disk.apply(10)
    with pytest.raises(StorageError, match="has applied entry 10, but the write-ahead log ends at entry 9"):
        await disk.start()


async def test_a_checkpoint_that_holds_another_state_than_it_says_is_refused() -> None:
    disk = Node(hard(1, 1, 5), run(1, 1, 9))
    disk.apply(6)
    checkpoints = CheckpointStore.open(
        DATA / "checkpoints",
        engine=MemoryEngine(disk.files),
        inspect=lambda _: StateInfo(Index(7), Term(1), b""),
        files=disk.files,
        make_runner=lambda _: Inline(),
    )
    await checkpoints.create(disk.store, configuration_at)
    disk.store = MemoryOrderedStore()
    with pytest.raises(StorageError, match=r"of entry 7 holds a state that has applied entry 6.*way out"):
        await disk.start()


def manifest(index: int, term: int, *, received: bool = True) -> CheckpointManifest:
    meta = CheckpointMeta(Index(index), Term(term), b"")
    return CheckpointManifest(meta, size=1, chunk_crcs=(0,), state_hash=b"", received=received)


LOG = RecoveredLog(
    hard_state=hard(5, None, 14), entries=(*run(2, 11, 15), *run(4, 16, 20)), first_index=Index(11), base_term=Term(2)
)


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        (manifest(9, 2), "there is a gap"),
        (manifest(10, 2), False),
        (manifest(10, 1), "has committed entry 10 of term 2"),
        (manifest(14, 2), False),
        (manifest(14, 3), "has committed entry 14 of term 2"),
        (manifest(15, 2), False),
        (manifest(15, 3), True),
        (manifest(16, 4), False),
        (manifest(20, 4), False),
        (manifest(20, 5), True),
        (manifest(21, 4), True),
        (manifest(900, 5), True),
        (manifest(10, 2, received=False), False),
        (manifest(20, 4, received=False), False),
        (manifest(20, 5, received=False), "made here"),
        (manifest(21, 4, received=False), "made here"),
    ],
)
def test_when_the_log_is_kept(checkpoint: CheckpointManifest, expected: bool | str) -> None:
    if isinstance(expected, bool):
        assert needs_restart(LOG, checkpoint) is expected
    else:
        with pytest.raises(StorageError, match=expected):
            needs_restart(LOG, checkpoint)


# The whole install on the simulated disk, with the real log.


@dataclass
class Started:
    """A node that was started on a simulated disk."""

    wal: WriteAheadLog
    checkpoints: Checkpoints
    node: Recovered[Any]

    async def stop(self) -> None:
        await self.checkpoints.close()
        with contextlib.suppress(StorageError):
            await self.wal.close()


async def start(disk: SimDisk, seed: int = 0) -> Started:
    random = Random(f"{seed}/{len(disk.trace)}")
    disk.mkdir(DATA)
    wal, log = WriteAheadLog.open(
        DATA / "wal", segment_bytes=1024, files=disk, make_nonce=lambda: random.getrandbits(64)
    )
    try:
        engine = SimEngine(DATA / "store", files=disk)
        checkpoints = open_checkpoints(disk, engine)
        node = await recover_node(wal, log, checkpoints, open_store=engine.open, applied_index=applied_index)
    except BaseException:
        with contextlib.suppress(StorageError):
            await wal.close()
        raise
    return Started(wal, checkpoints, node)


OLD_LOG = (*run(1, 1, 30, b"x" * 100), *run(2, 31, 50, b"y" * 100))


async def append(wal: WriteAheadLog, hard_state: HardState, entries: tuple[Entry, ...]) -> None:
    """Append, and wait for the segment that may be prepared behind it: one thing after the other, for the disk."""
    await wal.append(hard_state, entries)
    await wal.compact(Index(1))


async def prepared() -> SimDisk:
    """Entries 9 or so to 50 in the log, a checkpoint of 20."""
    disk = SimDisk()
    started = await start(disk)
    store = started.node.store
    for at in range(0, 50, 2):
        await append(started.wal, hard(2, 3, at), OLD_LOG[at : at + 2])
    apply_entry(store, 20, 1, {b"applied": b"20"})
    await started.checkpoints.create(store, configuration_at)
    await started.wal.compact(Index(15))
    await started.stop()
    return disk


async def install(disk: SimDisk, leader: Checkpoints, progress: list[str]) -> None:
    """What a driver does when a snapshot comes, and after it."""
    started = await start(disk)
    try:
        progress.append("started")
        await receive(started.checkpoints, leader)
        progress.append("published")
        await started.checkpoints.restore(started.node.store, Index(100))
        progress.append("restored")
        await started.wal.restart(hard(6, 1), Index(100), Term(5))
        await started.checkpoints.forget_below(Index(100))
        progress.append("restarted")
        await append(started.wal, hard(6, 1, 100), run(6, 101, 102))
        progress.append("appended")
    finally:
        await started.stop()


def discard_store(disk: SimDisk) -> None:
    """The boot-id rule, after a power loss."""
    for name in disk.names(DATA / "store"):
        disk.remove(DATA / "store" / name)


def judge(node: Recovered[Any], progress: list[str]) -> str:
    """Say which state it is; fail when it is none."""
    log = node.log
    assert node.checkpoint is not None
    applied = rows_of(node.store)[b"applied"]
    if node.checkpoint.index == 20:
        assert "published" not in progress
        assert applied == b"20"
        assert log.hard_state == hard(2, 3, 48)
        assert 1 < log.first_index <= 15
        assert log.entries == OLD_LOG[log.first_index - 1 :]
        return "old"
    assert node.checkpoint.index == 100
    assert node.checkpoint.meta.configuration == b"configuration at 100 of term 5"
    assert applied == b"100"
    assert (log.first_index, log.base_term) == (101, 5)
    assert log.entries in {(), run(6, 101, 101), run(6, 101, 102)}
    if "restarted" in progress:
        assert log.hard_state == hard(6, 1, 100)
    else:
        # By the install itself, or by the recovery, which knows the vote of term 2 only: it gives none in term 5.
        assert log.hard_state in {hard(6, 1, 100), hard(5, None, 100)}
    assert "appended" not in progress or log.entries == run(6, 101, 102)
    return "new"


def test_bug_33_a_store_is_swapped_in_whole() -> None:
    """Not left to the store's own flush: the copy and its name are durable when the log begins anew after it."""
    disk = SimDisk()
    store = SimStore()
    apply_entry(store, 7, 1)
    engine: Any = SimEngine(DATA / "store", files=disk)
    with store.copy() as blocks:
        engine.prepare(blocks)
    assert disk.trace[0] == "fsync_dir"
    assert disk.trace[-1] == "fdatasync"
    assert disk.unsynced() == []
    before = len(disk.trace)
    assert applied_index(engine.swap(store)) == 7
    assert disk.trace[before:] == ["rename", "fsync_dir"]
    assert disk.names(DATA / "store") == ["data.mdb"]


async def test_bug_28_a_crash_at_every_operation_of_an_install_leaves_the_old_state_or_the_new_one() -> None:
    leader = await checkpoint_of(100, 5)
    whole = await prepared()
    before = len(whole.trace)
    await install(whole, leader, [])
    outcomes = set()
    for crash_at in range(before + 1, len(whole.trace) + 1):
        for seed in range(6):
            disk = await prepared()
            assert len(disk.trace) == before
            disk.crash_at = crash_at
            progress: list[str] = []
            with pytest.raises((PowerLoss, StorageError)):
                await install(disk, leader, progress)
            disk.crash_at = None
            if seed:
                disk.lose_power(Random(seed))
                discard_store(disk)
            started = await start(disk, seed)
            outcome = judge(started.node, progress)
            outcomes.add((tuple(progress), outcome))
            first = started.node.log
            await started.stop()
            # It is durable: the next crash does not take it back.
            disk.lose_power(Random(seed))
            discard_store(disk)
            started = await start(disk, seed)
            assert started.node.log == first
            assert judge(started.node, progress) == outcome
            # And a node that goes on is not held up by what the crash left.
            last = first.last_index
            await started.wal.append(
                replace(first.hard_state, term=Term(9), vote=None), run(9, last + 1, last + 1, b"z" * 100)
            )
            await started.stop()
    stages = ["started", "published", "restored", "restarted"]
    for at in range(1, len(stages)):
        assert (tuple(stages[: at + 1]), "new") in outcomes
    assert {("started",)} & {progress for progress, outcome in outcomes if outcome == "old"}


async def install_the_older(disk: SimDisk, leaders: tuple[Checkpoints, Checkpoints], progress: list[str]) -> None:
    """A snapshot of 100 is being installed while a checkpoint of 150 comes."""
    started = await start(disk)
    try:
        await receive(started.checkpoints, leaders[0])
        progress.append("published")
        assert started.checkpoints.hold(Index(100), Term(5))
        await receive(started.checkpoints, leaders[1])
        assert [manifest.index for manifest in started.checkpoints.valid] == [150, 100, 20]
        progress.append("newer")
        store = await started.checkpoints.restore(started.node.store, Index(100))
        assert applied_index(store) == 100
        progress.append("restored")
        await started.wal.restart(hard(6, 1), Index(100), Term(5))
        await started.checkpoints.forget_below(Index(100))
        progress.append("restarted")
        await append(started.wal, hard(6, 1, 100), run(6, 101, 102))
        progress.append("appended")
    finally:
        await started.stop()


@pytest.mark.slow
async def test_bug_29_a_crash_at_every_operation_of_an_install_that_a_newer_checkpoint_overtakes() -> None:
    leaders = await checkpoint_of(100, 5), await checkpoint_of(150, 6)
    whole = await prepared()
    before = len(whole.trace)
    await install_the_older(whole, leaders, [])
    assert [name for name in whole.names(DATA / "checkpoints") if name.endswith(".data")] == [
        f"{100:020d}.data",
        f"{150:020d}.data",
    ]
    outcomes = set()
    for crash_at in range(before + 1, len(whole.trace) + 1):
        for seed in range(3):
            disk = await prepared()
            disk.crash_at = crash_at
            progress: list[str] = []
            with pytest.raises((PowerLoss, StorageError)):
                await install_the_older(disk, leaders, progress)
            disk.crash_at = None
            if seed:
                disk.lose_power(Random(seed))
                discard_store(disk)
            started = await start(disk, seed)
            node, log = started.node, started.node.log
            assert node.checkpoint is not None
            found = node.checkpoint.index
            assert applied_index(node.store) == found
            assert found >= (20, 100, 150)[("published" in progress) + ("newer" in progress)]
            if found > 20:
                # What it acknowledged, up to 102, is in the log, or in the state.
                assert (log.first_index, log.entries) == (found + 1, ())
            if "restarted" in progress:
                assert log.hard_state == hard(6, 1, 150)
            outcomes.add((len(progress), found))
            await append(started.wal, replace(log.hard_state, term=Term(9), vote=None), run(9, log.last_index + 1, 152))
            await started.stop()
            started = await start(disk, seed)
            assert started.node.log.last_index == 152
            await started.stop()
    assert outcomes >= {(0, 20), (1, 100), (2, 150), (3, 150), (4, 150)}


async def test_bug_28_a_crash_during_the_recovery_of_an_install_is_no_different() -> None:
    leader = await checkpoint_of(100, 5)

    async def published() -> SimDisk:
        disk = await prepared()
        started = await start(disk)
        await receive(started.checkpoints, leader)
        await started.stop()
        return disk

    whole = await published()
    before = len(whole.trace)
    await (await start(whole)).stop()
    assert len(whole.trace) > before + 8
    for crash_at in range(before + 1, len(whole.trace) + 1):
        for seed in range(6):
            disk = await published()
            disk.crash_at = crash_at
            with pytest.raises((PowerLoss, StorageError)):
                await start(disk)
            disk.crash_at = None
            if seed:
                disk.lose_power(Random(seed))
                discard_store(disk)
            started = await start(disk, seed)
            assert judge(started.node, ["started", "published"]) == "new"
            await started.stop()
