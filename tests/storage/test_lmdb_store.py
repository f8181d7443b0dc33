"""What only the store on disk has: limits, other processes, sudden death."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import lmdb
import pytest

from raftkv.errors import NoRoom, StorageError
from raftkv.storage import lmdb_store
from raftkv.storage.lmdb_store import NOTHING_FREE_BYTES, DamagedStore, LmdbStore

VICTIM = """
import sys
from pathlib import Path
from raftkv.storage.lmdb_store import LmdbStore

store = LmdbStore.open(Path(sys.argv[1]), map_size=64 << 20)
applied = 0
while True:
    with store.write() as writer:
        applied += 1
        writer.put(b"applied", b"%d" % applied)
        for key in range(50):
            writer.put(b"key %d" % key, b"%d" % applied)
        if applied == 200:
            print("in mid-transaction", flush=True)
            sys.stdin.read()
"""


def test_bug_37_a_killed_process_keeps_the_last_commit_whole(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", VICTIM, str(tmp_path / "store")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in mid-transaction\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = LmdbStore.open(tmp_path / "store", map_size=64 << 20)
    with store.read() as reader:
        found = dict(reader.scan(b"", None))
    assert found.pop(b"applied") == b"199"
    assert found == {b"key %d" % key: b"199" for key in range(50)}
    with store.write() as writer:
        writer.put(b"applied", b"200")
    store.close()


def test_a_full_store_names_its_limit_and_the_flag_and_keeps_what_it_had(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "store", map_size=1 << 20)
    with store.write() as writer:
        writer.put(b"applied", b"1")

    def overfill() -> None:
        with store.write() as writer:
            writer.put(b"applied", b"2")
            for key in range(10_000):
                writer.put(b"%d" % key, b"x" * 1000)

    with pytest.raises(StorageError, match=r"store has reached its limit of 1048576 bytes.*--store-map-size"):
        overfill()
    with store.read() as reader:
        assert list(reader.scan(b"", None)) == [(b"applied", b"1")]
    store.close()
    larger = LmdbStore.open(tmp_path / "store", map_size=64 << 20)
    with larger.write() as writer:
        for key in range(10_000):
            writer.put(b"%d" % key, b"x" * 1000)
    larger.close()


@contextmanager
def small_volume(path: Path, size: int) -> Iterator[Path]:
    """Mount a file system of `size` bytes."""
    path.mkdir()

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False)

    mounted = run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path))
    if mounted.returncode != 0:
        pytest.skip(f"A FULL DISK UNDER THE STORE IS NOT TESTED HERE: {mounted.stderr.strip()} (needs root)")
    try:
        yield path
    finally:
        assert run("umount", "-l", str(path)).returncode == 0


def test_a_full_disk_under_the_store_is_no_broken_one_and_the_store_goes_on_with_room(tmp_path: Path) -> None:
    """The last write before it is full is cut short, which LMDB reports as an I/O error."""
    with small_volume(tmp_path / "volume", 4 << 20) as volume:
        store = LmdbStore.open(volume / "store")
        ballast = volume / "ballast"
        ballast.write_bytes(bytes(1 << 20))
        applied, causes = 0, []

        def apply() -> None:
            with store.write() as writer:
                writer.put(b"applied", b"%d" % (applied + 1))
                writer.put(b"key %d" % applied, bytes(50_000))

        for _ in range(200):
            try:
                apply()
            except NoRoom as error:
                causes.append(str(error.__cause__))
                if len(causes) == 3:
                    break
            else:
                applied += 1
        assert os.strerror(errno.EIO) in causes[0], causes
        assert len(causes) == 3
        ballast.unlink()
        apply()
        with store.read() as reader:
            assert reader.get(b"applied") == b"%d" % (applied + 1)
        store.discard()


@pytest.mark.parametrize(
    ("number", "free", "kind"),
    [
        (errno.EDQUOT, 1 << 40, NoRoom),
        (errno.EIO, NOTHING_FREE_BYTES - 1, NoRoom),
        (errno.EIO, NOTHING_FREE_BYTES, StorageError),
    ],
)
def test_an_io_error_is_for_want_of_room_only_where_nothing_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, free: int, kind: type[StorageError]
) -> None:
    store = LmdbStore.open(tmp_path / "store")
    monkeypatch.setattr(lmdb_store, "free_bytes", lambda _: free)
    for opened in (store.write, store.read):
        with pytest.raises(StorageError) as failed, opened():
            raise lmdb.Error(f"mdb_txn_commit: {os.strerror(number)}")
        # What is read needs no room.
        assert type(failed.value) is (kind if opened == store.write else StorageError)
    store.close()


def test_what_was_written_is_there_after_close(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "store")
    with store.write() as writer:
        writer.put(b"a", b"1")
    store.close()
    store.close()
    store = LmdbStore.open(tmp_path / "store")
    with store.read() as reader:
        assert reader.get(b"a") == b"1"
    store.close()


def test_the_default_map_takes_no_disk_space(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "store")
    with store.write() as writer:
        writer.put(b"a", b"1")
    used = sum(path.stat().st_blocks * 512 for path in (tmp_path / "store").iterdir())
    store.close()
    assert used < 1 << 20


async def test_a_snapshot_stays_open_across_awaits_while_the_writer_commits(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "store", map_size=64 << 20)
    with store.write() as writer:
        for key in range(100):
            writer.put(b"%02d" % key, b"old")
    done = asyncio.Event()

    async def scan() -> list[bytes]:
        values = []
        with store.read() as reader:
            for _, value in reader.scan(b"", None):
                values.append(value)
                await asyncio.sleep(0)
        done.set()
        return values

    scans = [asyncio.ensure_future(scan()) for _ in range(5)]
    commits = 0
    while not done.is_set():
        await asyncio.sleep(0)
        with store.write() as writer:
            for key in range(100):
                writer.put(b"%02d" % key, b"new %d" % commits)
        commits += 1
    assert commits > 50
    for values in await asyncio.gather(*scans):
        assert values == [b"old"] * 100
    store.close()


def test_more_snapshots_than_the_default_of_lmdb(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "store", map_size=64 << 20)
    blocks = [store.read() for _ in range(512)]
    readers = [block.__enter__() for block in blocks]
    assert [reader.get(b"a") for reader in readers] == [None] * 512
    for block in blocks:
        block.__exit__(None, None, None)
    store.close()


def test_a_store_out_of_readers_says_so(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "store", map_size=64 << 20, max_readers=1)
    with store.read(), pytest.raises(StorageError, match="READERS_FULL"), store.read():
        pytest.fail("a reader too many")
    store.close()


def test_a_damaged_store_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(DamagedStore, match=r"the state store is damaged: .*data\.mdb"):
        LmdbStore.open(tmp_path / "store")
    with pytest.raises(StorageError, match="cannot be opened"):
        LmdbStore.open(tmp_path / "missing" / "store")


class SpyEnvironment:
    def __init__(self, error: lmdb.Error | None = None) -> None:
        self.calls: list[str] = []
        self._error = error

    def sync(self, force: bool) -> None:
        self.calls.append(f"sync {force}")
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.calls.append("close")


def test_close_flushes_first() -> None:
    """The clean-shutdown mark that follows promises a store that survives a power loss."""
    spy = SpyEnvironment()
    store = LmdbStore(cast(lmdb.Environment, spy), Path("store"))
    store.close()
    store.close()
    assert spy.calls == ["sync True", "close"]


def test_a_close_that_cannot_flush_says_so_and_lets_go() -> None:
    spy = SpyEnvironment(lmdb.DiskError("mdb_env_sync: Input/output error"))
    store = LmdbStore(cast(lmdb.Environment, spy), Path("store"))
    with pytest.raises(StorageError, match="Input/output error"):
        store.close()
    assert spy.calls == ["sync True", "close"]


def test_a_closed_store_is_a_storage_error(tmp_path: Path) -> None:
    store = LmdbStore.open(tmp_path / "store")
    store.close()
    with pytest.raises(StorageError), store.write():
        pytest.fail("closed")
    with pytest.raises(StorageError), store.read():
        pytest.fail("closed")


def test_the_store_can_be_opened_by_its_owner_who_is_not_root(tmp_path: Path) -> None:
    LmdbStore.open(tmp_path / "store").close()
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "store" / "data.mdb").stat().st_mode & 0o777 == 0o600
