"""Applying a log at a start: many entries a transaction, the same state."""

from __future__ import annotations

import pytest

from raftkv.raft import Entry, EntryKind, Index, Term
from raftkv.server.node import Node
from raftkv.server.replay import in_slices
from raftkv.storage.memory import MemoryOrderedStore
from raftkv.storage.progress import Interrupted
from raftkv.v1 import kv_pb2
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until
from tests.storage.progress import Told


def entry(index: int, size: int) -> Entry:
    return Entry(Term(1), Index(index), EntryKind.COMMANDS, bytes(size))


@pytest.mark.parametrize(
    ("sizes", "slices"),
    [
        ([], []),
        ([500], [[1]]),
        ([10, 10, 10], [[1, 2], [3]]),
        ([10, 500, 10], [[1], [2], [3]]),
        ([10, 0, 10, 0, 0], [[1], [2, 3], [4], [5]]),
    ],
    ids=["nothing", "a large one", "as many as fit", "a large one among small ones", "without a payload"],
)
def test_slices(sizes: list[int], slices: list[list[int]]) -> None:
    entries = [entry(index, size) for index, size in enumerate(sizes, 1)]
    assert [[one.index for one in slice_] for slice_ in in_slices(entries, 80)] == slices


async def written(cluster: MemoryCluster) -> MemoryNode:
    """Some entries, committed as its log knows; then the node stops and its state store is lost."""
    member = await cluster.leader()
    for number in range(20):
        await member.put(b"k%d" % (number % 7), b"v%d" % number)
    await member.node.stop()
    member.store = MemoryOrderedStore()
    return member


async def test_a_log_is_applied_in_few_transactions(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryCluster(1) as cluster:
        member = await written(cluster)
        told = Told()
        recover, transactions = Node.recover, 0

        def counting(node: Node) -> None:
            nonlocal transactions
            apply = type(node.machine).apply

            def count(*arguments: object) -> object:
                nonlocal transactions
                transactions += 1
                return apply(*arguments)  # type: ignore[arg-type]

            with monkeypatch.context() as patch:
                patch.setattr(type(node.machine), "apply", count)
                recover(node, told)
            assert node.machine.revision >= 20
            assert node.hub.revision == node.machine.revision
            assert node.raft.log.applied == node.machine.applied_index

        monkeypatch.setattr(Node, "recover", counting)
        await member.start()
        assert transactions == 1
        ((done, total),) = told.phases.values()
        assert done == total > 0
        await cluster.leader()
        read = await member.get(b"k5")
        assert read.range.kvs[0].value == b"v19"
        assert read.range.kvs[0].version == 3


async def test_an_interrupted_replay_goes_on_at_the_next_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryCluster(1) as cluster:
        member = await written(cluster)
        monkeypatch.setattr("raftkv.server.node.REPLAY_BYTES", 100)
        recover = Node.recover
        with monkeypatch.context() as patch:
            patch.setattr(Node, "recover", lambda node: recover(node, Told(ending="applying the log")))
            with pytest.raises(Interrupted):
                await member.start()
        assert 0 < member.node.machine.applied_index < 15
        await member.start()
        await until(lambda: member.node.leader is not None)
        assert (await member.get(b"k5", kv_pb2.LOCAL)).range.kvs[0].value in (b"v19", b"v12")
