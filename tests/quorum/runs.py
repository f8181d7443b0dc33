"""Random runs of the model, by seed. Also a level of the simulator: `make sim LEVEL=quorum SEEDS=20000`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from raftkv.quorum import majority
from tests.quorum.model import Cluster
from tests.quorum.reads import Reads, Rules
from tests.sim.levels import Report

STEPS = 600
OPEN_READS = 6
"""So many are under way at a time, at most."""
MOOD = 25
"""So many steps, on average, before other nodes can reach each other, and other things are likely."""

Trace = Callable[[str], None]


class Run:
    """One run."""

    def __init__(self, seed: int, rules: Rules, *, voters: int | None = None, trace: Trace | None = None) -> None:
        self.seed = seed
        self.random = random = Random(f"raftkv-quorum/{seed}")
        self.voters = voters or random.choice([3, 5])
        self.cluster = Cluster(self.voters, random)
        self.reads = Reads(self.cluster, rules)
        self._trace = trace
        self._groups: list[int] = []
        self._kinds: list[str] = []
        self._step = 0
        self.reads_without_leader = 0

    def go(self) -> Run:
        while self._step < STEPS:
            if not self._step or self.random.random() < 1 / MOOD:
                self._draw_mood()
            self._step += 1
            self._do(self.random.choice(self._kinds), self.random.randrange(self.voters))
        return self

    def _draw_mood(self) -> None:
        """Draw who can reach whom, what is likely, and perhaps a crash and an election to begin with."""
        random = self.random
        parts = random.choice([1, 1, 1, 2, 2, 3])
        self._groups = [random.randrange(parts) for _ in range(self.voters)]
        for number, node in enumerate(self.cluster.nodes):
            if not node.up:
                node.up = random.random() < 0.6
            elif random.random() < 0.05:
                self._do("crash", number)
        if self.reads.under_way and random.random() < 0.5:
            self.reads.give_up(random.choice(self.reads.under_way))
        for _ in range(random.choice([0, 1, 1, 2]) if self._leaderless() or random.random() < 0.2 else 0):
            self._do("elect", random.randrange(self.voters))
        shares = {
            "write": random.choice([1, 3]),
            "round": random.choice([0, 2, 8]),
            "replicate": random.choice([1, 4]),
            "confirm": random.choice([0, 4]),
            "sync": random.choice([1, 4]),
            "commit": random.choice([0, 2, 4]),
            "apply": random.choice([1, 4]),
            "begin": random.choice([1, 3, 6]),
            "ask": random.choice([2, 8]),
            "answer": random.choice([2, 8]),
        }
        self._kinds = [kind for kind, share in shares.items() for _ in range(share)]

    def _leaderless(self) -> bool:
        return not any(node.leads and node.up for node in self.cluster.nodes)

    def _do(self, kind: str, who: int) -> None:
        """Take a step, if it is possible."""
        cluster, random = self.cluster, self.random
        node = cluster.nodes[who]
        if not node.up:
            return
        match kind:
            case "elect":
                cluster.elect(who, [other for other in range(self.voters) if self._reach(who, other)])
            case "write":
                for leader in self._leaders_near(who)[:1]:
                    cluster.write(leader)
            case "replicate" | "confirm":
                for leader in self._leaders_near(who)[:1]:
                    (cluster.replicate if kind == "replicate" else cluster.confirm)(leader, who)
            case "round":
                # What one message brings about, as far as it gets.
                for leader in self._leaders_near(who)[:1]:
                    for part in ("replicate", "sync", "confirm"):
                        self._do(part, who)
                        if random.random() < 0.1:
                            return
                    if random.random() < 0.8:
                        self._do("sync", leader)
                    if random.random() < 0.8:
                        self._do("commit", leader)
                return
            case "sync":
                cluster.sync(who)
            case "commit":
                for leader in self._leaders_near(who)[:1]:
                    cluster.commit(leader)
            case "apply":
                cluster.apply(who)
            case "crash":
                cluster.crash(who)
                node.up = False
            case "begin" if len(self.reads.under_way) < OPEN_READS:
                self.reads.begin(random.randint(1, self.voters), self._step)
            case "ask" if waiting := [read for read in self.reads.under_way if read.target is None]:
                self.reads.ask(random.choice(waiting), who)
            case "answer":
                for read in [read for read in self.reads.under_way if read.target is not None]:
                    if random.random() < 0.5 and self.reads.answer(read, who):
                        self.reads_without_leader += self._leaderless()
            case _:
                return
        if self._trace is not None:
            self._trace(f"{self._step:4} {kind:9} n{who}  " + "  ".join(map(self._describe, range(self.voters))))

    def _reach(self, a: int, b: int) -> bool:
        return self._groups[a] == self._groups[b] and self.cluster.nodes[b].up

    def _leaders_near(self, who: int) -> list[int]:
        """Return the leaders, of now and of the past, that `who` can reach, in a random order; itself, if it leads."""
        near = [other for other in range(self.voters) if self.cluster.nodes[other].leads and self._reach(who, other)]
        if len(near) > 1:
            self.random.shuffle(near)
        return near

    def _describe(self, number: int) -> str:
        node = self.cluster.nodes[number]
        mark = ("L" if node.leads else "") if node.up else "x"
        return f"n{number}{mark} t{node.term} {node.durable_end} {len(node.log)} c{node.commit} a{node.applied}"


def count(run: Run) -> Counter[str]:
    counts = Counter[str]()
    done = run.reads.done
    counts["reads"] = len(done)
    for read in done:
        assert read.target is not None
        counts[f"reads of {read.target.replicas} of {run.voters}"] += 1
    counts["linearizable reads"] = sum(read.target.replicas >= majority(run.voters) for read in done if read.target)
    counts["reads without a leader"] = run.reads_without_leader
    counts["reads left open"] = len(run.reads.under_way)
    cluster = run.cluster
    counts["committed"] = len(cluster.committed)
    counts["elections"] = cluster.elections
    counts["conflicts cut"] = cluster.truncations
    counts["crashes"] = cluster.crashes
    counts["acknowledged early"] = sum(map(len, cluster.acknowledged[1 : majority(run.voters)]))
    counts["acknowledged"] = sum(map(len, cluster.acknowledged))
    return counts


# --- a level of the simulator -----------------------------------------------------------------------------------------


def tape(seed: int) -> Sequence[object]:
    """Return nothing: a run is too short to be worth shrinking. See `tests.sim.levels.Level`."""
    return ()


def run(seed: int, *, kept: Sequence[int] | None = None, trace: Trace | None = None) -> Report:
    """See `tests.sim.levels.Level`."""
    began = time.process_time()
    one = Run(seed, Rules(), trace=trace)
    found = one.go().reads.violations()
    counts = count(one)
    faults = {kind: counts.pop(kind) for kind in ("crashes", "elections", "conflicts cut")}
    return Report(
        seed=seed,
        steps=STEPS,
        trace_hash=hash((tuple(one.cluster.committed), tuple(read.shows for read in one.reads.done))),
        faults=faults,
        traffic=dict(counts),
        violation=f"QuorumViolation: {found[0]}" if found else None,
        seconds=time.process_time() - began,
    )
