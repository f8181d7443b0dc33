"""Writes that say how many voters must have them: when they are acknowledged, and what the answer claims."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import grpc
import pytest

from raftkv.errors import InvalidArgument
from raftkv.quorum import ALL, LEADER, MAJORITY, needed
from raftkv.raft import Index, MembershipChange, NodeId
from raftkv.server.node import NodeLimits
from raftkv.server.requests import Attempt
from raftkv.server.services.single import SingleCalls
from raftkv.v1 import common_pb2 as common
from raftkv.v1 import kv_pb2 as kv
from raftkv.v1 import lease_pb2 as lease
from raftkv.v1 import lock_pb2 as lock
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until
from tests.server.reading import settled

STEADY = NodeLimits(tick_s=0.01)
"""A leader stays in office on a busy machine, and one that is cut off goes on leading for 100 ms: long enough to
acknowledge something."""


def put(key: bytes = b"k", concern: int = 0, *, id: int = 1, **fields: Any) -> kv.Operation:  # noqa: A002
    return kv.Operation(id=id, put=kv.PutRequest(key=key, value=b"v", write_concern=concern, **fields))


async def run(
    member: MemoryNode,
    *operations: kv.Operation,
    session: int = 0,
    acknowledged_below: int = 0,
    timeout_ms: int = 20_000,
) -> kv.BatchResponse:
    batch = kv.BatchRequest(
        session=session, acknowledged_below=acknowledged_below, timeout_ms=timeout_ms, operations=operations
    )
    response = await member.requests.run(batch, forwarded=False)
    assert sorted(result.id for result in response.results) == sorted(operation.id for operation in operations)
    return response


def close_disks(cluster: MemoryCluster, *, but: MemoryNode) -> None:
    """Nobody else acknowledges anything any more; all of them go on answering heartbeats."""
    for member in cluster.nodes.values():
        member.gate.open = member is but


# --- fewer than a majority --------------------------------------------------------------------------------------------


async def test_a_write_for_the_leader_alone_is_acknowledged_before_it_is_committed() -> None:
    async with MemoryCluster(limits=STEADY) as cluster:
        leader = await cluster.leader()
        close_disks(cluster, but=leader)
        raft = leader.node.raft
        for number, operation in enumerate(
            (put(concern=LEADER), kv.Operation(id=1, delete=kv.DeleteRequest(key=b"k", write_concern=1))), 1
        ):
            response = await run(leader, operation)
            receipt = response.wrote
            assert (receipt.committed, receipt.durable_on, receipt.wanted) == (False, 1, 1)
            assert (receipt.term, receipt.index) == (raft.term, raft.log.last_index)
            assert raft.log.commit < receipt.index
            (result,) = response.results
            kind = cast("str", result.WhichOneof("result"))
            assert (kind, getattr(result, kind).revision) == (("put", "delete")[number - 1], 0)
            assert result.delete.deleted == 0
        assert not (await leader.get(b"k", kv.LOCAL)).range.kvs, "it is not applied"


async def test_a_write_below_a_majority_can_be_lost() -> None:
    async with MemoryCluster(limits=STEADY) as cluster:
        old = await cluster.leader()
        cluster.isolate(old.id)
        receipt = (await run(old, put(concern=LEADER))).wrote
        assert receipt.index
        assert not receipt.committed
        new = await cluster.leader(other_than=old.id)
        await until(lambda: not old.node.is_leader)
        cluster.heal()
        await run(new, put(b"other", ALL))
        assert not (await old.get(b"k")).range.kvs
        assert new.node.raft.log.term(Index(receipt.index)) not in (None, receipt.term), (
            "another entry stands in its place"
        )


@pytest.mark.parametrize(("concern", "with_disks", "acknowledged"), [(1, 1, True), (2, 1, False), (2, 2, True)])
async def test_as_many_have_it_as_the_write_asks_for(concern: int, with_disks: int, acknowledged: bool) -> None:
    async with MemoryCluster(5, limits=STEADY) as cluster:
        leader = await cluster.leader()
        others = [member for member in cluster.nodes.values() if member is not leader]
        for member in others[with_disks - 1 :]:
            member.gate.open = False
        response = await run(leader, put(concern=concern), timeout_ms=20_000 if acknowledged else 100)
        if acknowledged:
            assert (response.wrote.committed, response.wrote.wanted) == (False, concern)
            assert response.wrote.durable_on in (concern, with_disks)
        else:
            error = response.results[0].error
            assert (error.code, error.ambiguous) == (common.DEADLINE_EXCEEDED, True)
            assert not response.HasField("wrote")


async def test_the_leader_counts_itself_only_when_its_own_disk_has_it() -> None:
    async with MemoryCluster(limits=STEADY) as cluster:
        leader = await cluster.leader()
        leader.gate.open = False
        response = await run(leader, put(concern=LEADER), timeout_ms=500)
        raft = leader.node.raft
        assert raft.durable_on()[1] == raft.log.last_index > raft.log.durable, "both followers have it"
        assert response.results[0].error.code == common.DEADLINE_EXCEEDED


async def test_what_is_applied_by_then_is_answered_as_committed() -> None:
    async with MemoryCluster(1) as alone:
        receipt = (await run(await alone.leader(), put(concern=LEADER))).wrote
        assert (receipt.committed, receipt.durable_on, receipt.wanted) == (True, 1, 1)


async def test_a_sequence_that_was_acknowledged_early_is_answered_for_its_session() -> None:
    """The client's next batch says that it has the answer. Were the mark to reach the state before the write, the write
    would be refused as long forgotten."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        session = await leader.register()
        early = before = 0
        for sequence in range(1, 31):
            response = await run(
                leader, put(b"%d" % sequence, LEADER, id=sequence), session=session, acknowledged_below=sequence
            )
            assert not response.results[0].HasField("error")
            early += not response.wrote.committed
            assert response.wrote.index > before, "the mark stands behind what it acknowledges"
            before = response.wrote.index
        assert early > 0
        last = await run(leader, put(b"last", id=31), session=session, acknowledged_below=31)
        assert last.results[0].put.revision == 1 + 31, "all of them were applied"


async def test_what_its_session_will_refuse_is_not_acknowledged_early() -> None:
    """Its place in the log would be reached, and a read that waits for that would claim to see the write."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        unknown = await run(leader, put(concern=LEADER), session=99)
        assert unknown.results[0].error.code == common.SESSION_EXPIRED
        session = await leader.register()
        far = await run(leader, put(concern=LEADER, id=2**40), session=session)
        assert far.results[0].error.code == common.SEQUENCE_OUT_OF_WINDOW
        first = await run(leader, put(id=5), session=session)
        again = await run(leader, put(concern=LEADER, id=5), session=session)
        assert (again.wrote.committed, again.results[0].put.revision) == (True, first.results[0].put.revision)


async def test_what_the_log_before_it_may_have_refused_is_not_acknowledged_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its session may be ended by others that are registered before it."""
    monkeypatch.setattr("raftkv.kv.session.MAX_SESSIONS", 2)
    async with MemoryCluster(limits=STEADY) as cluster:
        leader = await cluster.leader()
        session = await leader.register()
        await settled(cluster)
        close_disks(cluster, but=leader)
        assert not (await run(leader, put(concern=LEADER, id=1), session=session)).wrote.committed
        late = await run(leader, put(concern=LEADER, id=2), session=session, timeout_ms=50)
        assert late.results[0].error.code == common.DEADLINE_EXCEEDED
        assert not late.HasField("wrote")


async def test_a_leader_that_has_not_applied_what_earlier_ones_wrote_acknowledges_nothing_early(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It does not know what is before the write."""
    async with MemoryCluster(limits=STEADY) as cluster:
        leader = await settled(cluster)
        monkeypatch.setattr(type(leader.node.machine), "applied_term", 0)
        close_disks(cluster, but=leader)
        late = await run(leader, put(concern=LEADER), timeout_ms=50)
        assert late.results[0].error.code == common.DEADLINE_EXCEEDED


async def test_a_repeated_write_is_not_refused_as_if_it_had_no_effect() -> None:
    """There may have been more voters when it was first sent."""
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        session = await leader.register()
        await run(leader, put(id=1, concern=3), session=session)
        for sequence, repeated in ((1, True), (2, False)):
            (refused,) = (await run(leader, put(id=sequence, concern=4), session=session)).results
            assert (refused.error.code, refused.error.ambiguous) == (common.INVALID_ARGUMENT, repeated)


def test_a_concern_that_is_refused_after_an_open_attempt_leaves_the_write_open() -> None:
    for concern, ambiguous in ((4, True), (0, False)):
        attempt = Attempt(kv.BatchRequest(session=1, operations=[put(concern=concern)]), 0.0, 1.0)
        attempt.uncertain = True
        attempt.fail_commands(InvalidArgument("not possible"))
        attempt.admit_uncertainty()
        assert attempt.response.results[0].error.ambiguous is ambiguous


REFUSED_BELOW_A_MAJORITY = [
    kv.Operation(txn=kv.TxnRequest(branch=kv.TxnBranch(then=[kv.TxnOperation(put=kv.PutRequest(key=b"a"))]))),
    put(lease=5),
    put(prev_kv=True),
    put(fences=[kv.Fence(lock=b"l", token=1)]),
    kv.Operation(delete=kv.DeleteRequest(key=b"a", prev_kv=True)),
    kv.Operation(delete=kv.DeleteRequest(key=b"a", fences=[kv.Fence(lock=b"l", token=1)])),
    kv.Operation(delete=kv.DeleteRequest(key=b"a", range_end=b"b")),
    kv.Operation(compact=kv.CompactRequest(revision=1)),
    kv.Operation(lease_grant=lease.LeaseGrantRequest(ttl_ms=1000)),
    kv.Operation(lease_revoke=lease.LeaseRevokeRequest(id=7)),
    kv.Operation(lock_acquire=lock.LockAcquireRequest(name=b"l", lease=7)),
    kv.Operation(lock_release=lock.LockReleaseRequest(name=b"l", lease=7)),
    kv.Operation(lock_proclaim=lock.LockProclaimRequest(name=b"l", lease=7, token=1)),
]


async def test_concerns_that_are_not_possible_are_refused_and_the_range_is_named() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        operations = []
        for number, operation in enumerate(REFUSED_BELOW_A_MAJORITY, 1):
            asked = kv.Operation()
            asked.CopyFrom(operation)
            asked.id = number
            getattr(asked, cast("str", asked.WhichOneof("operation"))).write_concern = LEADER
            operations.append(asked)
        operations += [put(concern=LEADER, id=98), put(id=99)]
        before = leader.node.raft.log.last_index
        found = {result.id: result for result in (await run(cluster.follower(leader), *operations)).results}
        for number, asked in enumerate(operations[:-2], 1):
            error = found[number].error
            assert error.code == common.INVALID_ARGUMENT, asked
            assert "2 to 3 voters, or majority, all" in error.message
            assert (error.ambiguous, error.retryable) == (False, False)
        assert found[98].HasField("put"), "its neighbours go on"
        assert found[99].put.revision > 0
        assert leader.node.raft.log.last_index <= before + 2

        for concern in (4, 2**31 - 1, -3):
            (refused,) = (await run(leader, put(concern=concern))).results
            assert refused.error.code == common.INVALID_ARGUMENT
            assert "1 to 3 voters, or leader, majority, all" in refused.error.message


# --- a majority, and more ---------------------------------------------------------------------------------------------


async def test_a_write_has_one_receipt_for_its_batch() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        response = await run(leader, *[put(id=number) for number in range(1, 6)])
        receipt = response.wrote
        assert (receipt.committed, receipt.wanted) == (True, 2)
        assert 2 <= receipt.durable_on <= 3
        assert (receipt.term, receipt.index) == (leader.node.raft.term, leader.node.raft.log.last_index)
        assert receipt.configuration_index == leader.node.raft.configuration_index
        assert not any(result.HasField("wrote") for result in response.results)


async def test_all_waits_until_all_have_it() -> None:
    async with MemoryCluster(limits=STEADY) as cluster:
        leader = await cluster.leader()
        last = cluster.follower(leader)
        cluster.hub.cut(leader.id, last.id)
        before = leader.node.machine.revision
        running = asyncio.create_task(run(leader, put(concern=ALL), timeout_ms=10_000))
        await until(lambda: leader.node.machine.revision > before)
        await run(leader, put(b"later"))
        assert not running.done(), "it is committed and applied, but one voter does not have it"
        cluster.heal()
        receipt = (await running).wrote
        assert (receipt.committed, receipt.durable_on, receipt.wanted) == (True, 3, 3)


@pytest.mark.parametrize("concern", [ALL, 3])
@pytest.mark.parametrize("through", ["leader", "follower"])
async def test_too_few_by_the_deadline_is_a_result(concern: int, through: str) -> None:
    async with MemoryCluster(limits=STEADY) as cluster:
        leader = await cluster.leader()
        down, other = (member for member in cluster.nodes.values() if member is not leader)
        down.gate.open = False
        asked = leader if through == "leader" else other
        response = await run(
            asked, put(concern=concern), kv.Operation(id=2, range=kv.RangeRequest(key=b"k")), timeout_ms=900
        )
        found = {result.id: result for result in response.results}
        assert found[1].put.revision > 0
        assert found[2].HasField("range")
        receipt = response.wrote
        assert (receipt.committed, receipt.durable_on, receipt.wanted) == (True, 2, 3)


async def test_a_leader_that_stops_leading_says_committed_and_no_more() -> None:
    async with MemoryCluster(limits=STEADY) as cluster:
        leader = await cluster.leader()
        down, other = (member for member in cluster.nodes.values() if member is not leader)
        down.gate.open = False
        before = leader.node.machine.revision
        running = asyncio.create_task(run(leader, put(concern=ALL), timeout_ms=600_000))
        await until(lambda: leader.node.machine.revision > before and other.node.machine.revision > before)
        assert not running.done()
        assert leader.node.transfer_leader(other.id) is None
        response = await asyncio.wait_for(running, 60)
        assert response.results[0].put.revision == before + 1
        assert (response.wrote.committed, response.wrote.durable_on, response.wrote.wanted) == (True, 0, 3)


async def test_a_node_that_stops_lets_nobody_wait_for_copies() -> None:
    async with MemoryCluster(limits=STEADY) as cluster:
        leader = await cluster.leader()
        cluster.follower(leader).gate.open = False
        before = leader.node.machine.revision
        running = asyncio.create_task(run(leader, put(concern=ALL), timeout_ms=600_000))
        await until(lambda: leader.node.machine.revision > before)
        await leader.node.stop()
        assert (await asyncio.wait_for(running, 60)).wrote.committed


# --- the default ------------------------------------------------------------------------------------------------------


async def test_a_default_below_a_majority_is_for_plain_puts_and_deletes() -> None:
    async with MemoryCluster(write_concern=LEADER, limits=STEADY) as cluster:
        leader = await cluster.leader()
        lease_id = (
            await leader.run(kv.Operation(id=1, lease_grant=lease.LeaseGrantRequest(ttl_ms=9000)))
        ).lease_grant.id
        response = await run(
            leader,
            put(id=1),
            put(id=2, lease=lease_id),
            put(id=3, concern=MAJORITY),
            kv.Operation(id=4, delete=kv.DeleteRequest(key=b"a", range_end=b"b")),
        )
        assert not any(result.HasField("error") for result in response.results)
        receipts = {
            result.id: result.wrote if result.HasField("wrote") else response.wrote for result in response.results
        }
        assert {number: one.wanted for number, one in receipts.items()} == {1: 1, 2: 2, 3: 2, 4: 2}
        assert all(receipts[number].committed for number in (2, 3, 4))
        close_disks(cluster, but=leader)
        assert not (await run(leader, put())).wrote.committed


@pytest.mark.parametrize("default", [ALL, 7])
async def test_a_default_of_all_or_more_keeps_no_session_or_lease_waiting(default: int) -> None:
    """A default above the number of voters is taken for all."""
    async with MemoryCluster(write_concern=default, limits=STEADY) as cluster:
        leader = await cluster.leader()
        response = await run(leader, put())
        assert (response.wrote.durable_on, response.wrote.wanted) == (3, 3)
        granted = (await run(leader, kv.Operation(id=1, lease_grant=lease.LeaseGrantRequest(ttl_ms=9000)))).results[0]
        cluster.follower(leader).gate.open = False
        keep = kv.Operation(id=1, lease_keep_alive=lease.LeaseKeepAliveRequest(ids=[granted.lease_grant.id]))
        for operation in (keep, kv.Operation(id=1, register_session=kv.RegisterSessionRequest())):
            response = await run(leader, operation, timeout_ms=10_000)
            assert (response.wrote.committed, response.wrote.wanted) == (True, 2)
        behind = await run(leader, put(), timeout_ms=1000)
        assert (behind.wrote.committed, behind.wrote.durable_on, behind.wrote.wanted) == (True, 2, 3)
        assert (await run(leader, put(concern=MAJORITY), timeout_ms=10_000)).wrote.wanted == 2


async def test_a_default_above_the_voters_is_said_when_the_node_starts(capsys: pytest.CaptureFixture[str]) -> None:
    async with MemoryCluster(1, write_concern=7):
        assert "the default write concern exceeds the voters" in capsys.readouterr().out


def test_a_majority_with_witnesses_promises_no_more_copies_than_there_are() -> None:
    assert needed(MAJORITY, voters=3, keepers=2).voters == 1
    assert needed(MAJORITY, voters=5, keepers=4).voters == 2
    assert needed(MAJORITY, voters=5, keepers=5).voters == 3


# --- receipts on their way --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["leader", "follower"])
async def test_each_write_of_a_mixed_batch_has_its_own_receipt(through: str) -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        asked = leader if through == "leader" else cluster.follower(leader)
        response = await run(
            asked,
            put(b"a", MAJORITY, id=1),
            put(b"b", ALL, id=2),
            put(b"c", id=3),
            kv.Operation(id=4, range=kv.RangeRequest(key=b"a")),
            put(b"d", 9, id=5),
        )
        found = {result.id: result for result in response.results}
        receipts = {
            number: found[number].wrote if found[number].HasField("wrote") else response.wrote for number in (1, 2, 3)
        }
        assert {number: one.wanted for number, one in receipts.items()} == {1: 2, 2: 3, 3: 2}
        assert all(one.committed and one.index and one.term for one in receipts.values())
        assert receipts[2].durable_on == 3
        assert not found[4].HasField("wrote")
        assert not found[5].HasField("wrote")
        assert response.header.member_id == leader.id


def test_receipts_of_two_answers_are_not_mixed_up() -> None:
    """A batch whose operations were answered in two attempts, by two leaders."""
    batch = kv.BatchRequest(
        operations=[*[put(id=number) for number in (1, 2, 3)], kv.Operation(id=4, range=kv.RangeRequest(key=b"k"))]
    )
    attempt = Attempt(batch, 0.0, 1.0)
    first = kv.BatchResponse(
        results=[kv.OperationResult(id=1, put=kv.PutResponse(revision=2))], wrote=common.WriteReceipt(index=7)
    )
    second = kv.BatchResponse(
        results=[
            kv.OperationResult(id=2, put=kv.PutResponse(revision=3)),
            kv.OperationResult(id=3, error=common.Error(code=common.OVERLOADED)),
            kv.OperationResult(id=4, range=kv.RangeResponse()),
        ],
        wrote=common.WriteReceipt(index=9),
        read=common.ReadReceipt(applied_index=9),
    )
    for answer in (first, second):
        position = len(attempt.response.results)
        attempt.response.results.extend(answer.results)
        attempt.take_receipts(answer, position)
    response = attempt.response
    assert (response.wrote.index, response.read.applied_index) == (7, 9)
    assert [result.wrote.index for result in response.results] == [0, 9, 0, 0]
    assert not any(result.HasField("read") for result in response.results)
    third = kv.BatchResponse(
        results=[kv.OperationResult(id=4, range=kv.RangeResponse())], read=common.ReadReceipt(applied_index=11)
    )
    response.results.extend(third.results)
    attempt.take_receipts(third, 4)
    assert (response.results[4].read.applied_index, response.results[4].HasField("wrote")) == (11, False)


class Context:
    """What a single call sees of gRPC."""

    def time_remaining(self) -> float:
        return 2.0

    async def abort_with_status(self, _: object) -> None:
        raise InvalidArgument("the call was ended")


async def test_single_calls_show_their_receipt() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        calls = SingleCalls(leader.requests)
        context = cast("grpc.aio.ServicerContext[Any, Any]", Context())
        stored = await calls.run("put", kv.PutRequest(key=b"k", write_concern=ALL), context)
        assert (stored.receipt.committed, stored.receipt.durable_on, stored.receipt.wanted) == (True, 3, 3)
        removed = await calls.run("delete", kv.DeleteRequest(key=b"k"), context)
        assert removed.receipt.index > stored.receipt.index
        branch = kv.TxnBranch(then=[kv.TxnOperation(put=kv.PutRequest(key=b"a"))])
        done = await calls.run("txn", kv.TxnRequest(branch=branch), context)
        assert done.receipt.index > removed.receipt.index
        with pytest.raises(InvalidArgument):
            await calls.run("txn", kv.TxnRequest(branch=branch, write_concern=LEADER), context)


async def test_the_members_that_count_are_those_in_force() -> None:
    """While a member is missing from the configuration it is not waited for."""
    async with MemoryCluster(limits=STEADY) as cluster:
        leader = await cluster.leader()
        gone = cluster.follower(leader)
        gone.gate.open = False
        assert not isinstance(leader.node.change_membership(MembershipChange(remove=frozenset({NodeId(gone.id)}))), str)
        await until(lambda: not leader.node.raft.changing)
        receipt = (await run(leader, put(concern=ALL), timeout_ms=10_000)).wrote
        assert (receipt.durable_on, receipt.wanted) == (2, 2)
        assert receipt.configuration_index == leader.node.raft.configuration_index > 0
        (refused,) = (await run(leader, put(concern=3))).results
        assert "1 to 2 voters" in refused.error.message
