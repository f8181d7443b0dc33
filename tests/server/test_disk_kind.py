"""A disk holds data or only where entries stand, and the log takes nothing that contradicts it."""

from __future__ import annotations

import errno
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from raftkv.errors import DataDirectoryMismatch, StorageError
from raftkv.raft import Configuration, Entry, EntryKind, HardState, Index, NodeId, Term
from raftkv.raft.membership import encode_configuration
from raftkv.server.disk_health import DiskHealth
from raftkv.server.disk_kind import NAME, DiskKind, Kind, KindGuard
from raftkv.server.disk_pace import DiskPace
from raftkv.server.disk_room import DiskRoom
from raftkv.storage.memory import MemoryDisk, MemoryLogStore
from tests.storage.simdisk import SimDisk

NODE = NodeId(3)
STATE = HardState(Term(1), None, Index(0))
FULL = (EntryKind.COMMANDS, b"payload")
BARE = (EntryKind.COMMANDS, b"")
NOTHING = (EntryKind.NOOP, b"")


def membership(*, witness: bool = False, learner: bool = False) -> tuple[EntryKind, bytes]:
    voters = {NodeId(1), NodeId(2)} | ({NODE} if witness else set())
    configuration = Configuration(
        frozenset(voters),
        learners=frozenset({NODE} if learner else ()),
        witnesses=frozenset({NODE} if witness else ()),
    )
    return EntryKind.CONFIGURATION, encode_configuration(configuration)


class WatchedLog(MemoryLogStore):
    """Notes what the mark of the disk says when entries arrive."""

    data_dir: Path
    marks: list[str | None]

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        mark = self.data_dir / NAME
        self.marks.append(json.loads(mark.read_text())["kind"] if mark.exists() else None)
        await super().append(hard_state, entries)


def guarded(data_dir: Path) -> tuple[WatchedLog, KindGuard]:
    """As a node finds it that starts, but for the log, which is a new one."""
    log, _ = WatchedLog.open(MemoryDisk())
    log.data_dir, log.marks = data_dir, []
    return log, KindGuard(log, DiskKind.open(data_dir, NODE))


def entries(*contents: tuple[EntryKind, bytes]) -> list[Entry]:
    return [Entry(Term(1), Index(index), kind, data) for index, (kind, data) in enumerate(contents, 1)]


@pytest.mark.parametrize(("command", "kind"), [(FULL, "data"), (BARE, "witness")])
async def test_the_first_command_decides_before_it_is_stored(
    tmp_path: Path, command: tuple[EntryKind, bytes], kind: str
) -> None:
    log, guard = guarded(tmp_path)
    await guard.append(STATE, entries(NOTHING, membership()))
    await guard.append(STATE, entries(NOTHING, membership(), command))
    assert log.marks == [None, kind]


async def test_a_mark_that_finds_no_room_waits_for_it_with_the_entries() -> None:
    disk = SimDisk()
    log, _ = MemoryLogStore.open(MemoryDisk())
    kind = DiskKind.open(Path("/data"), NODE, disk)
    health = DiskHealth(DiskRoom(look_s=0.001), DiskPace(lambda: 0.0))
    disk.fail_next("pwrite", errno.ENOSPC)
    await health.watched(KindGuard(log, kind)).append(STATE, entries(FULL))
    assert health.room.starved_count == 1
    assert not health.room.low
    assert DiskKind.open(Path("/data"), NODE, disk).known is Kind.DATA


@pytest.mark.parametrize(
    ("first", "contradiction"),
    [
        (FULL, BARE),
        (BARE, FULL),
        (FULL, membership(witness=True)),
        (BARE, membership(learner=True)),
    ],
)
async def test_what_contradicts_is_not_stored_even_after_a_restart(
    tmp_path: Path, first: tuple[EntryKind, bytes], contradiction: tuple[EntryKind, bytes]
) -> None:
    _, guard = guarded(tmp_path)
    await guard.append(STATE, entries(first))
    log, guard = guarded(tmp_path)
    with pytest.raises(DataDirectoryMismatch, match=r"The way out: `raftkv member remove 3`"):
        await guard.append(STATE, entries(contradiction))
    assert log.marks == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FULL, membership(learner=True)),
        (BARE, membership(witness=True)),
        (BARE, membership()),  # removed
        (NOTHING, membership(learner=True)),
    ],
)
async def test_what_fits_is_stored(
    tmp_path: Path, first: tuple[EntryKind, bytes], second: tuple[EntryKind, bytes]
) -> None:
    log, guard = guarded(tmp_path)
    await guard.append(STATE, entries(first))
    await guard.append(STATE, entries(first, second))
    assert len(log.marks) == 2


def test_a_damaged_mark_is_refused(tmp_path: Path) -> None:
    DiskKind.open(tmp_path, NODE).require(Kind.WITNESS)
    (tmp_path / NAME).write_text('{"kind": "both"}')
    with pytest.raises(StorageError, match=r"kind\.json is damaged"):
        DiskKind.open(tmp_path, NODE)
