"""Runs made by hand: the corners that the proofs of docs/guarantees.md turn on. Nodes count from 0."""

from __future__ import annotations

from random import Random

from raftkv.quorum import Guarantee, LogEnd, majority, of_quorum_read
from tests.quorum.model import Cluster
from tests.quorum.reads import Reads, Rules


class Always(Random):
    """Batches as large as asked for."""

    size = 3

    def randint(self, a: int, b: int) -> int:
        return min(b, max(a, self.size))

    def random(self) -> float:
        return 1.0


def rinsed_by_index_alone(target: LogEnd, applied_term: int, applied_index: int) -> bool:
    """The rule as it was at first: an index is enough, whatever its term."""
    return applied_index >= target.last_index or applied_term > target.last_term


def by_the_textbook(replicas: int, voters: int) -> tuple[Guarantee, int]:
    """W + R > N, also for W below a majority."""
    return of_quorum_read(replicas, voters)[0], voters - replicas + 1


class Script:
    """A cluster whose every step is said."""

    def __init__(self, voters: int, rules: Rules | None = None) -> None:
        self.random = Always()
        self.cluster = Cluster(voters, self.random)
        self.reads = Reads(self.cluster, rules or Rules())

    def elect(self, who: int, *voters: int) -> None:
        elections = self.cluster.elections
        while self.cluster.elections == elections:
            self.cluster.elect(who, list(voters))

    def write(self, who: int, count: int) -> None:
        for _ in range(count):
            self.cluster.write(who)
        self.cluster.sync(who)

    def send(self, who: int, to: int, *, entries: int, confirmed: bool = True) -> None:
        """Bring `entries` to a follower, whose log need not match before; they get on its disk."""
        leader, follower = self.cluster.nodes[who], self.cluster.nodes[to]
        common = 0
        while common < min(len(leader.log), len(follower.log)) and leader.log[common] == follower.log[common]:
            common += 1
        leader.next[to] = common + 1
        for _ in range(entries):
            self.random.size = 1
            self.cluster.replicate(who, to)
        self.random.size = 3
        self.cluster.sync(to)
        if confirmed:
            self.cluster.confirm(who, to)

    def commit(self, who: int) -> None:
        self.cluster.sync(who)
        self.cluster.commit(who)

    def apply(self, who: int, up_to: int) -> None:
        self.random.size = up_to
        self.cluster.apply(who)
        assert self.cluster.nodes[who].applied == up_to

    def learn(self, who: int, to: int) -> None:
        """A follower hears what is committed."""
        self.random.size = 0
        self.cluster.replicate(who, to)

    def read(self, *asked: int) -> None:
        self.reads.begin(len(asked), 0)
        for voter in asked:
            self.reads.ask(self.reads.under_way[0], voter)

    def answered_by(self, who: int) -> bool:
        return self.reads.answer(self.reads.under_way[0], who)


def a_short_tail_of_a_later_term(rules: Rules) -> Script:
    """A write that only its leader has (W = 1), and a leader of a term in between with a shorter log."""
    run = Script(3, rules)
    run.elect(0, 1, 2)
    for follower in (1, 2):
        run.send(0, follower, entries=1)
    run.commit(0)
    run.write(0, 5)
    run.commit(0)  # entry 6 is acknowledged at W = 1
    run.elect(1, 2)
    run.cluster.sync(1)  # entry 2 of its term, on its own disk
    run.read(0, 1, 2)
    run.elect(0, 2)
    run.send(0, 2, entries=6)
    run.commit(0)
    assert len(run.cluster.committed) == 7, "entry 6 was not lost"
    run.learn(0, 2)
    run.apply(2, 2)
    return run


def test_an_index_of_an_earlier_term_does_not_rinse() -> None:
    """Entry 2 of the target is of another term than that which the node has applied: what is above may still come."""
    run = a_short_tail_of_a_later_term(Rules())
    assert not run.answered_by(2)
    run.apply(2, 7)
    assert run.answered_by(2)
    assert not run.reads.violations(by_the_textbook)


def test_the_model_finds_what_a_rinse_by_index_alone_misses() -> None:
    run = a_short_tail_of_a_later_term(Rules(is_rinsed=rinsed_by_index_alone))
    assert run.answered_by(2)
    (violation,) = run.reads.violations(by_the_textbook)
    assert violation.startswith("early: QUORUM(3) of 3")
    assert "shows 2, entry 6 was acknowledged before at W = 1" in violation


def held_by_four_of_five(rules: Rules) -> Script:
    """A write of term 2 that a later leader has committed, and that four have; the fifth led a term between, alone."""
    run = Script(5, rules)
    run.elect(0, 1, 2, 3, 4)
    for follower in (1, 2, 3, 4):
        run.send(0, follower, entries=1)
    run.commit(0)
    run.write(0, 5)
    run.elect(4, 1, 2, 3)
    run.cluster.sync(4)  # entry 2 of its term, which nobody else has
    run.elect(0, 1, 2, 3)
    for follower, entries in ((1, 6), (2, 6), (3, 5)):
        run.send(0, follower, entries=entries)
    run.commit(0)
    assert (2, 6) in run.cluster.acknowledged[4], "four have entry 6, and it is committed"
    run.read(3, 4)
    run.learn(0, 1)
    run.apply(1, 2)
    return run


def test_two_of_five_see_what_four_have() -> None:
    run = held_by_four_of_five(Rules())
    assert not run.answered_by(1)
    run.apply(1, 7)
    assert run.answered_by(1)
    assert not run.reads.violations()


def test_the_model_finds_that_two_of_five_miss_it_by_index_alone() -> None:
    run = held_by_four_of_five(Rules(is_rinsed=rinsed_by_index_alone))
    assert run.answered_by(1)
    (violation,) = run.reads.violations()
    assert "QUORUM(2) of 5" in violation
    assert "entry 6 was acknowledged before at W = 4" in violation


def half_cut(rules: Rules) -> Script:
    """A write that two of five have (W = 2); one of them begins to give it up, and is asked then."""
    run = Script(5, rules)
    run.elect(0, 1, 2, 3, 4)
    for follower in (1, 2, 3, 4):
        run.send(0, follower, entries=1)
    run.commit(0)
    run.elect(2, 3, 4)
    run.cluster.sync(2)  # entry 2 of term 3, which nobody else has
    run.elect(0, 1, 3, 4)
    run.write(0, 4)
    run.send(0, 1, entries=5)
    run.commit(0)  # entry 6 of term 4 is acknowledged at W = 2
    assert (4, 6) in run.cluster.acknowledged[2]
    run.elect(2, 3, 4)
    run.send(2, 1, entries=1)  # entry 2 of term 3; that of its own term it has not even on its own disk
    run.cluster.crash(2)
    run.read(1, 2, 3, 4)
    run.elect(0, 3, 4)
    for follower in (3, 4):
        run.send(0, follower, entries=6)
    run.commit(0)
    assert len(run.cluster.committed) == 7, "entry 6 was not lost"
    run.learn(0, 3)
    run.apply(3, 2)
    assert run.answered_by(3)
    return run


def test_the_textbook_rule_fails_below_a_majority() -> None:
    """W + R > N, and the read misses a write that comes back: an answer must not claim to see it."""
    assert not half_cut(Rules()).reads.violations()
    (violation,) = half_cut(Rules()).reads.violations(by_the_textbook)
    assert violation.startswith("early: QUORUM(4) of 5")
    assert "shows 2, entry 6 was acknowledged before at W = 2" in violation


def test_below_a_majority_nothing_is_claimed() -> None:
    """N - R + 1 < m: a voter may have given the write up for a leader whose own entries are on no disk yet."""
    for voters in (3, 4, 5, 7):
        for replicas in range(majority(voters), voters + 1):
            assert of_quorum_read(replicas, voters) == (Guarantee.LINEARIZABLE, majority(voters))
