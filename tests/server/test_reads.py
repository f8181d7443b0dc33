"""Reads at each level, through whole nodes: what they say they are, and what they refuse."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftkv.errors import InvalidArgument
from raftkv.quorum import Guarantee
from raftkv.server.wire_read import decode_asked
from raftkv.v1 import common_pb2, kv_pb2, lock_pb2
from tests.server.memory_cluster import MemoryCluster, until
from tests.server.reading import Held, others, read, settled, token, written_behind

HERE = {"here": True}


@pytest.mark.parametrize("who", ["leader", "follower"])
async def test_each_level_says_what_its_answer_is(who: str) -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        written = await leader.put(b"k", b"v")
        assert written.put.revision
        await settled(cluster)
        asked = leader if who == "leader" else cluster.follower(leader)
        machine = leader.node.machine
        applied = machine.applied_term, machine.applied_index
        expected: dict[str, tuple[kv_pb2.ReadLevel.ValueType, dict[str, Any], Guarantee, int, int, int]] = {
            "linearizable": (kv_pb2.LINEARIZABLE, {}, Guarantee.LINEARIZABLE, leader.id, 2, 0),
            "here": (kv_pb2.LINEARIZABLE, HERE, Guarantee.LINEARIZABLE, asked.id, 2, 0),
            "local": (kv_pb2.LOCAL, {}, Guarantee.STALE_PREFIX, asked.id, 1, 0),
            "at least": (kv_pb2.AT_LEAST, {"at_least": token(*applied)}, Guarantee.AT_LEAST, asked.id, 1, 0),
            "bounded": (kv_pb2.BOUNDED, {"max_staleness_ms": 60_000}, Guarantee.BOUNDED, asked.id, 2, 0),
            "quorum": (kv_pb2.QUORUM, {}, Guarantee.LINEARIZABLE, asked.id, 2, 2),
            "quorum 3": (kv_pb2.QUORUM, {"replicas": 3}, Guarantee.LINEARIZABLE, asked.id, 3, 2),
            "quorum 1": (kv_pb2.QUORUM, {"replicas": 1}, Guarantee.SEES_WRITES_AT_W_GE, asked.id, 1, 3),
        }
        for name, (level, fields, guarantee, served_by, replicas, sees) in expected.items():
            answer = await read(asked, level, **fields)
            receipt = answer.receipt
            assert answer.value == b"v", name
            said = answer.guarantee, receipt.served_by, receipt.replicas, receipt.sees_writes_at
            assert said == (guarantee, served_by, replicas, sees), name
            assert (receipt.applied_term, receipt.applied_index) == applied, name
            assert receipt.configuration_index == leader.node.raft.configuration_index
            assert (receipt.staleness_ms > 0) == (name == "bounded")


async def test_a_linearizable_read_here_asks_the_leader_and_waits_for_what_it_says() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        for number in range(20):
            written = await leader.put(b"k", b"%d" % number)
            assert written.put.revision
            answer = await read(follower, kv_pb2.LINEARIZABLE, here=True)
            assert (answer.value, answer.receipt.served_by) == (b"%d" % number, follower.id)
        assert not cluster.forwarded
        assert cluster.calls[follower.id, leader.id] >= 20


async def test_reads_of_one_turn_share_a_question() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        await asyncio.gather(*[read(follower, kv_pb2.LINEARIZABLE, here=True) for _ in range(50)])
        assert cluster.calls[follower.id, leader.id] == 1


async def test_a_linearizable_read_here_joins_the_next_question_not_the_one_under_way() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        await leader.put(b"k", b"old")
        await settled(cluster)
        follower = cluster.follower(leader)
        cluster.before_answer = held = Held(follower.id)
        early = asyncio.create_task(read(follower, kv_pb2.LINEARIZABLE, here=True))
        await held.held.wait()
        await written_behind(cluster, leader, follower, b"new")  # before `late` begins
        late = asyncio.create_task(read(follower, kv_pb2.LINEARIZABLE, here=True))
        await asyncio.sleep(0)
        held.let_go()
        await until(lambda: cluster.calls[follower.id, leader.id] >= 2)
        cluster.heal()
        assert (await late).value == b"new"
        assert not (await early).error.code


async def test_without_a_leader_a_linearizable_read_is_refused_in_bounded_time() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        cluster.isolate(follower.id)
        await until(lambda: follower.node.leader is None)
        answer = await read(follower, kv_pb2.LINEARIZABLE, here=True)
        assert answer.error.code == common_pb2.NO_LEADER
        assert answer.error.retryable


async def test_a_leader_that_is_cut_off_confirms_no_read_point() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        cluster.isolate(leader.id)
        answer = await read(leader, kv_pb2.LINEARIZABLE, here=True)
        assert answer.error.code == common_pb2.NO_LEADER


async def test_at_least_waits_for_the_state_to_come_to_the_token() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        await written_behind(cluster, leader, follower, b"v")
        machine = leader.node.machine
        seen = token(machine.applied_term, machine.applied_index)
        refused = await read(follower, kv_pb2.AT_LEAST, 50, at_least=seen)
        assert refused.error.code == common_pb2.TOO_STALE
        assert f"entry {seen.index}" in refused.error.message
        assert f"applied entry {follower.node.machine.applied_index} " in refused.error.message
        waiting = asyncio.create_task(read(follower, kv_pb2.AT_LEAST, at_least=seen))
        await asyncio.sleep(0)
        assert not waiting.done()
        cluster.heal()
        assert (await waiting).value == b"v"


@pytest.mark.parametrize("level", [kv_pb2.BOUNDED, kv_pb2.QUORUM])
async def test_other_levels_wait_for_a_token_as_well(level: kv_pb2.ReadLevel.ValueType) -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        last = leader.node.raft.log.last_index
        ahead = token(leader.node.raft.term, last + 1, committed=True)
        follower = cluster.follower(leader)
        bound = 60_000 if level == kv_pb2.BOUNDED else 0
        refused = await read(follower, level, 50, at_least=ahead, max_staleness_ms=bound)
        assert refused.error.code == common_pb2.TOO_STALE
        waiting = asyncio.create_task(read(follower, level, at_least=ahead, max_staleness_ms=bound))
        await leader.put(b"k", b"v")
        assert (await waiting).value == b"v"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"level": kv_pb2.QUORUM, "replicas": 4}, "1 to 3 voters"),
        ({"level": kv_pb2.BOUNDED}, "max_staleness_ms, 1 to"),
        ({"level": kv_pb2.AT_LEAST}, "needs the token"),
        ({"level": kv_pb2.LOCAL, "at_least": token(1, 1)}, "AT_LEAST, BOUNDED and QUORUM"),
        ({"level": kv_pb2.QUORUM, "after": kv_pb2.Position(term=1, index=1)}, "level AT_LEAST"),
        ({"level": kv_pb2.LEASE, "here": True}, "LINEARIZABLE"),
        ({"level": 17}, "level 17 is unknown"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_what_does(fields: dict[str, Any], says: str) -> None:
    async with MemoryCluster() as cluster:
        await cluster.leader()
        error = (await read(cluster[1], **fields)).error
        assert error.code == common_pb2.INVALID_ARGUMENT
        assert not error.retryable
        assert says in error.message


OWN_STATE = [
    (kv_pb2.LOCAL, {}),
    (kv_pb2.LINEARIZABLE, HERE),
    (kv_pb2.AT_LEAST, {"at_least": token(0, 0)}),
    (kv_pb2.BOUNDED, {"max_staleness_ms": 60_000}),
    (kv_pb2.QUORUM, {}),
]


@pytest.mark.parametrize(("level", "fields"), OWN_STATE)
async def test_a_witness_reads_nothing(level: kv_pb2.ReadLevel.ValueType, fields: dict[str, Any]) -> None:
    async with MemoryCluster(witnesses=[3]) as cluster:
        await cluster.leader()
        error = (await read(cluster[3], level, **fields)).error
        assert error.code == common_pb2.FAILED_PRECONDITION
        assert "witness" in error.message


@pytest.mark.parametrize(("level", "fields"), OWN_STATE)
async def test_a_removed_node_reads_nothing(
    level: kv_pb2.ReadLevel.ValueType, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        monkeypatch.setattr(type(follower.node), "was_removed", True)
        error = (await read(follower, level, **fields)).error
        assert (error.code, error.retryable) == (common_pb2.NO_LEADER, True)  # another node answers
        assert "not a member" in error.message


async def test_one_message_with_reads_of_many_kinds_has_a_receipt_for_each() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        follower = cluster.follower(leader)
        ranges = [
            kv_pb2.RangeRequest(key=b"k", level=kv_pb2.LOCAL),
            kv_pb2.RangeRequest(key=b"k", level=kv_pb2.QUORUM),
            kv_pb2.RangeRequest(key=b"k"),
            kv_pb2.RangeRequest(key=b"k", level=kv_pb2.LOCAL),
            kv_pb2.RangeRequest(key=b"k", level=kv_pb2.BOUNDED, max_staleness_ms=60_000),
            kv_pb2.RangeRequest(key=b"k", level=kv_pb2.LOCAL, revision=10**9),
        ]
        operations = [kv_pb2.Operation(id=number, range=one) for number, one in enumerate(ranges)]
        query = kv_pb2.Operation(id=17, lock_query=lock_pb2.LockQueryRequest(name=b"lock"))
        put = kv_pb2.Operation(id=18, put=kv_pb2.PutRequest(key=b"k", value=b"v"))
        batch = kv_pb2.BatchRequest(operations=[*operations, query, put])
        response = await follower.requests.run(batch, forwarded=False)
        assert sorted(result.id for result in response.results) == [0, 1, 2, 3, 4, 5, 17, 18]
        said = {
            result.id: (result.read if result.HasField("read") else response.read)
            for result in response.results
            if not result.HasField("error")
        }
        guarantees = {number: Guarantee(receipt.guarantee) for number, receipt in said.items() if number != 18}
        assert guarantees == {
            0: Guarantee.STALE_PREFIX,
            1: Guarantee.LINEARIZABLE,
            2: Guarantee.LINEARIZABLE,
            3: Guarantee.STALE_PREFIX,
            4: Guarantee.BOUNDED,
            17: Guarantee.LINEARIZABLE,
        }
        assert said[2].served_by == said[17].served_by == leader.id
        assert said[1].served_by == said[4].served_by == follower.id
        by_id = {result.id: result for result in response.results}
        assert not by_id[5].HasField("read")
        assert not by_id[18].HasField("read")
        assert cluster.forwarded == 1


async def test_a_read_that_waits_holds_up_no_write_beside_it() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        never = token(leader.node.raft.term + 1, 10**6)
        waiting = kv_pb2.RangeRequest(key=b"k", level=kv_pb2.AT_LEAST, at_least=never)
        operations = [
            kv_pb2.Operation(id=1, range=waiting),
            kv_pb2.Operation(id=2, put=kv_pb2.PutRequest(key=b"k", value=b"v")),
        ]
        batch = kv_pb2.BatchRequest(timeout_ms=1_000, operations=operations)
        running = asyncio.create_task(leader.requests.run(batch, forwarded=False))
        await until(lambda: leader.node.machine.revision == 2)
        assert not running.done()
        results = {result.id: result for result in (await running).results}
        assert results[1].error.code == common_pb2.TOO_STALE
        assert results[2].put.revision == 2


async def test_waits_that_were_given_up_are_forgotten() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        never = token(leader.node.raft.term + 1, 10**6)
        for _ in range(5):
            await asyncio.gather(*[read(leader, kv_pb2.AT_LEAST, 1, at_least=never) for _ in range(100)])
        waits = leader.node._applied_waits
        assert len(waits) == 0
        assert len(waits._by_index) + len(waits._by_term) <= 100


async def test_a_node_that_stops_tells_whoever_waits() -> None:
    async with MemoryCluster() as cluster:
        leader = await settled(cluster)
        never = token(leader.node.raft.term + 1, 10**6)
        waiting = asyncio.create_task(read(others(cluster, leader)[0], kv_pb2.AT_LEAST, at_least=never))
        await until(lambda: len(others(cluster, leader)[0].node._applied_waits) == 1)
        await others(cluster, leader)[0].node.stop()
        assert (await waiting).error.code == common_pb2.SHUTTING_DOWN


@pytest.mark.parametrize(
    ("field", "value", "level"),
    [
        *[("replicas", 2, level) for level in kv_pb2.ReadLevel.values() if level != kv_pb2.QUORUM],
        *[("max_staleness_ms", 5, level) for level in kv_pb2.ReadLevel.values() if level != kv_pb2.BOUNDED],
        *[("here", True, level) for level in kv_pb2.ReadLevel.values() if level != kv_pb2.LINEARIZABLE],
    ],
)
def test_what_belongs_to_another_level_is_refused(field: str, value: Any, level: kv_pb2.ReadLevel.ValueType) -> None:
    fields: dict[str, Any] = {"at_least": token(1, 1)} if level == kv_pb2.AT_LEAST else {}
    fields |= {"max_staleness_ms": 5} if level == kv_pb2.BOUNDED else {}
    decode_asked(kv_pb2.RangeRequest(key=b"k", level=level, **fields))
    with pytest.raises(InvalidArgument, match=field):
        decode_asked(kv_pb2.RangeRequest(key=b"k", level=level, **fields, **{field: value}))
