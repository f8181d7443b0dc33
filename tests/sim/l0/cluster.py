"""Cores, links and disks under one heap of events in virtual time. What goes wrong is decided elsewhere (faults.py).

Everything here runs for every message, so it is written for speed: no event costs more than a constant time, and random
numbers come from one stream for each purpose.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from heapq import heappop, heappush
from typing import Any

from raftkv.raft import (
    NO_MEMBERS,
    Configuration,
    Entry,
    Fitness,
    Index,
    LogWrite,
    Message,
    NodeId,
    RaftConfig,
    ReadState,
    Role,
    Snapshot,
)
from raftkv.raft.messages import InstallSnapshot
from raftkv.server.lease import Lease
from tests.raft.oracle import Oracle
from tests.sim.l0.clients import Clients
from tests.sim.l0.machine import Link, Machine
from tests.sim.l0.plan import TICK, Parameters

Event = tuple[int, float, int, Callable[[Any, Any, Any], None], Any, Any, Any]
"""When, a random number that decides between events of one time, a sequence number, what to do with which arguments."""

STALLED = 0
"""Instead of a factor: a disk that finishes nothing while the fault lasts."""

STRAGGLE = 20
"""One message in fifty takes so many jitters longer."""


class Cluster:
    """Machines in a world that only goes on when `run_until` says so."""

    def __init__(
        self,
        parameters: Parameters,
        seed: int,
        *,
        watch_promises: bool = True,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.parameters = parameters
        self.trace = trace
        self.now = 0
        self.steps = 0
        self.digest = 0
        self.counts: Counter[str] = Counter()
        """Traffic."""
        self.faults: Counter[str] = Counter()
        """Faults that hit something."""
        ids = parameters.machines
        nodes = random.Random(f"{seed}/nodes")
        self.machines = {node_id: self._machine(node_id, nodes.getrandbits(32)) for node_id in ids}
        for machine in self.machines.values():
            machine.links = {peer: Link(self.machines[peer]) for peer in ids if peer != machine.id}
        self.witnesses = frozenset(parameters.future_witnesses)
        self.clients = Clients(self.counts, self.witnesses)
        self.oracle = Oracle(self.machines, watch_promises=watch_promises)
        self.oracle.witnesses |= self.witnesses
        self.oracle.on_commit = self.clients.committed
        self.on_election: Callable[[Machine], None] = lambda leader: None
        self.leases = parameters.lease_ms > 0
        self.loss = parameters.loss
        self.duplicate_above = 1 - parameters.duplication
        self.latency = parameters.latency
        self.jitter = parameters.jitter
        self.straggle = min(STRAGGLE * parameters.jitter, (2 if parameters.fifo else 10) * TICK)
        """In order, it holds up all that are behind it."""
        self.grain = parameters.grain
        self.fifo = parameters.fifo
        self.batching = parameters.batching
        self.stream_loss = parameters.stream_loss
        self._heap: list[Event] = []
        self._sequence = 0
        self._elections = 0
        self._next_request = 0
        self._schedule_random = random.Random(f"{seed}/schedule").random
        self._settings_random = random.Random(f"{seed}/settings").random
        self._network_random = random.Random(f"{seed}/network").random
        self.disk_random = random.Random(f"{seed}/disk")
        for machine in self.machines.values():
            self._start_ticking(machine)

    def _machine(self, node_id: NodeId, seed: int) -> Machine:
        parameters = self.parameters
        founders = parameters.founders
        return Machine(
            RaftConfig(
                node_id=node_id,
                configuration=Configuration(frozenset(founders)) if node_id in founders else NO_MEMBERS,
                promotion_lag=parameters.promotion_lag,
                election_ticks=parameters.election_ticks,
                heartbeat_ticks=parameters.heartbeat_ticks,
                max_append_bytes=parameters.max_append_bytes,
                max_inflight_bytes=parameters.max_inflight_bytes,
                max_apply_bytes=parameters.max_apply_bytes,
                lease_ms=parameters.lease_ms,
            ),
            seed,
            tick_length=int(TICK * parameters.clock[node_id]),
            disk_time=parameters.disk[node_id],
            apply_delay=parameters.apply_delay,
        )

    # --- the heap -----------------------------------------------------------------------------------------------------

    def at(self, time: int, do: Callable[[Any, Any, Any], None], a: Any = None, b: Any = None, c: Any = None) -> None:
        self._sequence += 1
        heappush(self._heap, (time, self._schedule_random(), self._sequence, do, a, b, c))

    def at_rank(self, time: int, rank: float, do: Callable[[Any, Any, Any], None], a: Any, b: Any) -> None:
        """The same without a draw from the schedule's stream: one item of the tape more or less must not shift it."""
        heappush(self._heap, (time, rank, 0, do, a, b, None))

    def run_until(self, time: int) -> None:
        """Let everything happen that is due by `time`."""
        heap = self._heap
        while heap and heap[0][0] <= time:
            self.now, _, _, do, a, b, c = heappop(heap)
            self.steps += 1
            do(a, b, c)
        self.now = time

    # --- what happens to a machine ------------------------------------------------------------------------------------

    def _start_ticking(self, machine: Machine) -> None:
        machine.next_tick = self.now + int(self._schedule_random() * machine.tick_length)
        self.at(machine.next_tick, self._tick, machine, machine.life)

    def _tick(self, machine: Machine, life: int, _: None) -> None:
        if machine.life != life or self.now < machine.next_tick:
            return
        machine.next_tick = self.now + machine.tick_length
        self.at(machine.next_tick, self._tick, machine, life)
        if machine.pausers:
            machine.pausers[-1].hits += 1
            return
        machine.raft.tick()
        self.after_input(machine, 1)

    def _arrives(self, link: Link, message: Message, stamp: tuple[int, int]) -> None:
        generation, sequence = stamp
        machine = link.target
        if link.blockers:
            link.blockers[-1].hits += 1
            return
        if generation != link.generation or not machine.up:
            self.counts["messages to nobody"] += 1
            return
        if link.holders:
            link.holders[-1].hits += 1
            link.held.append(message)
            return
        if machine.pausers:
            machine.pausers[-1].hits += 1
            machine.inbox.append(message)
            return
        if sequence < link.newest:
            self.faults["message reordered"] += 1
        else:
            link.newest = sequence
        self.receive(machine, message)

    def receive(self, machine: Machine, message: Message) -> None:
        if isinstance(message, InstallSnapshot) and not message.bare and message.snapshot not in machine.checkpoints:
            return  # the bytes are not here: the driver does not ask the core (raft/snapshots.py)
        if self.trace is not None:
            self._tell(machine, f"<- {describe(message)}")
        machine.raft.step(message)
        self.after_input(machine, 2)

    def after_input(self, machine: Machine, kind: int) -> None:
        """`machine` has taken an input of some kind: judge it, and see what it wants done."""
        self.oracle.stepped(machine)
        raft = machine.raft
        log = raft.log
        self.digest = hash((self.digest, self.now, machine.id, kind, raft.term, log.commit, log.last_index))
        if machine.collects_later:
            return
        if self.batching and self._schedule_random() < self.batching:
            machine.collects_later = True
            self.at(self.now + 1 + int(self._schedule_random() * TICK / 2), self._collects, machine, machine.life)
            return
        self._collect(machine)

    def _collects(self, machine: Machine, life: int, _: None) -> None:
        if machine.life == life and machine.pausers:
            self.at(self.now + TICK, self._collects, machine, life)
        elif machine.life == life:
            self.counts["inputs batched"] += 1
            machine.collects_later = False
            self._collect(machine)

    def _collect(self, machine: Machine) -> None:
        """Do what the driver's manual says (raftkv/raft/__init__.py)."""
        if self.trace is not None:
            self._tell_state(machine)
        raft = machine.raft
        while (ready := raft.ready()) is not None:
            if self.leases:
                machine.lease.note(machine.clock_ms(self.now), raft.rounds)
            for message in ready.messages:
                self._send(machine, message)
            more = False
            if ready.write is not None:
                self.oracle.handed(machine, ready.write)
                if ready.write.restore is not None:
                    self._installs(machine)
                more = self._write(machine, ready.write)
            if ready.committed:
                if machine.apply_delay or machine.to_apply:
                    machine.to_apply.append(ready.committed)
                    self.at(self.now + machine.apply_delay, self._applies, machine, machine.apply_turn)
                else:
                    self._apply(machine, ready.committed)
                more = True
            for read in ready.reads:
                self._confirmed(machine, read)
            self.counts["reads dropped"] += len(ready.reads_dropped)
            for peer in ready.snapshots_needed:
                self._stream(machine, peer)
            if not more:
                break
        if len(self.oracle.leader_of) != self._elections:
            self._elections = len(self.oracle.leader_of)
            self.counts["elections"] += 1
            self.on_election(machine)

    # --- network ------------------------------------------------------------------------------------------------------

    def _send(self, machine: Machine, message: Message) -> None:
        self.oracle.sent(machine, message)
        self.counts["messages"] += 1
        link = machine.links[message.receiver]
        if link.blockers:
            link.blockers[-1].hits += 1
            return
        chance = self._network_random()
        if chance < self.loss:
            self.faults["message lost"] += 1
            return
        self._transmit(link, message)
        if chance > self.duplicate_above:
            self.faults["message duplicated"] += 1
            self._transmit(link, message)

    def _transmit(self, link: Link, message: Message) -> None:
        share = self._network_random()
        delay = self.latency + int(self.jitter * share)
        if share > 0.98:
            delay += self.straggle
        if link.slowness:
            fault, factor = link.slowness[-1]
            fault.hits += 1
            delay = min(delay * factor + TICK, 20 * TICK)
        at = self.now + delay
        if self.grain > 1:
            at += -at % self.grain
        if self.fifo:
            if at <= link.last_arrival:
                at = link.last_arrival + 1
            link.last_arrival = at
        self._sequence = sequence = self._sequence + 1
        heappush(
            self._heap,
            (at, self._schedule_random(), sequence, self._arrives, link, message, (link.generation, sequence)),
        )

    def deliver_late(self, link: Link, message: Message) -> None:
        """What a black hole held arrives after all."""
        self._sequence = sequence = self._sequence + 1
        self.at(self.now, self._arrives, link, message, (link.generation, sequence))

    def forget_messages(self) -> None:
        """What is on its way does not arrive."""
        for machine in self.machines.values():
            for link in machine.links.values():
                link.generation += 1
                link.last_arrival = self.now

    # --- disk ---------------------------------------------------------------------------------------------------------

    def _write(self, machine: Machine, write: LogWrite) -> bool:
        """Take one write. Return whether it is durable already."""
        machine.writes.append(write)
        if len(machine.writes) == 1 and not (write.needs_disk and (machine.disk_time or machine.slow_disk)):
            self._store(machine, 1)
            self.oracle.stepped(machine)
            return True
        if not machine.disk_is_busy:
            self._start_disk(machine)
        return False

    def _start_disk(self, machine: Machine) -> None:
        machine.disk_is_busy = True
        time = machine.disk_time
        if machine.slow_disk:
            fault, factor = machine.slow_disk[-1]
            fault.hits += 1
            time = min(time * factor + TICK, 15 * TICK)
        time = int(time * (0.5 + self.disk_random.random()))
        writes = len(machine.writes) if self.parameters.group_commit else 1
        self.at(self.now + time, self._disk_done, machine, machine.disk_turn, writes)

    def hurry_tick(self, machine: Machine) -> None:
        """Its next tick is no further away than its ticks are long now: it was put off when they were longer."""
        if machine.up and machine.next_tick > self.now + machine.tick_length:
            machine.next_tick = self.now + machine.tick_length
            self.at_rank(machine.next_tick, machine.id / 1000, self._tick, machine, machine.life)

    def hurry_disk(self, machine: Machine) -> None:
        """What is under way takes no longer than it would if it began now."""
        if machine.disk_is_busy:
            machine.disk_turn += 1
            self._start_disk(machine)

    def _disk_done(self, machine: Machine, turn: int, writes: int) -> None:
        if machine.disk_turn != turn:
            return
        if machine.pausers or (machine.slow_disk and machine.slow_disk[-1][1] == STALLED):
            fault = machine.pausers[-1] if machine.pausers else machine.slow_disk[-1][0]
            fault.hits += 1
            self.at(self.now + TICK, self._disk_done, machine, turn, writes)
            return
        machine.disk_is_busy = False
        waiting = machine.writes
        while writes < len(waiting) and not waiting[writes].needs_disk:
            writes += 1  # it only waited for those before it
        self._store(machine, writes)
        if machine.writes:
            self._start_disk(machine)
        self.after_input(machine, 3)

    def _store(self, machine: Machine, count: int) -> None:
        """The oldest `count` writes are durable, and the core hears of it."""
        before = machine.disk_hard_state
        messages: list[Message] = []
        number = 0
        for _ in range(count):
            write = machine.writes.popleft()
            machine.store(write)
            if write.restore is not None:
                self._installed(machine, write.restore)
            messages.extend(write.messages)
            number = write.number
        self.oracle.stored(machine, before)
        if self.trace is not None:
            self._tell(
                machine, f"disk has write {number}: entries up to {machine.last_on_disk}, {machine.disk_hard_state}"
            )
        for message in messages:
            self._send(machine, message)
        machine.raft.persisted(number)

    # --- state machine and reads --------------------------------------------------------------------------------------

    def _applies(self, machine: Machine, turn: int, _: None) -> None:
        if machine.apply_turn == turn and machine.pausers:
            self.at(self.now + TICK, self._applies, machine, turn)
        elif machine.apply_turn == turn:
            self._apply(machine, machine.to_apply.popleft())
            self.after_input(machine, 4)

    def _apply(self, machine: Machine, entries: tuple[Entry, ...]) -> None:
        self.oracle.applies(machine, entries)
        for entry in entries:
            machine.applied.append(entry)
            self.clients.applied(machine, entry)
        machine.raft.applied(entries[-1].index)
        self._serve_waiting(machine)
        if self.leases:
            self.read_by_lease()

    def _serve_waiting(self, machine: Machine) -> None:
        if machine.waiting_reads:
            due = [read for read in machine.waiting_reads if read.index <= machine.applied_index]
            machine.waiting_reads = [read for read in machine.waiting_reads if read.index > machine.applied_index]
            for read in due:
                self.clients.read_served(machine, read)

    def _confirmed(self, machine: Machine, read: ReadState) -> None:
        self.oracle.read_confirmed(machine, read)
        if read.index <= machine.applied_index:
            self.clients.read_served(machine, read)
        else:
            machine.waiting_reads.append(read)

    def read(self, machine: Machine) -> int:
        """Begin a linearizable read. Return its number."""
        self._next_request += 1
        request = self._next_request
        self.oracle.read_begins(machine, request)
        self.clients.read_begins(request)
        machine.raft.read_index(request)
        self.after_input(machine, 5)
        return request

    def read_by_lease(self) -> None:
        """Ask everybody who holds a lease."""
        for machine in self.machines.values():
            if machine.holds_lease(self.now):
                self.clients.read_by_lease(machine)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoint(self, machine: Machine, keep: int, time: int) -> None:
        """Begin a checkpoint of what is applied; once it is durable, all but `keep` of the entries before it go."""
        log = machine.raft.log
        if machine.applied_index >= max(log.first_index - 1, 1):  # else a snapshot is being installed
            snapshot = machine.raft.snapshot_at(log.applied)
            self.at(self.now + time, self._checkpointed, machine, machine.life, (snapshot, keep))

    def _checkpointed(self, machine: Machine, life: int, made: tuple[Snapshot, int]) -> None:
        if machine.life != life:
            return
        snapshot, keep = made
        if machine.raft.snapshot is not None and snapshot.index <= machine.raft.snapshot.index:
            return  # one from the leader is being installed, or is already
        if self.trace is not None:
            self._tell(machine, f"checkpoint of {snapshot.index}@{snapshot.term} is durable, {keep} entries are kept")
        machine.checkpointed(snapshot)
        machine.raft.compact(snapshot, Index(max(machine.raft.log.first_index, snapshot.index + 1 - keep)))
        self.counts["checkpoints"] += 1
        self.after_input(machine, 10)

    def _stream(self, machine: Machine, peer: NodeId) -> None:
        self.at(self.now + self.parameters.stream_time, self._streamed, machine, machine.life, peer)

    def _streamed(self, machine: Machine, life: int, peer: NodeId) -> None:
        """A checkpoint has reached `peer`, or has not."""
        if machine.life != life:
            return
        if machine.pausers:
            self.at(self.now + TICK, self._streamed, machine, life, peer)
            return
        target, snapshot = self.machines[peer], machine.raft.snapshot
        ways = (machine.links[peer], target.links[machine.id])
        cut = any(way.blockers or way.holders for way in ways) or not target.up or bool(target.pausers)
        if snapshot is None or cut or self._network_random() < self.stream_loss:
            self.faults["checkpoint lost on its way"] += 1
            machine.raft.snapshot_failed(peer)
        else:
            self.counts["checkpoints sent"] += 1
            target.checkpoints[snapshot] = machine.applied[: snapshot.index]
            machine.raft.snapshot_delivered(peer, snapshot)
        self.after_input(machine, 11)

    def _installs(self, machine: Machine) -> None:
        """A core wants its state and log replaced: what it handed out before counts no more."""
        machine.drop_applies()
        self.counts["snapshots to install"] += 1
        split = any(link.blockers for other in self.machines.values() for link in other.links.values())
        if split and any(leader.raft.changing for leader in self.leaders()):
            self.counts["snapshots to install amid a change and a partition"] += 1

    def _installed(self, machine: Machine, snapshot: Snapshot) -> None:
        if self.trace is not None:
            self._tell(machine, f"state and log are those of the snapshot of {snapshot.index}@{snapshot.term}")
        self.counts["snapshots installed"] += 1
        self.oracle.restored(machine, snapshot)
        self.clients.restored(machine, snapshot.index)
        self._serve_waiting(machine)

    # --- life and death -----------------------------------------------------------------------------------------------

    def crash(self, machine: Machine) -> None:
        """Kill the process. Of the writes under way, the disk has got some, which nobody was told."""
        kept = self.disk_random.randint(0, len(machine.writes))
        before = machine.disk_hard_state
        for write in list(machine.writes)[:kept]:
            machine.store(write)
            if write.restore is not None:
                self._installed(machine, write.restore)
        self.oracle.stored(machine, before)
        self.faults["unsynced write lost"] += len(machine.writes) - kept
        self.faults["unconfirmed write kept"] += kept
        if self.trace is not None:
            self._tell(machine, f"crashes; {kept} of {len(machine.writes)} writes under way are on disk")
        self.clients.crashed(machine)
        machine.crash()
        if self.parameters.reset_on_crash:
            for peer in self.machines.values():
                if peer.up:
                    self.break_connection(machine, peer)

    def restart(self, machine: Machine) -> None:
        if self.leases:
            # Somebody may have changed the settings. What was promised before holds all the same.
            promised = bool(machine.config.lease_ms or machine.config.quarantine_ticks)
            machine.config = replace(
                machine.config,
                lease_ms=self.parameters.lease_ms if self._settings_random() < 0.8 else 0,
                quarantine_ticks=self.parameters.election_ticks + 1 if promised else 0,
            )
            machine.lease = Lease(machine.config.lease_ms)
        machine.restart()
        if self.trace is not None:
            self._tell(machine, f"restarts with entries up to {machine.last_on_disk}, {machine.disk_hard_state}")
        self.oracle.restarted(machine)
        self._start_ticking(machine)
        self.after_input(machine, 6)

    def resume(self, machine: Machine) -> None:
        """SIGCONT: what has queued up comes in before anything else."""
        while machine.inbox and machine.up and not machine.pausers:
            self.receive(machine, machine.inbox.popleft())

    def set_fitness(self, machine: Machine, fitness: Fitness) -> None:
        """The driver of a machine says whether it should lead, now or when it is back."""
        machine.set_fitness(fitness)
        if machine.up:
            if self.trace is not None:
                self._tell(machine, f"is {fitness.value}")
            self.after_input(machine, 13)

    def lose_state(self, machine: Machine, applied: int) -> None:
        """The state machine of a machine that is down is back at an earlier index (a checkpoint)."""
        del machine.applied[applied:]
        machine.applied_index = applied
        machine.state_hash = self.clients.state_hashes[applied]
        self.oracle.state_lost(machine, applied)

    def break_connection(self, machine: Machine, peer: Machine) -> None:
        """Both directions lose what is on its way, and who is up notices."""
        for a, b in ((machine, peer), (peer, machine)):
            a.links[b.id].generation += 1
            a.links[b.id].held.clear()
            if a.up and not a.pausers:
                a.raft.unreachable(b.id)
                a.raft.suspect(b.id)
                self.after_input(a, 7)

    # --- what it looks like -------------------------------------------------------------------------------------------

    def leaders(self) -> list[Machine]:
        return [m for m in self.machines.values() if m.up and not m.pausers and m.raft.role is Role.LEADER]

    def say(self, text: str) -> None:
        """Put a line into the trace."""
        if self.trace is not None:
            self.trace(f"{self.now / TICK:9.2f}  {text}")

    def _tell(self, machine: Machine, text: str) -> None:
        raft = machine.raft
        self.say(f"n{machine.id} t{raft.term:<3} {raft.role.value:13}  {text}")

    def _tell_state(self, machine: Machine) -> None:
        raft, log = machine.raft, machine.raft.log
        state = (raft.role, raft.term, raft.leader, log.commit)
        if state != machine.told:
            machine.told = state
            self._tell(machine, f"   leader {raft.leader}, log ends at {log.last_index}, committed {log.commit}")


def describe(message: Message) -> str:
    """One message in one line."""
    fields = []
    for name in message.__dataclass_fields__:
        value = getattr(message, name)
        if name == "entries":
            value = "[" + " ".join(f"{e.index}@{e.term}" for e in value) + "]"
        if name not in ("sender", "receiver", "term"):
            fields.append(f"{name}={value}")
    return f"n{message.sender} {type(message).__name__} t{message.term} {' '.join(fields)}"
