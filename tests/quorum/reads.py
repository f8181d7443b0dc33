"""Quorum reads in the model, step by step, by the rules of raftkv.quorum; and what each of them claimed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from raftkv.quorum import (
    Answer,
    Guarantee,
    LogEnd,
    Membership,
    Target,
    decide,
    is_rinsed,
    majority,
    of_quorum_read,
)
from tests.quorum.model import Cluster, Node

Claim = Callable[[int, int], tuple[Guarantee, int]]


@dataclass(frozen=True, slots=True)
class Rules:
    """How reads are done; the controls put something wrong in the place of one."""

    is_rinsed: Callable[[LogEnd, int, int], bool] = is_rinsed
    asks_anew: bool = True
    """Answers of step 1 are given after the read began; else they may be any that the voter gave before."""


@dataclass(slots=True)
class Read:
    """One quorum read, under way or done."""

    replicas: int
    began: int
    """Step of the run."""
    committed: int
    """The newest entry that was committed when it began."""
    done_before: int
    """How many reads had been answered by then."""
    acknowledged: list[int]
    """By W: how many acknowledgements there had been."""
    answers: dict[int, Answer] = field(default_factory=dict)
    target: Target | None = None
    by: int = -1
    """Who has answered; and what it had applied."""
    shows: int = 0


class Reads:
    """All reads of a run."""

    def __init__(self, cluster: Cluster, rules: Rules) -> None:
        self.done: list[Read] = []
        self.under_way: list[Read] = []
        self._cluster = cluster
        self._rules = rules
        self._membership = Membership(0, frozenset(range(cluster.voters)), frozenset(), joint=False)
        self._said: dict[int, Answer] = {}

    def begin(self, replicas: int, step: int) -> None:
        cluster = self._cluster
        self.under_way.append(
            Read(
                replicas,
                step,
                len(cluster.committed),
                len(self.done),
                [len(acknowledged) for acknowledged in cluster.acknowledged],
            )
        )

    def ask(self, read: Read, voter: int) -> None:
        """Step 1: a voter's answer; and step 2, once there are enough."""
        if self._rules.asks_anew or voter not in self._said:
            end = LogEnd(*self._cluster.nodes[voter].durable_end)
            self._said[voter] = Answer(end, self._membership)
        read.answers[voter] = self._said[voter]
        decision = decide(self._membership, read.answers, read.replicas)
        if isinstance(decision, Target):
            read.target = decision

    def answer(self, read: Read, by: int) -> bool:
        """Step 3: a node answers if it may."""
        node: Node = self._cluster.nodes[by]
        assert read.target is not None
        if not self._rules.is_rinsed(read.target.end, node.applied_term, node.applied):
            return False
        read.by, read.shows = by, node.applied
        self.under_way.remove(read)
        self.done.append(read)
        return True

    def give_up(self, read: Read) -> None:
        """Its time is over."""
        self.under_way.remove(read)

    def violations(self, claim: Claim = of_quorum_read) -> list[str]:
        """Return which claims the run refutes. `claim`: what a read of so many of so many voters says of itself."""
        cluster, found = self._cluster, []
        needs = [self._needs(concern) for concern in range(cluster.voters + 1)]
        shown = [0]
        for read in self.done:
            assert read.target is not None
            guarantee, sees = claim(read.target.replicas, cluster.voters)
            shown.append(max(shown[-1], read.shows if guarantee is Guarantee.LINEARIZABLE else 0))
            what = f"QUORUM({read.target.replicas}) of {cluster.voters} begun at step {read.began} shows {read.shows}"
            if guarantee is Guarantee.LINEARIZABLE and read.shows < read.committed:
                found.append(f"linearizable: {what}, entry {read.committed} was committed before")
            if guarantee is Guarantee.LINEARIZABLE and read.shows < shown[read.done_before]:
                found.append(f"back in time: {what}, a read before it has shown {shown[read.done_before]}")
            for concern in range(sees, cluster.voters + 1):
                needed = needs[concern][read.acknowledged[concern]]
                if read.shows < needed:
                    kind = "early" if concern < majority(cluster.voters) else "acknowledged"
                    found.append(f"{kind}: {what}, entry {needed} was acknowledged before at W = {concern}")
                    break
        return found

    def _needs(self, concern: int) -> list[int]:
        """Return, by the number of acknowledgements: the newest entry of them that was not lost."""
        cluster = self._cluster
        last = {term: index for index, term in enumerate(cluster.committed, 1)}
        needs = [0]
        for term, index in cluster.acknowledged[concern]:
            needs.append(max(needs[-1], min(index, last.get(term, 0))))
        return needs
