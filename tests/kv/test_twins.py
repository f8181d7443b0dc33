"""The same log on every ordered store: the same answers and the same state hash."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import settings

from raftkv.kv.commands import Group, RegisterSession
from raftkv.kv.machine import AppliedEntry, GroupResults, StateMachine
from raftkv.kv.store import OrderedStore
from raftkv.storage.lmdb_store import LmdbStore
from raftkv.storage.memory import MemoryOrderedStore

from .dict_store import DictStore
from .host import Host, delete, entry, put, state_hash
from .test_model import StoreAgainstHistory


def log() -> list[AppliedEntry]:
    entries = [entry(1, Group(0, 0, (RegisterSession(0), RegisterSession(0))))]
    for index in range(2, 60):
        key, other = b"\0%02d" % (index % 7), b"%d" % (index % 5)
        commands = (
            put(key, b"v" * index, 2 * index),
            delete(other, b"3", 2 * index + 1) if index % 3 else put(b"k" * 500, b"", 2 * index),
        )
        group = Group(index % 4, max(2 * index - 8, 0), commands)
        entries.append(entry(index, group, Group(0, 0, (put(other),)), time_ms=index * 70_000))
    return entries


def run(store: OrderedStore) -> tuple[list[GroupResults], bytes]:
    machine = StateMachine(store)
    results = machine.apply(log()[:30])
    machine = StateMachine(store)
    results += machine.apply(log()[30:])
    return [one.results for one in results], state_hash(machine)


def test_every_store_gives_the_same_answers_and_the_same_hash(tmp_path: Path) -> None:
    lmdb = LmdbStore.open(tmp_path / "store", map_size=1 << 26)
    try:
        expected = run(DictStore())
        assert run(MemoryOrderedStore()) == expected
        assert run(lmdb) == expected
    finally:
        lmdb.close()


class TwinHost(Host):
    """Applies everything to LMDB too, and compares: results, changes, hashes."""

    def __init__(self, lmdb: LmdbStore) -> None:
        super().__init__(MemoryOrderedStore())
        self.twin = StateMachine(lmdb)

    def apply(self, *groups: Group) -> GroupResults:
        results = super().apply(*groups)
        (applied,) = self.twin.apply([self.log[-1]])
        assert (applied.results, applied.changes) == (results, self.changes)
        assert state_hash(self.twin) == self.hash()
        return results


class OnBoth(StoreAgainstHistory):
    def make_host(self) -> Host:
        self.directory = tempfile.TemporaryDirectory()
        self.lmdb = LmdbStore.open(Path(self.directory.name) / "store", map_size=1 << 26)
        return TwinHost(self.lmdb)

    def teardown(self) -> None:
        super().teardown()
        self.lmdb.close()
        self.directory.cleanup()


TestOnBoth = OnBoth.TestCase
TestOnBoth.settings = settings(max_examples=25, stateful_step_count=40)
