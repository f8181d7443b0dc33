from __future__ import annotations

import asyncio
import errno
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from raftkv.errors import StorageError
from raftkv.raft import Entry, HardState, Index, Term
from raftkv.storage.wal import WriteAheadLog
from tests.sim.l1 import disk as disks
from tests.sim.l1.disk import CrashableStore, NodeDisk, SimRunner
from tests.sim.l1.loop import VirtualTimeLoop

LOG = Path("/data/wal")


def run(main: Coroutine[Any, Any, Any]) -> Any:
    loop = VirtualTimeLoop(Random(0))
    try:
        return loop.run_until_complete(main)
    finally:
        loop.close()


def open_log(disk: NodeDisk, runner: SimRunner | None = None) -> tuple[WriteAheadLog, tuple[Entry, ...]]:
    runner = runner or SimRunner(disk, lambda: 0.01)
    log, recovered = WriteAheadLog.open(LOG, segment_bytes=4096, files=disk, make_nonce=lambda: 1, runner=runner)
    return log, recovered.entries


def entry(index: int) -> Entry:
    return Entry(Term(1), Index(index), data=b"x" * 700)


def test_an_append_takes_the_time_of_the_disk() -> None:
    async def main() -> float:
        log, _ = open_log(NodeDisk())
        await log.append(HardState(Term(1)), [entry(1)])
        return asyncio.get_running_loop().time()

    assert run(main()) == 0.01


def test_jobs_run_one_after_the_other_and_stop_waits_for_them() -> None:
    async def main() -> list[int]:
        done: list[int] = []
        runner = SimRunner(NodeDisk(), lambda: 1.0)
        for number in range(3):
            runner.run(partial(done.append, number))
        await runner.stop()
        assert asyncio.get_running_loop().time() == 3.0
        return done

    assert run(main()) == [0, 1, 2]


@pytest.mark.parametrize("power", [False, True])
def test_what_a_crash_leaves_of_an_append(power: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill keeps what was written, a power loss only what was synced. Confirmed entries are kept by both."""
    monkeypatch.setattr(disks, "OPERATIONS_BEFORE_A_CRASH", (1,))  # written, not synced

    async def main(seed: int) -> int:
        disk = NodeDisk()
        runner = SimRunner(disk, lambda: 0.01)
        log, _ = open_log(disk, runner)
        await log.append(HardState(Term(1)), [entry(1)])
        await asyncio.sleep(1)
        under_way = asyncio.ensure_future(log.append(HardState(Term(1)), [entry(2)]))
        await asyncio.sleep(0.005)
        assert runner.crash(Random(seed))
        under_way.cancel()
        await asyncio.sleep(1)
        assert under_way.cancelled()
        if power:
            disk.lose_power(Random(seed))
        _, entries = open_log(disk)
        return len(entries)

    assert {run(main(seed)) for seed in range(20)} == ({1, 2} if power else {2})


def test_a_failed_sync_is_counted_and_reaches_the_caller() -> None:
    async def main() -> None:
        disk = NodeDisk()
        log, _ = open_log(disk)
        disk.fail_next("fdatasync", errno.EIO)
        with pytest.raises(StorageError):
            await log.append(HardState(Term(1)), [entry(1)])
        assert disk.fired == {"fdatasync": 1}

    run(main())


def test_the_store_survives_a_kill_and_not_a_power_loss() -> None:
    store = CrashableStore()
    with store.write() as writer:
        for number in range(100):
            writer.put(b"%03d" % number, b"old")
    store.flush()
    with store.write() as writer:
        for number in range(100):
            writer.put(b"%03d" % number, b"new")
    with store.read() as reader:
        assert {value for _, value in reader.scan(b"\0", None)} == {b"new"}
    store.lose_power(Random(1))
    with store.read() as reader:
        assert {value for _, value in reader.scan(b"\0", None)} == {b"old", b"new"}
    assert store.discard()
    assert not store.discard()
