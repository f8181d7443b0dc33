"""Quorum reads while nobody leads, and reads by followers: real processes, killed with SIGKILL.

That there was no leader is proven by terms, not by time: a new leader needs the votes of both survivors, in a term
above the dead one's. As long as one of them is still in the old term, nobody leads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Literal

import pytest

from raftkv.client import (
    AsyncClient,
    BreakerState,
    EndpointState,
    Guarantee,
    Quorum,
    ReadFrom,
    ReadLevel,
    ReadResult,
    Role,
    Status,
)
from raftkv.errors import DeadlineExceeded, LeaderChanged, NoLeader, NotLeader
from raftkv.testing.cluster import LocalCluster, NodeProcess
from tests.integration.waiting import PATIENCE_S, until

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

Coordinator = Literal["node", "client"]
COORDINATORS: Final[tuple[Coordinator, ...]] = ("node", "client")

READS: Final = 20
"""Of each kind that must have come to their end while nobody leads."""
NO_LEADER = (NoLeader, NotLeader, LeaderChanged, DeadlineExceeded)

# With leases, the end of a leader's connections is no reason to stand for election: a survivor waits for its timeout.
SECONDS_WITHOUT_A_LEADER = ("--lease-drift-ppm", "1000", "--election-ms", "10000")
NO_ELECTION = ("--election-ms", "600000")


@asynccontextmanager
async def led_cluster() -> AsyncIterator[tuple[LocalCluster, NodeProcess, list[NodeProcess]]]:
    """Three nodes, the leader, and the others."""
    async with LocalCluster(3) as cluster:
        leader = await cluster.leader()
        yield cluster, cluster.node(leader), [node for node in cluster.nodes if node.id != leader]


def addresses(nodes: Iterable[NodeProcess]) -> list[str]:
    return [node.client_address for node in nodes]


async def statuses(client: AsyncClient, nodes: Iterable[NodeProcess]) -> list[Status]:
    return [await client.status(node.client_address) for node in nodes]


async def quorum_read(client: AsyncClient, coordinator: Coordinator, ask: str | None = None) -> ReadResult:
    return await client.read("key", level=Quorum(coordinator=coordinator), endpoint=ask)


def check_reads(reads: Sequence[ReadResult], survivors: Iterable[NodeProcess], term: int, index: int) -> None:
    """They are linearizable, and of what the dead leader has committed."""
    for found in reads:
        assert found.pair is not None
        assert found.pair.value == b"last"
        receipt = found.receipt
        assert (receipt.guarantee, receipt.replicas) == (Guarantee.LINEARIZABLE, 2)
        assert receipt.served_by in {node.id for node in survivors}
        assert receipt.applied_term == term, "it shows an entry of another leader"
        assert receipt.applied_index >= index


@pytest.mark.jepsen  # it waits for an election that is late enough for a slow machine
async def test_quorum_reads_go_on_between_the_death_of_a_leader_and_the_next_one() -> None:
    async with led_cluster() as (cluster, leader, survivors):
        for node in survivors:  # which start anew, or the first election of all would be slow as well
            node.extra_arguments += SECONDS_WITHOUT_A_LEADER
            await node.restart()
        assert await cluster.leader() == leader.id
        async with (
            AsyncClient(cluster.url, timeout=PATIENCE_S) as client,
            AsyncClient(addresses(survivors), dial_learned=False, timeout=PATIENCE_S) as reader,
        ):
            term = (await client.status(leader.client_address)).term
            written = await client.put("key", "last")
            await cluster.converged()
            reads: dict[Coordinator, list[ReadResult]] = {coordinator: [] for coordinator in COORDINATORS}

            async def read_on(coordinator: Coordinator) -> None:
                while True:
                    reads[coordinator].append(await quorum_read(reader, coordinator))

            async with asyncio.TaskGroup() as group:
                readers = [group.create_task(read_on(coordinator)) for coordinator in COORDINATORS]
                await until("reads at all", lambda: all(len(found) >= READS for found in reads.values()))
                await leader.kill()
                began = {coordinator: len(found) + 1 for coordinator, found in reads.items()}  # one is under way

                linearizable = asyncio.create_task(client.read("key"))
                falling_back = asyncio.create_task(client.read("key", fallback="stale", timeout=2.0))
                await until(
                    "reads after the death of the leader",
                    lambda: all(len(found) >= began[by] + READS for by, found in reads.items()),
                )
                stale = await falling_back
                in_time = {by: found[began[by] :] for by, found in reads.items()}
                waits = not linearizable.done()
                after = await statuses(client, survivors)
                # Each of them is still in the term of the dead leader, so nobody led when the reads above were made.
                assert [status.term for status in after] == [term, term]
                assert all(status.role is not Role.LEADER for status in after)
                assert {status.leader_id for status in after} <= {0, leader.id}, "someone that lives is said to lead"
                assert waits, "a linearizable read was answered without a leader"
                assert stale.pair is not None
                assert (stale.pair.value, stale.receipt.guarantee) == (b"last", Guarantee.AT_LEAST)

                found = await linearizable
                assert found.receipt.guarantee is Guarantee.LINEARIZABLE
                assert found.receipt.applied_term > term, "it came before there was a new leader"
                for task in readers:
                    task.cancel()
        for found_in_time in in_time.values():
            check_reads(found_in_time, survivors, term, written.receipt.index)


@pytest.mark.slow
async def test_quorum_reads_need_no_node_that_has_ever_heard_of_a_leader() -> None:
    """All nodes are killed, and two come back that stand for no election: they know of no leader, all the time."""
    async with led_cluster() as (cluster, leader, survivors):
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
            term = (await client.status(leader.client_address)).term
            written = await client.put("key", "last", concern="all")
        await cluster.converged()
        for node in survivors:
            node.extra_arguments += NO_ELECTION
            await node.kill()
        await leader.kill()  # the last: nobody is left to be elected
        await asyncio.gather(*(node.start() for node in survivors))

        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
            before = await statuses(client, survivors)
            reads = []
            for _ in range(READS // 2):
                reads += [await quorum_read(client, "node", address) for address in addresses(survivors)]
                reads.append(await quorum_read(client, "client"))
            with pytest.raises(NO_LEADER):
                await client.read("key", timeout=1.5)
            stale = await client.read("key", fallback="stale", timeout=0.8)
            for status in (*before, *(await statuses(client, survivors))):
                assert (status.term, status.leader_id, status.role) == (term, 0, Role.FOLLOWER)
            check_reads(reads, survivors, term, written.receipt.index)
            assert stale.pair is not None
            assert (stale.pair.value, stale.receipt.guarantee) == (b"last", Guarantee.AT_LEAST)

            await leader.start()  # which stands for election at once
            found = await client.read("key")
            assert found.receipt.guarantee is Guarantee.LINEARIZABLE
            assert found.receipt.applied_term > term


async def test_followers_read_linearizably_and_one_that_dies_is_passed_over_until_it_is_back(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    leader = await cluster.leader()
    followers = [node for node in cluster.nodes if node.id != leader]
    where = addresses(followers)
    async with AsyncClient(where, dial_learned=False, read_from=ReadFrom.NEAREST, timeout=PATIENCE_S) as reader:
        served: list[int] = []

        async def write_and_read(pairs: int) -> None:
            for _ in range(pairs):
                value = b"%d" % len(served)
                written = await client.put(f"{prefix}key", value)
                found = await reader.read(f"{prefix}key", level=ReadLevel.LINEARIZABLE)
                assert found.pair is not None
                assert (found.pair.value, found.pair.mod_revision) == (value, written.revision)
                assert found.receipt.guarantee is Guarantee.LINEARIZABLE
                served.append(found.receipt.served_by)

        def state_of(node: NodeProcess) -> EndpointState:
            return next(one for one in reader.endpoint_states() if one.endpoint == node.client_address)

        await write_and_read(100)
        assert set(served) <= {node.id for node in followers}, "the leader has answered"
        victim = cluster.node(served[-1])
        (other,) = (node for node in followers if node is not victim)
        assert (state_of(victim).breaker, state_of(victim).connected) == (BreakerState.CLOSED, True)

        await victim.kill()
        mark = len(served)
        await write_and_read(20)
        assert set(served[mark:]) == {other.id}
        # Half open while a try is under way, and open again when it has failed.
        await until("its breaker is open", lambda: state_of(victim).breaker is BreakerState.OPEN)
        assert state_of(victim).failures
        assert not state_of(victim).connected
        assert state_of(other).breaker is BreakerState.CLOSED

        await victim.start()
        await until("its breaker is closed", lambda: state_of(victim).breaker is BreakerState.CLOSED)
        assert state_of(victim).connected
        await other.kill()
        mark = len(served)
        await write_and_read(20)
        assert set(served[mark:]) == {victim.id}
