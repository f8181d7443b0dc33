"""Random runs: one seed decides everything, from the sizes of messages to every fault. A seed and a commit are a bug
report.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

from raftkv.raft import EntryKind, Position, Role
from tests.raft.network import Network

CONVERGENCE_TICKS = 60
"""Six election timeouts: how long a healed cluster may take to agree on everything."""


class Chaos:
    """A cluster of cores, and a malicious but fair scheduler. Every parameter is drawn anew for each seed."""

    def __init__(self, size: int, seed: int, *, watch_promises: bool = True) -> None:
        self.random = rng = random.Random(f"{size}/{seed}")
        self.network = Network(
            size,
            seed=rng.randrange(1 << 30),
            max_append_bytes=rng.choice([1, 100, 1 << 20]),
            max_inflight_bytes=rng.choice([1, 200, 1 << 20]),
            watch_promises=watch_promises,
        )
        self.loss = rng.choice([0.0, 0.02, 0.1, 0.3])
        self.duplication = rng.choice([0.0, 0.05, 0.3])
        self.reordering = rng.choice([0.0, 0.05, 0.5])
        self.together = rng.choice([0.0, 0.5])
        self.clock_speed = {node_id: rng.choice([1.0, 1.0, 0.2]) for node_id in self.network.nodes}
        self.counts: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        stormy = rng.choice([0.1, 0.5, 2.0])
        self._weights: dict[Callable[[], None], float] = {
            self._deliver: 60,
            self._tick: rng.choice([8, 15, 30]),
            self._propose: rng.choice([2, 6]),
            self._read: 3,
            self._flush: rng.choice([2, 8]),
            self._turn_disk: rng.choice([0.1, 0.8]),
            self._partition: 0.4 * stormy,
            self._heal: rng.choice([0.1, 0.5]),
            self._crash: 0.3 * stormy,
            self._restart: 1.0,
            self._bounce: 0.15 * stormy,
            self._transfer: rng.choice([0.1, 0.6]),
            self._unreachable: 0.2,
        }

    def run(self, events: int) -> None:
        """Let `events` things happen. Raises SafetyViolation or InvariantViolation if one must not."""
        self.network.wait_for_leader()
        for act in self.random.choices(list(self._weights), list(self._weights.values()), k=events):
            act()

    def heal_and_converge(self) -> int:
        """Remove every fault; return how many ticks the cluster took to agree, which must be bounded (liveness)."""
        network = self.network
        network.heal()
        for node in network.nodes.values():
            if not node.up:
                network.restart(node.id)
            node.disk_is_slow = False
            network.flush(node.id)
        goal = b"goal"
        for ticks in range(CONVERGENCE_TICKS):
            network.tick()
            leader = next((n for n in network.nodes.values() if n.raft.role is Role.LEADER), None)
            if leader is not None and goal not in network.applied_data(leader.id):
                leader.raft.propose(goal, EntryKind.COMMANDS)
                network.collect(leader.id)
                network.settle()
            if all(goal in network.applied_data(node_id) for node_id in network.nodes):
                self._require_agreement()
                return ticks
        status = {n.id: (n.raft.role.value, n.raft.term, n.raft.log.last_index) for n in network.nodes.values()}
        raise AssertionError(f"no agreement after {CONVERGENCE_TICKS} ticks without faults: {status}")

    def _require_agreement(self) -> None:
        network = self.network
        leader = network.wait_for_leader()
        network.tick(3)
        logs = {tuple(network.log_terms(node_id)) for node_id in network.nodes}
        assert len(logs) == 1, f"logs differ: {logs}"
        assert {network[node_id].leader for node_id in network.nodes} == {leader}
        assert {network[node_id].log.applied for node_id in network.nodes} == {network[leader].log.last_index}
        request = network.read(leader)
        assert request in [read.request for read in network.node(leader).reads], "a read is not confirmed"

    def trace(self) -> str:
        """Everything observable that came of the run."""
        nodes = self.network.nodes.values()
        return repr(
            [(n.raft.role, n.raft.term, n.disk_hard_state, n.disk_log, n.applied, n.reads) for n in nodes]
            + [self.network.delivered]
        )

    # --- what can happen ---

    def _deliver(self) -> None:
        queue = self.network.queue
        if not queue:
            return
        position = self.random.randrange(len(queue)) if self.random.random() < self.reordering else 0
        message = queue[position]
        if self.random.random() < self.duplication:
            self.counts["duplicated"] += 1
        else:
            del queue[position]
        if self.random.random() < self.loss:
            self.counts["lost"] += 1
        else:
            self.network.deliver(message)
        while len(queue) > 300:
            queue.popleft()

    def _tick(self) -> None:
        up = [node.id for node in self.network.nodes.values() if node.up]
        if up:
            (node_id,) = self.random.choices(up, [self.clock_speed[node_id] for node_id in up])
            self.network.tick_one(node_id)

    def _propose(self) -> None:
        for node in self._leaders():
            if isinstance(self.network[node].propose(b"%d" % next(self._numbers), EntryKind.COMMANDS), Position):
                self.counts["proposed"] += 1
            if self.random.random() < 0.7:  # else: several inputs share one Ready
                self.network.collect(node)

    def _read(self) -> None:
        for node in self._leaders():
            self.counts["reads"] += 1
            self.network.read(node, settle=False)

    def _flush(self) -> None:
        slow = [node.id for node in self.network.nodes.values() if node.up and node.writes]
        if slow:
            node_id = self.random.choice(slow)
            writes = self.random.randint(1, len(self.network.node(node_id).writes))
            self.network.flush(node_id, writes=writes, together=self.random.random() < self.together)

    def _turn_disk(self) -> None:
        node = self.random.choice(list(self.network.nodes.values()))
        node.disk_is_slow = not node.disk_is_slow
        if node.up and not node.disk_is_slow:
            self.network.flush(node.id)

    def _partition(self) -> None:
        network, ids = self.network, list(self.network.nodes)
        if len(ids) == 1:
            return
        self.random.shuffle(ids)
        split = self.random.randrange(1, len(ids))
        match self.random.choice(["split", "one-way", "bridge", "isolate the leader"]):
            case "split":
                network.partition(ids[:split], ids[split:])
            case "one-way":
                network.cut |= {(a, b) for a in ids[:split] for b in ids[split:]}
            case "bridge":  # ids[0] reaches both sides, which do not reach each other
                middle = (len(ids) + 1) // 2
                network.partition(ids[1:middle], ids[middle:])
            case _:
                for leader in self._leaders():
                    network.isolate(leader)
        self.counts["partitions"] += 1

    def _heal(self) -> None:
        self.network.heal()

    def _crash(self) -> None:
        if (node_id := self._up()) is not None:
            self.counts["crashes"] += 1
            self.counts["writes lost"] += len(self.network.node(node_id).writes)
            self.network.crash(node_id)

    def _restart(self) -> None:
        down = [node.id for node in self.network.nodes.values() if not node.up]
        if down:
            self.network.restart(self.random.choice(down))

    def _bounce(self) -> None:
        """A process dies and is back at once, before anybody could notice."""
        if (node_id := self._up()) is not None:
            self.counts["crashes"] += 1
            self.counts["writes lost"] += len(self.network.node(node_id).writes)
            self.network.crash(node_id)
            self.network.restart(node_id)

    def _transfer(self) -> None:
        for leader in self._leaders():
            target = self.random.choice([None, *self.network.nodes])
            self.counts["transfers"] += self.network.transfer(leader, target, settle=False) is None

    def _unreachable(self) -> None:
        if (node_id := self._up()) is not None:
            self.network[node_id].unreachable(self.random.choice(list(self.network.nodes)))
            self.network.collect(node_id)

    def _up(self) -> int | None:
        return self.random.choice([node.id for node in self.network.nodes.values() if node.up] or [None])

    def _leaders(self) -> list[int]:
        return [node.id for node in self.network.nodes.values() if node.up and node.raft.role is Role.LEADER]
