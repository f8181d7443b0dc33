"""Clusters that grow, shrink and replace their members under load, without one failed or lost write."""

from __future__ import annotations

import asyncio
import contextlib
import shutil

import pytest

from raftkv.client import AsyncClient, MemberKind, Role
from raftkv.errors import FailedPrecondition, InvalidArgument, RaftKVError
from raftkv.testing.cluster import ClusterError, LocalCluster
from tests.integration.load import CounterLoad
from tests.integration.promotion import promote
from tests.integration.waiting import PATIENCE_S

pytestmark = pytest.mark.processes


@pytest.mark.slow
async def test_a_cluster_grows_from_one_to_five_and_shrinks_again_under_load() -> None:
    async with LocalCluster(1) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        async with CounterLoad(client, "k", tasks=12) as load:
            await load.progress()
            for new in (2, 3):
                assert (await cluster.add()).id == new
                kinds = await promote(client, new)
                assert kinds == dict.fromkeys(range(1, new + 1), MemberKind.VOTER)
                await load.progress()
            await cluster.add()
            await cluster.add()
            kinds = await promote(client, 4, 5)  # two at once
            assert kinds == dict.fromkeys(range(1, 6), MemberKind.VOTER)
            await load.progress()

            leader = await cluster.leader()
            await client.remove_members(leader)
            await load.progress()
            await cluster.discard(leader)
            await load.progress()
            survivor = await cluster.leader()
            going = [node.id for node in cluster.nodes if node.id != survivor][:2]
            members = await client.remove_members(*going)
            assert len(members) == 2
            for node in going:
                await cluster.discard(node)
            await load.progress()
            leader = await cluster.leader()
            last = next(node.id for node in cluster.nodes if node.id != leader)
            await client.remove_members(last)
            await cluster.discard(last)
            await load.progress()
        await load.verify_on_every_node(cluster)
        # The node that is left has the whole membership on its disk: founded as another node's cluster, alone now.
        await cluster.nodes[0].restart()
        await load.verify_on_every_node(cluster)


async def test_a_dead_node_is_replaced_in_one_step_under_load() -> None:
    async with LocalCluster(3) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        async with CounterLoad(client, "k", tasks=12) as load:
            await load.progress()
            leader = await cluster.leader()
            dead = next(node.id for node in cluster.nodes if node.id != leader)
            await cluster.node(dead).kill()
            cluster.nodes.remove(cluster.node(dead))
            new = (await cluster.add()).id
            kinds = await promote(client, new, remove=(dead,))
            assert kinds == {node.id: MemberKind.VOTER for node in cluster.nodes}
            await load.progress()
        await load.verify_on_every_node(cluster)


@pytest.mark.jepsen
async def test_two_data_nodes_and_a_witness_survive_the_loss_of_either_data_node() -> None:
    async with LocalCluster(1) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        await cluster.add()
        await promote(client, 2)
        witness = await cluster.add(witness=True)
        loads = []
        for lost in (1, 2):
            # One failure at a time: whoever was lost before holds everything again.
            await cluster.converged()
            loads.append(CounterLoad(client, f"{lost}-", tasks=12))
            async with loads[-1] as load:
                await load.progress()
                await cluster.node(lost).kill()
                await load.progress()
                assert await cluster.leader(other_than=lost) in {1, 2}
                await cluster.node(lost).start()
        status = await client.status(witness.client_address)
        assert status.is_witness
        assert status.role is not Role.LEADER
        with pytest.raises(FailedPrecondition, match="a witness holds no state"):
            await client.state_hash(witness.client_address)
        with pytest.raises(FailedPrecondition, match="node 3 is a witness"):
            await cluster.contents(3)
        with pytest.raises(FailedPrecondition, match="never leads"):
            await client.transfer_leader(3)
        await cluster.converged()
        cluster.nodes.remove(witness)
        try:
            for load in loads:
                await load.verify_on_every_node(cluster)
        finally:
            await witness.kill()


async def test_what_cannot_be_changed_is_refused_and_changes_nothing() -> None:
    async with LocalCluster(1) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        await cluster.leader()
        before = await client.members()
        for refused, complaint in (
            (client.add_member(1, "127.0.0.1:1"), "node 1 is a member already"),
            (client.remove_members(1), "no voter left"),
            (client.remove_members(7), "node 7 is not a member"),
            (client.promote_members(7), "node 7 is not a member"),
            (client.promote_members(1), "node 1 is a voter already"),
        ):
            with pytest.raises(FailedPrecondition, match=complaint):
                await refused
        with pytest.raises(RaftKVError, match="not the HOST:PORT"):
            await client.add_member(2, "nonsense")
        with pytest.raises(InvalidArgument, match="node ids start at 1"):
            await client.remove_members(0)
        assert await client.members() == before

        learner = await cluster.add(start=False)
        with pytest.raises(FailedPrecondition, match=f"node {learner.id} cannot be promoted yet"):
            await client.promote_members(learner.id)
        with pytest.raises(FailedPrecondition, match="node 2 is a learner"):
            await client.transfer_leader(learner.id)
        kinds = [member.kind for member in await client.members()]
        assert kinds == [MemberKind.VOTER, MemberKind.LEARNER]


async def test_a_node_that_was_not_added_does_not_join() -> None:
    async with LocalCluster(1) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        await cluster.leader()
        stranger = await cluster.add(start=False)
        await client.remove_members(stranger.id)
        with pytest.raises(RaftKVError, match=r"is not a member of the cluster at .*run `raftkv member add"):
            await stranger.start()
        cluster.nodes.remove(stranger)


async def test_a_wiped_disk_under_its_old_id_is_refused_with_the_way_out() -> None:
    async with LocalCluster(3) as cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        leader = await cluster.leader()
        victim = next(node for node in cluster.nodes if node.id != leader)
        await client.put("k", "v")
        await victim.kill()
        await asyncio.to_thread(shutil.rmtree, victim.data_dir)
        with contextlib.suppress(ClusterError):  # whether it answers before it learns that it must not run
            await victim.start()
        assert await victim.wait_ended() == 1
        assert f"raftkv member remove {victim.id}" in victim.log()
        assert (await client.status(cluster.node(leader).client_address)).role is Role.LEADER

        # The way out works.
        cluster.nodes.remove(victim)
        new = (await cluster.add()).id
        await promote(client, new, remove=(victim.id,))
        await cluster.converged()
