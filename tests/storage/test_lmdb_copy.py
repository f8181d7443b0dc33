"""Copying the store on disk while it is written, and replacing it by a copy."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftkv.errors import StorageError
from raftkv.storage.files import OsFile
from raftkv.storage.lmdb_store import DamagedStore, LmdbEngine, LmdbStore
from tests.storage.states import rows_of


def filled(path: Path, megabytes: int = 4) -> LmdbStore:
    store = LmdbStore.open(path, map_size=1 << 30)
    with store.write() as writer:
        for key in range(megabytes * 20):
            writer.put(b"%04d" % key, b"old" * 16_000)
    return store


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def open_files() -> list[str]:
    """Targets of all descriptors under a store's directory."""
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [str(link) for link in links if "/store/" in str(link)]


def read_copy(path: Path, content: bytes) -> dict[bytes, bytes]:
    path.write_bytes(content)
    with LmdbEngine(path).open_copy(path) as reader:
        return dict(reader.scan(b"", None))


def test_neither_readers_nor_the_writer_wait_for_a_copy_and_it_sees_one_commit(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    before = rows_of(store)
    with store.copy() as blocks:
        parts = [next(blocks)]
        # The rest is held up: the pipe is full, and LMDB waits in the middle of its copy.
        for number in range(20):
            with store.write() as writer:
                for key in before:
                    writer.put(key, b"new %d" % number)
        assert set(rows_of(store).values()) == {b"new 19"}
        parts.extend(blocks)
    assert read_copy(tmp_path / "copy", b"".join(parts)) == before
    store.close()


def test_a_copy_is_compact(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    with store.write() as writer:
        for key in range(10, 80):
            writer.delete(b"%04d" % key)
    with store.copy() as blocks:
        assert sum(map(len, blocks)) < store.size_bytes() / 4
    store.close()


def test_a_copy_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    threads, open_before = threading.active_count(), descriptors()
    for _ in range(5):
        with store.copy() as blocks:
            next(blocks)
        with contextlib.suppress(ZeroDivisionError), store.copy() as blocks:
            next(blocks)
            raise ZeroDivisionError
    assert (threading.active_count(), descriptors()) == (threads, open_before)
    store.close()


@pytest.mark.parametrize("end", [LmdbStore.close, LmdbStore.discard])
def test_the_store_is_not_closed_under_a_copy(tmp_path: Path, end: Callable[[LmdbStore], None]) -> None:
    store = filled(tmp_path / "store")
    with store.copy() as blocks:
        parts = [next(blocks)]
        closing = threading.Thread(target=end, args=(store,))
        closing.start()
        closing.join(0.2)
        assert closing.is_alive()
        parts.extend(blocks)
    closing.join(30)
    assert not closing.is_alive()
    assert len(read_copy(tmp_path / "copy", b"".join(parts))) == 80
    with pytest.raises(StorageError, match="closed"), store.copy():
        pytest.fail("copied a closed store")


def replaced(path: Path) -> tuple[LmdbEngine, LmdbStore]:
    """A store at the 30th commit, and a copy of another one beside it."""
    other = filled(path / "other")
    engine = LmdbEngine(path / "store", map_size=1 << 30)
    store = engine.open()
    for number in range(30):
        with store.write() as writer:
            writer.put(b"mine", b"%d" % number)
    with other.copy() as blocks:
        engine.prepare(blocks)
    other.close()
    return engine, store


def test_a_prepared_copy_leaves_the_store_alone_until_the_swap(tmp_path: Path) -> None:
    engine, store = replaced(tmp_path)
    with store.write() as writer:
        writer.put(b"mine", b"still written")
    assert rows_of(store) == {b"mine": b"still written"}
    store.close()
    store = engine.open()
    assert rows_of(store) == {b"mine": b"still written"}
    store.close()


def test_the_swapped_in_store_is_read_and_written(tmp_path: Path) -> None:
    """Its transactions have lower numbers than those of the store it replaces, and the lock file knew those."""
    engine, old = replaced(tmp_path)
    store = engine.swap(old)
    assert len(rows_of(store)) == 80
    for number in range(3):
        with store.write() as writer:
            writer.put(b"mine", b"%d" % number)
        assert rows_of(store)[b"mine"] == b"%d" % number
    store.close()
    with pytest.raises(StorageError), old.read():
        pytest.fail("the old store is closed")
    store = engine.open()
    assert rows_of(store)[b"mine"] == b"2"
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["data.mdb", "lock.mdb"]
    store.close()


def test_the_file_of_the_replaced_store_is_freed_in_another_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gigabyte is not freed in no time, and the event loop does the swap."""
    freed_by: list[threading.Thread] = []
    freed = threading.Event()

    close = OsFile.close

    def watched(file: OsFile) -> None:
        assert any("deleted" in target for target in open_files()), "the rename has freed it"
        close(file)
        freed_by.append(threading.current_thread())
        freed.set()

    engine, old = replaced(tmp_path)
    monkeypatch.setattr(OsFile, "close", watched)
    store = engine.swap(old)
    assert freed.wait(60)
    assert threading.current_thread() not in freed_by
    assert not any("deleted" in target for target in open_files())
    store.close()


def test_a_snapshot_outlives_the_store_that_is_replaced_under_it(tmp_path: Path) -> None:
    """A scan of a client gives way to others between its rows, and to an install among them."""
    engine, old = replaced(tmp_path)
    with old.write() as writer:
        for key in range(1000):
            writer.put(b"row %04d" % key, b"old" * 100)
    with contextlib.ExitStack() as reader_ended:
        reader = reader_ended.enter_context(old.read())
        scan = reader.scan(b"", None)
        rows = [next(scan) for _ in range(100)]
        store = engine.swap(old)
        with store.read() as newer:
            for round_ in range(20):
                # Pages are reused unless the store knows of `newer`; the end of the old one must not make it forget.
                with store.write() as writer:
                    for key in range(80):
                        writer.put(b"%04d" % key, b"new %d" % round_)
                if round_ == 5:
                    rows += scan
                    assert [key for key, _ in rows] == [b"mine", *(b"row %04d" % key for key in range(1000))]
                    assert rows[-1][1] == b"old" * 100
                    assert any("deleted" in target for target in open_files())
                    reader_ended.close()
                    assert not any("deleted" in target for target in open_files())
            assert set(dict(newer.scan(b"", None)).values()) == {b"old" * 16_000}
    store.close()


def test_a_copy_that_breaks_off_is_not_swapped_in(tmp_path: Path) -> None:
    engine, store = replaced(tmp_path)

    def broken() -> Iterator[bytes]:
        yield b"x" * 5000
        raise StorageError("damaged")

    with pytest.raises(StorageError, match="damaged"):
        engine.prepare(broken())
    assert rows_of(store) == {b"mine": b"29"}
    store.close()


def test_what_is_no_copy_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"junk" * 5000)
    with (
        pytest.raises(DamagedStore, match="junk is damaged"),
        LmdbEngine(tmp_path).open_copy(tmp_path / "junk"),
    ):
        pytest.fail("opened junk")
