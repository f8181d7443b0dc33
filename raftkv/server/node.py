"""The driver: the only place where time, disk, network and the two pure packages meet.

It feeds the core, does what each Ready says in the order that `raftkv.raft` prescribes, and tells whoever waits. It
decides nothing about consensus and nothing about data. Everything that is not pure is given to it, so that the same
driver runs in production and under a simulator's virtual time.

Its tasks: one ticks, one writes the log, one turns the crank, one makes checkpoints (`checkpoints`), some propose what
keeps the state tidy (`upkeep`). Batching needs no timers: whatever arrives while the log is being written becomes the
next entry (DESIGN.md section 4).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from raftkv.errors import (
    CorruptState,
    DataDirectoryMismatch,
    FailedPrecondition,
    NoRoom,
    NotLeader,
    Overloaded,
    ShuttingDown,
    StorageError,
)
from raftkv.invariant import InvariantViolation, invariant
from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import Batch, Group
from raftkv.kv.machine import AppliedEntry, StateMachine
from raftkv.quorum import LogEnd, is_rinsed
from raftkv.raft import (
    Entry,
    EntryKind,
    Fitness,
    Index,
    LogWrite,
    MembershipChange,
    Message,
    NodeId,
    Position,
    Raft,
    Ready,
    Role,
    Term,
)
from raftkv.raft.log import entry_bytes
from raftkv.raft.messages import AppendRequest, InstallSnapshot, VoteRequest
from raftkv.server.alarms import Alarms
from raftkv.server.applied_waits import AppliedWaits, Reached
from raftkv.server.barriers import Barrier, Barriers, ReadIndex
from raftkv.server.checkpoints import Checkpoints
from raftkv.server.clock import Clock
from raftkv.server.cluster_time import ClusterTime
from raftkv.server.commit_times import CommitTimes
from raftkv.server.disk_health import DiskHealth, unwatched
from raftkv.server.durability import Copies, Durability
from raftkv.server.failovers import Failovers, Reign
from raftkv.server.fitness import Objections
from raftkv.server.keeper import Keeper
from raftkv.server.lease import Lease
from raftkv.server.proposals import Outcome, Proposals
from raftkv.server.pulse import Pulse
from raftkv.server.quarantine import Quarantine
from raftkv.server.replay import REPLAY_BYTES, in_slices
from raftkv.server.replication_lag import ReplicationLag
from raftkv.server.state_hashes import StateHashes, asks_for_hash
from raftkv.server.tallies import Tallies
from raftkv.server.upkeep import AutoCompaction, Upkeep
from raftkv.server.watch_hub import WatchHub, WatchLimits
from raftkv.storage.corrupt_mark import CorruptMark
from raftkv.storage.progress import UNHEARD, Progress
from raftkv.storage.protocols import LogStore
from raftkv.storage.worker import Inline, Runner
from raftkv.transport.protocols import Incoming, Transport
from raftkv.v1 import cluster_pb2 as pb

log = structlog.get_logger("raftkv.node")


SHORTEST_SLEEP_MS = 0.1
"""What is left of a tick may be less than a timer can tell from nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLimits:
    """What bounds a node's queues."""

    tick_s: float = 0.01
    """Length of the core's tick, in seconds."""
    checkpoint_log_bytes: int = 64 << 20
    """So much log after a checkpoint makes another one due, or a quarter of the store's size, if that is more."""
    checkpoint_entries: int = 100_000
    """So many entries do, too (more in the same measure): each takes memory and, at a start, time beside its bytes."""
    max_entry_bytes: int = 1 << 20
    """Writes are gathered into one entry up to this size; a larger single group makes an entry of its own."""
    worthwhile_commands: int = 64
    """So many waiting commands make an entry even while an earlier one is being written: followers get it sooner."""
    max_entry_commands: int = 1024
    """The same by number: an entry is applied in one go, a command takes some 10 us, and heartbeats wait meanwhile."""
    apply_slice_s: float = 0.005
    """Entries are applied for this long, in seconds, before everybody else gets a turn."""
    undecided_s: float = 1.0
    """A replicated write without a session waits this long, in seconds, for its fate after leadership was lost."""
    max_reads: int = 10_000
    """Batches of reads that wait for their confirmation; what comes on top is refused as Overloaded."""
    max_proposal_bytes: int = 64 << 20
    max_proposal_commands: int = 100_000
    """Writes that wait or are being replicated; what comes on top is refused as Overloaded."""
    max_log_bytes: int = 16 << 20
    max_log_commands: int = 2048
    """Of these, what may be in the log and not applied: about a tenth of a second of work, more than keeps disk and
    network busy. What waits beyond that can be overtaken by renewals of leases, and had no effect if leadership is
    lost."""


class Node:
    """One running node."""

    def __init__(
        self,
        *,
        raft: Raft,
        keeper: Keeper,
        log_store: LogStore,
        transport: Transport,
        clock: Clock,
        limits: NodeLimits | None = None,
        watch_limits: WatchLimits | None = None,
        auto_compaction: AutoCompaction = AutoCompaction(),  # noqa: B008 - it is frozen
        alarms: Alarms | None = None,
        disk_health: DiskHealth | None = None,
        quarantine: Quarantine | None = None,
        hashing: Runner | None = None,
        tallies: Tallies | None = None,
    ) -> None:
        """`hashing`: where states are hashed; the node ends it. None: on the loop."""
        self.raft = raft
        self.tallies = tallies or Tallies()
        """What it counts of its work."""
        self.failovers = Failovers(time.time)
        """The changes of leaders that it has seen."""
        self._lag = ReplicationLag()
        self._commit_times = CommitTimes(self.tallies.commits)
        self._keeper = keeper
        self.disk_health = disk_health or unwatched(clock)
        self._log_store = log_store = self.disk_health.watched(log_store)
        self._transport = transport
        self._limits = limits or NodeLimits()
        self.alarms = alarms or Alarms(time.time)
        self.objections = Objections(self._set_fitness)
        """What speaks against this node leading."""
        self.disk_health.bind(self.objections, self.alarms, raft.set_full)
        self._clock = clock
        self._time = ClusterTime(clock)
        self._lease = Lease(raft.lease_ms)
        self._proposals = Proposals(
            max_bytes=self._limits.max_proposal_bytes,
            max_commands=self._limits.max_proposal_commands,
            max_log_bytes=self._limits.max_log_bytes,
            max_log_commands=self._limits.max_log_commands,
            failed=self.tallies.failed_writes,
        )
        self._durability = Durability(raft)
        self._pulse = Pulse()
        self.checkpoints = Checkpoints(
            raft=raft,
            keeper=keeper,
            log_store=log_store,
            transport=transport,
            due_bytes=self._limits.checkpoint_log_bytes,
            due_entries=self._limits.checkpoint_entries,
            begin_task=self.begin_task,
            pulse=self._pulse,
            deliver=self._step,
            wake=self.wake,
            fail=self._fail,
            disk_health=self.disk_health,
            corruption=lambda: self.corruption,
            diverged=lambda message: self.alarms.set(pb.DIVERGED, message),
        )
        self._upkeep = Upkeep(self, auto_compaction)
        self._barriers = Barriers()
        self._applied_waits = AppliedWaits()
        self._hashing = hashing or Inline()
        self.states = StateHashes(lambda: self.machine, self._hashing, self.begin_task)
        """The hashes of the state where it was to be compared with those of others."""
        self._quarantine = quarantine or Quarantine()
        self._mark_waits = False
        """Its mark has found no room."""
        self.hub = WatchHub(self.machine.revision, watch_limits)
        """What watches read from."""
        self._unapplied: deque[Entry] = deque()
        self._starved = False
        """The first of them has found no room in the state store, and waits for it."""
        self._writes: deque[LogWrite] = deque()
        self._writing = False
        self._stored_index = raft.log.last_index
        """Where the log on disk ends."""
        self._wake = asyncio.Event()
        self._wake_writer = asyncio.Event()
        self._known = self._standing()
        self._led = Term(0)
        """The term that this node has led last; 0: none yet."""
        self._followed: tuple[NodeId | None, Term] = (None, Term(0))
        """The newest leader that this node has known, itself included, and its term."""
        self._configuration = raft.configuration
        self._shrinks = True
        self._leadership_changed: asyncio.Future[None] | None = None
        self._stopped: ShuttingDown | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Gets the exception that made the node stop by itself: a failed disk, a violated invariant."""
        self._serving_state = True
        if self._quarantine.mark is not None:
            self._leave_service()

    # --- life ---------------------------------------------------------------------------------------------------------

    def recover(self, progress: Progress = UNHEARD) -> None:
        """Apply what is known to be committed, so that the node does not begin by serving an older state.

        Nobody waits for a result yet, nor watches: so many entries share a transaction.
        """
        committed: list[Entry] = []
        while (ready := self.raft.ready()) is not None:
            invariant(not ready.messages and ready.write is None, "a node that has heard nothing has nothing to say")
            committed += ready.committed
        with progress.phase("applying the log", sum(map(entry_bytes, committed))) as phase:
            for entries in in_slices(committed, REPLAY_BYTES):
                self._replay(entries)
                phase.advance(sum(map(entry_bytes, entries)))
        self.hub.reset(self.machine.revision)
        self.checkpoints.make_when_due()

    def _replay(self, entries: Sequence[Entry]) -> None:
        self.machine.apply([AppliedEntry(entry.index, entry.term, self._payload(entry)) for entry in entries])
        for entry in entries:
            self.checkpoints.applied(entry)
        self.raft.applied(entries[-1].index)

    async def start(self) -> None:
        """Join the cluster. Call `recover` before."""
        await self._transport.start(self)
        self._note_configuration()
        for name, coroutine in (
            ("tick", self._tick()),
            ("write", self._write()),
            ("crank", self._crank()),
            ("checkpoint", self.checkpoints.run()),
            *self._upkeep.tasks(),
            *self.disk_health.tasks(),
        ):
            self.begin_task(name, coroutine)

    async def hand_over(self, timeout_s: float) -> bool:
        """If this node leads, let another one take over. Return whether it does not lead any more.

        Writes that arrive meanwhile wait and then go to the new leader. Gives up after `timeout_s` seconds.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.is_leader and len(self.raft.voters) > 1:
                    # One may be under way already, to a preferred node.
                    refusal = None if self.raft.transferring else self.raft.transfer(leaving=True)
                    self.wake()
                    if refusal is not None and not self.raft.term_is_committed:
                        await self.leadership_changed()  # a new leader, whom nobody has answered yet
                        continue
                    if refusal is not None:
                        log.warning("leadership not handed over", reason=refusal)
                        break
                    while self.raft.transferring:
                        await self.leadership_changed()
        return not self.is_leader

    async def stop(self) -> None:
        """Stop at once: everybody who waits is told so. Does not close the log store. Idempotent."""
        self._refuse_all(ShuttingDown("the node is shutting down"))
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._transport.close()
        await self._hashing.stop()

    @property
    def machine(self) -> StateMachine:
        """The state as it is now; ask again after every await, since an installed snapshot brings another one."""
        return self._keeper.machine

    # --- what services ask for ----------------------------------------------------------------------------------------

    def propose(
        self,
        group: Group,
        size_bytes: int,
        deadline: float,
        *,
        weight: int = 0,
        alone: bool = False,
        early: int = 0,
    ) -> Outcome:
        """Replicate and apply a group of commands; the future gets their results once they are applied here.

        `size_bytes` is roughly what they take in the log, `deadline` (event loop time) is when nobody waits any more.
        `weight` is what they take to apply, in puts, or 0: they are. `alone` keeps other groups out of the entry. With
        `early` the future is done, without results, as soon as this node and so many voters have them on disk, if that
        comes first, and if nothing but a lost entry can keep the commands from taking effect (`_sure_to_take_effect`);
        they are plain puts, and deletes of one key.

        Raises NotLeader, Overloaded, ShuttingDown (no effect). The future may also get LeaderChanged and ShuttingDown
        with `ambiguous` set.
        """
        self._require_leading()
        outcome = self._proposals.add(group, size_bytes, deadline, weight=weight, alone=alone, early=early)
        self.wake()
        return outcome

    def copies(self, index: int) -> Copies:
        """Return how many voters are known to have the committed entry `index` on disk; 0: not known here."""
        return self._durability.copies(index)

    async def copied(self, index: int, voters: int, until: float) -> Copies:
        """Wait until so many voters have the committed entry `index` on disk, or leadership is lost, or it is `until`.

        Return how many have it; 0: not known here. `until` is of the event loop's time.
        """
        copies = self._durability.copies(index)
        if copies.voters >= voters or not self.is_leader or self._stopped is not None:
            return copies
        try:
            async with asyncio.timeout_at(until):
                return await self._durability.reached(index, voters)
        except TimeoutError:
            return self._durability.copies(index)

    def read_barrier(self) -> Barrier:
        """Return a future that is done when a read of the local state is linearizable (ReadIndex).

        Raises NotLeader, ShuttingDown, which the future may get as well, and Overloaded.
        """
        self._require_leading()
        self._limit_reads()
        barrier = self._barriers.add()
        self.wake()
        return barrier

    def lease_barrier(self) -> Barrier | None:
        """Return a future that is done when a read of the local state is linearizable, by this leader's lease.

        None: this node holds no lease at the moment; use `read_barrier`. Raises FailedPrecondition where leases are
        off, Overloaded and ShuttingDown.
        """
        self._require_running()
        if not self.raft.lease_ms:
            raise FailedPrecondition(
                "leases are off: read at level LINEARIZABLE, or start all nodes with --lease-drift-ppm"
            )
        if not self._lease.holds(self._clock.now_ms(), self.raft.rounds):
            return None
        self._limit_reads()
        barrier = self._barriers.add_confirmed(self.raft.log.commit)
        self._barriers.applied(self.machine.applied_index)
        return barrier

    def read_index(self) -> ReadIndex:
        """Return a future that gets the index which a state must have applied to be read linearizably, wherever it is.

        It is the commit index of a moment after this call. Raises NotLeader, ShuttingDown, which the future may get as
        well.
        """
        self._require_leading()
        index = self._barriers.add_index()
        self.wake()
        return index

    def applied(self, target: LogEnd, *, or_later_term: bool = False) -> Reached | None:
        """Return a future that is done once the state has applied `target`; None: it has.

        See `AppliedWaits.add`. Raises Overloaded and ShuttingDown, which the future may get as well.
        """
        self._require_running()
        machine = self.machine
        if machine.applied_index >= target.last_index or (or_later_term and machine.applied_term > target.last_term):
            return None
        self._limit_reads()
        return self._applied_waits.add(target, or_later_term=or_later_term)

    def rinsed(self, target: LogEnd) -> Reached | None:
        """Return a future that is done once the state may answer a quorum read with this target; None: it may.

        Raises Overloaded and ShuttingDown, which the future may get as well.
        """
        self._require_running()
        if is_rinsed(target, self.machine.applied_term, self.machine.applied_index):
            return None
        self._limit_reads()
        return self._applied_waits.add_rinse(target)

    # --- a state that is not to be trusted ----------------------------------------------------------------------------

    @property
    def corruption(self) -> CorruptState | None:
        """What this node answers instead of anything that it knows from its state; None: it may answer."""
        if self._serving_state:
            return None
        return CorruptState(self._quarantine.describe(self.raft.node_id))

    def require_sound(self) -> None:
        """Raise CorruptState where nothing may be answered, copied or sent on from this node's state."""
        refusal = self.corruption
        if refusal is not None:
            raise refusal

    async def condemn(self, mark: CorruptMark) -> None:
        """Take this node out of service: at once, and when this returns, for good. See `quarantine`.

        Where the disk has no room for the mark, it is for good as soon as there is some.
        """
        if self._quarantine.enter(mark):
            self._leave_service()
            undecided = self._proposals.leadership_lost()
            self._proposals.give_up(undecided)  # the results would come from this state
            self._announce_leadership()
            self.wake()
        try:
            await self._hashing.run(self._quarantine.keep)
        except NoRoom as error:
            if not self._mark_waits:
                self._mark_waits = True
                log.error("out of service, but not beyond a restart yet: the mark finds no room", problem=error.message)
                self.begin_task("keep-mark", self._keep_mark())
        except StorageError as error:
            self._fail(error)
            raise

    async def _keep_mark(self) -> None:
        """Make the mark of the quarantine durable once there is room."""
        while self._mark_waits:
            await self.disk_health.room.pause()
            with contextlib.suppress(NoRoom):
                await self._hashing.run(self._quarantine.keep)
                self._mark_waits = False
        log.info("out of service for good: the mark has found room")

    def _leave_service(self) -> None:
        self.alarms.set(pb.CORRUPT, self._quarantine.describe(self.raft.node_id))
        self.objections.set("corrupt state", Fitness.BARRED)
        self._serving_state = False

    def now_ms(self) -> float:
        """Return the time by this node's own clock, which never goes back."""
        return self._clock.now_ms()

    def _require_running(self) -> None:
        if self._stopped is not None:
            raise ShuttingDown(self._stopped.message)

    def _require_leading(self) -> None:
        self._require_running()
        if not self.is_leader:
            raise NotLeader(f"node {self.raft.node_id} is not the leader")

    def _limit_reads(self) -> None:
        if len(self._barriers) + len(self._applied_waits) >= self._limits.max_reads:
            raise Overloaded(f"{self._limits.max_reads} batches of reads wait already: try again later")

    def _set_fitness(self, fitness: Fitness) -> None:
        log.info("fitness to lead", fitness=fitness.value, reasons=str(self.objections) or None)
        self.raft.set_fitness(fitness)
        self.wake()

    @property
    def pending_writes(self) -> int:
        """How many writes wait here for an entry, or for theirs to be applied."""
        return self._proposals.pending_commands

    def lag_ms(self, peer: NodeId, match: Index) -> float:
        """Return for how long this leader has had an entry that `peer`, which has confirmed up to `match`, has not."""
        return self._lag.of(peer, match, self._clock.now_ms())

    def cluster_time_ms(self) -> int:
        """Return the present cluster time: on the leader by its clock, elsewhere that of the last applied entry."""
        applied_ms = self.machine.time_ms
        if self._known[:2] != (Role.LEADER, self.raft.term):
            return applied_ms  # or it leads, and has not taken the time over yet
        return max(self._time.stamp_ms(), applied_ms)

    def used_bytes(self) -> int:
        """Return how many bytes the state takes, without space that is free to be used again. Cheap."""
        return self._keeper.used_bytes()

    def transfer_leader(self, target: NodeId | None) -> str | None:
        """Begin to hand leadership over. Return None, or why that cannot be done."""
        refusal = self.raft.transfer(target)
        self.wake()
        return refusal

    def change_membership(self, change: MembershipChange) -> Position | str:
        """Begin to change the members. Return where the change stands, or why it cannot be made.

        Follow it with `leadership_changed`. Raises ShuttingDown.
        """
        self._require_running()
        position = self.raft.change_membership(change)
        self.wake()
        return position

    async def transfer_finished(self, timeout_s: float) -> bool:
        """Wait until another node leads, or this one has given up handing over. Return whether another one leads."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.raft.transferring or self.leader is None:
                    await self.leadership_changed()
        return self.leader not in (None, self.raft.node_id)

    def leadership_changed(self) -> asyncio.Future[None]:
        """Return a future that is done at the next change of role, term, known leader, transfer or members, or at the
        first commit of a term.

        Raises ShuttingDown when there will be none.
        """
        self._require_running()
        if self._leadership_changed is None:
            self._leadership_changed = asyncio.get_running_loop().create_future()
        return asyncio.shield(self._leadership_changed)

    @property
    def leader(self) -> NodeId | None:
        """The leader that this node knows of; not itself where it leads and must not."""
        return self.raft.leader if self.is_leader or self.raft.role is not Role.LEADER else None

    @property
    def is_leader(self) -> bool:
        """Whether it leads, and its state may be relied on."""
        return self.raft.role is Role.LEADER and self._serving_state

    @property
    def lost_its_quorum(self) -> bool:
        """Whether it has led this term, and leads no more without knowing who does.

        CheckQuorum has deposed it, so it is the others that hear each other: whoever asks does better with them.
        """
        led_this_term = self._led == self.raft.term > 0
        return led_this_term and self.leader is None and self.raft.role is not Role.LEADER

    @property
    def may_propose(self) -> bool:
        """Whether this node leads, and has applied what leaders before it committed."""
        raft = self.raft
        return self.is_leader and not raft.transferring and self.machine.applied_term == raft.term

    @property
    def was_removed(self) -> bool:
        """Whether this node has been a member and is none any more, as far as it knows."""
        members = self.raft.configuration.members
        return bool(members) and self.raft.node_id not in members and not self.is_leader

    # --- what the transport brings ------------------------------------------------------------------------------------

    def on_messages(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._step(message)
        if messages and (messages[-1].sender, messages[-1].term) == (self.raft.leader, self.raft.term):
            self.failovers.heard(Reign(messages[-1].sender, self.raft.term), self._clock.now_ms())
        self.wake()

    async def begin_checkpoint(self, manifest: bytes) -> Incoming:
        """A peer, the leader as it believes, begins to send a checkpoint. See `Checkpoints.begin`."""
        return await self.checkpoints.begin(manifest)

    def _step(self, message: Message) -> None:
        try:
            if isinstance(message, InstallSnapshot):
                self.checkpoints.install(message)
            elif not (isinstance(message, AppendRequest) and self._has_no_room_for(message)):
                self.raft.step(message)
                if isinstance(message, VoteRequest) and message.leadership_transfer:
                    self.failovers.handed_over(message.term)
        except (InvariantViolation, DataDirectoryMismatch) as error:
            self._fail(error)

    def _has_no_room_for(self, request: AppendRequest) -> bool:
        """Whether to drop a request, as if it were lost: the leader will send it again. What elections need passes, and
        all else while the log has room of its own: what it cannot write would keep votes waiting behind it.
        """
        room, held = self.disk_health.room, self.raft.log
        if not room.full:
            return False
        new = [entry for entry in request.entries if not held.matches(entry.index, entry.term)]
        if all(entry.kind is not EntryKind.COMMANDS for entry in new):
            return False
        waiting = held.slice(Index(held.durable + 1), Index(held.last_index + 1), held.last_index << 32)
        return not room.takes(sum(map(entry_bytes, (*waiting, *new))), self._log_store.reserved_bytes())

    def on_unreachable(self, peer: NodeId) -> None:
        self.raft.unreachable(peer)

    def on_connection_lost(self, peer: NodeId) -> None:
        self.raft.suspect(peer)
        self.wake()

    def on_failure(self, error: BaseException) -> None:
        self._fail(error)

    def wake(self) -> None:
        """There may be something to do. Many calls in one turn of the loop make one turn of the crank."""
        self._wake.set()

    # --- the tasks ----------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        tick_ms = self._limits.tick_s * 1000
        while True:
            due_ms = self._clock.now_ms() + tick_ms
            # Timers may end a little early. Ticks must not: leases rest on them.
            while (left_ms := due_ms - self._clock.now_ms()) > 0:  # noqa: ASYNC110 - it waits for time
                await asyncio.sleep(max(left_ms, SHORTEST_SLEEP_MS) / 1000)
            self._pulse.late(-left_ms)
            self.tallies.delays.observe((due_ms - left_ms) / 1000, -left_ms / 1000)
            self._time.tick()
            self.raft.tick()
            self._observe(due_ms - left_ms)
            self.wake()

    def _observe(self, now_ms: float) -> None:
        """A tick has come: note how far behind the peers are, and that a leader is there."""
        raft = self.raft
        if raft.role is not Role.LEADER:
            self._lag.reset()
            return
        self.failovers.heard(Reign(raft.node_id, raft.term), now_ms)
        matches = {peer: follower.match for peer, follower in raft.followers().items()}
        self._lag.sample(now_ms, raft.term, raft.log.last_index, matches)

    async def _crank(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            self._turn()
            if self._unapplied and not self._starved:
                # First whoever the turn has woken: the log's writer, the peers' streams. They wait for others; applying
                # keeps this thread busy.
                await asyncio.sleep(0)
                self._apply(until=asyncio.get_running_loop().time() + self._limits.apply_slice_s)

    def _turn(self) -> None:
        if self._standing() != self._known:
            self._note_leadership()
        if self.raft.configuration is not self._configuration:
            self._note_configuration()
        if self._durability:
            self._durability.check()
        self._propose_waiting()
        request = self._barriers.next_request()
        if request is not None:
            self.raft.read_index(request)
        while (ready := self.raft.ready()) is not None:
            if self.raft.lease_ms:
                self._lease.note(self._clock.now_ms(), self.raft.rounds)
            self._act_on(ready)
        if self._commit_times.waits_for(self.raft.log.commit):
            self._commit_times.committed(self.raft.log.commit, asyncio.get_running_loop().time())
        if self._shrinks and not self.raft.changing:
            self._forget_old_members()

    def _propose_waiting(self) -> None:
        limits = self._limits
        # While the log is being written, wait for company; but what fills an entry of its own need not wait.
        enough = limits.worthwhile_commands if self._writing else 1
        if self._proposals.queued_commands < enough or not self.is_leader or self.raft.transferring:
            return
        if self._proposals.log_is_full:
            return  # `_apply` wakes the crank
        now = asyncio.get_running_loop().time()
        proposals = self._proposals.take(limits.max_entry_bytes, limits.max_entry_commands, now)
        if not proposals:
            return
        batch = Batch(self._time.stamp_ms(), tuple(proposal.group for proposal in proposals))
        position = self.raft.propose(encode_batch(batch))
        if not isinstance(position, Position):
            raise InvariantViolation(f"a leader that transfers to nobody refused a proposal: {position}")
        self._proposals.placed(position.term, position.index, batch, proposals)
        self._commit_times.placed(position.index, now)
        for proposal in proposals:
            if proposal.early and self._sure_to_take_effect(proposal.group, batch.time_ms):
                self._durability.acknowledge(proposal.outcome, position.term, position.index, proposal.early)

    def _sure_to_take_effect(self, group: Group, time_ms: int) -> bool:
        """Return whether a group, which was just put into the log, will be applied unless its entry is lost.

        Who acknowledges before the result is known must not do so for what the state machine will refuse: its place in
        the log would be reached, and reads that wait for that would claim to see the write.

        Asked of the entry where it stands, so that what is applied before it is known: with an entry of this term
        applied, only others of this term, which this leader made, with stamps that never go back. They count in
        `log_weight` with as many commands as they have, or more; and the order of the log is the same wherever the
        entry is applied.
        """
        machine = self.machine
        return machine.applied_term == self.raft.term and machine.admits(group, time_ms, self._proposals.log_weight)

    def _act_on(self, ready: Ready) -> None:
        """Do what a Ready says, in the order that raftkv.raft prescribes."""
        if ready.messages:
            self._transport.send(ready.messages)
        if ready.write is not None:
            if ready.write.restore is not None:
                self._unapplied.clear()  # the snapshot has it, and more
                self.states.forget()
            self._writes.append(ready.write)
            self._writing = True
            self._wake_writer.set()
        self._unapplied.extend(ready.committed)
        for peer in ready.snapshots_needed:
            self.checkpoints.send(peer)
        for read in ready.reads:
            self._barriers.confirmed(read.request, read.index)
        for request in ready.reads_dropped:
            self._barriers.dropped(request, NotLeader("leadership was lost before the read was confirmed"))
        if ready.reads:
            self._barriers.applied(self.machine.applied_index)

    def _apply(self, until: float) -> None:
        """Apply what is committed, entry by entry, until there is no more or it is `until` (event loop time)."""
        while self._unapplied:
            entry = self._unapplied.popleft()
            payload = self._payload(entry)
            batch = self._proposals.batch_of(entry.term, entry.index)
            try:
                ((results, changes),) = self.machine.apply([AppliedEntry(entry.index, entry.term, payload, batch)])
            except NoRoom as error:
                # Nothing of it has happened, but the machine may be ahead of the store now: begin from the store again.
                self._unapplied.appendleft(entry)
                self._keeper.renew()
                self._await_room(error)
                return
            self.checkpoints.applied(entry)
            if asks_for_hash(results) and self._tasks:
                self.states.applied(entry.index)
            # Watches first: who is told that a lock is his goes on at once, and others wait for him.
            self.hub.publish(changes, self.machine.revision)
            self._proposals.applied(entry.term, entry.index, results)
            self.raft.applied(entry.index)
            self._barriers.applied(entry.index)
            self._applied_waits.applied(entry.term, entry.index)
            if asyncio.get_running_loop().time() >= until:
                self.wake()
                break
        if self._proposals.queued_commands:
            self.wake()  # there may be room in the log now
        self.checkpoints.make_when_due()

    def _await_room(self, error: NoRoom) -> None:
        """Apply nothing until the state store may have room again."""
        self._starved = True
        self.disk_health.starve("the state", error)

        async def wait() -> None:
            await self.disk_health.room.pause()
            self._starved = False
            self._apply(until=asyncio.get_running_loop().time() + self._limits.apply_slice_s)
            if not self._starved:
                self.disk_health.feed("the state")
                self.wake()

        self.begin_task("await-room", wait())

    def _payload(self, entry: Entry) -> bytes | None:
        """Return what the state machine is to be given of an entry, in front of which everything has been applied."""
        if entry.kind is not EntryKind.COMMANDS:
            return None
        if entry.data == b"":
            # Only a witness is sent entries without their payload, and it may not have come to the entry yet that
            # says so. A node that holds data and skipped one would diverge.
            invariant(self.machine.holds_nothing, "entry {} has no payload, and this node has data", entry.index)
            return None
        return entry.data

    async def _write(self) -> None:
        while True:
            while not self._writes:
                self._writing = False
                self._wake_writer.clear()
                self.wake()
                await self._wake_writer.wait()
            writes = self._next_writes()
            if writes[0].restore is not None:
                await self.checkpoints.restore(writes[0], writes[0].restore)
                self._stored_index = writes[0].entries[-1].index if writes[0].entries else writes[0].restore.index
                self.hub.reset(self.machine.revision)
                self._proposals.overtaken(writes[0].restore.index)
                self.states.changed()
                self._applied_waits.applied(self.machine.applied_term, self.machine.applied_index)
            elif any(write.needs_disk for write in writes):
                entries = [entry for write in writes for entry in write.entries]
                await self._log_store.append(writes[-1].hard_state, entries)
                if entries:
                    self._stored_index = entries[-1].index
            self.raft.persisted(writes[-1].number)
            for write in writes:
                self._transport.send(write.messages)
            self.wake()

    def _next_writes(self) -> list[LogWrite]:
        """Take the writes that one append may store: all, up to one that replaces entries on disk or before it.

        What was promised about entries that are replaced must leave while they are on disk; a promise may stand in a
        write of its own, behind that of its entries. A write that begins with a snapshot is a step of its own.
        """
        writes = [self._writes.popleft()]
        if writes[0].restore is not None:
            return writes
        last_index = writes[0].entries[-1].index if writes[0].entries else self._stored_index
        while self._writes and self._writes[0].restore is None:
            entries = self._writes[0].entries
            if entries:
                if entries[0].index <= last_index:
                    break
                last_index = entries[-1].index
            writes.append(self._writes.popleft())
        return writes

    def _note_configuration(self) -> None:
        """Others may be the members now. Whoever was added must be reachable before anything is sent to it."""
        before, self._configuration = self._configuration, self.raft.configuration
        self._shrinks = True
        if self._configuration.addresses:
            # Those who leave are still told that they have left.
            self._transport.reconfigure(dict(before.addresses) | dict(self._configuration.addresses))
        log.info(
            "members",
            voters=sorted(self._configuration.voters),
            outgoing=sorted(self._configuration.outgoing),
            learners=sorted(self._configuration.learners),
            witnesses=sorted(self._configuration.witnesses),
        )

    def _forget_old_members(self) -> None:
        self._shrinks = False
        if self._configuration.addresses:
            self._transport.reconfigure(dict(self._configuration.addresses))

    # --- changes of leadership, and the end ---------------------------------------------------------------------------

    def _standing(self) -> tuple[Role, Term, NodeId | None, bool, bool, bool]:
        raft = self.raft
        return raft.role, raft.term, raft.leader, raft.transferring, raft.changing, raft.term_is_committed

    def _note_leadership(self) -> None:
        raft = self.raft
        old_role, old_term, old_leader, was_transferring, *_ = self._known
        self._known = self._standing()
        if old_role is Role.LEADER and (raft.role is not Role.LEADER or raft.term != old_term):
            log.info("no longer leading", term=old_term)
            self._commit_times.leadership_lost()
            self.failovers.heard(Reign(raft.node_id, old_term), self._clock.now_ms())
            removed = raft.node_id not in raft.configuration.deciders
            if (was_transferring and raft.term > old_term) or removed:
                self.failovers.handed_over(Term(old_term + 1))
            self._durability.leadership_lost()
            undecided = self._proposals.leadership_lost()
            if undecided:
                wait_s = self._limits.undecided_s
                asyncio.get_running_loop().call_later(wait_s, self._proposals.give_up, undecided)
        if raft.leader is not None and (raft.leader, raft.term) != self._followed:
            self._followed = raft.leader, raft.term
            self.tallies.leader_changes += 1
        if (raft.leader, raft.term) != (old_leader, old_term):
            if raft.role is Role.LEADER:
                self._time.take_over(self.machine.time_ms)
                self._led = raft.term
                log.info("leading", term=raft.term)
            elif raft.leader is not None:
                log.info("following", leader=raft.leader, term=raft.term)
            elif old_leader is not None:
                log.info("no leader known", role=raft.role.value, term=raft.term)
        if raft.asked_to_stand:
            self.failovers.handed_over(raft.term)
        if raft.leader is not None and raft.term_is_committed:
            self.failovers.committed(Reign(raft.leader, raft.term), self._clock.now_ms())
        self._announce_leadership()

    def _announce_leadership(self) -> None:
        changed, self._leadership_changed = self._leadership_changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)

    def begin_task(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something for as long as the node runs; its failure stops the node."""
        task = asyncio.create_task(coroutine, name=f"raftkv-{name}")
        self._tasks.add(task)
        task.add_done_callback(self._task_ended)
        return task

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Stop serving at once: after a failed disk write or a violated invariant nothing here can be trusted."""
        log.critical("the node stops", error=str(error), kind=type(error).__name__)
        self._refuse_all(ShuttingDown("the node has failed"))
        for task in tuple(self._tasks):
            task.cancel()
        if not self.failure.done():
            self.failure.set_exception(error)

    def _refuse_all(self, reason: ShuttingDown) -> None:
        if self._stopped is not None:
            return
        self._stopped = reason
        self._proposals.fail_all(
            queued=ShuttingDown(f"{reason.message}: no effect"), placed=ShuttingDown(reason.message, ambiguous=True)
        )
        self._durability.leadership_lost()
        self._barriers.fail_all(ShuttingDown(reason.message))
        self.checkpoints.fail_all(ShuttingDown(reason.message))
        self._applied_waits.fail_all(ShuttingDown(reason.message))
        self._announce_leadership()
