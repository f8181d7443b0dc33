"""What one seed decides: how large everything is, how fast, and which faults come when. Drawn before the run begins.

Every aspect has a random stream of its own, so that a change of one leaves the others as they were; and the faults are
a list of values, so that a failing run can be repeated without some of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from raftkv.kv.limits import SESSION_TTL_MS
from raftkv.server.lease import PPM, lease_ms
from raftkv.server.node import NodeLimits
from raftkv.server.requests import RequestLimits
from raftkv.server.upkeep import AutoCompaction, CompactionMode
from raftkv.server.watch_hub import WatchLimits
from tests.sim.l1.caller import Habits
from tests.sim.l1.owner import KINDS
from tests.sim.l1.process import Settings

MIN_OPERATIONS = 25
"""A run whose clients have fewer operations answered before the faults are over says nothing."""
MIN_FAULTS = 5
"""Nor does one in which fewer faults took effect."""

MIN_DURATION_S = 6.0
"""With short election timeouts there are more waves of faults."""

SHORT_SESSION_MS = 1_500
"""Sessions that end within a run."""

SLOW_DISK_S = 0.03
"""Latency of a slow disk: well below the shortest election timeout, or nobody would ever win an election."""

FAULTS = (
    "partition",
    "isolate leader",
    "one way",
    "bridge",
    "flap",
    "reset",
    "slow link",
    "kill",
    "kill all",
    "power loss",
    "power loss of all",
    "crash in recovery",
    "clean restart",
    "pause",
    "failed sync",
    "disk full",
    "slow disk",
    "short writes",
    "transfer",
)

CHANGES = ("grow", "shrink", "swap", "replace", "wiped disk", "witness", "change amid an install")
"""Jobs of the operators: the members change, or have to (`operators`)."""

AMBUSH = "crash in an install"
"""Waits for a node to install a snapshot, which chance alone would hardly ever hit."""

PAUSE_OF_ALL = "pause of all"
"""All nodes stand still for longer than counts as time (`ClusterTime`): leases must not end by it."""

SPARES = 5
"""So many nodes may join in the course of a run."""

_RARE = frozenset({"kill all", "power loss of all"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault to come."""

    number: int
    at: float
    kind: str
    span_s: float
    """How long it lasts, or how long the node stays down. Of a job of the operators: how long they cut a node off."""

    def __str__(self) -> str:
        return f"{self.number}:{self.kind} at {self.at:.2f} for {self.span_s:.2f}"


@dataclass(frozen=True, slots=True)
class Plan:
    """See the module's docstring."""

    seed: int
    settings: Settings
    clients: tuple[Habits, ...]
    choosers: tuple[Habits, ...]
    """Clients that ask for all concerns and levels."""
    owners: tuple[Habits, ...]
    locks: tuple[bytes, ...]
    """What the owners contend for."""
    watchers: tuple[int, ...]
    """How many watches each of them has."""
    duration_s: float
    """Length of the safety phase."""
    faults: tuple[Fault, ...]

    def stream(self, name: str) -> Random:
        """Return a random stream that only `name` draws from."""
        return Random(f"raftkv-l1/{self.seed}/{name}")


LEASES = 10
"""Every so many seeds leaders may hold leases; the others elect faster, and are wrong more often."""


CHOOSERS = 5
"""Every so many seeds there are clients that choose concerns and levels."""


def make_plan(seed: int) -> Plan:
    """Draw everything."""
    random = Random(f"raftkv-l1/{seed}/plan")
    settings = _settings(random)
    election_s = settings.election_ticks * settings.tick_s
    if settings.max_inflight_bytes == 1 and settings.limits.max_entry_commands == 1:
        # One command after the other, each waiting for a slow disk: nobody would be answered within a deadline.
        settings = replace(settings, slow_disks=(1.0,) * len(settings.slow_disks))
    if seed % LEASES == LEASES - 1:
        settings = _with_leases(settings, Random(f"raftkv-l1/{seed}/leases"))
    faults, duration_s = _faults(Random(f"raftkv-l1/{seed}/faults"), election_s)
    changes = _changes(Random(f"raftkv-l1/{seed}/members"), len(faults), election_s, duration_s)
    if changes:
        faults += changes
        # New nodes are to need a snapshot, not only the log.
        due = min(settings.limits.checkpoint_log_bytes, 10_000)
        settings = replace(settings, limits=replace(settings.limits, checkpoint_log_bytes=due))
    faults += _ambushes(Random(f"raftkv-l1/{seed}/installs"), len(faults), election_s, duration_s)
    faults += _pauses(Random(f"raftkv-l1/{seed}/pauses"), len(faults), election_s, duration_s)
    others = Random(f"raftkv-l1/{seed}/others")
    return Plan(
        seed=seed,
        settings=replace(settings, auto_compaction=_compaction(others), watch_limits=_watch_limits(others)),
        clients=tuple(_habits(random, others) for _ in range(random.randint(1, 3))),
        choosers=_choosers(Random(f"raftkv-l1/{seed}/choosers")) if seed % CHOOSERS == CHOOSERS - 1 else (),
        owners=_owners(others),
        locks=tuple(others.sample(list(KINDS), others.choice([1, 1, 2]))),
        watchers=tuple(others.randint(1, 3) for _ in range(others.randint(1, 2))),
        duration_s=duration_s,
        faults=faults,
    )


def _settings(random: Random) -> Settings:
    tick_s = random.choice([0.01, 0.01, 0.02])
    election_ticks, heartbeat_ticks = random.choice([(25, 5), (12, 3), (15, 5)])
    size = random.choice([3, 3, 3, 5])
    disk_latency_s = random.choice([0.0002, 0.001, 0.005])
    slow = SLOW_DISK_S / disk_latency_s
    return Settings(
        nodes=tuple(range(1, size + 1)),
        spares=tuple(range(size + 1, size + 1 + SPARES)),
        tick_s=tick_s,
        election_ticks=election_ticks,
        heartbeat_ticks=heartbeat_ticks,
        max_append_bytes=random.choice([1, 300, 1 << 20, 1 << 20]),
        max_inflight_bytes=random.choice([1, 1000, 8 << 20, 8 << 20]),
        max_apply_bytes=random.choice([1, 1000, 1 << 20]),
        limits=NodeLimits(
            tick_s=tick_s,
            checkpoint_log_bytes=random.choice([4000, 10_000, 10_000, 64 << 20]),
            worthwhile_commands=random.choice([1, 2, 64]),
            max_entry_commands=random.choice([1, 4, 1024]),
            apply_slice_s=random.choice([0.0, 0.005]),
            undecided_s=random.choice([0.1, 1.0]),
            max_reads=random.choice([2, 10_000, 10_000]),
            max_proposal_commands=random.choice([30, 100_000, 100_000]),
        ),
        requests=_patience(random.choice([0.1, 1.0])),
        segment_bytes=random.choice([1024, 4096, 32768]),
        record_limit_bytes=random.choice([300, 1 << 20, 1 << 20]),
        disk_latency_s=disk_latency_s,
        slow_disks=(*[random.choice([1.0, 1.0, slow]) for _ in range(size)], *[1.0] * SPARES),
        hash_every=random.choice([20, 60]),
        session_ttl_ms=random.choice([SESSION_TTL_MS, SESSION_TTL_MS, SESSION_TTL_MS, SHORT_SESSION_MS]),
        clock_drift=(0.0,) * (size + SPARES),
    )


def _with_leases(settings: Settings, random: Random) -> Settings:
    """Let leaders hold leases, and clocks differ by no more than what these allow for."""
    drift_ppm = random.choice([1_000, 20_000])
    lasts_ms = lease_ms(settings.election_ticks, round(settings.tick_s * 1000), drift_ppm)
    drift = drift_ppm / PPM
    machines = len(settings.nodes) + len(settings.spares)
    return replace(
        settings,
        lease_ms=lasts_ms,
        clock_drift=tuple(random.choice([-drift, 0.0, drift]) for _ in range(machines)),
    )


def _compaction(random: Random) -> AutoCompaction:
    return random.choice([AutoCompaction(), AutoCompaction(CompactionMode.AGE, 1_000)])


def _watch_limits(random: Random) -> WatchLimits:
    """Draw how soon watches must read from the store, and in how small steps."""
    return WatchLimits(
        ring_bytes=random.choice([1, 20_000, 32 << 20]),
        turn_changes=random.choice([1, 2_000]),
        step_work=random.choice([1, 500]),
        message_bytes=random.choice([200, 1 << 20]),
        progress_s=random.choice([0.3, 10.0]),
    )


def _owners(random: Random) -> tuple[Habits, ...]:
    """Three lives at a time, of one client or of three."""
    count = random.choice([1, 3])
    return tuple(_habits_of_an_owner(random, 3 // count) for _ in range(count))


def _habits_of_an_owner(random: Random, width: int) -> Habits:
    return Habits(
        width=width,
        batch=1,
        keys=1,
        value_bytes=8,
        think_s=random.choice([0.05, 0.2]),
        patience_s=random.choice([0.5, 1.5, 4.0]),
        attempt_s=random.choice([0.2, 1.0]),
        follows=random.choice([0.0, 0.3, 1.0]),
        sessionless=0.0,
        reads=0.0,
        local=0.0,
        scans=0.0,
        deletes=0.0,
        txns=0.0,
    )


def _habits(random: Random, others: Random) -> Habits:
    return Habits(
        width=random.randint(1, 3),
        batch=random.choice([1, 2, 5]),
        keys=random.choice([1, 3, 8]),
        value_bytes=random.choice([8, 200, 2000, 5000]),
        think_s=random.choice([0.02, 0.05, 0.15]),
        patience_s=random.choice([0.5, 1.5, 4.0]),
        attempt_s=random.choice([0.2, 1.0, 3.0]),
        follows=random.choice([0.0, 0.3, 1.0]),
        sessionless=random.choice([0.0, 0.1, 0.5]),
        reads=random.choice([0.2, 0.5]),
        local=random.choice([0.0, 0.3]),
        scans=random.choice([0.0, 0.1, 0.3]),
        deletes=random.choice([0.0, 0.2, 0.4]),
        txns=others.choice([0.2, 0.5]),
    )


def _choosers(random: Random) -> tuple[Habits, ...]:
    return tuple(
        Habits(
            width=random.randint(2, 4),
            batch=1,
            keys=random.choice([1, 3, 8]),
            value_bytes=random.choice([8, 200]),
            think_s=random.choice([0.01, 0.05]),
            patience_s=random.choice([0.3, 1.0]),
            attempt_s=random.choice([0.1, 0.3, 1.0]),
            follows=random.choice([0.0, 0.3, 1.0]),
            sessionless=0.0,
            reads=0.0,
            local=0.0,
            scans=random.choice([0.0, 0.3]),
            deletes=random.choice([0.0, 0.2]),
            txns=0.0,
        )
        for _ in range(2)
    )


def _faults(random: Random, election_s: float) -> tuple[tuple[Fault, ...], float]:
    """Return the faults and how long all of it takes: waves, in which they overlap, and lulls to recover in.

    Everything is in proportion to the time that an election takes: a cluster that never gets to elect anybody would
    never be wrong.
    """
    weights = {
        kind: random.choice([0.0, 1.0, 1.0, 3.0]) * (0.3 if kind in _RARE else 1.0) for kind in FAULTS
    }  # swarm: some kinds are left out of a run altogether
    if not any(weights.values()):
        weights = dict.fromkeys(FAULTS, 1.0)
    faults: list[Fault] = []
    now = 3 * election_s
    waves = random.randint(4, 7)
    while waves > 0 or now < MIN_DURATION_S:
        waves -= 1
        calm_at = now
        for _ in range(random.randint(2, 6)):
            now += random.expovariate(2 / election_s)
            (kind,) = random.choices(list(weights), list(weights.values()))
            fault = Fault(len(faults), now, kind, random.uniform(0.05, 2.5) * election_s)
            faults.append(fault)
            calm_at = max(calm_at, now + fault.span_s)
        now = calm_at + 0.5 + random.uniform(3.0, 5.0) * election_s
    return tuple(faults), now


def _changes(random: Random, first: int, election_s: float, duration_s: float) -> tuple[Fault, ...]:
    """Return what the operators are to do; nothing in every other run."""
    if random.random() < 0.4:
        return ()
    # A witness and one copy of the data are all that is left when a disk is lost: what ADR 0005 gives no promise for.
    without = random.choice(["witness", "witness", "wiped disk"])
    weights = {kind: random.choice([0.5, 1.0, 3.0]) for kind in CHANGES}
    weights["wiped disk"] = 3.0  # the rest of the cluster must be well and know the victim: often enough it is not
    weights[without] = 0.0
    count = random.randint(1, 4)
    kinds = random.choices(list(weights), list(weights.values()), k=count)
    times = sorted(random.uniform(3 * election_s, 0.8 * duration_s) for _ in kinds)
    return tuple(
        Fault(number, at, kind, random.uniform(0.5, 4.0) * election_s)
        for number, (at, kind) in enumerate(zip(times, kinds, strict=True), first)
    )


def _ambushes(random: Random, first: int, election_s: float, duration_s: float) -> tuple[Fault, ...]:
    times = sorted(random.uniform(3 * election_s, duration_s) for _ in range(random.choice([0, 0, 1, 3])))
    return tuple(
        Fault(number, at, AMBUSH, random.uniform(0.05, 1.0) * election_s) for number, at in enumerate(times, first)
    )


def _pauses(random: Random, first: int, election_s: float, duration_s: float) -> tuple[Fault, ...]:
    if random.random() < 0.6:
        return ()
    return (Fault(first, random.uniform(3 * election_s, duration_s), PAUSE_OF_ALL, random.uniform(0.7, 2.0)),)


def _patience(wait_s: float) -> RequestLimits:
    return RequestLimits(default_timeout_s=2.0, leader_wait_s=wait_s, deposed_wait_s=wait_s)
