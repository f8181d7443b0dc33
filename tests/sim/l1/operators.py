"""The people who run the cluster: they add, remove and replace members, and lose a disk now and then.

They do what `raftkv member` does: ask whoever leads, wait until the change is committed, ask again if it is not. One
job after the other; what was begun is finished, if need be when the faults are over.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from random import Random
from typing import Any, Protocol

from raftkv.errors import ShuttingDown
from raftkv.raft import Configuration, MembershipChange, NodeId, Position, Role
from raftkv.storage.data_dir import PEERS_NAME as BOOK_NAME
from tests.sim.l1.loop import VirtualTimeLoop
from tests.sim.l1.network import Network
from tests.sim.l1.oracle import Oracle
from tests.sim.l1.plan import Fault, Plan
from tests.sim.l1.process import DATA, Machine, NodeProcess, address_of
from tests.sim.l1.trace import Trace

POLL_S = 0.03
LEAST_VOTERS = 2
"""With data; a cluster that shrinks keeps so many."""
INSTALL_PATIENCE_S = 2.0
"""How long to wait for an installation to begin, where one is wanted."""
REFUSAL_S = 5.0
"""So long after the faults a node that has lost its disk must have been refused."""
STRANGERS = 0.4
"""How often a node that was removed is left running."""

Wish = Callable[[Configuration], MembershipChange | None]
"""What to ask for, given the members; None: there is nothing left to wish for."""
_NOBODY: frozenset[NodeId] = frozenset()


class World(Protocol):
    """What operators act upon."""

    @property
    def plan(self) -> Plan: ...

    @property
    def loop(self) -> VirtualTimeLoop: ...

    @property
    def network(self) -> Network: ...

    @property
    def oracle(self) -> Oracle: ...

    @property
    def trace(self) -> Trace: ...

    @property
    def machines(self) -> Mapping[int, Machine]: ...

    @property
    def calm(self) -> bool: ...

    def violation(self, text: str) -> None: ...


class Operators:
    """See the module's docstring."""

    def __init__(self, world: World, fired: Counter[str], cut_off: Callable[[Fault, Sequence[int]], None]) -> None:
        """`fired` counts jobs that are done; `cut_off` isolates nodes for the length of a fault."""
        self._world = world
        self._fired = fired
        self._cut_off = cut_off
        self.refused_by = math.inf
        """When whoever has lost its disk must have been told so."""
        self._spares = [NodeId(number) for number in world.plan.settings.spares]
        self._turn = asyncio.Lock()
        self._open: dict[asyncio.Task[None], Fault] = {}
        self._jobs: dict[str, Callable[[Fault, Random], Coroutine[Any, Any, bool]]] = {
            "grow": self._grow,
            "shrink": self._shrink,
            "swap": self._swap,
            "replace": self._replace,
            "wiped disk": self._lose_a_disk,
            "witness": self._add_a_witness,
            "change amid an install": self._change_amid_an_install,
        }

    def begin(self, fault: Fault) -> None:
        """Take up a job of the plan."""
        task = self._world.loop.create_task(self._do(fault), context=self._world.network.context)
        self._open[task] = fault
        task.add_done_callback(self._done)

    def end(self) -> None:
        """The faults are over."""
        self.refused_by = self._world.loop.time() + REFUSAL_S

    @property
    def unfinished(self) -> list[str]:
        """Jobs that are begun, or wait to be."""
        return [str(fault) for fault in self._open.values()]

    @property
    def changing(self) -> bool:
        """Whether a leader has a change that is not committed."""
        return any(process.node is not None and process.node.raft.changing for process in self._leaders())

    async def _do(self, fault: Fault) -> None:
        async with self._turn:
            if self._world.calm:
                return  # too late to begin
            if await self._jobs[fault.kind](fault, self._world.plan.stream(f"operators {fault.number}")):
                self._fired[fault.kind] += 1
                self._world.trace.note("----", f"{fault.number}:{fault.kind} is done")

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._open[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._world.violation(f"operators: {error!r}")

    # --- jobs: each returns whether there was anything to do ----------------------------------------------------------

    async def _grow(self, fault: Fault, random: Random) -> bool:
        if not self._spares or len(self._world.oracle.configuration.voters) > len(self._world.plan.settings.nodes) + 1:
            return False
        new = self._spares.pop(0)
        await self._add(new)
        await self._promote(new)
        return True

    async def _shrink(self, fault: Fault, random: Random) -> bool:
        """One goes, the leader as often as not; or all but a few in one step."""
        configuration = await self._settled()
        keepers = configuration.voters - configuration.witnesses
        if len(keepers) <= LEAST_VOTERS:
            return False
        leaving = [self._someone(keepers, random)]
        if random.random() < 0.3:
            others = sorted(keepers - set(leaving))
            leaving += random.sample(others, random.randint(0, len(others) - LEAST_VOTERS))
        elif configuration.witnesses and random.random() < 0.5:
            leaving = sorted(configuration.witnesses)
        await self._remove(leaving)
        self._dismiss(leaving, random)
        return True

    async def _swap(self, fault: Fault, random: Random) -> bool:
        """A new one takes the place of one that is well, in one step once it has caught up."""
        if not self._spares:
            return False
        new = self._spares.pop(0)
        configuration = await self._add(new)
        leaving = self._someone(configuration.voters - configuration.witnesses, random)
        await self._promote(new, leaving)
        self._dismiss([leaving], random)
        return True

    async def _replace(self, fault: Fault, random: Random) -> bool:
        """A node dies for good; it is removed and another one added, in one step."""
        configuration = await self._settled()
        # A data node that dies for good while another one lags leaves the one copy of ADR 0005, and a witness ahead.
        mortal = configuration.witnesses or configuration.voters
        if not self._spares or len(configuration.voters) < 3:
            return False
        victim = self._someone(mortal, random)
        machine = self._world.machines[victim]
        machine.give_up()
        if random.random() < 0.5:
            machine.kill()
        else:
            machine.lose_power()
        await self._put_in_the_place_of(victim)
        return True

    async def _lose_a_disk(self, fault: Fault, random: Random) -> bool:
        """ADR 0004: who comes back under the old id is refused, and the way out that it is told works."""
        configuration = await self._settled()
        victims = [node for node in configuration.voters if self._is_known_to_all(node)]
        if not self._spares or len(configuration.voters) < 3 or configuration.witnesses or not victims:
            return False
        victim = self._someone(victims, random)
        machine = self._world.machines[victim]
        machine.wipe()
        self._world.oracle.wiped(victim)
        await asyncio.sleep(random.choice([0.0, 0.5]))
        machine.start()
        await self._until(lambda: machine.refused or self._world.loop.time() > self.refused_by)
        if not machine.refused:
            self._world.violation(f"members: node {victim} has lost its disk, and goes on under its old id")
        await self._put_in_the_place_of(victim)
        return True

    async def _add_a_witness(self, fault: Fault, random: Random) -> bool:
        configuration = await self._settled()
        if not self._spares or configuration.witnesses:
            return False
        new = self._spares.pop(0)

        def wish(configuration: Configuration) -> MembershipChange | None:
            if new in configuration.members:
                self._world.machines[new].join()
                return None
            return MembershipChange(witnesses=((new, address_of(new)),))

        await self._reach(wish)
        return True

    async def _change_amid_an_install(self, fault: Fault, random: Random) -> bool:
        """While a new node installs a snapshot, a voter is cut off and removed."""
        configuration = await self._settled()
        keepers = configuration.voters - configuration.witnesses
        if not self._spares or len(keepers) <= LEAST_VOTERS:
            return False
        new = self._spares.pop(0)
        await self._add(new)
        counts, loop = self._world.network.counts, self._world.loop
        steps, late_at = counts["steps of installs"], loop.time() + INSTALL_PATIENCE_S
        await self._until(lambda: counts["steps of installs"] > steps or loop.time() > late_at, 0.001)
        leaders = {process.number for process in self._leaders()}
        late = random.choice(sorted(keepers - leaders) or sorted(keepers))
        if not self._world.calm:
            self._cut_off(fault, [late])
        await self._remove([late])
        self._dismiss([late], random)
        await self._promote(new)
        return True

    # --- steps --------------------------------------------------------------------------------------------------------

    async def _settled(self) -> Configuration:
        """Return the members, once no change is under way."""
        return await self._reach(lambda configuration: None)

    async def _add(self, new: NodeId) -> Configuration:
        def wish(configuration: Configuration) -> MembershipChange | None:
            return None if new in configuration.members else MembershipChange(learners=((new, address_of(new)),))

        configuration = await self._reach(wish)
        self._world.machines[new].join()
        return configuration

    async def _promote(self, new: NodeId, leaving: NodeId | None = None) -> None:
        gone = _NOBODY if leaving is None else frozenset([leaving])

        def wish(configuration: Configuration) -> MembershipChange | None:
            if new in configuration.voters and not gone & configuration.members:
                return None
            return MembershipChange(
                promote=frozenset([new]) - configuration.voters, remove=gone & configuration.members
            )

        await self._reach(wish)

    async def _remove(self, leaving: Sequence[NodeId]) -> None:
        def wish(configuration: Configuration) -> MembershipChange | None:
            remove = configuration.members & set(leaving)
            return MembershipChange(remove=remove) if remove else None

        await self._reach(wish)

    async def _put_in_the_place_of(self, victim: NodeId) -> None:
        new = self._spares.pop(0)

        def wish(configuration: Configuration) -> MembershipChange | None:
            learners = () if new in configuration.members else ((new, address_of(new)),)
            remove = configuration.members & {victim}
            return MembershipChange(learners=learners, remove=remove) if learners or remove else None

        await self._reach(wish)
        self._world.machines[new].join()
        await self._promote(new)

    def _dismiss(self, leaving: Sequence[NodeId], random: Random) -> None:
        """They are no members any more: stop them, or forget to."""
        for node in leaving:
            chance = random.random()
            machine = self._world.machines[node]
            if chance < STRANGERS:
                continue
            machine.give_up()
            if chance < 0.7:
                machine.kill()
            else:
                machine.shut_down()

    async def _reach(self, wish: Wish) -> Configuration:
        """Ask for changes until there is none left to ask for and the last one is committed."""
        world = self._world
        while True:
            for leader in self._leaders():
                node = leader.node
                # A leader of yesterday may believe that things are still, or again, as we wish.
                if node is None or node.raft.changing or leader.paused:
                    continue
                if node.raft.configuration_index < world.oracle.configuration_index:
                    continue
                configuration = node.raft.configuration
                change = wish(configuration)
                if change is None:
                    return configuration
                try:
                    began = leader.context.run(node.change_membership, change)
                except ShuttingDown:
                    continue
                if isinstance(began, Position):
                    world.network.counts["changes of members"] += 1
                    world.trace.note("oper", f"asks n{leader.number} for {change}")
            await asyncio.sleep(POLL_S)

    async def _until(self, condition: Callable[[], bool], poll_s: float = POLL_S) -> None:
        while not condition():  # noqa: ASYNC110 - the world is watched, it tells nobody
            await asyncio.sleep(poll_s)

    # --- who ----------------------------------------------------------------------------------------------------------

    def _leaders(self) -> list[NodeProcess]:
        """Return who leads or believes so, the newest first."""
        leading = [
            (process.node.raft.term, process.number, process)
            for machine in self._world.machines.values()
            if (process := machine.process) is not None
            and process.node is not None
            and process.node.raft.role is Role.LEADER
        ]
        return [process for _, _, process in sorted(leading, key=lambda one: one[:2], reverse=True)]

    def _someone(self, nodes: Sequence[NodeId] | frozenset[NodeId], random: Random) -> NodeId:
        """Choose one, the leader as often as not."""
        leaders = self._leaders()
        if leaders and leaders[0].number in nodes and random.random() < 0.5:
            return NodeId(leaders[0].number)
        return random.choice(sorted(nodes))

    def _is_known_to_all(self, node: NodeId) -> bool:
        """Whether all others have written down which disk stands behind `node`.

        A node that has never met it cannot know that it has lost its disk (ADR 0004, Consequences).
        """
        others = [m for m in self._world.machines.values() if m.in_service and m.number != node]
        for machine in others:
            if BOOK_NAME not in machine.disk.names(DATA):
                return False
            if str(node) not in json.loads(machine.disk.content(DATA / BOOK_NAME))["met"]:
                return False
        return True
