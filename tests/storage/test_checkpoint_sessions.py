"""A checkpoint holds what clients have been promised: a retry after it was installed or restored is applied once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from raftkv.kv.commands import Delete, Deleted, Group, Put, RegisterSession, SessionRegistered, Written
from raftkv.kv.keys import SESSIONS, VERSIONS
from raftkv.kv.machine import StateMachine
from raftkv.server.disk import inspect_state
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.lmdb_store import LmdbEngine
from raftkv.storage.memory import MemoryEngine, MemoryOrderedStore
from raftkv.storage.memory_files import MemoryFileSystem
from raftkv.storage.worker import Inline
from tests.kv.host import entry
from tests.storage.states import configuration_at, transfer

MINE = Group(1, 1, (Put(1, b"k", b"mine"), Delete(2, b"gone", b"")))
THEIRS = Group(0, 0, (Put(0, b"k", b"theirs"), Put(0, b"gone", b"back")))


class Node:
    """The state of one node, and its checkpoints."""

    def __init__(self, engine: Any, store: Any, checkpoints: CheckpointStore[Any]) -> None:
        self.engine = engine
        self.store = store
        self.checkpoints = checkpoints

    @classmethod
    def make(cls, kind: str, path: Path, store: MemoryOrderedStore | None = None) -> Node:
        if kind == "lmdb":
            path.mkdir()
            lmdb = LmdbEngine(path / "store", map_size=1 << 24)
            on_disk = CheckpointStore.open(path / "checkpoints", engine=lmdb, inspect=inspect_state)
            return cls(lmdb, lmdb.open(), on_disk)
        files = MemoryFileSystem()
        memory = MemoryEngine(files)
        twin = CheckpointStore.open(
            path, engine=memory, inspect=inspect_state, files=files, make_runner=lambda _: Inline()
        )
        return cls(memory, store or MemoryOrderedStore(), twin)

    def apply(self, index: int, *groups: Group) -> Any:
        return StateMachine(self.store).apply([entry(index, *groups)])[0].results

    def value_of(self, key: bytes) -> bytes | None:
        with StateMachine(self.store).view() as view:
            pair = view.get(key, 0)
        return pair.value if pair is not None else None

    async def close(self) -> None:
        await self.checkpoints.close()
        self.store.close()


class Sessionless(MemoryOrderedStore):
    """Its copies leave out the sessions and their results."""

    @contextmanager
    def copy(self) -> Iterator[Iterator[bytes]]:
        kept = MemoryOrderedStore()
        with self.read() as reader, kept.write() as writer:
            for key, value in reader.scan(b"\0", SESSIONS):
                writer.put(key, value)
        with kept.copy() as blocks:
            yield blocks


async def _retry_after(way: str, leader: Node, follower: Node) -> tuple[Any, Node]:
    """Return what a retried batch is answered by a node that has its state from a checkpoint."""
    assert leader.apply(1, Group(0, 0, (RegisterSession(0), Put(0, b"gone", b"1")))) == (
        [SessionRegistered(1), Written(2)],
    )
    assert leader.apply(2, MINE) == ([Written(3), Deleted(4, 1)],)
    leader.apply(3, THEIRS)
    await leader.checkpoints.create(leader.store, configuration_at)
    if way == "restored":
        # As recovery does where the working store was discarded.
        manifest = leader.checkpoints.newest
        assert manifest is not None
        leader.store.close()
        leader.store = leader.checkpoints.restore_at_start(manifest, None)
        return leader.apply(4, MINE), leader
    sending = leader.checkpoints.send()
    receiving = await follower.checkpoints.begin(sending.manifest)
    await transfer(sending, receiving)
    await receiving.finish()
    sending.close()
    follower.store = await follower.checkpoints.restore(follower.store, sending.manifest.index)
    return follower.apply(4, MINE), follower


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
@pytest.mark.parametrize("way", ["installed", "restored"])
async def test_bug_31_a_retry_behind_a_checkpoint_is_answered_from_its_sessions(
    way: str, kind: str, tmp_path: Path
) -> None:
    nodes = [Node.make(kind, tmp_path / name) for name in ("a", "b")]
    answer, node = await _retry_after(way, nodes[0], nodes[1])
    assert answer == ([Written(3), Deleted(4, 1)],), "the answers of the first time"
    assert (node.value_of(b"k"), node.value_of(b"gone")) == (b"theirs", b"back"), "nothing was applied again"
    for one in nodes:
        await one.close()


@pytest.mark.parametrize("way", ["installed", "restored"])
async def test_bug_31_control_without_the_sessions_a_checkpoint_loses_the_answers(way: str, tmp_path: Path) -> None:
    assert VERSIONS < SESSIONS
    leader = Node.make("memory", tmp_path / "a", Sessionless())
    answer, _ = await _retry_after(way, leader, Node.make("memory", tmp_path / "b"))
    assert answer != ([Written(3), Deleted(4, 1)],)
