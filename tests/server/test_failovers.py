"""The RTO as one node saw it."""

from __future__ import annotations

from raftkv.raft import NodeId, Term
from raftkv.server.failovers import Failover, Failovers, Reign
from tests.server.memory_cluster import MemoryCluster, until

OLD, NEW = Reign(NodeId(1), Term(4)), Reign(NodeId(2), Term(5))


def failovers() -> Failovers:
    return Failovers(lambda: 1000.0)


def test_the_first_leader_after_a_start_is_no_failover() -> None:
    seen = failovers()
    seen.committed(OLD, 100)
    assert seen.newest is None
    assert not seen.counts


def test_it_lasts_from_the_last_word_of_the_old_leader_to_the_first_commit_of_the_new_one() -> None:
    seen = failovers()
    seen.committed(OLD, 100)
    seen.heard(OLD, 900)
    seen.heard(NEW, 1300)  # elected, and nothing committed yet
    seen.committed(NEW, 1350)
    seen.committed(NEW, 1400)  # told again
    assert seen.newest == Failover(NEW, 450.0, 1000.0, planned=False)
    assert seen.counts == {False: 1}


def test_a_leader_that_commits_nothing_is_none() -> None:
    seen = failovers()
    seen.committed(OLD, 100)
    seen.heard(Reign(NodeId(3), Term(5)), 600)
    seen.committed(Reign(NodeId(2), Term(6)), 700)
    assert seen.newest is not None
    assert seen.newest.duration_ms == 600
    assert seen.counts == {False: 1}


def test_it_is_planned_when_the_old_leader_asked_for_the_election() -> None:
    seen = failovers()
    seen.committed(OLD, 100)
    seen.handed_over(NEW.term)
    seen.committed(NEW, 130)
    assert seen.newest == Failover(NEW, 30.0, 1000.0, planned=True)
    seen.committed(Reign(NodeId(1), Term(6)), 200)
    assert seen.counts == {True: 1, False: 1}


def test_a_leader_that_is_elected_again_was_gone_in_between() -> None:
    seen = failovers()
    seen.committed(OLD, 100)
    seen.committed(Reign(OLD.leader, Term(6)), 400)
    assert seen.newest is not None
    assert (seen.newest.reign.leader, seen.newest.duration_ms) == (OLD.leader, 300)


async def test_every_node_sees_a_transfer_as_planned_and_a_death_as_not() -> None:
    async with MemoryCluster(3) as cluster:
        first = await cluster.leader()
        await first.put(b"k", b"v")
        others = [member for member in cluster.nodes.values() if member is not first]
        await until(lambda: all(member.node.raft.term_is_committed for member in others))
        assert all(member.node.failovers.newest is None for member in cluster.nodes.values())
        first.node.transfer_leader(others[0].id)
        await until(lambda: all(member.node.failovers.newest for member in cluster.nodes.values()))
        second = await cluster.leader()
        for member in cluster.nodes.values():
            found = member.node.failovers.newest
            assert found is not None
            assert (found.reign, found.planned) == (Reign(second.id, second.node.raft.term), True), member.id
            assert member.node.failovers.counts == {True: 1}

        await second.node.stop()
        rest = [member for member in cluster.nodes.values() if member is not second]
        third = await cluster.leader(other_than=second.id)
        await until(lambda: all(member.node.failovers.counts[False] for member in rest))
        for member in rest:
            found = member.node.failovers.newest
            assert found is not None
            assert (found.reign.leader, found.planned) == (third.id, False)
            assert found.duration_ms > 0


async def test_a_leader_that_was_cut_off_and_gave_up_handed_nothing_over() -> None:
    """It was handing over when its quorum went: that another one leads is not its doing."""
    async with MemoryCluster(3) as cluster:
        first = await cluster.leader()
        await first.put(b"k", b"v")
        heir = cluster.follower(first)
        cluster.isolate(first.id)
        first.node.transfer_leader(heir.id)
        assert first.node.raft.transferring
        second = await cluster.leader(other_than=first.id)
        await until(lambda: not first.node.is_leader)
        cluster.heal()
        await until(lambda: first.node.failovers.newest is not None and first.node.leader == second.id)
        assert first.node.failovers.newest is not None
        assert not first.node.failovers.newest.planned
