"""What a node that was too far behind has after it installed a snapshot, and what happens meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftkv.errors import ErrorCode
from raftkv.raft import Configuration, NodeId
from raftkv.raft.membership import MembershipChange
from raftkv.raft.progress import ProgressState
from raftkv.server.watch_sender import WatchSender
from raftkv.storage.checkpoint_store import Receiving, Sending
from raftkv.storage.corrupt_mark import CorruptMark
from raftkv.transport.protocols import Incoming
from raftkv.v1 import kv_pb2 as kv
from raftkv.v1 import lease_pb2, lock_pb2, watch_pb2
from tests.server.checkpoint_cluster import CheckpointCluster, CheckpointNode
from tests.server.memory_cluster import MemoryNode, until

FAR_MS = 600_000


async def lead(cluster: CheckpointCluster, number: int) -> CheckpointNode:
    """Hand leadership to a node."""
    while (leader := await cluster.leader()).id != number:
        await cluster.caught_up(number)
        leader.node.transfer_leader(NodeId(number))
        await leader.node.transfer_finished(1.0)
    return cluster.members[number]


async def do(member: MemoryNode, session: int = 0, sequence: int = 1, **operation: Any) -> kv.OperationResult:
    return await member.run(kv.Operation(id=sequence, **operation), session)


def acquire(lease: int) -> lock_pb2.LockAcquireRequest:
    return lock_pb2.LockAcquireRequest(name=b"lock", lease=lease)


async def behind(cluster: CheckpointCluster) -> CheckpointNode:
    """Return a follower that is cut off."""
    leader = await cluster.leader()
    found = cluster.follower(leader)
    cluster.isolate(found.id)
    return cluster.members[found.id]


async def installed(cluster: CheckpointCluster, member: CheckpointNode) -> None:
    last = member.node.raft.log.last_index
    await cluster.outrun(member.id)
    cluster.heal()
    await cluster.caught_up(member.id)
    assert member.newest > last, "it was to install a checkpoint"


async def test_bug_31_sessions_leases_locks_fences_and_members_are_inside() -> None:
    async with CheckpointCluster() as cluster:
        member = await behind(cluster)
        leader = await cluster.leader()
        session = await leader.register()
        first = (await leader.put(b"once", b"1", session=session)).put.revision
        await leader.put(b"once", b"2", session=session, sequence=2)
        short = (await do(leader, lease_grant=lease_pb2.LeaseGrantRequest(ttl_ms=FAR_MS))).lease_grant.id
        holder = (await do(leader, lease_grant=lease_pb2.LeaseGrantRequest(ttl_ms=FAR_MS))).lease_grant.id
        waiter = (await do(leader, lease_grant=lease_pb2.LeaseGrantRequest(ttl_ms=FAR_MS))).lease_grant.id
        await leader.run(kv.Operation(id=1, put=kv.PutRequest(key=b"leased", value=b"x", lease=short)))
        # A holder before, whose token is stale; one that holds; one that waits.
        stale = (await do(leader, lock_acquire=acquire(short))).lock_acquire.token
        await do(leader, lock_release=lock_pb2.LockReleaseRequest(name=b"lock", lease=short))
        token = (await do(leader, lock_acquire=acquire(holder))).lock_acquire.token
        assert (await do(leader, lock_acquire=acquire(waiter))).lock_acquire.token == 0
        assert 0 < stale < token
        await installed(cluster, member)
        assert cluster.state_hash(member.id) == cluster.state_hash(leader.id)

        node = await lead(cluster, member.id)
        # Exactly once: the retry is answered from the session, and changes nothing.
        assert (await node.put(b"once", b"1", session=session)).put.revision == first
        assert (await node.get(b"once")).range.kvs[0].value == b"2"
        # The lease goes on from when it was granted, and has its keys.
        left = (
            await do(node, lease_time_to_live=lease_pb2.LeaseTimeToLiveRequest(id=short, keys=True))
        ).lease_time_to_live
        assert 0 < left.ttl_ms < left.granted_ttl_ms == FAR_MS
        assert list(left.keys) == [b"leased"]
        # The line, its holder, and what fences take.
        line = (await do(node, lock_query=lock_pb2.LockQueryRequest(name=b"lock"))).lock_query
        assert [(one.lease, one.token) for one in line.contenders] == [(holder, token), (waiter, 0)]
        assert line.newest_token == token
        for mode in (kv.FenceMode.HOLDER, kv.FenceMode.MAX_SEEN):
            old, new = kv.Fence(lock=b"lock", token=stale, mode=mode), kv.Fence(lock=b"lock", token=token, mode=mode)
            refused = await do(node, put=kv.PutRequest(key=b"f", value=b"old", fences=[old]))
            assert refused.error.code == int(ErrorCode.STALE_FENCE)
            assert (await do(node, put=kv.PutRequest(key=b"f", value=b"new", fences=[new]))).HasField("put")
        # Tokens go on upwards.
        await do(node, lock_release=lock_pb2.LockReleaseRequest(name=b"lock", lease=holder))
        line = (await do(node, lock_query=lock_pb2.LockQueryRequest(name=b"lock"))).lock_query
        assert [one.lease for one in line.contenders] == [waiter]
        assert line.contenders[0].token > token
        assert node.node.raft.configuration.members == frozenset(cluster.ids)


async def test_bug_29_two_snapshots_in_quick_succession_and_a_restart() -> None:
    async with CheckpointCluster() as cluster:
        member = await behind(cluster)
        for _ in range(2):
            await installed(cluster, member)
            cluster.isolate(member.id)
        cluster.heal()
        await cluster.write()
        await cluster.caught_up(member.id)
        await member.stop()
        await member.start()
        await cluster.caught_up(member.id)
        assert cluster.state_hash(member.id) == cluster.state_hash((await cluster.leader()).id)


class Held:
    """What comes in of a checkpoint, held up before it is verified."""

    def __init__(self, incoming: Incoming, reached: asyncio.Event, go_on: asyncio.Event) -> None:
        self._incoming = incoming
        self._reached = reached
        self._go_on = go_on

    @property
    def offset(self) -> int:
        return self._incoming.offset

    async def write_chunk(self, offset: int, data: bytes, crc: int) -> int:
        return await self._incoming.write_chunk(offset, data, crc)

    async def finish(self) -> object:
        self._reached.set()
        await self._go_on.wait()
        return await self._incoming.finish()

    def close(self) -> None:
        self._incoming.close()


def hold_up(member: CheckpointNode) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold up the next checkpoints that a node receives. Return: one is there; it may go on."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    begin = member.node.begin_checkpoint

    async def held(manifest: bytes) -> Incoming:
        return Held(await begin(manifest), reached, go_on)

    member.node.begin_checkpoint = held  # type: ignore[method-assign]
    return reached, go_on


async def test_the_log_waits_for_a_follower_that_receives_a_checkpoint_but_not_for_ever() -> None:
    async with CheckpointCluster() as cluster:
        member = await behind(cluster)
        await cluster.outrun(member.id)
        leader = cluster.members[(await cluster.leader()).id]
        reached, go_on = hold_up(member)
        cluster.heal()
        await reached.wait()
        (transfer,) = leader.node.checkpoints.transfers()
        (taking,) = member.node.checkpoints.transfers()
        assert (transfer.peer, transfer.receiving, transfer.phase) == (member.id, False, "verify")
        assert (taking.peer, taking.receiving, taking.index) == (leader.id, True, transfer.index)
        made = leader.newest
        while leader.newest == made or leader.keeper.fallback is None or leader.keeper.fallback.index <= transfer.index:
            await cluster.write()
        await until(lambda: not leader.node.checkpoints.status().making)
        # Another two were made, and the log would reach back to the first of them only.
        assert leader.node.raft.log.first_index <= transfer.index + 1
        go_on.set()
        await cluster.caught_up(member.id)
        assert leader.node.checkpoints.transfers() == member.node.checkpoints.transfers() == []
        assert member.keeper.machine.applied_index > transfer.index


async def test_a_follower_that_falls_behind_again_while_it_installs_gets_the_next_one() -> None:
    async with CheckpointCluster() as cluster:
        member = await behind(cluster)
        await cluster.outrun(member.id)
        leader = cluster.members[(await cluster.leader()).id]
        reached, go_on = hold_up(member)
        cluster.heal()
        await reached.wait()
        (transfer,) = leader.node.checkpoints.transfers()
        # More than the margin.
        while leader.node.raft.log.first_index <= transfer.index + 1:
            await cluster.write(5)
        go_on.set()
        await cluster.caught_up(member.id)
        assert member.newest > transfer.index
        assert cluster.state_hash(member.id) == cluster.state_hash(leader.id)


async def test_an_install_during_a_membership_change() -> None:
    """The snapshot has the members of its entry, whatever has been decided since, and the log brings the rest."""
    async with CheckpointCluster() as cluster:
        await cluster.write(30)
        newcomer = CheckpointNode(cluster, NodeId(4))
        newcomer.founder = False
        cluster.members[4] = cluster.nodes[NodeId(4)] = newcomer
        await newcomer.start()
        leader = await cluster.leader()
        reached, go_on = hold_up(newcomer)
        leader.node.change_membership(MembershipChange(learners=((NodeId(4), "node-4:1"),)))
        await reached.wait()
        # Its checkpoint knows nothing of it. Meanwhile another change begins, and is over.
        gone = next(one for one in cluster.ids if one != leader.id)
        await until(lambda: not leader.node.raft.changing)
        leader.node.change_membership(MembershipChange(remove=frozenset({gone})))
        await until(lambda: not leader.node.raft.changing)
        await cluster.write(3)
        go_on.set()
        await cluster.caught_up(4)
        kept = frozenset(cluster.ids) - {gone}
        await until(lambda: newcomer.node.raft.configuration.voters == kept)
        assert newcomer.node.raft.configuration.learners == {4}
        refusal = leader.node.change_membership(MembershipChange(promote=frozenset({NodeId(4)})))
        assert not isinstance(refusal, str), refusal
        await until(lambda: newcomer.node.raft.configuration.voters == kept | {4})
        assert isinstance(newcomer.node.raft.configuration, Configuration)


@pytest.mark.parametrize("damaged", [False, True])
async def test_a_damaged_checkpoint_costs_a_follower_nothing(damaged: bool) -> None:
    """The leader finds it while it sends it: it sends the one before, and makes another one."""
    async with CheckpointCluster() as cluster:
        member = await behind(cluster)
        await cluster.outrun(member.id)
        leader = cluster.members[(await cluster.leader()).id]
        newest = leader.newest
        if damaged:
            assert leader.keeper.newest is not None
            path = leader.keeper.checkpoints._directory.data_path(leader.keeper.newest)
            file = leader.files.open(path)
            file.pwrite(bytes((file.pread(1, 50)[0] ^ 1,)), 50)
        cluster.heal()
        await cluster.caught_up(member.id)
        assert (member.newest == newest) is not damaged
        await until(lambda: not leader.keeper.checkpoints.damaged and leader.newest >= newest)
        assert cluster.state_hash(member.id) == cluster.state_hash(leader.id)
        await until(lambda: leader.node.raft.followers()[member.id].state is ProgressState.REPLICATE)


async def test_bug_30_what_is_read_while_the_state_is_replaced_is_the_old_one_or_the_new_one_whole() -> None:
    """A range that takes many turns of the loop, a hash, a watch: the install comes in the middle of each."""
    pairs = 1_900  # several steps of a scan
    async with CheckpointCluster(due_bytes=10_000) as cluster:
        leader = await cluster.leader()

        async def fill(value: bytes) -> None:
            for first in range(0, pairs, 100):
                batch = kv.BatchRequest(
                    operations=[
                        kv.Operation(id=key + 1, put=kv.PutRequest(key=b"all/%05d" % key, value=value))
                        for key in range(first, first + 100)
                    ]
                )
                answer = await leader.requests.run(batch, forwarded=False)
                assert all(result.HasField("put") for result in answer.results)

        await fill(b"old")
        for number in cluster.ids:
            await cluster.caught_up(number)
        member = await behind(cluster)
        old = member.node.machine.revision
        hub = member.node.hub
        sender = WatchSender(hub, lambda: member.node.machine, member.requests.header)
        create = watch_pb2.WatchCreate(watch_id=1, key=b"all/", range_end=b"all0")
        sender.handle(watch_pb2.WatchRequest(create=create))
        told: list[watch_pb2.Event] = []

        async def watch() -> None:
            async for one in sender.responses():
                told.extend(watch_pb2.WatchResponse.FromString(one).events)

        watching = asyncio.create_task(watch())
        await fill(b"new")
        await cluster.outrun(member.id)
        await leader.node.checkpoints.make_now()  # not one from the middle of the filling
        reached, go_on = hold_up(member)
        cluster.heal()
        await reached.wait()
        everything = kv.RangeRequest(key=b"all/", range_end=b"all0", level=kv.LOCAL)
        go_on.set()
        values: set[bytes] = set()
        answers = 0
        while member.node.machine.revision == old:
            results = await asyncio.gather(*(do(member, range=everything) for _ in range(3)))
            for result in results:
                found = {pair.value for pair in result.range.kvs}
                assert len(result.range.kvs) == pairs
                values |= found
                answers += 1
                assert len(found) == 1
        assert answers
        assert {pair.value for pair in (await do(member, range=everything)).range.kvs} == {b"new"}
        assert b"old" in values
        await cluster.caught_up(member.id)
        # The watch is told every change behind what it saw, from the history that is inside.
        await until(lambda: len(told) >= pairs)
        assert [(one.kv.key, one.kv.value) for one in told] == [(b"all/%05d" % key, b"new") for key in range(pairs)]
        sender.end()
        await watching


@pytest.mark.parametrize("when", ["while a piece is read", "at the end"])
async def test_nothing_is_installed_of_a_leader_that_was_condemned_while_it_sent(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with CheckpointCluster() as cluster:
        member = await behind(cluster)
        leader = await cluster.leader()
        told: list[int] = []
        monkeypatch.setattr(leader.node.raft, "snapshot_delivered", lambda peer, _: told.append(peer))
        failed: list[int] = []
        monkeypatch.setattr(leader.node.raft, "snapshot_failed", failed.append)
        kind, step = (Receiving, "finish") if when == "at the end" else (Sending, "read_chunk")
        going_on = getattr(kind, step)

        async def condemned(self: Any, *args: Any) -> Any:
            found = await going_on(self, *args)
            leader.node._quarantine.enter(CorruptMark(1, b"a", b"b", (2, 3), 0.0))
            leader.node._serving_state = False
            return found

        await cluster.outrun(member.id)
        monkeypatch.setattr(kind, step, condemned)
        cluster.heal()
        await until(lambda: failed or told)
        assert (failed[:1], told) == ([member.id], [])
        assert (member.newest == 0) is (kind is Sending), "without the end, it is not even received"
