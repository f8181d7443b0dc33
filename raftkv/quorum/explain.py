"""What a choice of N, W and R comes to, for people: what reads see, what failures cost, how much load there may be.

    explain     one row of the table of docs/guarantees.md: N voters that all hold data, writes at W, QUORUM(R) reads

Nothing here decides anything: it says of `needed` and `of_quorum_read`, which do, what follows from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from raftkv.errors import InvalidArgument
from raftkv.quorum.concern import majority, needed
from raftkv.quorum.guarantee import Guarantee, of_quorum_read
from raftkv.quorum.reading import required_replicas


class Level(StrEnum):
    """The read levels, as they are written."""

    LOCAL = "local"
    AT_LEAST = "at-least"
    BOUNDED = "bounded"
    LEASE = "lease"
    LINEARIZABLE = "linearizable"
    QUORUM = "quorum"


class Sees(StrEnum):
    """What a read of some level shows of a write that was acknowledged before the read began."""

    IT = "sees it"
    IT_BY_CLOCKS = "sees it while clocks keep the configured drift"
    IT_PAST_THE_BOUND = "sees it once it is older than the bound"
    IT_WITH_TOKEN = "sees it with its token"
    IT_WITH_TOKEN_OR_TELLS = "with its token: sees it, or says that it is lost, or no longer known"
    PERHAPS = "may miss it"
    PERHAPS_AND_IT_MAY_VANISH = "may miss it, and it may vanish"


@dataclass(frozen=True, slots=True)
class Load:
    """What is left to each of the others when some voters are gone."""

    gone: int
    factor: float
    """So many times its load of before is what each other voter has then, of all that is spread evenly."""
    limit_percent: int
    """At no more than this part of what it can do may each voter run before, rounded down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What follows from N, W and R. "Down" is crashed, cut off or lost."""

    voters: int
    majority: int
    write: int
    """W: so many voters have a write on disk when it is acknowledged."""
    read: int
    """R: so many voters take part in a quorum read."""
    early: bool
    """W is below a majority: acknowledged before it is committed, and gone if a later leader does not have it."""
    overlap: bool
    """W + R > N: some voter of every write takes part in every quorum read."""
    guarantee: Guarantee
    """Of QUORUM(R)."""
    sees_writes_at: int
    """The smallest W of which QUORUM(R) sees every acknowledged write."""
    sees: Mapping[Level, Sees]
    """What each level shows of writes acknowledged at W."""
    writes_survive: int
    """So many voters may be down, and writes are still acknowledged at W."""
    commits_survive: int
    """So many may be down, and there is a leader and writes are committed; the answer says of which W was not reached.
    LINEARIZABLE and LEASE reads survive as many, and BOUNDED ones beyond their bound."""
    quorum_reads_survive: int
    """So many may be down, and QUORUM(R) is still answered, if a node that is up knows that the end of the log is
    committed; no leader takes part."""
    quorum_reads_survive_any_end: int
    """The same whatever the logs end with: an end that is not known to be committed needs a leader, so a majority."""
    local_reads_survive: int
    """So many may be down, and LOCAL is still answered: all but the node asked. AT_LEAST as well, if it is that far."""
    losses_survived: int
    """So many voters may lose their disks for good; the others go on by themselves, with every acknowledged write."""
    losses_with_a_copy_left: int
    """So many may lose their disks for good, and each acknowledged write is still on one of the others. 0 for those
    that a change of the leader may undo."""
    loads: tuple[Load, ...]
    """One for each number of voters that the cluster can do without."""

    @property
    def rpo(self) -> str:
        """How much of what was acknowledged a failure may undo (recovery point objective)."""
        if self.early:
            return (
                "what a leader had acknowledged and not yet committed when it lost its place: usually a round trip's "
                "worth, and no bound where a majority's disks lag"
            )
        return f"0 as long as no more than {self.losses_with_a_copy_left} of {self.voters} disks are lost"


def explain(voters: int, write: int, replicas: int) -> Row:
    """Return what `voters` voters that all hold data, writes of concern `write` and QUORUM(`replicas`) reads come to.

    `write` is a concern as on the wire, but not DEFAULT; 0 `replicas` are a majority.
    Raises InvalidArgument, which names the range.
    """
    if voters < 1:
        raise InvalidArgument(f"a cluster of {voters} voters is not possible: at least 1")
    least = majority(voters)
    w = needed(write, voters=voters, keepers=voters)
    r = required_replicas(replicas, voters)
    guarantee, sees_writes_at = of_quorum_read(r, voters)
    return Row(
        voters=voters,
        majority=least,
        write=w.voters,
        read=r,
        early=w.early,
        overlap=w.voters + r > voters,
        guarantee=guarantee,
        sees_writes_at=sees_writes_at,
        sees={level: _sees(level, w.voters, early=w.early, sees_writes_at=sees_writes_at) for level in Level},
        writes_survive=voters - max(w.voters, least),
        commits_survive=voters - least,
        quorum_reads_survive=voters - r,
        quorum_reads_survive_any_end=voters - max(r, least),
        local_reads_survive=voters - 1,
        losses_survived=0 if w.early else voters - least,
        losses_with_a_copy_left=0 if w.early else w.voters - 1,
        loads=tuple(load(voters, gone) for gone in range(1, voters - least + 1)),
    )


def load(voters: int, gone: int) -> Load:
    """Return what each of the other voters has to carry when `gone` of `voters` are gone."""
    left = voters - gone
    return Load(gone, voters / left, 100 * left // voters)


def _sees(level: Level, write: int, *, early: bool, sees_writes_at: int) -> Sees:
    if early:
        # Not committed when it is acknowledged, and only what is committed is ever read.
        return Sees.IT_WITH_TOKEN_OR_TELLS if level is Level.AT_LEAST else Sees.PERHAPS_AND_IT_MAY_VANISH
    match level:
        case Level.LOCAL:
            return Sees.PERHAPS  # on disk, on all voters even, is not yet applied
        case Level.AT_LEAST:
            return Sees.IT_WITH_TOKEN
        case Level.BOUNDED:
            return Sees.IT_PAST_THE_BOUND
        case Level.LEASE:
            return Sees.IT_BY_CLOCKS
        case Level.LINEARIZABLE:
            return Sees.IT
        case Level.QUORUM:
            return Sees.IT if write >= sees_writes_at else Sees.PERHAPS
