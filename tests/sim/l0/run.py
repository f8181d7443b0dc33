"""One run: safety under faults, then everything heals and the cluster must work again within a bounded time."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from raftkv.invariant import InvariantViolation
from raftkv.raft import Fitness, Role
from tests.raft.oracle import SafetyViolation
from tests.sim.l0 import plan
from tests.sim.l0.cluster import Cluster
from tests.sim.l0.faults import Conductor
from tests.sim.l0.machine import Fault, Machine
from tests.sim.l0.plan import TICK
from tests.sim.levels import Report

CONVERGENCE = 12
"""In so many election timeouts a healed cluster must elect, serve a read, commit a write and bring everybody up."""

LEAST_COMMITS = 3
LEAST_FAULTS = 2


class LivenessViolation(AssertionError):
    """A cluster that could work does not."""


class IdleRun(AssertionError):
    """Too little has happened for the run to prove anything."""


def tape(seed: int) -> Sequence[plan.Act]:
    return plan.draw(seed)[1]


def run(
    seed: int,
    *,
    kept: Sequence[int] | None = None,
    trace: Callable[[str], None] | None = None,
    watch_promises: bool = True,
) -> Report:
    """See `tests.sim.levels.Level.run`. `watch_promises`: see the oracle."""
    began = time.process_time()
    parameters, acts = plan.draw(seed)
    if kept is not None:
        acts = tuple(acts[number] for number in kept)
    cluster = Cluster(parameters, seed, watch_promises=watch_promises, trace=trace)
    conductor = Conductor(cluster, acts)
    cluster.say(f"seed {seed}: {parameters}")
    violation = None
    try:
        with _no_garbage_collection():
            cluster.run_until(parameters.ticks * TICK)
            conductor.heal()
            if kept is None:
                _require_traffic(cluster)
            converge(cluster, conductor)
            TRIALS[seed % len(TRIALS)](cluster, conductor)
            if plan.has_unfit_nodes(seed):
                a_leader_that_should_not_lead_hands_over(cluster, conductor, random.Random(f"{seed}/unfit"))
            if cluster.leases:
                a_rival_within_the_lease(cluster, conductor, random.Random(f"{seed}/rival"))
    except (SafetyViolation, InvariantViolation, LivenessViolation, IdleRun) as error:
        violation = f"{type(error).__name__}: {error}"
        cluster.say(violation)
    return Report(
        seed=seed,
        steps=cluster.steps,
        trace_hash=cluster.digest,
        faults={kind: count for kind, count in sorted(cluster.faults.items()) if count},
        traffic={
            **dict(sorted(cluster.counts.items())),
            "commits": cluster.oracle.newest_committed,
            "entries overwritten": cluster.oracle.overwritten,
        },
        violation=violation,
        seconds=time.process_time() - began,
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A run makes hundreds of thousands of small values and no cycles worth the time to look for them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _require_traffic(cluster: Cluster) -> None:
    commits, faults = cluster.oracle.newest_committed, sum(cluster.faults.values())
    if cluster.parameters.size == 2:
        return  # two nodes commit nothing while either is away, which may be all the time
    if commits < LEAST_COMMITS or faults < LEAST_FAULTS:
        raise IdleRun(f"only {commits} commits and {faults} faults in {cluster.steps} steps")


# --- liveness ---------------------------------------------------------------------------------------------------------


def timeout(cluster: Cluster) -> int:
    """Return an election timeout of the slowest clock."""
    return cluster.parameters.election_ticks * max(machine.tick_length for machine in cluster.machines.values())


def leader_of(cluster: Cluster) -> Machine | None:
    """Return the leader of the highest term."""
    return max(cluster.leaders(), key=lambda leader: leader.raft.term, default=None)


def members_of(cluster: Cluster) -> list[Machine]:
    """Return the machines that the leader takes for members; all, while there is no leader."""
    leader = leader_of(cluster)
    members = leader.raft.configuration.members if leader is not None else cluster.machines.keys()
    return [machine for machine in cluster.machines.values() if machine.id in members]


def successors(cluster: Cluster, leader: Machine) -> list[Machine]:
    """Return who may lead instead; nobody, where `leader` is needed for a majority."""
    configuration = leader.raft.configuration
    if len(configuration.voters) < 3:
        return []
    return [cluster.machines[node] for node in sorted(configuration.voters - configuration.witnesses - {leader.id})]


def wait(cluster: Cluster, holds: Callable[[], bool], limit: int, what: str) -> None:
    """Let time pass until `holds`, which must come true within `limit`."""
    end = cluster.now + limit
    while not holds():
        if cluster.now >= end:
            nodes = [
                f"n{m.id} {m.raft.role.value} t{m.raft.term} leader {m.raft.leader} log {m.raft.log.last_index} "
                f"committed {m.raft.log.commit} applied {m.raft.log.applied}"
                for m in cluster.machines.values()
            ]
            raise LivenessViolation(f"without faults, {what} within {limit / TICK:.0f} ticks: {'; '.join(nodes)}")
        cluster.run_until(cluster.now + TICK // 2)


def converge(cluster: Cluster, conductor: Conductor) -> None:
    """A read first: the new leader must get a commit of its own without the help of a write (paper 8)."""
    logs = [machine.raft.log for machine in cluster.machines.values()]
    backlog = max(log.last_index for log in logs) - min(log.commit for log in logs)
    limit = CONVERGENCE * timeout(cluster) + backlog * TICK  # windows may be so small that entries travel one by one
    began = cluster.now
    served = cluster.counts["reads served"]
    asked = 0

    def read_is_served() -> bool:
        nonlocal asked
        leader = leader_of(cluster)
        if leader is not None and asked != leader.raft.term:
            asked = leader.raft.term
            cluster.read(leader)
        return cluster.counts["reads served"] > served

    wait(cluster, read_is_served, limit, "no read is served")
    write_everywhere(cluster, conductor, began + limit - cluster.now)
    require_agreement(cluster)


def write_somewhere(cluster: Cluster, conductor: Conductor, limit: int) -> bytes:
    """A write is acknowledged. Return it."""
    write: bytes | None = None
    term = 0

    def acknowledged() -> bool:
        nonlocal write, term
        leader = leader_of(cluster)
        if leader is not None and (write is None or leader.raft.term != term):
            write, term = conductor.propose(leader), leader.raft.term
        return write in cluster.clients.acknowledged

    wait(cluster, acknowledged, limit, "no write is acknowledged")
    assert write is not None
    return write


def write_everywhere(cluster: Cluster, conductor: Conductor, limit: int) -> None:
    """A write is acknowledged and reaches every node."""
    end = cluster.now + limit
    write = write_somewhere(cluster, conductor, limit)
    index = cluster.clients.acknowledged[write]
    wait(
        cluster,
        lambda: all(machine.applied_index >= index for machine in members_of(cluster)),
        end - cluster.now,
        "a write does not reach every node",
    )


def require_agreement(cluster: Cluster) -> None:
    """Everybody follows the same leader, holds the same log and has applied all of it."""

    def agreed() -> bool:
        leader = leader_of(cluster)
        return (
            leader is not None
            and not leader.raft.changing
            and all(
                machine.raft.leader == leader.id and machine.applied_index == leader.raft.log.last_index
                for machine in members_of(cluster)
            )
        )

    wait(cluster, agreed, 4 * timeout(cluster), "the nodes do not agree")
    machines = members_of(cluster)
    for machine in machines:
        cluster.clients.require_kept(machine)
        if machine.raft.log.last_term != machines[0].raft.log.last_term:
            raise SafetyViolation(f"C3: nodes {machine.id} and {machines[0].id} agree and hold other logs")


# --- trials: one of these is the end of a run -------------------------------------------------------------------------


def _disturb(cluster: Cluster, *, only_the_leader: bool) -> None:
    """A node that nobody needs misses its leader for a while: the leader must not care (thesis 4.2.3)."""
    leader = leader_of(cluster)
    others = successors(cluster, leader) if leader is not None else []
    if leader is None or not others:
        return
    victim = random.Random(cluster.now).choice(others)
    fault = Fault("trial")
    links = [leader.links[victim.id]]
    if not only_the_leader:
        links = [machine.links[victim.id] for machine in cluster.machines.values() if machine is not victim]
        links += victim.links.values()
    term = leader.raft.term
    for phase in ("cut off", "back"):
        for link in links:
            if phase == "back":
                link.blockers.remove(fault)
            else:
                link.blockers.append(fault)
        cluster.say(f"** trial: node {victim.id} is {phase}{' (from the leader)' if only_the_leader else ''}")
        cluster.run_until(cluster.now + 4 * timeout(cluster))
        if leader.raft.role is not Role.LEADER or leader.raft.term != term:
            raise LivenessViolation(f"node {victim.id}, which nobody needs, deposed the leader when it was {phase}")


def a_node_that_misses_the_leader_does_not_disturb(cluster: Cluster, conductor: Conductor) -> None:
    """The others still hear the leader, and tell it so."""
    _disturb(cluster, only_the_leader=True)


def a_node_that_was_cut_off_does_not_disturb(cluster: Cluster, conductor: Conductor) -> None:
    _disturb(cluster, only_the_leader=False)


def a_deaf_leader_is_replaced(cluster: Cluster, conductor: Conductor) -> None:
    """It reaches everybody and hears nobody: it must give way (CheckQuorum, thesis 6.2)."""
    leader = leader_of(cluster)
    if leader is None or not successors(cluster, leader):
        return
    fault = Fault("trial")
    links = [machine.links[leader.id] for machine in cluster.machines.values() if machine is not leader]
    cluster.say(f"** trial: leader {leader.id} hears nothing")
    for link in links:
        link.blockers.append(fault)
    wait(
        cluster,
        lambda: (now := leader_of(cluster)) is not None and now is not leader,
        CONVERGENCE * timeout(cluster),
        "nobody takes over from a leader that hears nobody",
    )
    for link in links:
        link.blockers.remove(fault)
    write_everywhere(cluster, conductor, CONVERGENCE * timeout(cluster))


def the_leader_dies(cluster: Cluster, conductor: Conductor) -> None:
    """Its death is noticed, and it comes back."""
    leader = leader_of(cluster)
    if leader is None:
        return
    cluster.say(f"** trial: leader {leader.id} dies")
    cluster.crash(leader)
    if successors(cluster, leader):
        wait(cluster, lambda: leader_of(cluster) is not None, CONVERGENCE * timeout(cluster), "nobody takes over")
    cluster.restart(leader)
    write_everywhere(cluster, conductor, CONVERGENCE * timeout(cluster))


def a_transfer_that_fails_ends(cluster: Cluster, conductor: Conductor) -> None:
    """The leader cannot reach the node that it hands over to: it must go on leading (thesis 3.10)."""
    leader = leader_of(cluster)
    if leader is None or not successors(cluster, leader):
        return
    target = successors(cluster, leader)[0].id
    cluster.say(f"** trial: transfer from {leader.id} to {target}, which does not hear of it")
    fault = Fault("trial")
    leader.links[target].blockers.append(fault)
    leader.raft.transfer(target)
    cluster.after_input(leader, 9)
    write_somewhere(cluster, conductor, CONVERGENCE * timeout(cluster))
    leader.links[target].blockers.remove(fault)
    write_everywhere(cluster, conductor, CONVERGENCE * timeout(cluster))


def a_candidate_that_nobody_heard_comes_back(cluster: Cluster, conductor: Conductor) -> None:
    """It is in a term of its own, which nobody else has entered: somebody must give way (raft-bugs 7, 9)."""
    leader = leader_of(cluster)
    if leader is None or not successors(cluster, leader):
        return
    mute = successors(cluster, leader)[-1]
    cluster.say(f"** trial: node {mute.id} is told to campaign, and nobody hears it")
    fault = Fault("trial")
    for link in mute.links.values():
        link.blockers.append(fault)
    leader.raft.transfer(mute.id)
    cluster.after_input(leader, 9)
    cluster.run_until(cluster.now + 3 * timeout(cluster))
    for link in mute.links.values():
        link.blockers.remove(fault)
    write_everywhere(cluster, conductor, CONVERGENCE * timeout(cluster))


def a_leader_that_should_not_lead_hands_over(cluster: Cluster, conductor: Conductor, rng: random.Random) -> None:
    """To a fit voter, and nobody else leads before it does. A barred one leads no more, whoever is left."""
    leader = leader_of(cluster)
    others = successors(cluster, leader) if leader is not None else []
    if leader is None or not others:
        return
    fitness = rng.choice([Fitness.HINDERED, Fitness.BARRED])
    rng.shuffle(others)
    fit, unfit = others[:1], others[1:]
    cluster.say(f"** trial: leader {leader.id} is {fitness.value}; only node {fit[0].id} is fit")
    for machine in unfit:
        cluster.set_fitness(machine, Fitness.HINDERED)
    cluster.run_until(cluster.now + timeout(cluster))
    cluster.set_fitness(leader, fitness)

    def handed_over() -> bool:
        now = leader_of(cluster)
        if now is not None and now is not leader and now not in fit:
            raise LivenessViolation(f"node {now.id} leads after node {leader.id}; only node {fit[0].id} is fit")
        return now in fit

    wait(cluster, handed_over, CONVERGENCE * timeout(cluster), f"a {fitness.value} leader does not hand over")
    cluster.counts["unfit leaders that handed over"] += 1
    for machine in (leader, *unfit):
        cluster.set_fitness(machine, Fitness.FIT)
    write_everywhere(cluster, conductor, CONVERGENCE * timeout(cluster))


def a_rival_within_the_lease(cluster: Cluster, conductor: Conductor, rng: random.Random) -> None:
    """Some hear nobody, and would like to lead. Then the leader is cut off, and nothing parts the others any more.

    With the cut comes, for those who have promised the leader to wait, some reason to forget it. The leader's own ticks
    come late, so that only its clock can tell it that its lease is over.
    """
    leader = leader_of(cluster)
    followers = [
        machine for machine in members_of(cluster) if leader and machine.id in leader.raft.voters - {leader.id}
    ]
    if leader is None or len(followers) < 2:
        return
    rng.shuffle(followers)
    rivals, loyal = followers[: len(followers) // 2], followers[len(followers) // 2 :]
    reason = rng.choice(["none", "restart", "reset", "slow answers", "transfer"])
    cluster.say(f"** trial: {[m.id for m in rivals]} would like to replace {leader.id}; reason to forget it: {reason}")
    fault = Fault("trial")
    answers = [machine.links[leader.id] for machine in loyal]
    if reason == "slow answers":
        for link in answers:
            link.slowness.append((fault, 1))
    apart = [link for a in rivals for b in (leader, *loyal) for link in (a.links[b.id], b.links[a.id])]
    for link in apart:
        link.blockers.append(fault)
    cluster.run_until(cluster.now + int(2.2 * timeout(cluster)) + rng.randrange(timeout(cluster)))

    leader.paces.append((fault, 3))
    leader.set_tick_length()
    if reason == "transfer":
        leader.raft.transfer(loyal[0].id)
        cluster.after_input(leader, 9)
    for link in apart:
        link.blockers.remove(fault)
    cut = [machine.links[leader.id] for machine in followers]
    if reason != "transfer":
        cut += leader.links.values()
    for link in cut:
        link.blockers.append(fault)
    for machine in loyal:
        if reason == "restart":
            cluster.crash(machine)
            cluster.restart(machine)
        elif reason == "reset":
            machine.raft.suspect(leader.id)
            cluster.after_input(machine, 7)
    end = cluster.now + 3 * timeout(cluster)
    while cluster.now < end:
        for machine in cluster.leaders():
            log = machine.raft.log
            if machine is not leader and log.commit == log.last_index:
                conductor.propose(machine)
        cluster.read_by_lease()
        cluster.run_until(cluster.now + TICK // 4)

    for link in cut:
        link.blockers.remove(fault)
    for link in answers:
        link.slowness.clear()
    leader.paces.clear()
    leader.set_tick_length()
    write_everywhere(cluster, conductor, CONVERGENCE * timeout(cluster))


TRIALS = (
    a_node_that_misses_the_leader_does_not_disturb,
    a_node_that_was_cut_off_does_not_disturb,
    a_deaf_leader_is_replaced,
    the_leader_dies,
    a_transfer_that_fails_ends,
    a_candidate_that_nobody_heard_comes_back,
)
