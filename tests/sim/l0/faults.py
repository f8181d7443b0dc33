"""The faults and inputs of a tape, brought about in a cluster, and undone."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from raftkv.raft import EntryKind, Fitness, MembershipChange, NodeId, Position
from tests.sim.l0.cluster import STALLED, Cluster
from tests.sim.l0.machine import Fault, Link, Machine
from tests.sim.l0.plan import HUNT, TICK, UNFIT, Act

Undo = Callable[[], None]
Begin = Callable[[Act, Fault, random.Random], Undo | None]

SIZES = (4, 4, 4, 60, 150, 3000)
"""Of writes, in bytes."""


class Conductor:
    """Plays a tape to a cluster. At the end `heal` undoes what is left."""

    def __init__(self, cluster: Cluster, tape: Iterable[Act]) -> None:
        self.cluster = cluster
        self._begin: dict[str, Begin] = {
            "split": self._split,
            "one-way": self._one_way,
            "bridge": self._bridge,
            "ring": self._ring,
            "isolate a node": self._isolate_a_node,
            "isolate the leader": self._isolate_the_leader,
            "deafen the leader": self._deafen_the_leader,
            "mute the leader": self._mute_the_leader,
            "leader left behind": self._leader_left_behind,
            "flapping": self._flapping,
            "slow link": self._slow_link,
            "black hole": self._black_hole,
            "reset": self._reset,
            "crash": self._crash,
            "crash the leader": self._crash_the_leader,
            "crash all": self._crash_all,
            "bounce": self._bounce,
            "power loss": self._power_loss,
            "pause": self._pause,
            "pause the leader": self._pause_the_leader,
            "slow disk": self._slow_disk,
            "stalled disk": self._stalled_disk,
            "slow disks of all but one": self._slow_disks_of_all_but_one,
            "clock": self._clock,
            "restless voters": self._restless_voters,
            "change amid an install": self._change_amid_an_install,
            HUNT: self._hunt,
            UNFIT: self._unfit,
            "propose": self._propose,
            "read": self._read,
            "transfer": self._transfer,
            "unreachable": self._unreachable,
            "suspect": self._suspect,
            "checkpoint": self._checkpoint,
            "change members": self._change_members,
        }
        self._open: dict[int, tuple[Fault, Undo]] = {}
        self._writes = 0
        for number, act in enumerate(tape):
            cluster.at_rank(act.at, act.salt / (1 << 32), self._start, number, act)

    def heal(self) -> None:
        """End every fault, and whatever else is bad about the network, the disks and the clocks."""
        cluster = self.cluster
        cluster.say("everything heals")
        for number in list(self._open):
            self._end(number)
        cluster.on_election = lambda leader: None
        cluster.loss = 0.0
        cluster.duplicate_above = 1.0
        cluster.latency = min(cluster.latency, TICK // 5)
        cluster.jitter = cluster.straggle = 0
        cluster.grain = 1
        cluster.batching = 0.0
        cluster.stream_loss = 0.0
        cluster.forget_messages()
        for machine in cluster.machines.values():
            machine.usual_tick_length = min(max(machine.usual_tick_length, int(0.9 * TICK)), int(1.1 * TICK))
            machine.set_tick_length()
            cluster.hurry_tick(machine)
            machine.disk_time = min(machine.disk_time, TICK // 5)
            machine.apply_delay = min(machine.apply_delay, TICK // 5)
            cluster.hurry_disk(machine)

    def _start(self, number: int, act: Act, _: None) -> None:
        cluster = self.cluster
        cluster.say(f"** {act.kind}" + (f" for {act.lasts / TICK:.1f} ticks" if act.lasts else ""))
        fault = Fault(act.kind)
        undo = self._begin[act.kind](act, fault, random.Random(act.salt))
        if undo is None:
            self.cluster.faults[fault.kind] += fault.hits > 0
            return
        self._open[number] = (fault, undo)
        cluster.at_rank(cluster.now + act.lasts, act.salt / (1 << 32), self._end_when_due, number, None)

    def _end_when_due(self, number: int, _: None, __: None) -> None:
        if number in self._open:
            self._end(number)

    def _end(self, number: int) -> None:
        fault, undo = self._open.pop(number)
        fault.over = True
        undo()
        self.cluster.say(f"** end of {fault.kind}")
        self.cluster.faults[fault.kind] += fault.hits > 0

    # --- whom it hits -------------------------------------------------------------------------------------------------

    def _shuffled(self, rng: random.Random) -> list[Machine]:
        machines = list(self.cluster.machines.values())
        rng.shuffle(machines)
        return machines

    def _leader(self) -> Machine | None:
        """Return the leader of the highest term, if there is one."""
        return max(self.cluster.leaders(), key=lambda leader: leader.raft.term, default=None)

    def _leader_or_any(self, rng: random.Random) -> Machine:
        return self._leader() or rng.choice(list(self.cluster.machines.values()))

    # --- network ------------------------------------------------------------------------------------------------------

    def _block(self, fault: Fault, links: Iterable[Link]) -> Undo:
        links = list(links)
        for link in links:
            link.blockers.append(fault)

        def undo() -> None:
            for link in links:
                link.blockers.remove(fault)

        return undo

    def _between(self, side: Iterable[Machine], other: Iterable[Machine]) -> list[Link]:
        """Return the links from one side to the other."""
        other = list(other)
        return [a.links[b.id] for a in side for b in other if a is not b]

    def _both_ways(self, side: list[Machine], other: list[Machine]) -> list[Link]:
        return self._between(side, other) + self._between(other, side)

    def _around(self, machine: Machine) -> list[Machine]:
        return [other for other in self.cluster.machines.values() if other is not machine]

    def _split(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        machines = self._shuffled(rng)
        cut = rng.randrange(1, len(machines)) if len(machines) > 1 else 1
        return self._block(fault, self._both_ways(machines[:cut], machines[cut:]))

    def _one_way(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        machines = self._shuffled(rng)
        cut = rng.randrange(1, len(machines)) if len(machines) > 1 else 1
        return self._block(fault, self._between(machines[:cut], machines[cut:]))

    def _bridge(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """The first machine reaches both sides, which do not reach each other."""
        machines = self._shuffled(rng)
        middle = (len(machines) + 1) // 2
        return self._block(fault, self._both_ways(machines[1:middle], machines[middle:]))

    def _ring(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """Each machine reaches its two neighbours only."""
        machines = self._shuffled(rng)
        size = len(machines)
        apart = [
            a.links[b.id]
            for i, a in enumerate(machines)
            for j, b in enumerate(machines)
            if i != j and (i - j) % size not in (1, size - 1)
        ]
        return self._block(fault, apart)

    def _isolate_a_node(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        machine = self._shuffled(rng)[0]
        return self._block(fault, self._both_ways([machine], self._around(machine)))

    def _isolate_the_leader(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        machine = self._leader_or_any(rng)
        return self._block(fault, self._both_ways([machine], self._around(machine)))

    def _deafen_the_leader(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        machine = self._leader_or_any(rng)
        return self._block(fault, self._between(self._around(machine), [machine]))

    def _mute_the_leader(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        machine = self._leader_or_any(rng)
        return self._block(fault, self._between([machine], self._around(machine)))

    def _leader_left_behind(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """A leader that time passes by: cut off, with a slow clock, and with clients that still believe in it."""
        cluster = self.cluster
        machine = self._leader_or_any(rng)
        unblock = self._block(fault, self._both_ways([machine], self._around(machine)))
        catch_up = self._pace(machine, fault, rng.randint(3, 10))

        def ask(_: None, __: None, ___: None) -> None:
            if fault.over:
                return
            if machine in cluster.leaders():
                cluster.counts["reads"] += 1
                cluster.read(machine)
                if rng.random() < 0.3:
                    self.propose(machine)
            cluster.at(cluster.now + 3 * TICK, ask)

        ask(None, None, None)

        def undo() -> None:
            catch_up()
            unblock()

        return undo

    def _flapping(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """One machine is reachable and not, in turn."""
        machine = self._shuffled(rng)[0]
        links = self._both_ways([machine], self._around(machine))
        period = rng.choice([TICK, 5 * TICK])
        undo: list[Undo] = []

        def turn(_: None, __: None, ___: None) -> None:
            if fault.over:
                return
            if undo:
                undo.pop()()
            else:
                undo.append(self._block(fault, links))
            self.cluster.at(self.cluster.now + period, turn)

        turn(None, None, None)
        return lambda: undo.pop()() if undo else None

    def _slow_link(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        machines = self._shuffled(rng)
        slowness = (fault, rng.choice([3, 30]))
        links = [a.links[b.id] for a in machines for b in machines if a is not b and rng.random() < 0.3]
        for link in links:
            link.slowness.append(slowness)

        def undo() -> None:
            for link in links:
                link.slowness.remove(slowness)

        return undo

    def _black_hole(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """Nothing arrives, nothing fails; at the end everything arrives at once, or the connection breaks."""
        machines = self._shuffled(rng)
        cut = rng.randrange(1, len(machines)) if len(machines) > 1 else 1
        links = (self._both_ways if rng.random() < 0.7 else self._between)(machines[:cut], machines[cut:])
        breaks = rng.random() < 0.5
        for link in links:
            link.holders.append(fault)

        def undo() -> None:
            cluster = self.cluster
            for link in links:
                link.holders.remove(fault)
                if breaks:
                    link.held.clear()
                elif not link.holders:
                    held, link.held = link.held, []
                    for message in held:
                        cluster.deliver_late(link, message)

        return undo

    def _reset(self, act: Act, fault: Fault, rng: random.Random) -> None:
        machines = self._shuffled(rng)
        if len(machines) > 1:
            fault.hits += 1
            self.cluster.break_connection(machines[0], machines[1])

    def _unreachable(self, act: Act, fault: Fault, rng: random.Random) -> None:
        """A hint that is not true."""
        machines = self._shuffled(rng)
        if len(machines) > 1 and machines[0].up and not machines[0].pausers:
            machines[0].raft.unreachable(machines[1].id)
            self.cluster.after_input(machines[0], 7)

    def _suspect(self, act: Act, fault: Fault, rng: random.Random) -> None:
        """A hint that the leader is dead, which is not true."""
        machine = self._shuffled(rng)[0]
        if machine.up and not machine.pausers and machine.raft.leader is not None:
            machine.raft.suspect(machine.raft.leader)
            self.cluster.after_input(machine, 7)

    # --- processes ----------------------------------------------------------------------------------------------------

    def _kill(self, machines: Iterable[Machine], fault: Fault) -> Undo:
        dead = [machine for machine in machines if machine.up]
        for machine in dead:
            fault.hits += 1
            self.cluster.crash(machine)
        lives = [machine.life for machine in dead]

        def undo() -> None:
            for machine, life in zip(dead, lives, strict=True):
                if not machine.up and machine.life == life:
                    self.cluster.restart(machine)

        return undo

    def _crash(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        return self._kill(self._shuffled(rng)[:1], fault)

    def _crash_the_leader(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        return self._kill([self._leader_or_any(rng)], fault)

    def _crash_all(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        return self._kill(self._shuffled(rng), fault)

    def _bounce(self, act: Act, fault: Fault, rng: random.Random) -> None:
        """A process dies and is back at once, before anybody could notice."""
        self._kill([self._leader_or_any(rng) if rng.random() < 0.5 else self._shuffled(rng)[0]], fault)()

    def _power_loss(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """The state store does not sync: without power it is back at a checkpoint, or empty."""
        machines = [machine for machine in self._shuffled(rng)[: rng.choice([1, 1, 7])] if machine.up]
        undo = self._kill(machines, fault)
        for machine in machines:
            oldest = machine.first_on_disk - 1
            self.cluster.lose_state(machine, rng.choice([oldest, rng.randint(oldest, len(machine.applied))]))
        return undo

    def _unfit(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """Nodes say that they should not lead; those that were dead say so once they are back."""
        machines = self._shuffled(rng)
        machines = rng.choice([machines[:1], [self._leader_or_any(rng)], machines[1:]])
        for machine in machines:
            self.cluster.set_fitness(machine, rng.choice([Fitness.HINDERED, Fitness.HINDERED, Fitness.BARRED]))
            fault.hits += 1

        def undo() -> None:
            for machine in machines:
                self.cluster.set_fitness(machine, Fitness.FIT)

        return undo

    def _restless_voters(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """One election after the other, and in the midst of each processes die and are back at once."""
        cluster = self.cluster
        undo: list[Undo] = []

        def turn(_: None, __: None, ___: None) -> None:
            if fault.over:
                return
            while undo:
                undo.pop()()
            leader = self._leader()
            if leader is not None:
                undo.append(self._block(fault, self._both_ways([leader], self._around(leader))))
            for machine in self._shuffled(rng)[: rng.choice([1, 2])]:
                if machine.up and machine is not leader:
                    self._kill([machine], fault)()
            cluster.at(cluster.now + rng.randint(1, 2 * TICK), turn)

        turn(None, None, None)
        return lambda: undo.pop()() if undo else None

    def _change_amid_an_install(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """A member falls behind the compacted log; when it is back another one is cut off, and the members change."""
        cluster = self.cluster
        leader = self._leader_or_any(rng)
        others = [m for m in self._shuffled(rng) if m is not leader and m.raft.configuration.members] or [leader]
        late = others.pop(0)
        unblock = self._block(fault, self._both_ways([late], self._around(late)))

        def compact(_: None, __: None, ___: None) -> None:
            for machine in cluster.leaders():
                self.propose(machine)
                cluster.checkpoint(machine, 0, 1)

        def turn(_: None, __: None, ___: None) -> None:
            if fault.over:
                return
            nonlocal unblock
            unblock()
            cut = next((machine for machine in others if machine not in cluster.leaders()), late)
            unblock = self._block(fault, self._both_ways([cut], self._around(cut)))

        def change(_: None, __: None, ___: None) -> None:
            if not fault.over:
                self._change_members(act, fault, rng)

        cluster.at(cluster.now + act.lasts // 2, compact)
        cluster.at(cluster.now + act.lasts * 2 // 3, turn)
        for part in (0.67, 0.75, 0.85):
            cluster.at(cluster.now + int(act.lasts * part), change)

        def undo() -> None:
            unblock()

        return undo

    def _stop(self, machine: Machine, fault: Fault) -> Undo:
        if machine.up:
            machine.pausers.append(fault)

        def undo() -> None:
            if fault in machine.pausers:
                machine.pausers.remove(fault)
                if not machine.pausers:
                    self.cluster.resume(machine)

        return undo

    def _pause(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        return self._stop(self._shuffled(rng)[0], fault)

    def _pause_the_leader(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        return self._stop(self._leader_or_any(rng), fault)

    # --- disks and clocks ---------------------------------------------------------------------------------------------

    def _slow_down(self, machines: Iterable[Machine], fault: Fault, factor: int) -> Undo:
        slow = (fault, factor)
        machines = list(machines)
        for machine in machines:
            machine.slow_disk.append(slow)

        def undo() -> None:
            for machine in machines:
                machine.slow_disk.remove(slow)

        return undo

    def _slow_disk(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        return self._slow_down(self._shuffled(rng)[:1], fault, rng.choice([2, 20]))

    def _stalled_disk(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        return self._slow_down([rng.choice([self._shuffled(rng)[0], self._leader_or_any(rng)])], fault, STALLED)

    def _slow_disks_of_all_but_one(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        """What the leader appends is on one other disk soon, and on the rest late: then the leader may die."""
        leader = self._leader_or_any(rng)
        others = self._around(leader)
        rng.shuffle(others)
        return self._slow_down(others[1:], fault, 20)

    def _clock(self, act: Act, fault: Fault, rng: random.Random) -> Undo | None:
        if self.cluster.leases:
            return None  # they rely on the clocks
        machine = self._shuffled(rng)[0]
        fault.hits += 1
        return self._pace(machine, fault, rng.choice([0.3, 0.6, 1.6, 3.0]))

    def _pace(self, machine: Machine, fault: Fault, factor: float) -> Undo:
        """The machine's ticks are `factor` times as long."""
        pace = (fault, factor)
        machine.paces.append(pace)
        machine.set_tick_length()

        def undo() -> None:
            machine.paces.remove(pace)
            machine.set_tick_length()

        return undo

    # --- figure 8 -----------------------------------------------------------------------------------------------------

    def _hunt(self, act: Act, fault: Fault, rng: random.Random) -> Undo:
        cluster = self.cluster
        parameters = cluster.parameters
        hop = parameters.latency + parameters.jitter // 2 + max(parameters.disk.values()) + TICK // 50
        undo: list[Undo] = []
        elections = 0

        def elected(leader: Machine) -> None:
            """Mostly: two leaders who reach nobody, then one who reaches a few."""
            nonlocal elections
            elections += 1
            kill = rng.random() < 0.2
            hops = rng.uniform(2, 8) if elections % 3 == 0 else rng.choice([0, 0, 0, rng.uniform(0, 20)])
            cluster.at(cluster.now + int(hop * hops), strike, leader, kill)

        def strike(leader: Machine, kill: bool, _: None) -> None:
            if fault.over or not leader.up:
                return
            while undo:
                undo.pop(0)()
            links = self._both_ways([leader], self._around(leader))
            undo.append(self._kill([leader], fault) if kill else self._block(fault, links))

        cluster.on_election = elected

        def end() -> None:
            cluster.on_election = lambda leader: None
            while undo:
                undo.pop(0)()

        return end

    # --- inputs -------------------------------------------------------------------------------------------------------

    def _proposer(self, rng: random.Random) -> Machine | None:
        """Return a leader: mostly that of the highest term, sometimes one that does not know that it was deposed."""
        leaders = self.cluster.leaders()
        if not leaders:
            return None
        return self._leader() if rng.random() < 0.7 else rng.choice(leaders)

    def _propose(self, act: Act, fault: Fault, rng: random.Random) -> None:
        machine = self._proposer(rng)
        if machine is not None:
            self.propose(machine, rng.choice(SIZES))

    def propose(self, machine: Machine, size: int = 0) -> bytes | None:
        """Propose a write that is like no other. Return it, or None if the node refused."""
        self._writes += 1
        write = (b"%d" % self._writes).ljust(size, b".")
        position = machine.raft.propose(write, EntryKind.COMMANDS)
        if not isinstance(position, Position):
            self.cluster.counts["writes refused"] += 1
            return None
        self.cluster.counts["writes proposed"] += 1
        self.cluster.clients.proposed(machine.id, position, write)
        self.cluster.after_input(machine, 8)
        return write

    def _read(self, act: Act, fault: Fault, rng: random.Random) -> None:
        machine = self._proposer(rng)
        if machine is not None:
            self.cluster.counts["reads"] += 1
            self.cluster.read(machine)
        if self.cluster.leases:
            self.cluster.read_by_lease()

    def _transfer(self, act: Act, fault: Fault, rng: random.Random) -> None:
        machine = self._leader()
        if machine is not None:
            target: NodeId | None = rng.choice([None, *self.cluster.machines])
            if machine.raft.transfer(target) is None:
                self.cluster.counts["transfers"] += 1
            self.cluster.after_input(machine, 9)

    def _checkpoint(self, act: Act, fault: Fault, rng: random.Random) -> None:
        machine = self._shuffled(rng)[0] if rng.random() < 0.5 else self._leader_or_any(rng)
        if machine.up and not machine.pausers:
            self.cluster.checkpoint(machine, rng.choice([0, 0, 3, 1000]), rng.choice([1, TICK, 5 * TICK]))

    def _change_members(self, act: Act, fault: Fault, rng: random.Random) -> None:
        cluster, leader = self.cluster, self._leader()
        if leader is None:
            return
        configuration = leader.raft.configuration
        outside = [node for node in cluster.machines if node not in configuration.members | configuration.removed]
        learners = tuple((node, f"n{node}") for node in outside if node not in cluster.witnesses)
        witnesses = tuple((node, f"n{node}") for node in outside if node in cluster.witnesses)
        someone = rng.choice(sorted(configuration.members))
        voters = sorted(configuration.voters)
        half = frozenset(rng.sample(voters, (len(voters) + 1) // 2))
        changes = [
            MembershipChange(remove=frozenset([someone])),
            MembershipChange(remove=frozenset([leader.id])),
            MembershipChange(learners=learners, witnesses=witnesses),
            MembershipChange(learners=learners[:1], remove=frozenset([someone])),
        ]
        if configuration.learners:
            changes += 2 * [
                MembershipChange(promote=configuration.learners),
                MembershipChange(promote=configuration.learners, remove=half),
                MembershipChange(promote=configuration.learners, witnesses=witnesses, remove=frozenset([someone])),
            ]
        elif learners:
            changes += 6 * [MembershipChange(learners=learners)]
        change = rng.choice(changes)
        outcome = leader.raft.change_membership(change)
        if isinstance(outcome, str):
            cluster.counts["changes refused"] += 1
        else:
            cluster.counts["changes of members"] += 1
            cluster.say(f"** {change}")
            cluster.after_input(leader, 12)
