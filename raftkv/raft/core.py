"""The core's face: every input, the one output, and the dispatch of messages to the rules.

How a driver must use it is in the package's docstring (raftkv/raft/__init__.py).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import assert_never

from raftkv.invariant import invariant
from raftkv.raft import checks, election, follower, heartbeat, lease, read_index, replication, snapshots, transfer
from raftkv.raft.config import RaftConfig
from raftkv.raft.configurations import Configurations
from raftkv.raft.log import Log
from raftkv.raft.membership import MembershipChange, encode_configuration, plan
from raftkv.raft.messages import (
    AppendRequest,
    AppendResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVoteRequest,
    PreVoteResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from raftkv.raft.progress import ProgressState
from raftkv.raft.quorum import Configuration, durable_on
from raftkv.raft.ready import LogWrite, Ready
from raftkv.raft.roles import become_follower
from raftkv.raft.snapshot import Snapshot
from raftkv.raft.state import RaftState
from raftkv.raft.types import Entry, EntryKind, Fitness, HardState, Index, NodeId, Role, Term


@dataclass(frozen=True, slots=True)
class Position:
    """Where a proposal stands in the log. It is committed if the entry applied at `index` is of `term`."""

    term: Term
    index: Index


class Refusal(Enum):
    """Why a proposal was not taken. It had no effect."""

    NOT_LEADER = "not the leader"
    TRANSFERRING = "leadership is being transferred"


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """One follower, as its leader sees it."""

    match: Index
    state: ProgressState
    silent_ticks: int
    """Ticks since its last answer."""
    hindered: bool = False
    """Whether it says that it should not lead."""
    full: bool = False
    """Whether it says that its disk is full."""


class Raft:
    """One node's consensus core: synchronous, deterministic, without a clock or a disk."""

    def __init__(
        self,
        config: RaftConfig,
        *,
        hard_state: HardState,
        entries: Sequence[Entry],
        applied: Index,
        rng: random.Random,
        snapshot: Snapshot | None = None,
    ) -> None:
        """Start as a follower, from what storage recovered.

        `entries` is the whole log behind `snapshot` (None: from index 1 on), `applied` the state machine's applied
        index (at least the snapshot's, at most the last entry's), `rng` the source of election timeouts.
        """
        base = snapshot or Snapshot(Index(0), Term(0), config.configuration)
        log = Log(entries, commit=hard_state.commit, applied=applied, base_index=base.index, base_term=base.term)
        configurations = Configurations(base.configuration, base.index, entries)
        self._state = RaftState(
            config, hard_state=hard_state, log=log, configurations=configurations, snapshot=snapshot, rng=rng
        )
        self._state.restart_election_timer()
        self._told: tuple[Role, Term, NodeId | None] = (Role.FOLLOWER, hard_state.term, None)
        self._before = checks.footprint(self._state)
        invariant(
            log.last_term <= hard_state.term,
            "the log ends with an entry of term {}, above the persisted term {}",
            log.last_term,
            hard_state.term,
        )

    # --- inputs -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One unit of time has passed. After a pause, call it once, not once for every unit missed."""
        state = self._state
        if state.quarantine > 0:
            state.quarantine -= 1
        if state.role is Role.LEADER:
            transfer.tick(state)
            if state.role is Role.LEADER:
                heartbeat.tick(state)
                election.check_quorum(state)
            if state.role is Role.LEADER:
                replication.excuse(state)
                read_index.advance(state)  # the members whose answers it waits for may have gone; there may be none
        else:
            state.election_elapsed += 1
            if state.election_elapsed >= state.election_timeout:
                election.campaign(state)
            elif state.role is not Role.FOLLOWER:
                election.ask_again(state)
        self._check()

    def step(self, message: Message) -> None:
        """Take in one message. Late, repeated and reordered ones are harmless; those of foreign clusters are not:
        the transport must refuse them.
        """
        invariant(
            message.receiver == self._state.id, "a message for node {} came to {}", message.receiver, self._state.id
        )
        if self._enter_term_of(message):
            self._dispatch(message)
        self._check()

    def propose(self, data: bytes, kind: EntryKind = EntryKind.COMMANDS) -> Position | Refusal:
        """Append one entry to the leader's log. The caller batches: one entry may hold many commands."""
        state = self._state
        invariant(kind is not EntryKind.CONFIGURATION, "a configuration is proposed by change_membership")
        if state.role is not Role.LEADER:
            return Refusal.NOT_LEADER
        if state.transfer_target is not None:
            return Refusal.TRANSFERRING
        index = replication.append(state, kind, data)
        self._check()
        return Position(state.term, index)

    def read_index(self, request: int) -> None:
        """Ask for a linearizable read point. `request` comes back in Ready.reads or in Ready.reads_dropped.

        All requests made before the next `ready` share one round of heartbeats. A retry must be a new request.
        """
        read_index.request(self._state, request)

    def transfer(self, target: NodeId | None = None, *, leaving: bool = False) -> str | None:
        """Hand leadership to `target` (None: the most caught-up voter). Return None, or why that is not possible.

        Without a target, voters that say they should not lead (`fitness`) are passed over; those that are left are
        better than nobody for a node that is `leaving` anyway.
        """
        if target is None:
            target = replication.best_successor(self._state, leaving=leaving)
            if target is None:
                return "no other voter that may lead has answered this leader yet"
        refusal = transfer.start(self._state, target)
        self._check()
        return refusal

    def persisted(self, number: int) -> None:
        """Write `number` and all before it are on stable storage."""
        state, log = self._state, self._state.log
        durable = state.pending_writes.confirm(number)
        if 0 < state.restore_write <= number:
            state.restore_write = 0
            log.restored()
        if durable is not None and durable > log.durable:
            log.durable = durable
        if state.vote_write:
            election.own_vote_durable(state, number)
        if state.role is Role.LEADER:
            replication.advance_commit(state)
        if state.transfer_target is not None:
            replication.finish_transfer(state)
        self._check()

    def applied(self, index: Index) -> None:
        """The state machine has applied everything up to `index`."""
        self._state.log.applied = index
        self._check()

    def change_membership(self, change: MembershipChange) -> Position | str:
        """Begin a change of the members. Return where it stands in the log, or why it cannot be made (no effect).

        It is over when an entry that is not joint is committed: see `status` of the driver, or `configuration`.
        """
        state = self._state
        problem = replication.change_problem(state)
        if problem is not None:
            return problem
        planned = plan(state.configuration, change, replication.lagging_learners(state))
        if isinstance(planned, str):
            return planned
        problem = replication.quorum_problem(state, planned)
        if problem is not None:
            return problem
        index = replication.append(state, EntryKind.CONFIGURATION, encode_configuration(planned))
        self._check()
        return Position(state.term, index)

    def snapshot_at(self, index: Index) -> Snapshot:
        """Return what a checkpoint of the state at the applied `index` stands for. Raises ValueError."""
        return snapshots.take(self._state, index)

    def compact(self, snapshot: Snapshot, first_kept: Index) -> None:
        """`snapshot` is durable here: forget the entries below `first_kept`, at most snapshot.index + 1.

        What is kept spares followers that are a little behind a snapshot. Raises ValueError.
        """
        snapshots.compact(self._state, snapshot, first_kept)
        self._check()

    def snapshot_delivered(self, peer: NodeId, snapshot: Snapshot) -> None:
        """`peer`, named in Ready.snapshots_needed, holds the checkpoint of `snapshot`: have it installed."""
        snapshots.delivered(self._state, peer, snapshot)
        self._check()

    def snapshot_failed(self, peer: NodeId) -> None:
        """No checkpoint reached `peer`. It is named again once it answers."""
        snapshots.failed(self._state, peer)
        self._check()

    def set_fitness(self, fitness: Fitness) -> None:
        """Say whether this node should lead, from now on; see `Fitness`. A restarted one is FIT until told again."""
        transfer.set_fitness(self._state, fitness)
        self._check()

    def set_full(self, full: bool) -> None:
        """Say whether this node's disk is too full for entries that others can commit without it, from now on."""
        self._state.full = full

    def suspect(self, peer: NodeId) -> None:
        """The connection to `peer` was refused or reset: it may have died. A hint; see `election.suspect`."""
        election.suspect(self._state, peer)
        self._check()

    def unreachable(self, peer: NodeId) -> None:
        """The connection to `peer` broke: messages may be lost. A hint; forgetting to give it costs only time."""
        replication.on_unreachable(self._state, peer)

    # --- output -------------------------------------------------------------------------------------------------------

    def ready(self) -> Ready | None:
        """Return what there is to do, once; None when there is nothing.

        It decides nothing, and so is not followed by `_check`: every input is, and it only hands over what they left.
        """
        state = self._state
        reads = state.reads
        if reads.waiting:
            read_index.start_round(state)
        write = self._next_write()
        committed = state.log.applicable(state.config.max_apply_bytes)
        if committed:
            state.log.handed_out = committed[-1].index
        told = (state.role, state.term, state.leader)
        if not (
            write
            or committed
            or state.outbox
            or reads.confirmed
            or reads.dropped
            or state.snapshots_needed
            or told != self._told
        ):
            return None
        self._told = told
        ready = Ready(
            messages=tuple(state.outbox),
            write=write,
            committed=committed,
            reads=tuple(reads.confirmed),
            reads_dropped=tuple(reads.dropped),
            snapshots_needed=tuple(state.snapshots_needed),
            role=state.role,
            term=state.term,
            leader=state.leader,
        )
        state.outbox.clear()
        reads.confirmed.clear()
        reads.dropped.clear()
        state.snapshots_needed.clear()
        return ready

    def _next_write(self) -> LogWrite | None:
        state = self._state
        log, handed = state.log, state.handed_hard_state
        needs_disk = (
            log.handed_over < log.last_index
            or state.term != handed.term
            or state.vote != handed.vote
            or state.restoring is not None
        )
        if not needs_disk and not state.promises:
            return None
        entries = log.unwritten()
        hard_state = HardState(state.term, state.vote, state.log.commit)
        number = state.pending_writes.queue(state.log.last_index)
        restore, state.restoring = state.restoring, None
        if restore is not None:
            state.restore_write = number
        if state.role is Role.CANDIDATE and state.vote_write == 0:
            state.vote_write = number
        state.handed_hard_state = hard_state
        state.log.handed_over = state.log.last_index
        messages = tuple(state.promises)
        state.promises.clear()
        return LogWrite(
            number=number,
            hard_state=hard_state,
            entries=entries,
            messages=messages,
            needs_disk=needs_disk,
            restore=restore,
        )

    # --- what it is, for status reports and tests ---------------------------------------------------------------------

    @property
    def node_id(self) -> NodeId:
        return self._state.id

    @property
    def role(self) -> Role:
        return self._state.role

    @property
    def term(self) -> Term:
        return self._state.term

    @property
    def leader(self) -> NodeId | None:
        return self._state.leader

    @property
    def log(self) -> Log:
        """Read only."""
        return self._state.log

    @property
    def term_is_committed(self) -> bool:
        """Whether an entry of the current term is committed; before that a leader confirms no read and no change."""
        return self._state.term_is_committed

    @property
    def transferring(self) -> bool:
        return self._state.transfer_target is not None

    @property
    def asked_to_stand(self) -> bool:
        """Whether the election that this node stands for, or has won, was asked for by the leader before it."""
        return self._state.role in (Role.CANDIDATE, Role.LEADER) and self._state.asked_to_stand

    @property
    def fitness(self) -> Fitness:
        """Whether this node should lead; see `set_fitness`."""
        return self._state.fitness

    @property
    def election_ticks(self) -> int:
        return self._state.config.election_ticks

    @property
    def lease_ms(self) -> int:
        """How long a leader's lease lasts, in milliseconds; 0: there are none."""
        return self._state.config.lease_ms

    @property
    def rounds(self) -> tuple[int, int] | None:
        """(newest round of heartbeats, newest one that a lease may rest on) where this node leads, else None.

        See `lease.rounds`.
        """
        return lease.rounds(self._state)

    @property
    def voters(self) -> frozenset[NodeId]:
        return self._state.configuration.voters

    @property
    def configuration(self) -> Configuration:
        """The one in force: the newest in the log, committed or not."""
        return self._state.configuration

    @property
    def configuration_index(self) -> Index:
        """Where the configuration in force stands in the log; 0: the cluster was founded with it."""
        return self._state.configurations.index

    @property
    def changing(self) -> bool:
        """Whether a change of the members is not committed yet."""
        return replication.change_is_open(self._state)

    def has_removed(self, node: NodeId) -> bool:
        """Whether `node` was a member, and that it is none any more is committed, as far as is known here.

        Before that it goes on as one: a leader that is removed leads until then (Raft dissertation, 4.2.2).
        """
        return node in self._state.configuration.removed and not self.changing

    @property
    def is_witness(self) -> bool:
        """Whether this node holds no payloads."""
        return self._state.id in self._state.configuration.witnesses

    @property
    def snapshot(self) -> Snapshot | None:
        """The newest that this node knows to be durable here."""
        return self._state.snapshot

    def durable_on(self) -> tuple[Index, ...]:
        """Return, on the leader, for k = 1..N the highest index durable on at least k voters; elsewhere ()."""
        state = self._state
        if state.role is not Role.LEADER:
            return ()
        return durable_on(state.configuration, state.durable_match())

    @property
    def full_voters(self) -> tuple[NodeId, ...]:
        """On a leader without a quorum of members with room on their disks: those without. Else nobody."""
        state = self._state
        if state.role is not Role.LEADER or not replication.short_of_room(state):
            return ()
        return tuple(
            sorted(peer for peer in state.configuration.deciders if peer != state.id and state.progress[peer].full)
        )

    def followers(self) -> dict[NodeId, FollowerStatus]:
        """Return each follower's progress on the leader, elsewhere nothing."""
        return {
            peer: FollowerStatus(
                progress.match, progress.state, progress.silent_ticks, bool(progress.hindered), progress.full
            )
            for peer, progress in self._state.progress.items()
        }

    # --- dispatch -----------------------------------------------------------------------------------------------------

    def _enter_term_of(self, message: Message) -> bool:
        """Bring the terms of message and node together (paper 5.1). Return whether the message is still of interest."""
        state = self._state
        if message.term > state.term:
            match message:
                case PreVoteRequest() | PreVoteResponse(granted=True):
                    pass  # they speak of a term that nobody has entered
                case VoteRequest(leadership_transfer=False) if election.hears_leader(state):
                    return False  # stickiness (thesis 4.2.3): do not even take the term over
                case AppendRequest() | HeartbeatRequest() | InstallSnapshot():
                    become_follower(state, message.term, message.sender)
                case _:
                    become_follower(state, message.term, None)
        elif message.term < state.term:
            # Whoever asks in an old term learns of the new one: a deposed leader, and a node stuck behind stickiness
            # or a pre-vote (raft-bugs 7, 9).
            match message:
                case PreVoteRequest():
                    return True  # refused with our term
                case VoteRequest():
                    state.send(VoteResponse(sender=state.id, receiver=message.sender, term=state.term, granted=False))
                case AppendRequest():
                    state.send(
                        AppendResponse(
                            sender=state.id,
                            receiver=message.sender,
                            term=state.term,
                            rejected=True,
                            index=message.previous_index,
                        )
                    )
                case HeartbeatRequest() | InstallSnapshot():
                    state.send(
                        HeartbeatResponse(sender=state.id, receiver=message.sender, term=state.term, read_sequence=0)
                    )
                case _:
                    pass  # an answer to a question of an earlier term
            return False
        return True

    def _dispatch(self, message: Message) -> None:
        state = self._state
        match message:  # the most frequent ones first
            case AppendRequest():
                self._follow(message.sender)
                follower.on_append_request(state, message)
            case AppendResponse():
                replication.on_append_response(state, message)
            case HeartbeatRequest():
                self._follow(message.sender)
                follower.on_heartbeat_request(state, message)
            case HeartbeatResponse():
                replication.on_heartbeat_response(state, message)
            case InstallSnapshot():
                self._follow(message.sender)
                snapshots.on_install_snapshot(state, message)
            case PreVoteRequest():
                election.on_pre_vote_request(state, message)
            case PreVoteResponse():
                election.on_pre_vote_response(state, message)
            case VoteRequest():
                election.on_vote_request(state, message)
            case VoteResponse():
                election.on_vote_response(state, message)
            case TimeoutNow():
                if state.role is Role.FOLLOWER and state.may_lead:
                    election.stand(state, leadership_transfer=True)
            case _:
                assert_never(message)

    def _follow(self, leader: NodeId) -> None:
        """A message that only the leader of the current term can send has come from `leader`."""
        state = self._state
        invariant(
            state.role is not Role.LEADER,
            "two leaders in term {}: nodes {} and {} (election safety, paper 5.2)",
            state.term,
            state.id,
            leader,
        )
        if state.role is not Role.FOLLOWER:
            become_follower(state, state.term, leader)
        invariant(
            state.leader is None or state.leader == leader,
            "two leaders in term {}: nodes {} and {} (election safety, paper 5.2)",
            state.term,
            state.leader,
            leader,
        )
        state.leader = leader
        state.election_elapsed = 0
        if state.config.lease_ms:
            state.quarantine = state.config.election_ticks

    def _check(self) -> None:
        after = checks.footprint(self._state)
        if after != self._before:
            checks.check_step(self._before, after, self._state)
            self._before = after
        checks.check_state(self._state)
