"""The leader is parted from all other nodes: it grants nothing, the majority goes on, and the heal reunites them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from raftkv.client import AsyncClient, Guarantee, ReadLevel, Role
from raftkv.v1 import kv_pb2
from tests.partition.conftest import Network
from tests.partition.history import read, violations
from tests.partition.pinned import Pinned
from tests.partition.traffic import Traffic

pytestmark = [pytest.mark.toxiproxy, pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

Act = Callable[[Network, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Fault:
    """How the leader is cut off, and the proof that it is."""

    inflict: Act
    verify: Act
    it_hears: bool = False
    """Then it learns of its successor, and forwards what never arrives."""


async def _verify_isolated(network: Network, leader: int) -> None:
    await network.links.verify_isolated(leader)


async def _black_hole(network: Network, leader: int) -> None:
    await network.links.isolate(leader, "blackhole")


async def _cut(network: Network, leader: int) -> None:
    await network.links.isolate(leader, "cut")


async def _deafen(network: Network, leader: int) -> None:
    for other in network.others(leader):
        await network.links.block_one_way(other, leader)


async def _verify_deaf(network: Network, leader: int) -> None:
    for other in network.others(leader):
        await network.links.verify_blocked_one_way(other, leader)


async def _mute(network: Network, leader: int) -> None:
    for other in network.others(leader):
        await network.links.block_one_way(leader, other)


async def _verify_mute(network: Network, leader: int) -> None:
    for other in network.others(leader):
        await network.links.verify_blocked_one_way(leader, other)


FAULTS = {
    "black-hole": Fault(_black_hole, _verify_isolated),
    "cut": Fault(_cut, _verify_isolated),
    "hears-nobody": Fault(_deafen, _verify_deaf),
    "nobody-hears-it": Fault(_mute, _verify_mute, it_hears=True),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_an_isolated_leader_grants_nothing(
    network: Network, client: AsyncClient, prefix: str, fault: Fault
) -> None:
    cluster = network.cluster
    old = await cluster.leader()
    address = cluster.node(old).client_address
    term = (await client.status(address)).term
    traffic = Traffic(client, prefix)
    pinned = Pinned(address, f"{prefix}pinned/", traffic.register)

    async with pinned:
        async with traffic:
            await traffic.progress()
            await pinned.works()

            await fault.inflict(network, old)
            pinned.cut_off()
            await fault.verify(network, old)

            new = await cluster.leader(other_than=old)
            assert (await client.status(cluster.node(new).client_address)).term > term
            await traffic.progress()
            local = await client.get(traffic.register, level=ReadLevel.LOCAL, endpoint=address)
            await pinned.fails()
            await traffic.progress()

            await fault.verify(network, old)
            await pinned.stop()
            await network.heal()
            await traffic.progress()
        patient = await pinned.patient_ones()

    pinned.verify_nothing_was_granted()
    if not fault.it_hears:
        pinned.verify_it_knew_of_no_leader()
    pinned.verify_it_was_caught_believing()
    assert local is not None
    assert local.guarantee is Guarantee.STALE_PREFIX
    assert local.mod_revision < max(operation.revision for operation in traffic.operations)

    await cluster.converged()
    await traffic.verify(cluster)
    for node in cluster.nodes:
        pinned.verify_outcomes(await cluster.contents(node.id, f"{prefix}pinned/"))
    # Reads that began at the old leader while it was cut off and ended after the heal saw what they had to.
    late = [one for one in patient if one.read is not None]
    reads = [read(one.began, one.ended, _revision(one.read), _value(one.read)) for one in late]
    assert violations(traffic.operations + reads) == []

    healed = await client.status(address)
    assert (healed.role, healed.leader_id) == (Role.FOLLOWER, await cluster.leader())


def _revision(read: kv_pb2.RangeResponse | None) -> int:
    return read.kvs[0].mod_revision if read and read.kvs else 0


def _value(read: kv_pb2.RangeResponse | None) -> bytes:
    return read.kvs[0].value if read and read.kvs else b""
