"""Raft as a model of a few hundred lines: random *legal* runs, in which quorum reads go on by single steps.

Everything that a read can depend on happens in an order of its own: which entries are on which disk, who has heard of
which term, who knows what is committed, who has applied how much of that. A message that is late or lost, a node that
is down and a link that is cut are steps that do not happen; a crash takes away what is not on disk.
Membership is fixed. What Raft promises is asserted on the way (`Cluster.commit`), so that a run that is not legal is a
failure of the model, not of what it checks.

The reads (tests/quorum/reads.py) use the rules that nodes and clients run: raftkv.quorum.
"""

from __future__ import annotations

from random import Random

from raftkv.quorum import majority

MAX_BATCH = 3
"""Entries that travel in one message, at most: conflicts are resolved in several steps."""


class Node:
    """One voter."""

    __slots__ = ("applied", "commit", "disk", "durable", "leads", "log", "match", "next", "term", "up", "verified")

    def __init__(self, voters: int) -> None:
        self.up = True
        self.term = 1
        """Terms and votes are on disk before anybody hears of them: they are never lost."""
        self.log: list[int] = []
        """Terms of its entries; the first has index 1. (term, index) names one entry for ever."""
        self.disk: list[int] = []
        self.durable = 0
        """Up to here the log is on disk."""
        self.commit = 0
        self.applied = 0
        self.verified = 0
        """Up to here its log is its leader's, in its term."""
        self.leads = False
        self.match = [0] * voters
        """Of a leader: what each follower has confirmed, in this term."""
        self.next = [1] * voters

    @property
    def last_term(self) -> int:
        return self.log[-1] if self.log else 0

    @property
    def applied_term(self) -> int:
        return self.log[self.applied - 1] if self.applied else 0

    @property
    def durable_end(self) -> tuple[int, int]:
        return (self.log[self.durable - 1] if self.durable else 0), self.durable


class Cluster:
    """Voters, what is committed, and what was acknowledged at which concern."""

    def __init__(self, voters: int, random: Random) -> None:
        self.voters = voters
        self.random = random
        self.nodes = [Node(voters) for _ in range(voters)]
        self.committed: list[int] = []
        """Terms of the entries that any leader has found committed."""
        self.acknowledged: list[list[tuple[int, int]]] = [[] for _ in range(voters + 1)]
        """By W: (term, index) of writes that a leader has acknowledged when so many voters had them.

        Each stands for all before it of the same term.
        """
        self._told = [[(0, 0)] * (voters + 1) for _ in range(voters)]
        """By leader and W: the last one."""
        self.top_term = 1
        self.elections = self.truncations = self.crashes = 0

    # --- steps --------------------------------------------------------------------------------------------------------

    def elect(self, who: int, reachable: list[int]) -> None:
        """A node asks those it can reach for their votes in a new term, and leads if a majority grants it."""
        candidate = self.nodes[who]
        term = candidate.term = candidate.term + 1
        candidate.leads = False
        candidate.verified = 0
        votes = 1
        for other in reachable:
            voter = self.nodes[other]
            if other == who or voter.term >= term:
                continue
            self._hear(voter, term)
            if (candidate.last_term, len(candidate.log)) >= (voter.last_term, len(voter.log)):
                votes += 1
            # One that has refused has heard of the term, and may stand itself in the next.
        if votes < majority(self.voters):
            return
        assert term > self.top_term, "two leaders in one term, or one of the past"
        self.top_term = term
        self.elections += 1
        candidate.leads = True
        candidate.match = [0] * self.voters
        candidate.next = [len(candidate.log) + 1] * self.voters
        self._told[who] = [(0, 0)] * (self.voters + 1)
        candidate.log.append(term)

    def write(self, who: int) -> None:
        node = self.nodes[who]
        node.log.append(node.term)

    def replicate(self, who: int, to: int) -> None:
        """A leader's entries, or its word of what is committed, reach a follower; the answer may not come back yet."""
        leader, follower = self.nodes[who], self.nodes[to]
        if who == to:
            return
        if follower.term > leader.term:
            self._hear(leader, follower.term)
            return
        assert not (follower.leads and follower.term == leader.term), "two leaders in one term"
        if follower.term < leader.term:
            self._hear(follower, leader.term)
        previous = leader.next[to] - 1
        if previous > len(follower.log) or (previous and follower.log[previous - 1] != leader.log[previous - 1]):
            leader.next[to] = self.random.randint(leader.match[to] + 1, previous)
            return
        entries = leader.log[previous : previous + self.random.randint(0, MAX_BATCH)]
        for index, term in enumerate(entries, previous + 1):
            if index <= len(follower.log):
                if follower.log[index - 1] == term:
                    continue
                assert index > follower.commit, "a follower would give up what is committed"
                del follower.log[index - 1 :]
                follower.durable = min(follower.durable, index - 1)
                self.truncations += 1
            follower.log.append(term)
        end = previous + len(entries)
        leader.next[to] = end + 1
        follower.verified = max(follower.verified, end)
        follower.commit = max(follower.commit, min(leader.commit, follower.verified))

    def confirm(self, who: int, to: int) -> None:
        """A follower's word of what it has on disk reaches its leader."""
        leader, follower = self.nodes[who], self.nodes[to]
        if follower.term == leader.term:
            leader.match[to] = max(leader.match[to], min(follower.verified, follower.durable))

    def sync(self, who: int) -> None:
        """A disk has written what is in memory, or the first entries of it."""
        node = self.nodes[who]
        node.durable = self.random.randint(node.durable, len(node.log)) if self.random.random() < 0.3 else len(node.log)
        node.disk = node.log[: node.durable]

    def commit(self, who: int) -> None:
        """A leader looks what a majority has on disk, commits its own term's entries, and acknowledges."""
        leader = self.nodes[who]
        leader.match[who] = leader.durable
        durable_on = sorted(leader.match, reverse=True)
        found = durable_on[majority(self.voters) - 1]
        if found > leader.commit and leader.log[found - 1] == leader.term:
            leader.commit = found
            known = len(self.committed)
            shared = min(found, known)
            assert leader.log[:shared] == self.committed[:shared], "two entries are committed at one index"
            self.committed.extend(leader.log[known:found])
        for concern in range(1, self.voters + 1):
            held = min(durable_on[concern - 1], leader.durable)
            if concern >= majority(self.voters):
                held = min(held, leader.commit)
            if held and (end := (leader.log[held - 1], held)) > self._told[who][concern]:
                if concern < majority(self.voters) and end[0] != leader.term:
                    continue  # whoever asked an earlier leader has lost its answer with it
                self._told[who][concern] = end
                self.acknowledged[concern].append(end)

    def apply(self, who: int) -> None:
        node = self.nodes[who]
        known = min(node.commit, node.durable)
        if node.applied < known:
            node.applied = self.random.randint(node.applied + 1, known)

    def crash(self, who: int) -> None:
        """What is not on disk is lost; of the state, too, and applied anew."""
        node = self.nodes[who]
        self.crashes += 1
        node.log = node.disk.copy()
        node.durable = len(node.log)
        node.leads = False
        node.verified = 0
        node.applied = self.random.randint(0, min(node.applied, node.durable))
        node.commit = node.applied

    def _hear(self, node: Node, term: int) -> None:
        if term > node.term:
            node.verified = 0
        node.term = max(node.term, term)
        node.leads = False
