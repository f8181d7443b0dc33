"""The WAL as the event loop sees it: one thread, failures, cancellation, the report of a torn tail."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from raftkv.errors import CorruptLog, StorageError
from raftkv.raft.types import Index
from raftkv.storage.files import File, OsFile, OsFileSystem
from raftkv.storage.wal import WriteAheadLog
from raftkv.storage.wal_format import segment_name
from tests.storage.support import hard, run


class Gate:
    """Holds up syncs while it is shut, or makes them fail."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self._reached = threading.Event()
        self.error: OSError | None = None

    def shut(self) -> None:
        self._reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def wait_until_reached(self) -> None:
        assert self._reached.wait(30)

    def pass_through(self) -> None:
        self._reached.set()
        if not self._open.wait(30):
            raise OSError(errno.ETIMEDOUT, "the gate stayed shut")
        if self.error is not None:
            raise self.error


class GatedFile(OsFile):
    def __init__(self, fd: int, gate: Gate) -> None:
        super().__init__(fd)
        self._gate = gate

    def fdatasync(self) -> None:
        self._gate.pass_through()
        super().fdatasync()


class GatedFileSystem(OsFileSystem):
    """Files that are opened go through the gate; those that are created do not."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def open(self, path: Path) -> File:
        return GatedFile(os.open(path, os.O_RDWR), self._gate)


async def open_gated(path: Path) -> tuple[WriteAheadLog, Gate]:
    wal, _ = WriteAheadLog.open(path, segment_bytes=4096)
    await wal.close()
    gate = Gate()
    wal, _ = WriteAheadLog.open(path, segment_bytes=4096, files=GatedFileSystem(gate))
    return wal, gate


async def test_the_loop_runs_while_the_disk_stalls(tmp_path: Path) -> None:
    wal, gate = await open_gated(tmp_path)
    gate.shut()
    append = asyncio.ensure_future(wal.append(hard(1), run(1, 1, 1)))
    await asyncio.to_thread(gate.wait_until_reached)
    assert not append.done()
    gate.open()
    await append
    await wal.close()


async def test_bug_39_every_append_after_a_failed_one_fails(tmp_path: Path) -> None:
    wal, gate = await open_gated(tmp_path)
    await wal.append(hard(1), run(1, 1, 1))
    gate.error = OSError(errno.EIO, "Input/output error")
    with pytest.raises(StorageError, match="Input/output error"):
        await wal.append(hard(1), run(1, 2, 2))
    gate.error = None
    for index in (3, 4):
        with pytest.raises(StorageError, match=r"dead: .*Input/output error"):
            await wal.append(hard(1), run(1, index, index))
    # Nobody may take this for a clean end.
    with pytest.raises(StorageError, match="did not end cleanly"):
        await wal.close()
    await wal.close()


async def test_a_log_that_must_exist_is_refused_when_it_is_gone(tmp_path: Path) -> None:
    with pytest.raises(CorruptLog, match="must not come back under its old id"):
        WriteAheadLog.open(tmp_path, must_exist=True)
    wal, _ = WriteAheadLog.open(tmp_path, segment_bytes=4096)
    await wal.close()
    wal, _ = WriteAheadLog.open(tmp_path, segment_bytes=4096, must_exist=True)
    await wal.close()


def sizes(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in directory.iterdir()}


async def test_the_next_segment_is_prepared_behind_the_append(tmp_path: Path) -> None:
    wal, _ = WriteAheadLog.open(tmp_path, segment_bytes=4096)
    assert sizes(tmp_path) == {segment_name(1): 4096}
    await wal.append(hard(1), ())
    await wal.append(hard(2), ())
    assert sizes(tmp_path) == {segment_name(1): 4096, segment_name(2): 4096}
    assert wal.size_bytes() == 8192
    await wal.close()


async def test_a_torn_tail_is_reported_with_its_place(tmp_path: Path) -> None:
    wal, _ = WriteAheadLog.open(tmp_path, segment_bytes=4096)
    await wal.append(hard(1), run(1, 1, 1))
    tail = wal.tail
    await wal.append(hard(1), run(1, 2, 2, b"x" * 1000))
    await wal.close()
    path = tmp_path / segment_name(1)
    image = bytearray(path.read_bytes())
    image[tail.offset + 100] ^= 1
    path.write_bytes(image)

    wal, recovered = WriteAheadLog.open(tmp_path, segment_bytes=4096)
    assert recovered.entries == run(1, 1, 1)
    assert recovered.torn_bytes >= 1000
    assert recovered.torn_at == f"{path}, byte offset {tail.offset}: checksum mismatch"
    assert wal.tail == tail
    await wal.close()


async def test_a_clean_tail_is_accepted_and_compared(tmp_path: Path) -> None:
    wal, _ = WriteAheadLog.open(tmp_path, segment_bytes=4096)
    for index in range(1, 20):
        await wal.append(hard(1), run(1, index, index, b"x" * 500))
    await wal.close()
    tail = wal.tail
    wal, recovered = WriteAheadLog.open(tmp_path, segment_bytes=4096, clean_tail=tail)
    assert recovered.last_index == 19
    assert wal.tail == tail
    await wal.append(hard(2), ())
    await wal.close()
    with pytest.raises(CorruptLog, match="clean shutdown"):
        WriteAheadLog.open(tmp_path, segment_bytes=4096, clean_tail=tail)


@pytest.mark.parametrize("error", [None, OSError(errno.EIO, "Input/output error")])
async def test_a_cancelled_append_raises_nothing_in_the_loop(tmp_path: Path, error: OSError | None) -> None:
    problems: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
    wal, gate = await open_gated(tmp_path)
    gate.error = error
    gate.shut()
    append = asyncio.ensure_future(wal.append(hard(1), ()))
    await asyncio.to_thread(gate.wait_until_reached)
    append.cancel()
    with pytest.raises(asyncio.CancelledError):
        await append
    gate.open()
    if error is None:
        await wal.close()
    else:
        with pytest.raises(StorageError, match="did not end cleanly"):
            await wal.close()
    assert problems == []


async def test_no_thread_is_left_behind(tmp_path: Path) -> None:
    before = threading.active_count()
    for _ in range(3):
        wal, _ = WriteAheadLog.open(tmp_path, segment_bytes=4096)
        await wal.append(hard(1), ())
        assert threading.active_count() == before + 1
        await wal.close()
        assert threading.active_count() == before


def test_a_loop_that_dies_during_a_write_does_no_harm(tmp_path: Path) -> None:
    async def begin() -> tuple[WriteAheadLog, Gate]:
        wal, gate = await open_gated(tmp_path)
        gate.shut()
        append = asyncio.ensure_future(wal.append(hard(1), run(1, 1, 1)))
        await asyncio.to_thread(gate.wait_until_reached)
        append.cancel()
        return wal, gate

    async def finish(wal: WriteAheadLog) -> None:
        await wal.close()
        wal, recovered = WriteAheadLog.open(tmp_path, segment_bytes=4096)
        assert recovered.entries == run(1, 1, 1)
        await wal.close()

    wal, gate = asyncio.run(begin())
    gate.open()
    asyncio.run(finish(wal))


async def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        WriteAheadLog.open(tmp_path / "missing" / "wal")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        WriteAheadLog.open(tmp_path / "file")


def files_in(directory: Path) -> int:
    return len(list(directory.iterdir()))


class SlowDeletion(OsFileSystem):
    """Deletes only while the gate is open."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def unlink(self, path: Path) -> None:
        self._gate.pass_through()
        super().unlink(path)


async def test_an_append_waits_for_one_deletion_at_most(tmp_path: Path) -> None:
    gate = Gate()
    wal, _ = WriteAheadLog.open(tmp_path, segment_bytes=4096, files=SlowDeletion(gate))
    for index in range(1, 30):
        await wal.append(hard(1, None, index - 1), run(1, index, index, b"x" * 1800))
    segments = files_in(tmp_path)
    gate.shut()
    compaction = asyncio.ensure_future(wal.compact(Index(29)))
    await asyncio.to_thread(gate.wait_until_reached)
    append = asyncio.ensure_future(wal.append(hard(1, None, 29), run(1, 30, 30)))
    gate.open()
    await append
    assert files_in(tmp_path) > segments - 3
    assert not compaction.done()
    await compaction
    assert files_in(tmp_path) < 6
    await wal.close()


async def test_closing_gives_up_the_deletions_and_the_next_start_finishes_them(tmp_path: Path) -> None:
    gate = Gate()
    wal, _ = WriteAheadLog.open(tmp_path, segment_bytes=4096, files=SlowDeletion(gate))
    for index in range(1, 30):
        await wal.append(hard(1, None, index - 1), run(1, index, index, b"x" * 1800))
    gate.shut()
    compaction = asyncio.ensure_future(wal.compact(Index(29)))
    await asyncio.to_thread(gate.wait_until_reached)
    closing = asyncio.ensure_future(wal.close())
    await asyncio.sleep(0)
    gate.open()
    await closing
    await compaction
    assert files_in(tmp_path) > 10
    wal, recovered = WriteAheadLog.open(tmp_path, segment_bytes=4096, clean_tail=wal.tail)
    assert files_in(tmp_path) < 6
    assert recovered.last_index == 29
    assert recovered.first_index > 20
    await wal.close()
