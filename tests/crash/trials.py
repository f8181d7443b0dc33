"""The steps that a node's disk takes, and what becomes of a cluster when a node dies at one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, Literal

from raftkv.client import AsyncClient
from raftkv.server.disk_kind import NAME as KIND_NAME
from raftkv.testing.cluster import NodeProcess
from tests.crash.cluster import SMALL, WITHOUT_CHECKPOINTS, CrashCluster, require_log_opens, require_one_leader_a_term
from tests.crash.drives import (
    AT_EVERY_START,
    DRIVES,
    FIRST_STARTS,
    FOUND,
    FOUND_LATE,
    SHARED,
    TASKS,
    Load,
    Scene,
    checkpoints_made,
    drives_for,
)
from tests.crash.files import Order, When
from tests.integration.waiting import PATIENCE_S, until

KNOWN: Final = Path(__file__).parent / "steps.txt"
Role = Literal["leader", "follower"]

OFTEN: Final = "SegmentWriter._append_record"
"""Steps in here are taken at every append."""


@dataclass(frozen=True, slots=True)
class Case:
    """A node of this role dies at a step, while the drive brings it there."""

    drive: str
    order: Order
    role: Role = "follower"

    def __str__(self) -> str:
        return f"{self.drive}, {self.role}: {self.order}"


@dataclass(frozen=True, slots=True)
class KnownSteps:
    """What `steps.txt` says: the steps of each drive, and those that are taken only now and then."""

    by_drive: dict[str, list[str]]
    sometimes: frozenset[str]

    @classmethod
    def read(cls, path: Path = KNOWN) -> KnownSteps:
        by_drive: dict[str, list[str]] = {}
        sometimes = set()
        for line in path.read_text().splitlines() if path.exists() else ():
            drive, _, step = line.partition(": ")
            by_drive.setdefault(drive.rstrip("?"), []).append(step)
            if drive.endswith("?"):
                sometimes.add(step)
        return cls(by_drive, frozenset(sometimes))

    def write(self, path: Path = KNOWN) -> None:
        marks = dict.fromkeys(self.sometimes, "?")
        lines = [f"{drive}{marks.get(step, '')}: {step}" for drive, steps in self.by_drive.items() for step in steps]
        path.write_text("\n".join(lines) + "\n")

    def updated(self, steps: dict[str, list[str]]) -> KnownSteps:
        """Return what a recording of all drives says now. Who knows better may still move lines, or mark them."""
        before = {step: drive for drive, known in self.by_drive.items() for step in known}
        found: dict[str, list[str]] = {name: [] for name in DRIVES}
        for step in dict.fromkeys(step for name in DRIVES for step in steps[name]):
            drives = [name for name in drives_for(step) if step in steps[name]]
            if before.get(step) in drives or step in self.sometimes:
                drives = [before[step]]
            elif drives[0] == "install" and all(step in steps[name] for name in AT_EVERY_START):
                drives = ["restart"]
            found[drives[0]].append(step)
        for step in self.sometimes - {step for known in found.values() for step in known}:
            found[before[step]].append(step)
        return KnownSteps(found, self.sometimes)

    def differences(self, steps: dict[str, list[str]], everywhere: set[str]) -> list[str]:
        """Say what is not as it is known: steps that nobody dies at, and steps that are no longer taken."""
        new = [f"new: {step}" for step in sorted(everywhere - self.all)]
        for drive, taken in steps.items():
            gone = set(self.by_drive.get(drive, ())) - set(taken) - self.sometimes
            new += [f"no longer taken in {drive!r}: {step}" for step in sorted(gone)]
        return new

    @property
    def all(self) -> set[str]:
        return {step for steps in self.by_drive.values() for step in steps}


async def record(directory: Path, names: Sequence[str] = tuple(DRIVES)) -> tuple[dict[str, list[str]], set[str]]:
    """Run drives once each. Return the steps that the victim takes in each, and all that any node takes."""
    steps: dict[str, list[str]] = {name: [] for name in names}
    everywhere: set[str] = set()
    cluster = CrashCluster(directory)

    def take(drive: str, victim: NodeProcess) -> None:
        taken = cluster.take_steps()
        steps[drive] += taken[victim.id]
        everywhere.update(step for one in taken.values() for step in one)

    async with cluster, AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        async with Load(client, "record/") as load:
            # Acknowledged is what two of three have: the first node may be the one that is behind.
            await until("it has stored a command", (cluster.node(1).data_dir / KIND_NAME).exists)
            await load.progress(TASKS)
            take(FOUND, cluster.node(1))
            for name in names:
                if name in FIRST_STARTS:
                    continue
                victim, other, third = await _cast(cluster, "leader" if name in ("load", "stop") else "follower")
                await DRIVES[name](Scene(cluster, victim, other, third, load), None)
                await load.progress(TASKS)
                take(name, victim)
                if not victim.running:
                    await victim.start()
                    take("restart", victim)
        await load.verify(cluster)
    if FOUND_LATE in names:
        cluster = CrashCluster(directory / "late")
        await run_first_starts(cluster, (), late=True)
        take(FOUND_LATE, cluster.nodes[2])
    return steps, everywhere


def all_cases(known: KnownSteps, seed: int) -> list[Case]:
    """Return every way to die at every step, those in front of one first. Roles and times are the seed's."""
    random = Random(f"crash/{seed}")
    cases: list[Case] = []
    for drive, steps in known.by_drive.items():
        for step in steps:
            for when in ways_to_die(drive, step):
                # What a node does under load it does as the leader or as a follower; else, who it was hardly matters.
                roles: list[Role] = ["leader", "follower"]
                if drive != "load" or when != "before":
                    roles = [random.choice(roles)]
                nth = random.randint(1, 200) if drive == "load" and OFTEN in step else 1
                cases += [Case(drive, Order(step, when, nth), role) for role in roles]
    return sorted(cases, key=lambda case: case.order.when != "before")


def ways_to_die(drive: str, step: str) -> list[When]:
    operation = step.partition(" ")[0]
    if operation in ("mkdir", "fallocate"):
        return ["before"]
    if drive in FIRST_STARTS and operation == "fsync_dir":
        return ["before"]  # what follows is made only once: see `chains_of_first_starts`
    return ["before", "short", "after"] if operation == "write" else ["before", "after"]


async def run(cluster: CrashCluster, case: Case, prefix: str) -> None:
    """Have a node of a running cluster die there. What it has acknowledged must then be there without anybody's help.

    Raises AssertionError, NeverStruck, RaftKVError.
    """
    victim, other, third = await _cast(cluster, case.role)
    shared = case.drive in SHARED
    if shared:
        # From here on, what is acknowledged is on the disks of the victim and of the other one, and nowhere else.
        await third.kill()
    async with AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
        async with Load(client, prefix) as load:
            await load.progress(TASKS)
            await DRIVES[case.drive](Scene(cluster, victim, other, third, load), case.order)
            require_log_opens(victim)
            if shared:
                await other.kill()
                held = load.counts()
                await asyncio.gather(victim.start(), third.start())
                await _require_readable(client, held)
                await other.start()
            else:
                held = load.counts()
                await victim.start()
                await _require_readable(client, held)
            await load.progress(TASKS)
        await load.verify(cluster)
    require_one_leader_a_term(cluster)


async def run_first_starts(cluster: CrashCluster, orders: Sequence[Order], *, late: bool) -> None:
    """A node's very first start is interrupted at one step after the other; the two others are at work meanwhile.

    `late`: their logs do not reach back to the beginning any more. Ends with nothing left running.
    """
    other, third, victim = cluster.nodes
    try:
        await asyncio.gather(other.start(), third.start())
        async with AsyncClient(cluster.url, timeout=PATIENCE_S) as client:
            async with Load(client, "found/") as load:
                await load.progress(TASKS)
                if late:
                    for node in (other, third):
                        await until("the log is compacted", partial(_has_compacted, node))
                for order in orders:
                    await cluster.start_to_die(victim, order)
                    require_log_opens(victim)
                await victim.start()
                await load.progress(TASKS)
            await load.verify(cluster)
        require_one_leader_a_term(cluster)
    finally:
        await cluster.close()


def _has_compacted(node: NodeProcess) -> bool:
    return checkpoints_made(node) >= 2


@dataclass(frozen=True, slots=True)
class Chain:
    """Deaths of one node's first start, one after the other."""

    late: bool
    orders: tuple[Order, ...]

    def cluster(self, directory: Path) -> CrashCluster:
        return CrashCluster(directory, SMALL if self.late else WITHOUT_CHECKPOINTS)

    async def run(self, cluster: CrashCluster) -> None:
        await run_first_starts(cluster, self.orders, late=self.late)


def chains_of_first_starts(cases: Iterable[Case]) -> list[Chain]:
    """Put the cases of first starts in a row, so that one comes to the next: a file that is there is not made again."""
    chains: dict[tuple[bool, When], list[Order]] = {}
    for case in cases:
        if case.drive in FIRST_STARTS:
            chains.setdefault((case.drive == FOUND_LATE, case.order.when), []).append(case.order)
    return [Chain(late, tuple(orders)) for (late, _), orders in chains.items()]


async def _cast(cluster: CrashCluster, role: Role) -> tuple[NodeProcess, NodeProcess, NodeProcess]:
    """Return victim, other and third: the leader is the victim or the other one."""
    leader = cluster.node(await cluster.leader())
    first, second = (node for node in cluster.nodes if node is not leader)
    return (leader, first, second) if role == "leader" else (first, leader, second)


async def _require_readable(client: AsyncClient, held: dict[bytes, int]) -> None:
    """What was acknowledged is read, linearizably, as it was or as it has become since."""
    for key, value in held.items():
        pair = await client.get(key)
        assert pair is not None, f"{key!r} is gone"
        assert int(pair.value) >= value, f"{key!r} has gone back"
