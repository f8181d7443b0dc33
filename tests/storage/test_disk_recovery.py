"""A node's whole data directory: what is recovered from what, with the real state machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import Batch, Group, Put
from raftkv.kv.machine import AppliedEntry
from raftkv.raft import NO_MEMBERS, Entry, EntryKind, Index, Snapshot, Term
from raftkv.server.cluster import founded_by
from raftkv.server.disk import Disk, open_disk
from raftkv.server.settings import ServerSettings, load_settings
from raftkv.storage import data_dir
from raftkv.storage.progress import Interrupted
from tests.storage.progress import Told
from tests.storage.states import configuration_at, transfer
from tests.storage.support import hard


def settings(path: Path, node: int = 1) -> ServerSettings:
    member = ["1=127.0.0.1:7101", "2=127.0.0.1:7102"]
    flags = {"id": node, "data_dir": path, "member": member, "wal_segment_bytes": 1 << 16, "store_map_size": 1 << 30}
    return load_settings(flags)


def opened(node: ServerSettings) -> AbstractAsyncContextManager[Disk]:
    return open_disk(node, founded_by(node))


def put(index: int) -> Entry:
    payload = encode_batch(Batch(index, (Group(0, 0, (Put(0, b"key %d" % index, b"value" * 100),)),)))
    return Entry(Term(1), Index(index), EntryKind.COMMANDS, payload)


async def write(disk: Disk, first: int, last: int) -> None:
    for index in range(first, last + 1):
        await disk.wal.append(hard(1, 1, index - 1), (put(index),))


def apply(disk: Disk, last: int) -> None:
    """Apply from the log, as a node does."""
    first = disk.machine.applied_index + 1
    disk.machine.apply([AppliedEntry(index, 1, put(index).data) for index in range(first, last + 1)])


def keys(disk: Disk) -> int:
    """How many keys there are: each entry makes a revision."""
    return disk.machine.revision - 1


class Crash(Exception):
    """Ends a run without a clean shutdown."""


@asynccontextmanager
async def crashing(node: ServerSettings) -> AsyncIterator[Disk]:
    """A run that ends without a clean shutdown."""
    with suppress(Crash):
        async with opened(node) as disk:
            yield disk
            raise Crash


@pytest.fixture
def reboot(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give the machine another boot id, so that a store which was not shut down is discarded."""
    boots = iter(range(100))

    def reboot() -> None:
        boot_id = f"boot {next(boots)}"
        monkeypatch.setattr(data_dir, "read_boot_id", lambda: boot_id)

    reboot()
    return reboot


async def test_a_discarded_store_comes_back_from_checkpoint_and_log(tmp_path: Path, reboot: Any) -> None:
    node = settings(tmp_path / "node")
    async with crashing(node) as disk:
        assert disk.checkpoint is None
        await write(disk, 1, 400)
        apply(disk, 300)
        manifest = await disk.checkpoints.create(disk.store, configuration_at)
        await disk.wal.compact(Index(301))
        apply(disk, 350)
    reboot()
    async with opened(node) as disk:
        assert disk.checkpoint == manifest
        assert disk.machine.applied_index == 300
        assert keys(disk) == 300
        assert 1 < disk.recovered.first_index <= 301
        assert [entry.index for entry in disk.entries] == list(range(301, 401))
        assert disk.recovered.hard_state == hard(1, 1, 399)
        apply(disk, 400)
        assert keys(disk) == 400
    # A clean end: the store is kept, on any boot.
    reboot()
    async with opened(node) as disk:
        assert (disk.machine.applied_index, keys(disk)) == (400, 400)
        assert disk.checkpoint == manifest


@pytest.mark.parametrize("restored", [False, True])
async def test_an_install_is_completed_at_the_next_start(tmp_path: Path, reboot: Any, restored: bool) -> None:
    async with opened(settings(tmp_path / "leader")) as leader:
        await write(leader, 1, 50)
        apply(leader, 50)
        await leader.checkpoints.create(leader.store, configuration_at)
        follower = settings(tmp_path / "follower", 2)
        async with crashing(follower) as disk:
            await write(disk, 1, 5)
            apply(disk, 3)
            sending = leader.checkpoints.send()
            receiving = await disk.checkpoints.begin(sending.manifest)
            await transfer(sending, receiving)
            await receiving.finish()
            if restored:
                await disk.restore(Snapshot(Index(50), Term(1), NO_MEMBERS))
                assert (disk.machine.applied_index, keys(disk)) == (50, 50)
        async with opened(follower) as disk:
            assert disk.checkpoint is not None
            assert disk.checkpoint.index == disk.machine.applied_index == 50
            assert disk.entries == ()
            assert disk.recovered.first_index == 51
            assert disk.recovered.hard_state == hard(1, 1, 50)
            await write(disk, 51, 52)
            apply(disk, 52)
        async with opened(follower) as disk:
            assert keys(disk) == 52
            assert [entry.index for entry in disk.entries] == [51, 52]


async def test_the_manifest_has_the_state_hash_of_the_state_machine(tmp_path: Path, reboot: Any) -> None:
    hashes = []
    for name, applied in (("a", 30), ("b", 30), ("c", 29)):
        async with opened(settings(tmp_path / name)) as disk:
            await write(disk, 1, 30)
            for last in range(1, applied + 1, 4 if name == "a" else 1):
                apply(disk, last)
            apply(disk, applied)
            manifest = await disk.checkpoints.create(disk.store, configuration_at)
            assert manifest.meta.configuration == configuration_at(Index(applied), Term(1))
            hashes.append(manifest.state_hash)
    assert hashes[0] == hashes[1] != hashes[2]


async def test_a_start_says_how_far_it_is_and_can_be_ended_anywhere(tmp_path: Path, reboot: Any) -> None:
    node = settings(tmp_path / "node")
    async with crashing(node) as disk:
        for first in (1, 101, 201):
            await disk.wal.append(hard(1, 1, first - 1), tuple(put(index) for index in range(first, first + 100)))
        apply(disk, 200)
        manifest = await disk.checkpoints.create(disk.store, configuration_at)
        log_bytes = disk.wal.size_bytes()
    for ending in ("reading the log", "restoring the state from a checkpoint"):
        reboot()
        with pytest.raises(Interrupted):
            async with open_disk(node, founded_by(node), progress=Told(ending=ending)):
                pytest.fail("opened")
    reboot()
    told = Told()
    async with open_disk(node, founded_by(node), progress=told) as disk:
        assert disk.machine.applied_index == 200
        assert len(disk.entries) == 100
    assert told.phases == {
        "reading the log": (log_bytes, log_bytes),
        "restoring the state from a checkpoint": (manifest.size, manifest.size),
    }
