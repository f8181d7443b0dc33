"""What each read level and write concern gives on either side of a partition, and that all are given again after it.

A node that is alone answers what it can vouch for by itself, refuses the rest with an error that says why, and the
answer of the one is never called by the name of the other. Its clients reach it all the time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest

from raftkv.client import (
    AsyncClient,
    AtLeast,
    Bounded,
    Guarantee,
    Level,
    PutResult,
    Quorum,
    ReadLevel,
    ReadResult,
    ReadToken,
    Status,
)
from raftkv.errors import (
    DeadlineExceeded,
    LeaderChanged,
    NoLeader,
    NotLeader,
    QuorumUnavailable,
    RaftKVError,
    TooStale,
    WriteLost,
)
from tests.integration.waiting import PATIENCE_S, POLL_S
from tests.partition.conftest import Network

pytestmark = [pytest.mark.toxiproxy, pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

DEADLINE_S: Final = 1.5
"""Of what is to be refused: longer than a node looks for a leader, or for voters (1 s), so that it can say what it met.
"""
BOUND_MS: Final = 1_500
LAX_S: Final = 120.0
"""A bound that passes in no test."""

NO_LEADER = (NoLeader, NotLeader, LeaderChanged, DeadlineExceeded)


async def refusal(read: Callable[[], Awaitable[ReadResult]], *kinds: type[RaftKVError]) -> str:
    """Have a read end with an error of `kinds`; return its message. A read that hangs, or is answered, fails here.

    What a node says at the last moment may come too late where the machine is busy: it is asked again then.
    """
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with pytest.raises(RaftKVError) as caught:
                await read()
            if isinstance(caught.value, kinds):
                return caught.value.message
            assert isinstance(caught.value, DeadlineExceeded), repr(caught.value)


@dataclass(slots=True)
class Alone:
    """A client of one node that is cut off, which goes nowhere else and carries no token."""

    node: int
    address: str
    client: AsyncClient
    key: str
    bounded: list[tuple[float, ReadResult]] = field(default_factory=list)
    """Answers within a bound, and when each was asked for."""

    async def read(self, level: Level, timeout: float = DEADLINE_S) -> ReadResult:
        return await self.client.read(self.key, level=level, timeout=timeout)

    async def refused(self, level: Level, kinds: tuple[type[RaftKVError], ...]) -> str:
        """Have a read end with an error of `kinds`; return what the node said."""
        said = await refusal(
            lambda: self.client.read(self.key, level=level, endpoint=self.address, timeout=DEADLINE_S), *kinds
        )
        await refusal(lambda: self.read(level), *kinds)  # of a client that tries on until its time is up
        return said

    async def within(self, bound_s: float) -> ReadResult:
        asked = time.monotonic()
        found = await self.client.read(self.key, level=Bounded(bound_s), endpoint=self.address, timeout=DEADLINE_S)
        assert found.receipt.guarantee is Guarantee.BOUNDED
        assert found.receipt.served_by == self.node
        assert 0 < found.receipt.staleness <= bound_s
        self.bounded.append((asked, found))
        return found

    async def bound_passes(self) -> TooStale:
        """Ask within BOUND_MS until that is refused; return the error."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await self.within(BOUND_MS / 1000)
                except TooStale as error:
                    return error
                await asyncio.sleep(POLL_S)


@asynccontextmanager
async def alone(network: Network, node: int, key: str) -> AsyncIterator[Alone]:
    address = network.cluster.node(node).client_address
    async with AsyncClient([address], dial_learned=False, monotonic=False) as client:
        yield Alone(node, address, client, key)


def _token(result: PutResult | ReadResult) -> ReadToken:
    assert result.receipt.token is not None
    return result.receipt.token


def _value(result: ReadResult) -> bytes | None:
    return None if result.pair is None else result.pair.value


@pytest.mark.parametrize("role", ["leader", "follower"])
async def test_a_node_alone_serves_what_it_can_vouch_for_and_refuses_the_rest(
    network: Network, client: AsyncClient, prefix: str, role: str
) -> None:
    leader = await network.cluster.leader()
    node = leader if role == "leader" else network.others(leader)[0]
    key = f"{prefix}key"
    old = await client.put(key, "old", concern="all")
    assert (old.durable_on, old.receipt.reached) == (3, True)
    async with alone(network, node, key) as minority:
        assert _value(await minority.read(AtLeast(_token(old)), PATIENCE_S)) == b"old"
        assert _value(await minority.within(LAX_S)) == b"old"

        await network.links.isolate(node, "blackhole")
        await network.links.verify_isolated(node)
        await network.cluster.leader(other_than=node)
        new = await client.put(key, "new")
        acknowledged = time.monotonic()
        assert new.receipt.index > old.receipt.index

        everywhere, refusal, *_ = await asyncio.gather(
            client.put(f"{prefix}all", "value", concern="all", timeout=3.0),
            minority.bound_passes(),
            _served(minority),
            _refused(minority, network, _token(new)),
        )
        # W = all on the majority's side: what became of it, and no error.
        assert (everywhere.committed, everywhere.durable_on, everywhere.receipt.wanted) == (True, 2, 3)
        assert not everywhere.receipt.reached
        assert everywhere.revision > new.revision
        assert everywhere.receipt.words == "committed, on the disks of 2, 3 were asked for and not reached in time"

        age = re.search(rf"BOUNDED\({BOUND_MS} ms\) .* it is (\d+) ms old", refusal.message)
        assert age is not None, refusal.message
        assert int(age[1]) > BOUND_MS
        with pytest.raises(TooStale):
            await minority.within(BOUND_MS / 1000)
        assert _value(await minority.within(LAX_S)) == b"old"

        await network.links.verify_isolated(node)
        await network.heal()
        await _all_served(minority, client, _token(new))

    for asked, found in minority.bounded:
        if asked - found.receipt.staleness > acknowledged:
            assert _value(found) == b"new", f"it claims to miss nothing older than {found.receipt.staleness} s"


async def _served(minority: Alone) -> None:
    """What a node that is alone still answers, and what it calls that."""
    local = await minority.read(ReadLevel.LOCAL)
    assert (_value(local), local.receipt.guarantee) == (b"old", Guarantee.STALE_PREFIX)
    assert local.receipt.served_by == minority.node
    for coordinator in ("node", "client"):
        one = await minority.read(Quorum(1, coordinator=coordinator))
        assert _value(one) == b"old", "a write that all had was not seen"
        receipt = one.receipt
        assert (receipt.guarantee, receipt.sees_writes_at) == (Guarantee.SEES_WRITES_AT_W_GE, 3)
        assert (receipt.replicas, receipt.served_by) == (1, minority.node)
        assert receipt.words == "sees every write acknowledged at W >= 3"


async def _refused(minority: Alone, network: Network, ahead: ReadToken) -> None:
    """What it cannot vouch for, and how it says so."""
    _, quorum, at_least = await asyncio.gather(
        minority.refused(ReadLevel.LINEARIZABLE, NO_LEADER),
        minority.refused(Quorum(), (QuorumUnavailable,)),
        minority.refused(AtLeast(ahead), (TooStale,)),
    )
    assert "QUORUM(2) of 3 voters: 1 answered, and not " in quorum
    for other in network.others(minority.node):
        assert f"node {other} (" in quorum
    assert f"node {minority.node} has applied entry " in at_least
    assert f"asks for entry {ahead.index} (term {ahead.term})" in at_least
    # Of a client that reaches this node only; one that reaches them all is the bridge that the nodes lack.
    few = await refusal(lambda: minority.read(Quorum(coordinator="client")), QuorumUnavailable)
    assert "1 of 3 voters told the end of their logs, 2 are needed" in few


async def _all_served(minority: Alone, client: AsyncClient, new: ReadToken) -> None:
    """After the heal, the same node gives everything again."""
    expected: dict[Level, Guarantee] = {
        AtLeast(new): Guarantee.AT_LEAST,
        ReadLevel.LINEARIZABLE: Guarantee.LINEARIZABLE,
        Quorum(): Guarantee.LINEARIZABLE,
        Quorum(1): Guarantee.SEES_WRITES_AT_W_GE,
        Bounded(BOUND_MS / 1000): Guarantee.BOUNDED,
        ReadLevel.LOCAL: Guarantee.STALE_PREFIX,
    }
    for level, guarantee in expected.items():
        found = await minority.read(level, PATIENCE_S)
        assert found.receipt.guarantee is guarantee, level
        assert _value(found) == b"new", level
    found = await client.read(minority.key, level=Quorum(3, coordinator="client"))
    assert (_value(found), found.receipt.guarantee) == (b"new", Guarantee.LINEARIZABLE)


async def test_a_write_for_an_isolated_leader_alone_is_lost_and_its_client_is_told_once(
    network: Network, client: AsyncClient, prefix: str
) -> None:
    cluster = network.cluster
    old = await cluster.leader()
    key = f"{prefix}key"
    address = cluster.node(old).client_address
    async with AsyncClient([address], dial_learned=False, timeout=PATIENCE_S) as writer:
        before = await writer.put(key, "before", concern="all")
        await network.links.isolate(old, "blackhole")
        early = await writer.put(key, "early", concern="leader")  # it leads yet, as far as it knows
        assert (early.committed, early.revision, early.durable_on) == (False, 0, 1)
        assert early.receipt.words == ("not known to be committed, on the disks of 1: a change of leaders may lose it")
        token = _token(early)
        assert (token.term, token.committed, str(token)[-1]) == (before.receipt.term, False, "?")
        assert writer.token == token
        await network.links.verify_isolated(old)
        behind = await refusal(
            lambda: writer.read(key, level=AtLeast(), endpoint=address, timeout=DEADLINE_S), TooStale
        )
        assert f"asks for entry {token.index} " in behind
        # Its own log ends with what is not known to be committed, so not even one voter's word will do.
        async with alone(network, old, key) as other:
            unsure = await other.refused(Quorum(1), (QuorumUnavailable,))
        assert f"the voters' logs end with entry {token.index} (term {token.term})" in unsure
        assert "not known to be committed: that needs a leader" in unsure

        await cluster.leader(other_than=old)
        assert (await client.get(key)) is not None
        won = await client.put(key, "won")
        assert won.receipt.term > token.term
        await network.links.verify_isolated(old)
        await network.heal()
        await cluster.converged()

        outcomes = await asyncio.gather(
            *(writer.read(key, level=level) for level in (ReadLevel.LOCAL, AtLeast(), AtLeast(), ReadLevel.LOCAL)),
            return_exceptions=True,
        )
        told = [one for one in outcomes if isinstance(one, BaseException)]
        assert [type(one) for one in told] == [WriteLost], outcomes
        assert writer.token is not None
        assert writer.token.committed
        again = await writer.read(key, level=ReadLevel.LOCAL)
        assert (_value(again), again.receipt.guarantee) == (b"won", Guarantee.AT_LEAST)
        assert {_value(one) for one in outcomes if isinstance(one, ReadResult)} == {b"won"}

    # Whoever carries the token itself is told by every node, as often as it asks.
    for node in cluster.nodes:
        for _ in range(2):
            with pytest.raises(WriteLost, match=f"entry {token.index}, term {token.term}"):
                await client.read(key, level=AtLeast(token), endpoint=node.client_address)
        assert (await cluster.contents(node.id, key))[key.encode()].value == b"won"


async def test_with_all_nodes_parted_a_client_reads_linearizably_and_there_is_no_leader(
    network: Network, client: AsyncClient, prefix: str
) -> None:
    """No vote can pass between any two nodes, so nobody leads: it is the client that brings their logs together."""
    cluster = network.cluster
    term = (await client.status(cluster.node(await cluster.leader()).client_address)).term
    key = f"{prefix}key"
    await client.put(key, "value")
    await cluster.converged()

    async def statuses() -> list[Status]:
        return [await client.status(node.client_address) for node in cluster.nodes]

    await network.links.partition(*([node] for node in network.links.nodes))
    for a, b in ((1, 2), (1, 3), (2, 3)):
        await network.links.verify_blocked(a, b)
    seen: list[Status] = []
    async with asyncio.timeout(PATIENCE_S):
        while not seen or any(status.leader_id for status in seen):
            seen = await statuses()

    for replicas in (None, 2, 3):
        for _ in range(5):
            found = await client.read(key, level=Quorum(replicas, coordinator="client"))
            assert (_value(found), found.receipt.guarantee) == (b"value", Guarantee.LINEARIZABLE)
            assert found.receipt.replicas == (replicas or 2)
            assert found.receipt.applied_term <= term
    _, _, stale = await asyncio.gather(
        refusal(lambda: client.read(key, timeout=DEADLINE_S), *NO_LEADER),
        refusal(lambda: client.read(key, level=Quorum(2), timeout=DEADLINE_S), QuorumUnavailable),
        client.read(key, fallback="stale", timeout=DEADLINE_S),
    )
    # It has seen no later state than this, so it can say a little more than that the answer may be stale.
    assert (_value(stale), stale.receipt.guarantee) == (b"value", Guarantee.AT_LEAST)

    for status in await statuses():
        assert (status.leader_id, status.term) == (0, term), "someone led, or stood for election, meanwhile"
    await network.heal()
    assert (await client.read(key)).receipt.guarantee is Guarantee.LINEARIZABLE
    await cluster.converged()
