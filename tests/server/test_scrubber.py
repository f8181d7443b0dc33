"""Bit rot in cold files of a running node: found, told, healed; and a start that would have been refused succeeds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raftkv.client import Alarm, AsyncClient, Status
from raftkv.errors import StorageError
from raftkv.server import app
from raftkv.server.scrubber import Scrubber
from raftkv.server.settings import ServerSettings
from tests.server.test_app import settings, start

PUTS = 320
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Round after round, without a pause."""
    monkeypatch.setattr(app, "Scrubber", partial(Scrubber, round_s=0.01, heal_s=0.01))


def node_settings(path: Path, bytes_per_s: int = 1 << 40) -> ServerSettings:
    changed: dict[str, Any] = {
        "wal_segment_bytes": 1 << 16,
        "checkpoint_log_bytes": 1 << 40,
        "checkpoint_entries": 1 << 40,
        "scrub_bytes_per_s": bytes_per_s,
    }
    return settings(path).model_copy(update=changed)


@asynccontextmanager
async def running(node: ServerSettings) -> AsyncIterator[AsyncClient]:
    stop = asyncio.Event()
    task = await start(node, stop)
    if task.done():
        await task
    try:
        async with AsyncClient([node.listen], timeout=PATIENCE_S) as client:
            yield client
    finally:
        stop.set()
        await task


async def fill(client: AsyncClient) -> None:
    """In small records, so that they take several segments."""
    for first in range(0, PUTS, 20):
        await asyncio.gather(*(client.put(f"key {number}", b"x" * 1000) for number in range(first, first + 20)))


async def held(client: AsyncClient) -> int:
    return len((await client.prefix("key ")).pairs)


async def until(client: AsyncClient, met: Callable[[Status], bool]) -> Status:
    async with asyncio.timeout(PATIENCE_S):
        while not met(status := await client.status()):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)
    return status


def healed(status: Status) -> bool:
    return status.scrub.damaged_files > 0 and not status.alarms


def flip(path: Path, offset: int) -> None:
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([content[offset] ^ 0x04]))


def segments(node: ServerSettings) -> list[Path]:
    return sorted((node.data_dir / "wal").glob("*.wal"))


@pytest.mark.parametrize("offset", [20, 5000, 40_000], ids=["header", "early", "late"])
async def test_a_rotten_segment_is_found_and_dropped(tmp_path: Path, offset: int) -> None:
    node = node_settings(tmp_path)
    async with running(node) as client:
        await fill(client)
        victim = segments(node)[1]
        flip(victim, offset)
        status = await until(client, healed)
        assert status.scrub.scrubbed_bytes > 0
        assert status.checkpoint.index > 0, "the log was cut without a checkpoint"
        assert victim not in segments(node)
        assert await held(client) == PUTS
        await client.put("key after", b"x")
    async with running(node) as client:
        assert await held(client) == PUTS + 1


async def test_without_the_scrubber_that_segment_stops_the_next_start(tmp_path: Path) -> None:
    """The control: nobody else reads it."""
    node = node_settings(tmp_path, bytes_per_s=0)
    async with running(node) as client:
        await fill(client)
        flip(segments(node)[1], 5000)
        status = await client.status()
        assert (status.scrub.scrubbed_bytes, status.alarms) == (0, ())
    with pytest.raises(StorageError, match="the write-ahead log is corrupt"):
        async with running(node):
            raise AssertionError("it started")


@pytest.mark.parametrize("which", [0, 1], ids=["older", "newer"])
@pytest.mark.parametrize("suffix", ["data", "manifest"])
async def test_a_rotten_checkpoint_is_found_and_replaced(tmp_path: Path, which: int, suffix: str) -> None:
    node = node_settings(tmp_path)
    directory = node.data_dir / "checkpoints"
    async with running(node) as client:
        await fill(client)
        await client.checkpoint(node.listen)
        await client.put("key more", b"x")
        await client.checkpoint(node.listen)
        before = sorted(directory.glob("*.manifest"))
        assert len(before) == 2
        victim = before[which].with_suffix(f".{suffix}")
        flip(victim, victim.stat().st_size // 2)
        bad = victim.read_bytes()
        await until(client, healed)
        assert not victim.exists() or victim.read_bytes() != bad
        assert (await client.status()).checkpoint.index > 0
    async with running(node) as client:
        assert await held(client) == PUTS + 1
        assert not (await client.status()).alarms


async def test_what_is_right_raises_no_alarm_while_it_is_written(tmp_path: Path) -> None:
    """Rounds go on while segments are filled, closed and dropped, and checkpoints made and deleted."""
    node = node_settings(tmp_path)
    async with running(node) as client:
        for _ in range(4):
            await fill(client)
            await client.checkpoint(node.listen)
        status = await until(client, lambda status: status.scrub.rounds >= 3)
        assert (status.scrub.damaged_files, status.alarms) == (0, ())
        assert status.scrub.finished_at > 0


async def test_an_alarm_names_the_file_until_it_is_healed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = node_settings(tmp_path)
    async with running(node) as client:
        await fill(client)
        gate = asyncio.Event()

        async def nothing_yet(self: Scrubber) -> None:
            if gate.is_set():
                await heal(self)

        heal = Scrubber._heal_all
        monkeypatch.setattr(Scrubber, "_heal_all", nothing_yet)
        victim = segments(node)[1]
        flip(victim, 3000)
        status = await until(client, lambda status: bool(status.alarms))
        (alarm,) = status.alarms
        assert alarm.alarm is Alarm.DAMAGED
        assert f"{victim}, byte offset " in alarm.message
        gate.set()
        await until(client, healed)
