"""One run: a cluster, clients, faults, and the verdict on what the clients were told."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from raftkv.checker.history import History, Operation, encode
from raftkv.checker.verdict import Problem, Verdict, judged, undecided
from raftkv.client import AsyncClient, Tls
from raftkv.errors import RaftKVError
from raftkv.jepsen import nemeses
from raftkv.jepsen.nemesis import Nemesis
from raftkv.jepsen.observer import Observer
from raftkv.jepsen.recorder import Recorder
from raftkv.jepsen.report import leaders_of, rto_of, worst_pause_ms
from raftkv.jepsen.report.html import write_report
from raftkv.jepsen.results import Judgement, Results, header, tally, verdicts_of
from raftkv.jepsen.schedule import Schedule
from raftkv.jepsen.testbed import GivenCluster, Testbed, TestbedOptions, given_cluster, testbed
from raftkv.jepsen.worker import Pace, Worker
from raftkv.jepsen.workload import Setting, Workload
from raftkv.testing.cluster import ClusterError, NodesDiverged

HEAL_TIMEOUT_S: Final = 120.0
"""Within which a whole cluster must be of one state again: far above what it takes on a busy machine."""
FINISH_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is run."""

    workloads: Sequence[type[Workload]]
    nemeses: Sequence[str] = ()
    """Names of `raftkv.jepsen.nemeses`, with their options. They are on together."""
    nodes: int = 3
    seconds: float = 60.0
    rate: float = 100.0
    """Operations per second, of each workload."""
    concurrency: int = 5
    """Clients of each workload."""
    seed: int = 0
    op_timeout_s: float = 3.0
    check_seconds: float = 60.0
    """How long the check of one workload may take."""
    directory: Path
    endpoints: str = ""
    """Of a cluster that is there already. None is made then, and there can be no nemeses."""
    tls: Tls | None = None
    """How to speak with that."""
    sabotage: str = ""
    arguments: tuple[str, ...] = ()
    """Further flags of `raftkv serve`."""
    command: str = ""
    """What to type to run this again."""


@dataclass(slots=True)
class Run:
    """One run, and how far it is."""

    options: Options
    say: Callable[[str], object] = field(default=lambda text: None)
    recorder: Recorder = field(init=False)
    phase: str = "starting"
    schedule: Schedule | None = None
    observer: Observer | None = None
    results: Results = field(init=False)
    _begun: dict[str, Workload] = field(init=False, default_factory=dict)
    _cluster_problems: list[Problem] = field(init=False, default_factory=list)
    _came_to_its_end: bool = field(init=False, default=False)
    _stop: threading.Event = field(init=False, default_factory=threading.Event)
    """Set: checks are to give up."""

    def __post_init__(self) -> None:
        options = self.options
        self.recorder = Recorder()
        self.results = Results(
            seed=options.seed,
            command=options.command,
            nodes=options.nodes,
            seconds=options.seconds,
            began=datetime.now(UTC).isoformat(timespec="seconds"),
            nemeses=tuple(name.partition(":")[0] for name in options.nemeses),
        )

    async def run(self) -> Results:
        """Run it, judge it, and keep everything in the directory. Raises RaftKVError when it could not be run.

        However it ends, no process and no proxy is left, and what was recorded until then is on disk.
        """
        try:
            await self._with_a_cluster()
            self._came_to_its_end = True
        except RaftKVError as error:
            self.results.interrupted = _ending(error)
            await self._conclude()
            if self.results.judgement is not Judgement.VIOLATION:
                raise
        except BaseException as error:
            self.results.interrupted = _ending(error)
            self._stop.set()  # it is not the time for checks
            if self._begun:
                self._judge()
            raise
        else:
            await self._conclude()
        return self.results

    async def _conclude(self) -> None:
        """Judge in a thread. Who interrupts that waits until what there is, is on disk."""
        if not self._begun:
            return
        judging = asyncio.ensure_future(asyncio.to_thread(self._judge))
        try:
            await asyncio.shield(judging)
        except asyncio.CancelledError as error:
            self.results.interrupted = self.results.interrupted or _ending(error)
            self._stop.set()
            await judging
            raise

    @property
    def history(self) -> History:
        """Everything that was recorded so far."""
        return History(
            operations=sorted(self.recorder.operations, key=lambda one: one.began),
            remarks=list(self.recorder.remarks),
        )

    # --- the cluster's part ---

    async def _with_a_cluster(self) -> None:
        options = self.options
        if options.endpoints:
            async with given_cluster(options.endpoints, options.tls) as given:
                await self._load(given, [])
            return
        kinds = [nemeses.find(name)[0].load() for name in options.nemeses]
        bed_options = TestbedOptions(
            nodes=options.nodes,
            directory=options.directory,
            lossy_disks=any(kind.lossy_disks for kind in kinds),
            failing_disks=any(kind.failing_disks for kind in kinds),
            sabotage=options.sabotage,
            arguments=options.arguments,
        )
        async with testbed(bed_options) as bed:
            await bed.leader()
            faults = [nemeses.create(name, bed, self._rng("nemesis", name)) for name in options.nemeses]
            await self._load(bed, faults)

    async def _load(self, bed: Testbed | GivenCluster, faults: Sequence[Nemesis]) -> None:
        options, addresses = self.options, bed.client_addresses
        for kind in options.workloads:
            setting = Setting(
                prefix=f"jepsen/{self.results.began}/{kind.name}/",
                nodes=len(addresses),
                workers=options.concurrency,
                seconds=options.seconds,
                lease_margin_ms=sum(one.lease_margin_ms for one in faults),
                clock_slack_ms=max((one.clock_slack_ms for one in faults), default=0.0),
                members_change=any(one.members_change for one in faults),
            )
            self._begun[kind.name] = kind(setting)
        async with AsyncExitStack() as stack:
            helper = await stack.enter_async_context(self._client(addresses))
            for workload in self._begun.values():
                await workload.setup(helper)
            self.schedule = Schedule(faults, self._rng("schedule"), self.recorder, self.say)
            self.observer = Observer(bed.admin, self.recorder)
            await stack.enter_async_context(_background(self.observer.watch(bed.endpoints)))
            try:
                await self._work(addresses, stack)
                if not self.schedule.problems and not bed.stopped_themselves():  # else there may be no cluster any more
                    await self._whole_again(bed)
                    await self._finish(helper)
            finally:
                self._cluster_problems += [*self.schedule.problems, *_of_the_cluster(bed, self.observer.leaders)]

    async def _work(self, addresses: Sequence[str], stack: AsyncExitStack) -> None:
        """Let workers work while faults come and go, until the time is over."""
        assert self.schedule is not None
        over = asyncio.Event()
        workers = await self._workers(addresses, over, stack)
        self.phase = "running"
        tasks = [asyncio.create_task(self._begun[name].run(worker)) for name, worker in workers]
        try:
            await _unless_one_fails(asyncio.create_task(self.schedule.run(self.options.seconds)), tasks)
            over.set()
            self.phase = "waiting for the last operations"
            await _all_end(tasks, patience_s=4 * self.options.op_timeout_s + 10.0)
        finally:
            await _cancel(tasks)

    async def _whole_again(self, bed: Testbed | GivenCluster) -> None:
        """Liveness: all faults over, every node must come to the same state, in bounded time."""
        self.phase = "waiting until all nodes hold the same state"
        try:
            await bed.whole_again(HEAL_TIMEOUT_S)
        except ClusterError as error:
            name = "nodes diverged" if isinstance(error, NodesDiverged) else "did not heal"
            self._cluster_problems.append(Problem(name=name, text=error.message))

    async def _finish(self, client: AsyncClient) -> None:
        """Let each workload record what is there in the end."""
        self.phase = "reading what is there in the end"
        pace = Pace(1e9, asyncio.Event())
        for name, workload in self._begun.items():
            rng = self._rng("finish", name)
            worker = Worker(-1, name, client=client, recorder=self.recorder, pace=pace, rng=rng)
            try:
                async with asyncio.timeout(FINISH_TIMEOUT_S):
                    await workload.finish(worker)
            except TimeoutError as error:
                told = str(error) or f"the last reads were not answered within {FINISH_TIMEOUT_S:g} s"
                text = f"{name}: {told}, on a cluster that was whole again"
                self._cluster_problems.append(Problem(name="did not heal", text=text))

    async def _workers(
        self, addresses: Sequence[str], over: asyncio.Event, stack: AsyncExitStack
    ) -> list[tuple[str, Worker]]:
        """Return all workers. Each has a client of its own: what a client has seen is told in its own workload only."""
        found = []
        for name, workload in self._begun.items():
            pace = Pace(self.options.rate, over)
            for number in range(max(self.options.concurrency, workload.workers_at_least)):
                client = await stack.enter_async_context(self._client(addresses, number))
                rng = self._rng("worker", name, number)
                found.append((name, Worker(number, name, client=client, recorder=self.recorder, pace=pace, rng=rng)))
        return found

    def _client(self, addresses: Sequence[str], number: int = 0) -> AsyncClient:
        shift = number % len(addresses)  # each begins at a node of its own
        return AsyncClient(
            [*addresses[shift:], *addresses[:shift]], timeout=self.options.op_timeout_s, tls=self.options.tls
        )

    def _rng(self, *what: object) -> random.Random:
        """Return a stream of chance of its own for each user, so that none disturbs another one's."""
        return random.Random(f"{self.options.seed}/{'/'.join(map(str, what))}")

    # --- the judge's part ---

    def _judge(self) -> None:
        """Judge what was recorded, and write it down. What is wrong counts, however the run has ended."""
        self.phase = "checking"
        results, history = self.results, self.history
        for name, workload in self._begun.items():
            operations = history.of(name)
            verdict = self._check(workload, operations)
            results.workloads[name] = tally(operations, workload.done(operations), workload.least, verdict)
        if self._came_to_its_end or self._cluster_problems:
            results.cluster = judged(0, self._cluster_problems)
        if self.schedule is not None:
            results.begun, results.proven = self.schedule.begun, self.schedule.proven
        results.faults = [felt.as_json() for felt in rto_of(history)]
        results.leaders = len(leaders_of(history))
        results.worst_pause_ms = worst_pause_ms(history)
        self._write(history)
        self.phase = "done"

    def _check(self, workload: Workload, operations: list[Operation]) -> Verdict:
        if self._stop.is_set():
            return undecided(0, "it was not checked")
        deadline = time.monotonic() + self.options.check_seconds
        return workload.check(operations, lambda: self._stop.is_set() or time.monotonic() > deadline)

    def _write(self, history: History) -> None:
        directory = self.options.directory
        history.header = header(self.results)
        with (directory / "history.jsonl").open("w") as file:
            file.writelines(encode(history))
        told = self.results.as_json()
        (directory / "results.json").write_text(json.dumps(told, indent=1) + "\n")
        write_report(directory / "report.html", history, told, verdicts_of(self.results))


def _of_the_cluster(bed: Testbed | GivenCluster, seen: Mapping[int, set[int]]) -> list[Problem]:
    """Return what must never be: a node that stopped itself, and two leaders of one term (paper 5.2)."""
    found = [
        Problem(name="node stopped itself", text=f"node {node.id}: {node.log_tail()}")
        for node in bed.stopped_themselves()
    ]
    told = bed.leaders()
    for term in sorted(told.keys() | seen.keys()):
        if len(nodes := told.get(term, set()) | seen.get(term, set())) > 1:
            led = " and ".join(f"node {node}" for node in sorted(nodes))
            found.append(Problem(name="split brain", text=f"{led} led term {term}"))
    return found


def _ending(error: BaseException) -> str:
    """Say why a run came to no end of its own."""
    if isinstance(error, asyncio.CancelledError):
        return "interrupted before its time was over"
    if isinstance(error, RaftKVError):
        return f"could not be run to its end: {error.message}"
    return f"the suite itself failed: {type(error).__name__}: {error}"


@asynccontextmanager
async def _background(job: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(job)
    try:
        yield
        if task.done():
            task.result()  # what should run for ever has failed
    finally:
        await _cancel([task])


async def _unless_one_fails(main: asyncio.Task[None], others: Sequence[asyncio.Task[None]]) -> None:
    """Wait for `main`, or for the first of the others that raises: that is a mistake of the suite, and is raised."""
    pending: set[asyncio.Task[None]] = {main, *others}
    try:
        while not main.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        await _cancel([main])


async def _all_end(tasks: Sequence[asyncio.Task[None]], patience_s: float) -> None:
    """Let workers end their last operation; those that do not are cancelled, which their histories tell."""
    done, pending = await asyncio.wait(tasks, timeout=patience_s)
    await _cancel(list(pending))
    for task in done:
        task.result()


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
