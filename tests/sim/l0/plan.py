"""What a seed decides before anything happens: the parameters of the cluster, and a tape of faults and inputs.

Every parameter is drawn anew for each seed ("swarm"): a fault that is always on hides what only happens without it.
The tape is complete before the run begins, and each of its items brings its own salt for what it decides when it
happens (which node leads then?). So an item can be left out without changing what the others do.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

from raftkv.raft import NodeId
from raftkv.server.lease import PPM, lease_ms

TICK = 1000
"""One nominal tick, in units of virtual time."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """One cluster and its surroundings. Times are in units of virtual time."""

    size: int
    """Voters that found the cluster: nodes 1 to `size`."""
    spares: int
    """Nodes behind them that may join as learners."""
    witnesses: int
    """Nodes behind those that may join as witnesses."""
    promotion_lag: int
    stream_time: int
    """How long a checkpoint takes to another node."""
    stream_loss: float
    ticks: int
    """How long the safety phase is."""
    election_ticks: int
    heartbeat_ticks: int
    max_append_bytes: int
    max_inflight_bytes: int
    max_apply_bytes: int
    latency: int
    jitter: int
    grain: int
    """Latencies are multiples of it: coarse ones make many things happen at the same time."""
    loss: float
    duplication: float
    fifo: bool
    """A link delivers in order, like a connection."""
    clock: dict[NodeId, float]
    """The length of each node's tick, in nominal ones."""
    disk: dict[NodeId, int]
    """How long each node's disk takes for a write; 0: nothing."""
    group_commit: bool
    """The disk stores everything that waits in one go, and confirms it once."""
    batching: float
    """How often an input waits for the next ones, which then share one Ready."""
    apply_delay: int
    reset_on_crash: bool
    """Peers learn of a crash by a reset of their connections."""
    lease_ms: int
    """How long a leader's lease lasts, where a nominal tick is 1,000 ms; 0: there are none."""

    @property
    def founders(self) -> list[NodeId]:
        return [NodeId(i) for i in range(1, self.size + 1)]

    @property
    def machines(self) -> list[NodeId]:
        """All nodes that there are."""
        return [NodeId(i) for i in range(1, self.size + self.spares + self.witnesses + 1)]

    @property
    def future_witnesses(self) -> list[NodeId]:
        return self.machines[self.size + self.spares :]

    def __str__(self) -> str:
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.__slots__)


@dataclass(frozen=True, slots=True)
class Act:
    """One item of the tape: at this time, this happens; a fault ends after `lasts`."""

    at: int
    kind: str
    salt: int
    lasts: int = 0

    def __str__(self) -> str:
        lasts = f" for {self.lasts / TICK:.1f}" if self.lasts else ""
        return f"{self.at / TICK:9.2f}  {self.kind}{lasts}"


FAULTS = {
    "split": 3.0,
    "one-way": 2.0,
    "bridge": 1.0,
    "ring": 0.5,
    "isolate a node": 1.0,
    "isolate the leader": 3.0,
    "deafen the leader": 1.0,
    "mute the leader": 1.0,
    "leader left behind": 2.5,
    "flapping": 1.0,
    "slow link": 2.0,
    "black hole": 2.0,
    "reset": 2.0,
    "crash": 3.0,
    "crash the leader": 2.0,
    "crash all": 0.7,
    "bounce": 2.0,
    "power loss": 1.0,
    "pause": 2.0,
    "pause the leader": 1.0,
    "slow disk": 2.0,
    "stalled disk": 1.0,
    "slow disks of all but one": 1.0,
    "clock": 1.0,
    "restless voters": 1.0,
    "change amid an install": 1.0,
}
"""What can be on the tape, and how often against the others when all are on."""

UNFIT = "unfit"
"""A node, or the leader, says for a while that it should not lead (`raftkv.raft.Fitness`), or all but one do."""

UNFIT_SHARE = 0.3
"""Of the seeds, so many have some of that."""

LEAST_FAULTS = 6
"""On a tape. Some may find nothing to hit."""

SMALL_DRIFT = 0.05
"""Clocks that differ by more make leases that are over before they are of use."""

INSTANT = frozenset({"bounce", "reset"})

HUNT = "hunt the leader"
"""From here on, every new leader is cut off or killed soon after its election, and the one before comes back: the
leadership goes to and fro between nodes that hold different entries (paper, figure 8)."""


def draw(seed: int) -> tuple[Parameters, tuple[Act, ...]]:
    """Return the cluster and the tape of a seed."""
    faults, workload = random.Random(f"{seed}/faults"), random.Random(f"{seed}/workload")
    parameters, hunted = _parameters(random.Random(f"{seed}/parameters"))
    if random.Random(f"{seed}/leases").random() < 0.5:
        parameters = _with_leases(parameters)
    tape = _faults(parameters, faults, hunted=hunted) + _inputs(parameters, workload)
    tape += _unfit(parameters, random.Random(f"{seed}/fitness"))
    return parameters, tuple(sorted(tape, key=lambda act: act.at))


def _parameters(rng: random.Random) -> tuple[Parameters, bool]:
    size = rng.choices(range(1, 8), [2, 3, 36, 6, 36, 2, 3])[0]
    changing = size < 6 and rng.random() < 0.4
    spares = rng.choice([1, 3, 3]) if changing else 0
    witnesses = rng.choice([0, 1]) if changing else 0
    ids = [NodeId(i) for i in range(1, size + spares + witnesses + 1)]
    hunted = size in (3, 5) and rng.random() < 0.3
    drift = rng.choice([0.0, 0.0, SMALL_DRIFT, 0.5])
    disk = rng.choice([0, 20, 200, 800]) if not hunted else rng.choice([0, 20, 100])
    latency = rng.choice([10, 50, 200, 500]) if not hunted else rng.choice([50, 100, 200])
    jitter = min(latency * rng.choice([0, 1, 4 if not hunted else 2]), TICK)
    append_bytes = rng.choice([1, 100, 1 << 20]) if not hunted else rng.choice([1, 1, 1, 1 << 20])
    losses = [0.0, 0.0, 0.02, 0.1, 0.3 if size in (3, 5) and latency + jitter < TICK else 0.1]
    loss = rng.choice(losses) if not hunted else 0.0
    parameters = Parameters(
        size=size,
        spares=spares,
        witnesses=witnesses,
        promotion_lag=rng.choice([2, 100]),
        stream_time=rng.choice([100, 1000, 5000]),
        stream_loss=rng.choice([0.0, 0.2]),
        ticks=400 if hunted else 350 if loss > 0.1 else rng.choice([200, 250, 300]),
        election_ticks=rng.choice([10, 10, 20]) if not hunted else 6,
        heartbeat_ticks=rng.choice([1, 2, 4]) if not hunted and loss < 0.2 else rng.choice([1, 2]),
        max_append_bytes=append_bytes,
        max_inflight_bytes=rng.choice([1, 200, 1 << 20 if append_bytes > 1 else 600]),
        max_apply_bytes=rng.choice([1, 1 << 20]),
        latency=latency,
        jitter=jitter,
        grain=rng.choice([1, 1, 100, 500]),
        loss=loss,
        duplication=rng.choice([0.0, 0.05, 0.3]),
        fifo=rng.random() < 0.5,
        clock={node_id: 1 + rng.uniform(-drift, drift) for node_id in ids},
        disk={node_id: disk * rng.choice([1, 1, 1, 3]) for node_id in ids},
        group_commit=rng.random() < 0.5,
        batching=rng.choice([0.0, 0.0, 0.2, 0.6]),
        apply_delay=rng.choice([0, 0, 0, 100, 2000]),
        reset_on_crash=rng.random() < 0.5,
        lease_ms=0,
    )
    return parameters, hunted


def _with_leases(parameters: Parameters) -> Parameters:
    """Let leaders hold leases, where the clocks are good enough for a useful one."""
    slowness = max(abs(1 - length) for length in parameters.clock.values())
    if slowness > SMALL_DRIFT:
        return parameters
    # A tick that is shorter by a twentieth makes a clock that is faster by a nineteenth.
    drift_ppm = math.ceil(PPM * (1 / (1 - slowness) - 1))
    return replace(parameters, lease_ms=lease_ms(parameters.election_ticks, 1000, drift_ppm))


def _faults(parameters: Parameters, rng: random.Random, *, hunted: bool) -> list[Act]:
    kinds = [kind for kind in FAULTS if rng.random() < 0.6 and kind != "change amid an install"] or ["crash"]
    if parameters.size == 1:
        kinds = ["crash", "bounce", "power loss", "pause", "slow disk", "stalled disk"]
    if parameters.spares:
        kinds = [*kinds, "change amid an install"]
    weights = [FAULTS[kind] for kind in kinds]
    gap = rng.choice([8, 15, 30]) * TICK
    lasts = (rng.choice([5, 15, 40]) if parameters.size > 1 else 5) * TICK
    acts = []
    at = 60.0 * TICK  # long enough for a first leader
    if hunted:
        acts.append(Act(int(at), HUNT, rng.getrandbits(32), parameters.ticks * TICK // 2))
        gap *= 6
    while (at := at + rng.expovariate(1 / gap)) < (parameters.ticks - 10) * TICK:
        kind = rng.choices(kinds, weights)[0]
        length = 0 if kind in INSTANT else 1 + int(min(rng.expovariate(1 / lasts), 3 * lasts))
        if kind == "leader left behind":
            length = max(length, 40 * TICK)  # the others need time to elect another one, and to commit
        acts.append(Act(int(at), kind, rng.getrandbits(32), length))
    while len(acts) < LEAST_FAULTS:
        at = rng.uniform(60, parameters.ticks - 40)
        acts.append(Act(int(at * TICK), rng.choice(["bounce", "crash"]), rng.getrandbits(32), 10 * TICK))
    return acts


def _inputs(parameters: Parameters, rng: random.Random) -> list[Act]:
    acts: list[Act] = []
    gap = rng.choice([0.5, 1, 2]) * TICK
    burst = rng.choice([1, 1, 5])
    kinds = ["propose", "read", "transfer", "unreachable", "suspect", "checkpoint", "change members"]
    weights = [10.0, rng.choice([1, 5]), rng.choice([0.0, 0.2, 0.6]), 0.2, 0.2, rng.choice([0.0, 0.3, 1.0]), 0.0]
    if parameters.spares:
        weights[-1] = rng.choice([0.3, 1.0])
        weights[-2] = rng.choice([0.3, 1.0])
    at = 0.0
    while (at := at + rng.expovariate(1 / (gap * burst))) < parameters.ticks * TICK:
        acts.extend(
            Act(int(at) + i, rng.choices(kinds, weights)[0], rng.getrandbits(32)) for i in range(rng.randint(1, burst))
        )
    return acts


def has_unfit_nodes(seed: int) -> bool:
    """Whether nodes of this seed say now and then that they should not lead."""
    return random.Random(f"{seed}/fitness").random() < UNFIT_SHARE


def _unfit(parameters: Parameters, rng: random.Random) -> list[Act]:
    if rng.random() >= UNFIT_SHARE:
        return []
    return [
        Act(
            int(rng.uniform(60, parameters.ticks - 20) * TICK),
            UNFIT,
            rng.getrandbits(32),
            1 + int(rng.choice([5, 40]) * rng.expovariate(1) * TICK),
        )
        for _ in range(rng.choice([2, 4, 6]))
    ]
