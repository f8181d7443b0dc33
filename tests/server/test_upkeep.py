"""What the leader proposes by itself; above all: no lease ends before its time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from raftkv.errors import LeaderChanged, NotLeader, Overloaded, RaftKVError
from raftkv.kv.commands import Command, Compact, Expire, Expired, Group, Result, Sweep, Swept
from raftkv.kv.limits import MAX_SWEPT_VERSIONS
from raftkv.raft import NodeId
from raftkv.server import upkeep
from raftkv.server.proposals import Decided, Outcome
from raftkv.server.upkeep import AutoCompaction, CompactionMode, Upkeep
from raftkv.v1 import kv_pb2 as kv
from raftkv.v1 import lease_pb2 as lease
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until
from tests.server.test_lease import OwnClock

TTL_MS = 20_000
PACE = 40.0
"""Clocks that run so much faster than the timers make a lease end while a test can wait for it."""


def clocks(pace: float = 1.0) -> dict[NodeId, OwnClock]:
    return {NodeId(number): OwnClock(pace) for number in (1, 2, 3)}


async def granted(member: MemoryNode, ttl_ms: int = TTL_MS) -> int:
    answer = await member.run(kv.Operation(id=1, lease_grant=lease.LeaseGrantRequest(ttl_ms=ttl_ms)))
    await member.run(kv.Operation(id=1, put=kv.PutRequest(key=b"key", lease=answer.lease_grant.id)))
    return answer.lease_grant.id


async def remaining(member: MemoryNode, lease_id: int) -> int:
    answer = await member.run(kv.Operation(id=1, lease_time_to_live=lease.LeaseTimeToLiveRequest(id=lease_id)))
    assert answer.HasField("lease_time_to_live"), answer
    return answer.lease_time_to_live.ttl_ms


async def test_a_lease_that_is_not_renewed_ends_with_its_keys_on_every_node() -> None:
    async with MemoryCluster(clocks=clocks(PACE)) as cluster:
        leader = await cluster.leader()
        await granted(leader, 2000)
        revision = leader.node.machine.revision
        await until(lambda: all(not member.node.machine.leases for member in cluster.nodes.values()))
        assert not (await leader.get(b"key")).range.kvs
        assert leader.node.machine.revision == revision + 1
        assert leader.node.machine.time_ms >= 2000


async def test_a_lease_that_is_renewed_does_not() -> None:
    async with MemoryCluster(clocks=clocks(PACE)) as cluster:
        leader = await cluster.leader()
        kept, other = await granted(leader, 4000), await granted(leader, 4000)
        renew = kv.Operation(id=1, lease_keep_alive=lease.LeaseKeepAliveRequest(ids=[kept]))
        while other in leader.node.machine.leases:
            assert list((await leader.run(renew)).lease_keep_alive.ttls_ms) == [4000]
        assert kept in leader.node.machine.leases


async def test_the_time_that_is_left_is_that_of_the_present() -> None:
    """Not of the last entry, which may be long ago: then the answer would promise too much."""
    own = clocks(PACE)
    async with MemoryCluster(clocks=own) as cluster:
        leader = await cluster.leader()
        lease_id = await granted(leader, 600_000)
        applied_ms = leader.node.machine.time_ms
        await until(lambda: leader.node.cluster_time_ms() > applied_ms + 1000)
        assert leader.node.machine.time_ms == applied_ms
        for member in (leader, cluster.follower(leader)):
            assert await remaining(member, lease_id) < 600_000 - 900


async def test_neither_a_pause_of_the_leader_nor_a_jump_of_its_clock_ends_a_lease() -> None:
    own = clocks()
    async with MemoryCluster(clocks=own) as cluster:
        leader = await cluster.leader()
        lease_id = await granted(leader)
        for _ in range(3):
            own[leader.id].ahead_ms += 3_600_000
            await leader.put(b"other", b"stamps an entry")
        leader = await cluster.leader()  # it may have lost its place by that, and nothing else
        assert await remaining(leader, lease_id) > TTL_MS / 2
        assert (await leader.get(b"key")).range.kvs


async def test_bug_47_a_change_of_leader_takes_nothing_from_a_lease() -> None:
    own = clocks()
    own[NodeId(2)].ahead_ms = own[NodeId(3)].ahead_ms = 1e10  # clocks of different machines begin anywhere
    async with MemoryCluster(clocks=own) as cluster:
        leader = await cluster.leader()
        lease_id = await granted(leader)
        for _ in range(3):
            leader.node.transfer_leader(None)
            leader = await cluster.leader(other_than=leader.id)
            await leader.put(b"other", b"stamps an entry")
            assert await remaining(leader, lease_id) > TTL_MS / 2


async def test_while_there_is_no_leader_no_lease_ends() -> None:
    """A follower's clock runs, but it is nobody's: whoever leads next goes on from what was applied."""
    own = clocks(PACE)
    async with MemoryCluster(clocks=own) as cluster:
        leader = await cluster.leader()
        lease_id = await granted(leader)
        for number in (1, 2, 3):
            cluster.isolate(number)
        await until(lambda: not any(member.node.is_leader for member in cluster.nodes.values()))
        began_ms = own[NodeId(1)].now_ms()
        await until(lambda: own[NodeId(1)].now_ms() > began_ms + 2 * TTL_MS)
        cluster.heal()
        leader = await cluster.leader()
        assert await remaining(leader, lease_id) > 0
        assert (await leader.get(b"key")).range.kvs


async def test_bug_47_a_stalled_old_leader_ends_nothing() -> None:
    """It believes in its own clock, and its Expire is in its log; but nobody follows it."""
    own = clocks()
    async with MemoryCluster(clocks=own) as cluster:
        old = await cluster.leader()
        lease_id = await granted(old, 500)
        cluster.isolate(old.id)
        for _ in range(2):  # two steps, in no time
            own[old.id].ahead_ms += 10_000
            old.node._time.tick()
        assert old.node.is_leader
        assert old.node.cluster_time_ms() >= old.node.machine.time_ms + 500
        in_vain = old.node.propose(Group(0, 0, (Expire(0),)), 32, asyncio.get_running_loop().time() + 10)
        new = await cluster.leader(other_than=old.id)
        renew = kv.Operation(id=1, lease_keep_alive=lease.LeaseKeepAliveRequest(ids=[lease_id]))
        assert list((await new.run(renew)).lease_keep_alive.ttls_ms) == [500]
        cluster.heal()
        with pytest.raises((NotLeader, LeaderChanged)):
            await in_vain


async def test_an_expire_that_comes_too_early_does_nothing() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        lease_id = await granted(leader)
        proposed = leader.node.propose(Group(0, 0, (Expire(0),)), 32, asyncio.get_running_loop().time() + 10)
        assert (await proposed).results == [Expired(0)]
        assert lease_id in leader.node.machine.leases


async def test_history_is_swept_in_steps_and_the_same_everywhere() -> None:
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        operations = [
            kv.Operation(id=number, put=kv.PutRequest(key=b"key-%d" % (number % 7), value=b"%d" % number))
            for number in range(1, 3 * MAX_SWEPT_VERSIONS)
        ]
        await leader.requests.run(kv.BatchRequest(operations=operations), forwarded=False)
        await leader.put(b"other", b"a sweep leaves the changes of the entry at the mark itself")
        used_bytes = leader.node.used_bytes()
        revision = leader.node.machine.revision
        last_index = leader.node.raft.log.last_index
        await leader.run(kv.Operation(id=1, compact=kv.CompactRequest(revision=revision)))
        await until(lambda: all(not member.node.machine.unswept for member in cluster.nodes.values()))
        assert leader.node.raft.log.last_index >= last_index + 1 + 3
        assert leader.node.used_bytes() < used_bytes / 50
        page = await leader.run(kv.Operation(id=1, range=kv.RangeRequest(key=b"k", range_end=b"l", revision=revision)))
        assert len(page.range.kvs) == 7
        await until(lambda: len({member.node.machine.applied_index for member in cluster.nodes.values()}) == 1)
        assert len({state_hash(member) for member in cluster.nodes.values()}) == 1


def state_hash(member: MemoryNode) -> bytes:
    with member.node.machine.view() as view:
        hasher = view.hasher()
        while not hasher.step(10_000):
            pass
        return hasher.digest()


async def test_a_new_leader_goes_on_with_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "SWEEP_S", 0.3)
    async with MemoryCluster() as cluster:
        leader = await cluster.leader()
        for number in range(5):
            await leader.put(b"key", b"%d" % number)
        compact = kv.CompactRequest(revision=leader.node.machine.revision)
        await leader.run(kv.Operation(id=1, compact=compact))
        assert leader.node.machine.unswept
        leader.node.transfer_leader(None)
        new = await cluster.leader(other_than=leader.id)
        await until(lambda: new.node.machine.compacted_revision == compact.revision)
        await until(lambda: not new.node.machine.unswept)


# --- by itself --------------------------------------------------------------------------------------------------------


class Leases:
    def __init__(self) -> None:
        self.deadline_ms: int | None = None

    def next_deadline_ms(self) -> int | None:
        return self.deadline_ms


class Host:
    """A node that does nothing; it is its own machine."""

    def __init__(self) -> None:
        self.leases = Leases()
        self.revision = 1
        self.compacted_revision = 0
        self.unswept = False
        self.may_propose = True
        self.now_ms = 0
        self.proposed: list[Command] = []
        self.open: list[Outcome] = []
        self.answer: Callable[[Command], Result | RaftKVError] | None = None

    @property
    def machine(self) -> Any:
        return self

    def cluster_time_ms(self) -> int:
        return self.now_ms

    def propose(self, group: Group, size_bytes: int, deadline: float, *, alone: bool = False) -> Outcome:
        assert group.session == 0, "nobody would ever acknowledge it"
        assert alone
        (command,) = group.commands
        self.proposed.append(command)
        outcome: Outcome = asyncio.get_running_loop().create_future()
        if self.answer is None:
            self.open.append(outcome)
        elif isinstance(result := self.answer(command), RaftKVError):
            raise result
        else:
            outcome.set_result(Decided([result], 1, len(self.proposed)))
        return outcome


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXPIRE_S", "SWEEP_S", "COMPACT_S", "SHORTEST_REST_S", "SHORTEST_COMPACT_S"):
        monkeypatch.setattr(upkeep, name, 0.001)


class Running:
    def __init__(self, host: Host, compaction: AutoCompaction | None = None) -> None:
        self.upkeep = Upkeep(host, compaction or AutoCompaction())

    async def __aenter__(self) -> Upkeep:
        self.tasks = [asyncio.create_task(task) for _, task in self.upkeep.tasks()]
        return self.upkeep

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            assert not task.done(), task
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def turns(count: int = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0.001)


async def test_each_kind_has_at_most_one_command_under_way() -> None:
    host = Host()
    host.leases.deadline_ms, host.unswept, host.revision = 0, True, 1000
    async with Running(host, AutoCompaction(CompactionMode.REVISIONS, 10)):
        await until(lambda: len(host.proposed) == 3)
        await turns()
        assert sorted(map(str, host.proposed)) == sorted(map(str, (Expire(0), Sweep(0), Compact(0, 990))))


async def test_nothing_is_proposed_by_who_does_not_lead() -> None:
    host = Host()
    host.may_propose = False
    host.leases.deadline_ms, host.unswept, host.revision = 0, True, 1000
    async with Running(host, AutoCompaction(CompactionMode.REVISIONS, 10)):
        await turns()
        assert not host.proposed
        host.may_propose = True
        await until(lambda: len(host.proposed) == 3)


async def test_leases_are_ended_when_they_are_due_and_not_before() -> None:
    host = Host()
    host.leases.deadline_ms, host.now_ms = 1000, 999
    async with Running(host):
        await turns()
        assert not host.proposed
        host.now_ms = 1000
        await until(lambda: host.proposed == [Expire(0)])


async def test_what_is_refused_is_proposed_again_later() -> None:
    host = Host()
    host.leases.deadline_ms, host.unswept = 0, True
    refusals: list[RaftKVError] = [Overloaded("full"), NotLeader("gone"), LeaderChanged("gone", ambiguous=True)] * 2

    def answer(command: Command) -> Result | RaftKVError:
        if refusals:
            return refusals.pop()
        host.leases.deadline_ms, host.unswept = None, False
        return Expired(1) if isinstance(command, Expire) else Swept(1, False)

    host.answer = answer
    async with Running(host):
        await until(lambda: len(host.proposed) >= 7)


async def test_an_expire_without_effect_is_not_repeated_in_a_loop() -> None:
    host = Host()
    host.leases.deadline_ms = 0

    def answer(_: Command) -> Result:
        if len(host.proposed) > 1000:
            host.leases.deadline_ms = None  # a loop, which lets nobody else run
        return Expired(0)

    host.answer = answer
    async with Running(host):
        await until(lambda: len(host.proposed) >= 3)
    assert len(host.proposed) <= 1000


def compaction_of(host: Host, mode: CompactionMode, retention: int) -> Callable[[], int]:
    return Upkeep(cast(Any, host), AutoCompaction(mode, retention))._compact_to


def test_by_revisions_so_many_are_kept_and_a_few_more() -> None:
    host = Host()
    compact_to = compaction_of(host, CompactionMode.REVISIONS, 100)
    found = {}
    for host.revision in (1, 50, 100, 109, 110, 150):
        found[host.revision] = compact_to()
    assert found == {1: 0, 50: 0, 100: 0, 109: 0, 110: 10, 150: 50}
    host.compacted_revision = 50
    host.revision = 159
    assert compact_to() == 0


def test_by_age_what_was_written_since_is_kept() -> None:
    host = Host()
    compact_to = compaction_of(host, CompactionMode.AGE, 60_000)
    revision_at = {}
    for host.now_ms in range(0, 300_000, 700):
        host.revision += 3
        revision_at[host.now_ms] = host.revision
        revision = compact_to()
        before = [then for at, then in revision_at.items() if at <= host.now_ms - 60_000]
        assert revision <= (before[-1] if before else 0), "what is younger than a minute is kept"
        much_before = [then for at, then in revision_at.items() if at <= host.now_ms - 63_000]
        assert revision >= (much_before[-1] if much_before else 0), "what is much older is given up"
    host.now_ms += 60_000
    assert compact_to() == 0 or compact_to() <= host.revision
    host.now_ms += 60_000
    assert compact_to() == host.revision, "also when nothing is written any more"


def test_by_age_few_moments_are_remembered() -> None:
    host = Host()
    upkeep_of_it = Upkeep(cast(Any, host), AutoCompaction(CompactionMode.AGE, 3_600_000))
    for host.now_ms in range(0, 20_000_000, 1_000):
        host.revision += 1
        upkeep_of_it._compact_to()
    assert len(upkeep_of_it._samples) <= upkeep.SAMPLES + 2


async def test_history_is_given_up_by_age_on_a_whole_cluster() -> None:
    own = clocks(PACE)
    async with MemoryCluster(clocks=own, compaction=AutoCompaction(CompactionMode.AGE, 2_000)) as cluster:
        leader = await cluster.leader()
        await leader.put(b"key", b"1")
        second = (await leader.put(b"key", b"2")).put.revision
        await until(lambda: leader.node.machine.compacted_revision >= second)
        assert leader.node.machine.time_ms >= 2_000
        old = await leader.run(kv.Operation(id=1, range=kv.RangeRequest(key=b"key", revision=second - 1)))
        assert old.HasField("error")
        assert (await leader.get(b"key")).range.kvs[0].value == b"2"
