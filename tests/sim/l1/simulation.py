"""One run: a cluster, its clients and its nemesis under one virtual-time loop, from one seed."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pytest
import structlog

from raftkv.kv import session
from tests.sim.l1.caller import Caller
from tests.sim.l1.chooser import Chooser
from tests.sim.l1.client import Client
from tests.sim.l1.loop import PROCESS, Deadlock, VirtualTimeLoop
from tests.sim.l1.nemesis import Nemesis
from tests.sim.l1.network import Network, Server
from tests.sim.l1.oracle import Oracle
from tests.sim.l1.owner import Owner
from tests.sim.l1.plan import MIN_FAULTS, MIN_OPERATIONS, Fault, Plan, make_plan
from tests.sim.l1.process import FIRST_CLIENT, Machine, NodeProcess, Settings
from tests.sim.l1.trace import Trace
from tests.sim.l1.watcher import Watcher
from tests.sim.levels import Report

LIVE_S = 30.0
"""Once the faults are over, every client must have `LIVE_OPERATIONS` answered within this much virtual time."""
LIVE_OPERATIONS = 5
LEASES_END_S = 5.0
"""And once the clients are quiet, all leases must have ended within this much."""
QUIET_S = 20.0
"""And once the clients are quiet, all nodes must have applied the same within this much."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run."""

    seed: int
    steps: int
    faults: Counter[str]
    violation: str | None
    """What must not have happened; None: nothing did."""
    trace_hash: str
    operations: Counter[str] = field(default_factory=Counter)
    """What clients were answered, and what became of messages."""
    virtual_s: float = 0.0
    real_s: float = 0.0
    last_lines: tuple[str, ...] = ()
    """The end of the trace."""


def run_seed(
    seed: int,
    *,
    trace: bool = False,
    sink: Callable[[str], None] = print,
    plan: Plan | None = None,
) -> Result:
    """Run one seed; `trace`: give every line of the trace to `sink`.

    `plan`: instead of the seed's own. It may hold few faults, and leave little time for traffic.
    """
    return Simulation(plan or make_plan(seed), sink if trace else None, whole=plan is None).run()


def tape(seed: int) -> Sequence[Fault]:
    """Return the faults that a seed plans. See `tests.sim.levels.Level`."""
    return make_plan(seed).faults


def run(seed: int, *, kept: Sequence[int] | None = None, trace: Callable[[str], None] | None = None) -> Report:
    """Run one seed. See `tests.sim.levels.Level`."""
    began = time.process_time()
    plan = make_plan(seed)
    if kept is not None:
        plan = dataclasses.replace(plan, faults=tuple(plan.faults[number] for number in kept))
    result = Simulation(plan, trace, whole=kept is None).run()
    return Report(
        seed=seed,
        steps=result.steps,
        trace_hash=int(result.trace_hash, 16),
        faults=dict(result.faults),
        traffic=dict(result.operations),
        violation=result.violation,
        seconds=time.process_time() - began,
    )


class Simulation:
    """See the module's docstring."""

    def __init__(self, plan: Plan, sink: Callable[[str], None] | None = None, *, whole: bool = True) -> None:
        """`whole`: a run with too little traffic, or in which too few faults took effect, is a failure."""
        self.plan = plan
        self._whole = whole
        self.calm = False
        self.has_leases = plan.settings.lease_ms > 0
        self.found: str | None = None
        self.loop = VirtualTimeLoop(plan.stream("schedule"), max_steps=3_000_000)
        self.trace = Trace(self.loop.time, sink=sink)
        self.network = Network(self.loop, plan.stream("network"), self.trace, self)
        self.oracle = Oracle(
            plan.settings.nodes,
            self.violation,
            spares=plan.settings.spares,
            now=self.loop.time,
            drift=max(map(abs, plan.settings.clock_drift)),
        )
        self.machines: Mapping[int, Machine] = {
            number: Machine(self, number, plan.stream(f"machine {number}"))
            for number in (*plan.settings.nodes, *plan.settings.spares)
        }
        owners, watchers = FIRST_CLIENT + len(plan.clients), FIRST_CLIENT + len(plan.clients) + len(plan.owners)
        choosers = watchers + len(plan.watchers)
        self.client_numbers: Sequence[int] = range(FIRST_CLIENT, choosers + len(plan.choosers))
        self.clients: list[Caller] = [
            Client(self, number, habits, plan.stream(f"client {number}"))
            for number, habits in enumerate(plan.clients, FIRST_CLIENT)
        ]
        self.clients += [
            Owner(self, number, habits, plan.stream(f"owner {number}"), plan.locks)
            for number, habits in enumerate(plan.owners, owners)
        ]
        self.clients += [
            Chooser(self, number, habits, plan.stream(f"chooser {number}"))
            for number, habits in enumerate(plan.choosers, choosers)
        ]
        self.watchers = [
            Watcher(self, number, plan.stream(f"watcher {number}"), watches)
            for number, watches in enumerate(plan.watchers, watchers)
        ]
        self.nemesis = Nemesis(self)
        self._main: asyncio.Task[None] | None = None

    @property
    def founders(self) -> int:
        return len(self.plan.settings.nodes)

    def felt(self, since: float) -> set[str]:
        return self.nemesis.felt(since)

    @property
    def settings(self) -> Settings:
        return self.plan.settings

    @property
    def nodes(self) -> Sequence[int]:
        """Whom clients know: every node that runs or should."""
        return [number for number, machine in self.machines.items() if machine.in_service]

    def server(self, number: int) -> Server | None:
        return self.machines[number].process

    def powered(self, number: int) -> bool:
        return self.machines[number].powered

    def installing(self) -> None:
        """A step of an installation of a snapshot is done somewhere."""
        counts = self.network.counts
        counts["steps of installs"] += 1
        if self.network.cut and self.nemesis.operators.changing:
            counts["steps of installs amid a change and a partition"] += 1

    def replacing(self, number: int) -> None:
        """A node begins or ends one of the two steps of an installation: state, then log."""
        self.installing()
        self.nemesis.spring(number)

    def violation(self, text: str) -> None:
        """Something happened that must not; the run ends."""
        if self.found is None:
            self.found = text
            self.trace.note("!!!!", text)
            if self._main is not None:
                self._main.cancel()

    def run(self) -> Result:
        began = time.perf_counter()
        with _logs_to(self.trace), _sessions_end_after(self.settings.session_ttl_ms):
            self.loop.set_exception_handler(self._unexpected)
            self._main = self.loop.create_task(self._phases())
            try:
                self.loop.run_until_complete(self._main)
            except asyncio.CancelledError:
                if self.found is None:
                    raise
            except Deadlock as error:
                self.violation(f"liveness: {error}")
            self._tear_down()
        operations = self.network.counts.copy()
        for counts in [client.counts for client in self.clients] + [watcher.counts for watcher in self.watchers]:
            operations.update(counts)
        operations["versions swept"] = self.oracle.state.swept
        operations["locks granted"] = self.oracle.state.lines.grants
        operations["leases expired"] = len(self.oracle.state.ended)
        return Result(
            seed=self.plan.seed,
            steps=self.loop.steps,
            faults=+self.nemesis.fired,
            violation=self.found,
            trace_hash=self.trace.digest(),
            operations=operations,
            virtual_s=self.loop.time(),
            real_s=time.perf_counter() - began,
            last_lines=tuple(self.trace.last),
        )

    # --- the phases ---------------------------------------------------------------------------------------------------

    async def _phases(self) -> None:
        for machine in self.machines.values():
            machine.start()
        for client in self.clients:
            client.start()
        for watcher in self.watchers:
            watcher.start()
        self.nemesis.begin()
        await asyncio.sleep(self.plan.duration_s)
        self._require_a_run_worth_the_name()
        self._heal()
        await self._be_live()
        await self._finish_the_changes()
        for client in self.clients:
            await client.stop()
        await self._let_leases_end()
        await self._converge()
        await self._tell_watchers_everything()

    def _require_a_run_worth_the_name(self) -> None:
        answered = sum(client.succeeded for client in self.clients)
        if self._whole and answered < MIN_OPERATIONS:
            self.violation(f"harness: {answered} operations succeeded under faults, at least {MIN_OPERATIONS} must")

    def _heal(self) -> None:
        self.trace.note("----", "the faults are over")
        self.calm = True
        self.nemesis.end()
        for machine in self.machines.values():
            machine.start()
        fired = self.nemesis.fired.total()
        if self._whole and fired < MIN_FAULTS:
            self.violation(f"harness: {fired} faults took effect, at least {MIN_FAULTS} must")

    async def _be_live(self) -> None:
        goals = {client: client.succeeded + LIVE_OPERATIONS for client in self.clients}
        if not await self._within(LIVE_S, lambda: all(client.succeeded >= goal for client, goal in goals.items())):
            late = [client.number for client, goal in goals.items() if client.succeeded < goal]
            self._fail(f"liveness: {LIVE_S} s after the faults clients {late} are not served; {self._status()}")

    async def _finish_the_changes(self) -> None:
        operators = self.nemesis.operators
        if not await self._within(LIVE_S, lambda: not operators.unfinished):
            self._fail(f"liveness: {LIVE_S} s after the faults {operators.unfinished} goes on; {self._status()}")

    def _members(self) -> list[Machine]:
        """Return the machines of the members in the end."""
        return [self.machines[number] for number in sorted(self.oracle.configuration.members)]

    async def _let_leases_end(self) -> None:
        """Nobody renews them any more: they and all that is attached to them must go."""
        state = self.oracle.state
        if not await self._within(LEASES_END_S, lambda: not state.leases):
            leases = {number: vars(lease) for number, lease in state.leases.items()}
            self._fail(f"lease in time: {LEASES_END_S} s after the last renewal there are {leases}; {self._status()}")
        if state.lines.crowd or any(pair.lease for pair in state.keys.values()):
            self.violation("lease: none is left, and somebody stands in line or a key lives on")

    async def _tell_watchers_everything(self) -> None:
        if not await self._within(QUIET_S, lambda: all(watcher.up_to_date for watcher in self.watchers)):
            late = {watcher.number: [one.next for one in watcher.watches] for watcher in self.watchers}
            self._fail(f"liveness: {QUIET_S} s after the last write watchers wait for {late}; {self._status()}")
        for watcher in self.watchers:
            await watcher.stop()

    async def _converge(self) -> None:
        last = self.oracle.last_applied
        if not await self._within(QUIET_S, lambda: self._all_have_applied(last)):
            self._fail(f"liveness: the nodes differ {QUIET_S} s after the last write; {self._status()}")
        state = self.oracle.state
        expected, begins = state.state_at(state.revision), max(state.compacted, 1)
        old = state.state_at(begins)
        for machine in self._members():
            process = machine.process
            if process is None:
                continue
            if machine.number in self.oracle.witnesses:
                if not process.state.holds_nothing:
                    self.violation(f"members: node {process.number}, a witness, holds data")
                continue
            self.oracle.hashed(process.number, process.state.applied_index, process.state.state_hash())
            if self._read_all(process, 0) != expected:
                self.violation(f"acknowledged: the state of node {process.number} is not what the log says")
            if self._read_all(process, begins) != old:
                self.violation(f"compaction: node {process.number} has lost what is to be seen at revision {begins}")

    def _read_all(self, process: NodeProcess, revision: int) -> dict[bytes, tuple[int, bytes]]:
        with process.state.view() as view:
            found = {key: view.get(key, revision) for key in self.oracle.state.known_keys}
        return {key: (pair.mod_revision, pair.value) for key, pair in found.items() if pair is not None}

    def _all_have_applied(self, last: int) -> bool:
        """Whether every member runs, has applied entry `last`, and none has applied more than another."""
        indexes = set()
        for machine in self._members():
            process = machine.process
            if process is None or process.node is None:
                return False
            if process.state.unswept:
                return False
            indexes.add(process.state.applied_index)
        return len(indexes) == 1 and min(indexes) >= last

    async def _within(self, limit_s: float, done: Callable[[], bool]) -> bool:
        until = self.loop.time() + limit_s
        while not done():
            if self.loop.time() >= until:
                return False
            await asyncio.sleep(0.05)
        return True

    def _fail(self, text: str) -> NoReturn:
        self.violation(text)
        raise asyncio.CancelledError

    def _status(self) -> str:
        parts = []
        for number, machine in self.machines.items():
            node = machine.process.node if machine.process is not None else None
            if node is None and not machine.in_service:
                continue
            if node is None:
                parts.append(f"n{number} down")
            else:
                raft = node.raft
                log = f"commit {raft.log.commit} applied {raft.log.applied} last {raft.log.last_index}"
                voters = sorted(raft.configuration.voters)
                parts.append(f"n{number} {raft.role.value} term {raft.term} leader {raft.leader} {log} of {voters}")
        return "; ".join(parts)

    def _unexpected(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.violation(f"unexpected: {context.get('message')}: {context.get('exception')!r}")

    def _tear_down(self) -> None:
        for machine in self.machines.values():
            machine.kill()
        tasks = sorted(asyncio.all_tasks(self.loop), key=lambda task: task.get_name())
        for task in tasks:
            task.cancel()
        self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self.loop.close()


@contextmanager
def _sessions_end_after(ttl_ms: int) -> Iterator[None]:
    """An hour of cluster time would never pass within a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "SESSION_TTL_MS", ttl_ms)
        yield


@contextmanager
def _logs_to(trace: Trace) -> Iterator[None]:
    """Have what the product logs become lines of the trace."""

    def take(logger: object, method: str, event: structlog.typing.EventDict) -> NoReturn:
        process = PROCESS.get()
        details = " ".join(f"{key}={event[key]}" for key in sorted(event) if key != "event")
        trace.note(process.name if process is not None else "", f"[{event['event']}] {details}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[take], cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)
