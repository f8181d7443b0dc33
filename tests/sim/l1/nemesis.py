"""Does the faults of a plan, undoes them, and counts those that took effect.

Each fault draws its details from a stream of its own, so that leaving one out changes no other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from raftkv.raft import NodeId, Role
from tests.sim.l1.loop import VirtualTimeLoop
from tests.sim.l1.network import Network, Pair
from tests.sim.l1.operators import Operators
from tests.sim.l1.oracle import Oracle
from tests.sim.l1.plan import AMBUSH, CHANGES, PAUSE_OF_ALL, Fault, Plan
from tests.sim.l1.process import Machine, NodeProcess
from tests.sim.l1.trace import Trace

RESTART_S = 0.3
"""A process that stopped by itself is started again after this long."""


class World(Protocol):
    """What the nemesis acts upon."""

    @property
    def plan(self) -> Plan: ...

    @property
    def loop(self) -> VirtualTimeLoop: ...

    @property
    def network(self) -> Network: ...

    @property
    def trace(self) -> Trace: ...

    @property
    def machines(self) -> Mapping[int, Machine]: ...

    @property
    def oracle(self) -> Oracle: ...

    @property
    def calm(self) -> bool: ...

    @property
    def client_numbers(self) -> Sequence[int]: ...

    def violation(self, text: str) -> None: ...


class Nemesis:
    """See the module's docstring."""

    def __init__(self, world: World) -> None:
        self.fired: Counter[str] = Counter()
        """Faults that took effect, by kind."""
        self._world = world
        self._undo: dict[int, tuple[asyncio.TimerHandle, Callable[[], None]]] = {}
        self._timers: list[asyncio.TimerHandle] = []
        self._ended = False
        self._supervisor: asyncio.TimerHandle | None = None
        self._ambushes: deque[tuple[Fault, int]] = deque()
        """Faults that wait for an installation, and which of its moments they wait for."""
        self._going_on: Counter[str] = Counter()
        """What clients may feel (`chooser.FELT`)."""
        self._ended_at: dict[str, float] = {}
        self.operators = Operators(world, self.fired, self._cut_off)
        self._acts: dict[str, Callable[[Fault], None]] = {
            "partition": self._partition,
            "isolate leader": self._isolate_leader,
            "one way": self._one_way,
            "bridge": self._bridge,
            "flap": self._flap,
            "reset": self._reset,
            "slow link": self._slow_link,
            "kill": self._kill,
            "kill all": self._kill,
            "power loss": self._kill,
            "power loss of all": self._kill,
            "crash in recovery": self._kill,
            "clean restart": self._clean_restart,
            "pause": self._pause,
            PAUSE_OF_ALL: self._pause_all,
            "failed sync": self._fail_disk,
            "disk full": self._fail_disk,
            "slow disk": self._slow_disk,
            "short writes": self._short_writes,
            "transfer": self._transfer,
            AMBUSH: self._lie_in_wait,
            **dict.fromkeys(CHANGES, self.operators.begin),
        }

    def begin(self) -> None:
        loop = self._world.loop
        self._timers = [loop.call_at(fault.at, self._act, fault) for fault in self._world.plan.faults]
        self._supervise()

    def end(self) -> None:
        """Undo everything: from here on nothing fails any more."""
        self._ended = True
        self.operators.end()
        for timer in self._timers:
            timer.cancel()
        for number in list(self._undo):
            timer, undo = self._undo.pop(number)
            timer.cancel()
            undo()
        for machine in self._world.machines.values():
            machine.disk.faults.clear()
            machine.slow_disk = 1.0  # also where it is the machine's own: the limits of the liveness phase are absolute

    def felt(self, since: float) -> set[str]:
        """Return what went on at some time since: see `chooser.FELT`."""
        ended = {what for what, at in self._ended_at.items() if at >= since}
        return ended | set(+self._going_on)

    def _feel(self, what: str) -> Callable[[], None]:
        """Something begins that clients may feel; the returned function ends it."""
        self._going_on[what] += 1

        def end() -> None:
            self._going_on[what] -= 1
            self._ended_at[what] = self._world.loop.time()

        return end

    def _act(self, fault: Fault) -> None:
        self._world.trace.note("----", str(fault))
        self._acts[fault.kind](fault)

    def _later(self, fault: Fault, undo: Callable[[], None]) -> None:
        def due() -> None:
            del self._undo[fault.number]
            self._world.trace.note("----", f"{fault.number}:{fault.kind} is over")
            undo()

        self._undo[fault.number] = self._world.loop.call_later(fault.span_s, due), undo

    def _supervise(self) -> None:
        """Start again whatever stopped by itself, as a service manager does."""
        for machine in self._world.machines.values():
            for end in machine.ends:
                self.fired[end] += 1
                if end != "crash in recovery":
                    self._world.loop.call_later(RESTART_S, machine.start)
                else:
                    machine.start()
            machine.ends.clear()
        self._supervisor = self._world.loop.call_later(0.1, self._supervise)

    @property
    def _numbers(self) -> list[int]:
        """Whom faults may hit: all nodes that run or should."""
        return [
            number
            for number, machine in self._world.machines.items()
            if machine.in_service or machine.process is not None
        ]

    # --- whom ---------------------------------------------------------------------------------------------------------

    def _leader(self) -> int | None:
        leading = [
            (machine.process.node.raft.term, number)
            for number, machine in self._world.machines.items()
            if machine.process is not None
            and machine.process.node is not None
            and machine.process.node.raft.role is Role.LEADER
        ]
        return max(leading)[1] if leading else None

    def _victim(self, fault: Fault) -> int:
        random = self._world.plan.stream(f"victim {fault.number}")
        leader = self._leader() if random.random() < 0.5 else None
        return leader if leader is not None else random.choice(self._numbers)

    # --- network ------------------------------------------------------------------------------------------------------

    def _block(self, fault: Fault, pairs: Sequence[Pair], *, reset: bool) -> None:
        network = self._world.network
        before = network.counts["held"] + network.counts["reset"]
        network.block(pairs)
        end = self._feel("partition")
        if reset:
            for a, b in pairs:
                if a < b:
                    network.reset(a, b)

        def undo() -> None:
            self.fired[fault.kind] += network.counts["held"] + network.counts["reset"] > before
            network.unblock(pairs)
            end()

        self._later(fault, undo)

    def _between(self, fault: Fault, side: Sequence[int]) -> list[Pair]:
        """Return both directions of every link that leaves `side`; each client is on one side, or on both."""
        random = self._world.plan.stream(f"sides {fault.number}")
        inside, outside = set(side), set(self._numbers) - set(side)
        for client in self._world.client_numbers:
            chance = random.random()
            if chance < 0.4:
                inside.add(client)
            elif chance < 0.8:
                outside.add(client)
        pairs = [(a, b) for a in sorted(inside) for b in sorted(outside)]
        return [pair for a, b in pairs for pair in ((a, b), (b, a))]

    def _partition(self, fault: Fault) -> None:
        random = self._world.plan.stream(f"fault {fault.number}")
        side = random.sample(self._numbers, random.randint(1, len(self._numbers) - 1))
        self._block(fault, self._between(fault, side), reset=random.random() < 0.5)

    def _isolate_leader(self, fault: Fault) -> None:
        leader = self._leader()
        if leader is not None:
            random = self._world.plan.stream(f"fault {fault.number}")
            self._block(fault, self._between(fault, [leader]), reset=random.random() < 0.5)

    def _cut_off(self, fault: Fault, side: Sequence[int]) -> None:
        self._block(dataclasses.replace(fault, kind="partition"), self._between(fault, side), reset=False)

    def _one_way(self, fault: Fault) -> None:
        random = self._world.plan.stream(f"fault {fault.number}")
        a = self._victim(fault)
        others = random.sample(self._numbers, random.randint(1, len(self._numbers)))
        pairs = [(a, b) for b in others if b != a]
        self._block(fault, [(b, a) for a, b in pairs] if random.random() < 0.5 else pairs, reset=False)

    def _bridge(self, fault: Fault) -> None:
        """Two halves that only one node can reach both of."""
        random = self._world.plan.stream(f"fault {fault.number}")
        nodes = random.sample(self._numbers, len(self._numbers))
        half = len(nodes) // 2
        pairs = [(a, b) for a in nodes[1 : half + 1] for b in nodes[half + 1 :]]
        self._block(fault, pairs + [(b, a) for a, b in pairs], reset=random.random() < 0.5)

    def _flap(self, fault: Fault) -> None:
        random = self._world.plan.stream(f"fault {fault.number}")
        network = self._world.network
        victim = self._victim(fault)
        pairs = [pair for other in self._numbers if other != victim for pair in ((victim, other), (other, victim))]
        before = network.counts["held"]
        cut = [False]

        def toggle() -> None:
            cut[0] = not cut[0]
            (network.block if cut[0] else network.unblock)(pairs)
            timer[0] = self._world.loop.call_later(random.uniform(0.01, 0.2), toggle)

        timer = [self._world.loop.call_later(0, toggle)]

        def undo() -> None:
            timer[0].cancel()
            if cut[0]:
                network.unblock(pairs)
            self.fired[fault.kind] += network.counts["held"] > before

        self._later(fault, undo)

    def _reset(self, fault: Fault) -> None:
        victim = self._victim(fault)
        network = self._world.network
        before = network.counts["reset"]
        for other in (*self._numbers, *self._world.client_numbers):
            if other != victim:
                network.reset(victim, other)
        self.fired[fault.kind] += network.counts["reset"] > before

    def _slow_link(self, fault: Fault) -> None:
        random = self._world.plan.stream(f"fault {fault.number}")
        victim = self._victim(fault)
        pairs = [(victim, other) for other in self._numbers if other != victim]
        factor = random.choice([10.0, 50.0])
        self._world.network.slow(pairs, factor)
        self.fired[fault.kind] += 1
        self._later(fault, lambda: self._world.network.slow(pairs, 1 / factor))

    # --- processes ----------------------------------------------------------------------------------------------------

    def _kill(self, fault: Fault) -> None:
        """End processes: now, or as soon as the victim's disk is at work."""
        random = self._world.plan.stream(f"aim {fault.number}")
        victim = self._victim(fault)
        process = self._world.machines[victim].process
        if process is None or random.random() < 0.3:
            self._kill_now(fault, victim)
            return
        loop, context = self._world.loop, self._world.network.context
        process.runner.on_begin = lambda: loop.call_soon(self._kill_now, fault, victim, context=context)

    def _kill_now(self, fault: Fault, victim: int) -> None:
        if self._ended:
            return
        random = self._world.plan.stream(f"fault {fault.number}")
        everybody = fault.kind in ("kill all", "power loss of all")
        victims = self._numbers if everybody else [victim]
        power = fault.kind.startswith("power") or (
            fault.kind in (AMBUSH, "crash in recovery") and random.random() < 0.5
        )
        crash_after = random.randint(1, 12) if fault.kind == "crash in recovery" else None
        down = []
        ends = [self._feel("leader crash")] if self._leader() in victims else []
        for number in victims:
            machine = self._world.machines[number]
            if machine.process is None and not power:
                continue
            if machine.process is not None:
                self.fired["recovery crash prepared" if crash_after else fault.kind] += 1
            writing = machine.lose_power() if power else machine.kill()
            if writing:
                self.fired["death in mid-write"] += 1
            down.append(machine)

        def undo() -> None:
            for machine in down:
                machine.start(crash_after=crash_after)
            for end in ends:
                end()
            if down:
                self._restarted()

        self._later(fault, undo)

    def _restarted(self) -> None:
        """A node begins to run again: it may be felt for as long as it has to catch up."""
        self._world.loop.call_later(RESTART_S, self._feel("restart"), context=self._world.network.context)

    def _lie_in_wait(self, fault: Fault) -> None:
        """End the next process that installs a snapshot: before, between or behind the steps."""
        random = self._world.plan.stream(f"aim {fault.number}")
        self._ambushes.append((fault, random.randrange(4)))

    def spring(self, number: int) -> None:
        """A node begins or ends a step of an installation."""
        if not self._ambushes or self._ended:
            return
        fault, moments = self._ambushes.popleft()
        if moments:
            self._ambushes.appendleft((fault, moments - 1))
        else:
            self._world.loop.call_soon(self._kill_now, fault, number, context=self._world.network.context)

    def _clean_restart(self, fault: Fault) -> None:
        machine = self._world.machines[self._victim(fault)]
        if machine.process is None:
            return
        process = machine.process
        machine.shut_down()

        def again() -> None:
            if machine.process is process:
                machine.kill()  # it takes too long
            else:
                self.fired[fault.kind] += 1
            machine.start()
            self._restarted()

        self._later(fault, again)

    def _pause(self, fault: Fault) -> None:
        process = self._world.machines[self._victim(fault)].process
        if process is None or process.paused:
            return
        self._stop_for_a_while(fault, [process])

    def _pause_all(self, fault: Fault) -> None:
        """As a virtual machine that is suspended with everything on it, but for the clients."""
        processes = [machine.process for machine in self._world.machines.values()]
        self._stop_for_a_while(fault, [one for one in processes if one is not None and not one.paused])

    def _stop_for_a_while(self, fault: Fault, processes: Sequence[NodeProcess]) -> None:
        loop, began = self._world.loop, self._world.loop.time()
        for process in processes:
            loop.pause(process)

        def undo() -> None:
            for process in processes:
                if process.paused:  # else it was killed meanwhile
                    self.fired[fault.kind] += bool(process.backlog)
                    self._world.oracle.times.stood_still(process.number, began)
                    loop.go_on(process)

        self._later(fault, undo)

    def _transfer(self, fault: Fault) -> None:
        random = self._world.plan.stream(f"fault {fault.number}")
        leader = self._leader()
        process = self._world.machines[leader].process if leader is not None else None
        if process is None or process.node is None or process.paused:
            return
        target = random.choice([None, *map(NodeId, self._numbers)])
        refusal = process.context.run(process.node.transfer_leader, target)
        self.fired[fault.kind] += refusal is None

    # --- disks --------------------------------------------------------------------------------------------------------

    def _fail_disk(self, fault: Fault) -> None:
        """One operation to come fails; counted when the node stops for it (`Machine.ends`)."""
        random = self._world.plan.stream(f"fault {fault.number}")
        disk = self._world.machines[self._victim(fault)].disk
        if fault.kind == "failed sync":
            disk.fail_next(random.choice(["fdatasync", "fdatasync", "fsync_dir"]), errno.EIO)
        else:
            disk.fail_next(random.choice(["pwrite", "pwrite", "fallocate", "create"]), errno.ENOSPC)

    def _slow_disk(self, fault: Fault) -> None:
        random = self._world.plan.stream(f"fault {fault.number}")
        machine = self._world.machines[self._victim(fault)]
        factor = random.choice([3.0, 10.0])
        machine.slow_disk *= factor
        self.fired[fault.kind] += 1

        def undo() -> None:
            machine.slow_disk /= factor

        self._later(fault, undo)

    def _short_writes(self, fault: Fault) -> None:
        disk = self._world.machines[self._victim(fault)].disk
        before = len(disk.trace)
        disk.write_limit = 100

        def undo() -> None:
            disk.write_limit = None
            self.fired[fault.kind] += "pwrite" in disk.trace[before:]

        self._later(fault, undo)
