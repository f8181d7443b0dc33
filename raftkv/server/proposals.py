"""Writes on their way: waiting for an entry, then in the log until the entry is applied.

What a waiter is told when its leader loses leadership depends on what can be known:
  - not in the log yet: no effect, so it may be tried elsewhere;
  - in the log, with a session: the outcome is open, but a retry is safe and fast, so it is told at once;
  - in the log, without a session: a retry would not be safe, so it waits a moment for the entry's place in the log to
    be decided, as it is at once after a transfer, and is told that the outcome is open if it is not.

**Renewals go first.** A group of nothing but KeepAlives waits in a queue of its own, with room of its own, and goes in
front of all other groups into the next entry: else a client's own backlog of writes would cost it its leases. That
breaks no order that anybody can rely on. Batches run side by side, so what is sent before the answer to another batch
has come may be applied before it; a renewal has no effect on keys, and none on another command but that a lease goes on
to live. A batch that holds anything else keeps its order.

What is in the log already cannot be overtaken, so only so much may be there at a time; the rest waits here.

Who asked for fewer than a majority may have been told before that (`durability`); the group keeps its room here until
it is decided all the same.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from raftkv.errors import DeadlineExceeded, LeaderChanged, NotLeader, Overloaded, RaftKVError
from raftkv.kv.commands import Batch, Group, KeepAlive, Result


@dataclass(slots=True)
class Decided:
    """What became of a group of commands."""

    results: list[Result] | None
    """One for each command, once they are applied. None: acknowledged before that, as its write concern allows; whether
    the entry is ever committed is open."""
    term: int
    index: int
    """Where the group stands in the log."""
    copies: int = 0
    """Without results: how many voters were known to have it on disk."""
    configuration_index: int = 0
    """Where copies were counted: of the configuration whose voters were counted."""


Outcome = asyncio.Future[Decided]

RENEWALS_SHARE: Final = 8
"""Renewals have room of their own, beside that of all other writes: an eighth of it."""


class Proposal:
    """One group of commands and who waits for its results."""

    __slots__ = ("alone", "deadline", "early", "group", "lane", "outcome", "size_bytes", "weight")

    def __init__(
        self,
        group: Group,
        lane: _Lane,
        size_bytes: int,
        deadline: float,
        outcome: Outcome,
        *,
        weight: int,
        alone: bool,
        early: int,
    ) -> None:
        self.group = group
        self.lane = lane
        self.size_bytes = size_bytes
        self.deadline = deadline
        self.outcome = outcome
        self.weight = weight
        self.alone = alone
        self.early = early
        """Acknowledged when so many voters have it on disk, without its results; 0: only with them."""


class _Placed(NamedTuple):
    """An entry of the log that was made here."""

    term: int
    batch: Batch
    proposals: list[Proposal]
    """In the order of the groups of the batch."""


class _Lane:
    """A queue, and what of its groups is under way: queued, or in the log and not applied."""

    __slots__ = ("bytes", "max_bytes", "max_weight", "queue", "weight")

    def __init__(self, max_bytes: int, max_weight: int) -> None:
        self.max_bytes = max_bytes
        self.max_weight = max_weight
        self.bytes = 0
        self.weight = 0
        self.queue: deque[Proposal] = deque()


class Proposals:
    """Bounded: what does not fit is refused at once, not queued without end."""

    def __init__(
        self,
        *,
        max_bytes: int,
        max_commands: int,
        max_log_bytes: int = 1 << 62,
        max_log_commands: int = 1 << 62,
        failed: Counter[str] | None = None,
    ) -> None:
        """`max_log_*`: no more is taken while so much is in the log and not applied.

        `failed` counts the commands that somebody waited for in vain, by the code of the error.
        """
        self._failed = failed if failed is not None else Counter()
        self._writes = _Lane(max_bytes, max_commands)
        self._renewals = _Lane(max_bytes // RENEWALS_SHARE, max_commands // RENEWALS_SHARE)
        self._held_back = False
        """Whether renewals took the room of the write that is first in line: it goes before them next time."""
        self._max_log_bytes = max_log_bytes
        self._max_log_weight = max_log_commands
        self._log_term = 0
        self._log_bytes = 0
        self._log_weight = 0
        """What is in the log and not applied, of this node's newest term as leader. Entries of older terms may never be
        decided, and must not stand in the way."""
        self._queued_commands = 0
        self._placed: dict[int, list[_Placed]] = {}
        """By log index. More than one entry where this node led, lost its entry there to another leader, and leads
        again: any of them may yet be applied, since an old one may be in another node's log."""

    @property
    def queued_commands(self) -> int:
        """How many commands wait for an entry."""
        return self._queued_commands

    @property
    def pending_commands(self) -> int:
        """How many commands wait for an entry, or for theirs to be applied. Looks at each that is in the log."""
        return self._queued_commands + sum(len(proposal.group.commands) for proposal in self._all_placed())

    @property
    def log_weight(self) -> int:
        """What is in the log and not applied, of this node's newest term as leader: at least so many commands."""
        return self._log_weight

    @property
    def log_is_full(self) -> bool:
        """Whether enough is in the log: what waits goes there when some of it has been applied."""
        return self._log_bytes >= self._max_log_bytes or self._log_weight >= self._max_log_weight

    def add(
        self,
        group: Group,
        size_bytes: int,
        deadline: float,
        *,
        weight: int = 0,
        alone: bool = False,
        early: int = 0,
    ) -> Outcome:
        """Queue a group that takes as much work as `weight` puts (at least its number of commands).

        `alone`: for an entry of its own. `early`: see Proposal. Raises Overloaded.
        """
        weight = max(weight, len(group.commands))
        lane = self._renewals if all(isinstance(command, KeepAlive) for command in group.commands) else self._writes
        if lane.bytes + size_bytes > lane.max_bytes or lane.weight + weight > lane.max_weight:
            self._failed["overloaded"] += len(group.commands)
            what = "renewals" if lane is self._renewals else "writes"
            raise Overloaded(
                f"{lane.weight} {what} of {lane.bytes} bytes are under way; at most {lane.max_weight} {what} "
                f"and {lane.max_bytes} bytes may be: try again later"
            )
        outcome: Outcome = asyncio.get_running_loop().create_future()
        proposal = Proposal(group, lane, size_bytes, deadline, outcome, weight=weight, alone=alone, early=early)
        lane.bytes += size_bytes
        lane.weight += weight
        lane.queue.append(proposal)
        self._queued_commands += len(group.commands)
        return proposal.outcome

    def take(self, max_bytes: int, max_commands: int, now: float) -> list[Proposal]:
        """Return the groups of the next entry: all that wait, up to either limit (and at least one). Renewals go first.

        Groups whose deadline has passed are refused here: nobody waits for them any more.
        """
        lanes = (self._writes, self._renewals) if self._held_back else (self._renewals, self._writes)
        self._held_back = False
        taken: list[Proposal] = []
        size = commands = 0
        for lane in lanes:
            while lane.queue:
                proposal = lane.queue[0]
                if proposal.outcome.done() or proposal.deadline <= now:
                    late = DeadlineExceeded("the deadline passed before the write was proposed: no effect")
                    self._fail(self._dequeue(lane), late)
                    continue
                fits = size + proposal.size_bytes <= max_bytes and commands + proposal.weight <= max_commands
                if taken and (proposal.alone or taken[-1].alone or not fits):
                    self._held_back = lane is self._writes and taken[-1].lane is self._renewals
                    break
                size += proposal.size_bytes
                commands += proposal.weight
                taken.append(self._dequeue(lane))
        return taken

    def placed(self, term: int, index: int, batch: Batch, proposals: list[Proposal]) -> None:
        """The groups are in the log: entry `index` of `term` holds them, as `batch`."""
        self._placed.setdefault(index, []).append(_Placed(term, batch, proposals))
        if term != self._log_term:
            self._log_term, self._log_bytes, self._log_weight = term, 0, 0
        self._log_bytes += sum([proposal.size_bytes for proposal in proposals])
        self._log_weight += sum([proposal.weight for proposal in proposals])

    def batch_of(self, term: int, index: int) -> Batch | None:
        """Return what is in entry `index` of `term`, if it was made here.

        Whatever became of its leader since: there is only one entry of that name (a term has one leader, and a leader
        replaces nothing).
        """
        for placed in self._placed.get(index, ()):
            if placed.term == term:
                return placed.batch
        return None

    def applied(self, term: int, index: int, results: Sequence[list[Result]]) -> None:
        """The entry at `index` was applied. Whoever waits for it gets its results, if it still is the same entry."""
        for placed in self._placed.pop(index, ()):
            self._left_log(placed)
            placed_term, _, proposals = placed
            if placed_term == term:
                for proposal, result in zip(proposals, results, strict=True):
                    self._release(proposal)
                    if not proposal.outcome.done():
                        proposal.outcome.set_result(Decided(result, term, index))
            else:
                for proposal in proposals:
                    self._fail(proposal, NotLeader("another leader's entry took its place: no effect"))

    def overtaken(self, index: int) -> None:
        """A snapshot at `index` took the place of the entries up to there: they are never applied here (raft-bugs 17).

        It may hold what they did or not, and only a session can tell.
        """
        error = LeaderChanged("a snapshot was installed where the write stood", ambiguous=True)
        for at in [at for at in self._placed if at <= index]:
            for placed in self._placed.pop(at):
                self._left_log(placed)
                for proposal in placed.proposals:
                    self._fail(proposal, error)

    def leadership_lost(self) -> list[tuple[Outcome, int]]:
        """This node no longer leads. Return what waits for the log to be decided, for `give_up`: with how many
        commands it is of."""
        self._fail_queued(NotLeader("leadership was lost before the write was proposed: no effect"))
        error = LeaderChanged("leadership was lost while the write was being replicated", ambiguous=True)
        undecided = []
        for proposal in self._all_placed():
            if proposal.group.session != 0:
                self._refuse(proposal.outcome, error, len(proposal.group.commands))
            elif not proposal.outcome.done():
                undecided.append((proposal.outcome, len(proposal.group.commands)))
        return undecided

    def give_up(self, undecided: Sequence[tuple[Outcome, int]]) -> None:
        """The log has not been decided in good time: a quiet new leader may never write at those indexes."""
        error = LeaderChanged("leadership was lost, and what became of the write is not known", ambiguous=True)
        for outcome, commands in undecided:
            self._refuse(outcome, error, commands)

    def fail_all(self, queued: RaftKVError, placed: RaftKVError) -> None:
        """The node stops."""
        self._fail_queued(queued)
        for proposal in self._all_placed():
            self._fail(proposal, placed)
        self._placed.clear()

    def _fail_queued(self, error: RaftKVError) -> None:
        for lane in (self._renewals, self._writes):
            while lane.queue:
                self._fail(self._dequeue(lane), error)

    def _left_log(self, placed: _Placed) -> None:
        if placed.term == self._log_term:
            self._log_bytes -= sum([proposal.size_bytes for proposal in placed.proposals])
            self._log_weight -= sum([proposal.weight for proposal in placed.proposals])

    def _dequeue(self, lane: _Lane) -> Proposal:
        proposal = lane.queue.popleft()
        self._queued_commands -= len(proposal.group.commands)
        return proposal

    def _all_placed(self) -> Iterator[Proposal]:
        for entries in self._placed.values():
            for placed in entries:
                yield from placed.proposals

    def _fail(self, proposal: Proposal, error: RaftKVError) -> None:
        self._release(proposal)
        self._refuse(proposal.outcome, error, len(proposal.group.commands))

    def _refuse(self, outcome: Outcome, error: RaftKVError, commands: int) -> None:
        if not outcome.done():
            self._failed[error.code.name.lower()] += commands
            outcome.set_exception(error)
            outcome.exception()  # a caller that gave up never looks, and asyncio need not complain of that

    def _release(self, proposal: Proposal) -> None:
        proposal.lane.bytes -= proposal.size_bytes
        proposal.lane.weight -= proposal.weight
