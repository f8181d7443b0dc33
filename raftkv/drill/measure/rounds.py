"""One round: what the fault led to, and when.

Times are seconds since the fault. They are as fine as the looking: a node is asked every few hundredths of a second,
and a writer writes as often as that.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

from raftkv.drill.measure.record import Fault, How, Outcome, Read, Record, Role, Sight, Write

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How long one writer waited between two acknowledgements."""

    began: float
    ended: float
    closed: bool
    """False: no acknowledgement ended it, so it is at least as long."""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One fault and what came of it; what did not come about is None."""

    number: int
    how: How
    old_leader: int
    old_term: int
    began: float
    """Of the drill's clock, as `until` and the gap's times are."""
    until: float
    """The round's end: the next fault, or the end of the load."""
    undone_s: float | None
    detection_s: float | None
    """Until a node no longer took the old leader for its leader."""
    election_s: float | None
    """Until a node knew the new leader."""
    new_leader: int | None
    new_term: int | None
    first_write_s: float | None
    """Until a write was acknowledged that the new leader had taken."""
    gap: Gap | None
    """RTO: the longest that a writer waited for the new leader's first acknowledgement after the old one's last. None:
    nothing was acknowledged before."""
    longest_gap: Gap | None
    """The longest that a writer waited in the whole round, for whatever reason: a node that starts takes its share of
    the machine."""
    mttr_s: float | None
    """Until the old leader was back, with all that had been committed without it."""
    acknowledged: int
    failed: int
    unknown: int
    reads: int
    reads_failed: int

    @property
    def recovered(self) -> bool:
        """Whether the cluster was whole again: another leader was elected, took writes, and the old one came back."""
        return None not in (self.election_s, self.first_write_s, self.mttr_s)


def measured(record: Record, fault: Fault) -> Round:
    """Measure a round as far as it has come. Looks at no more than the round and the one before it."""
    earlier = max((one.at for one in record.faults if one.at < fault.at), default=0.0)
    later = next((one.at for one in record.faults if one.at > fault.at), None)
    until = later if later is not None else _end(record)
    sights = _from(record.sights, _at, fault.at, until)
    elected = next((one for one in sights if one.term > fault.term and one.leader), None)
    detected = next((one for one in sights if _misses(one, fault)), None)
    known = _from(record.writes, _ended, earlier, until)
    writes = _from(known, _ended, fault.at, until)
    took = [one.ended for one in writes if one.outcome is Outcome.OK and one.term > fault.term]
    back = _back(fault, elected, sights)
    reads = _from(record.reads, _ended, fault.at, until)
    return Round(
        number=fault.round,
        how=fault.how,
        old_leader=fault.node,
        old_term=fault.term,
        began=fault.at,
        until=until,
        undone_s=_since(fault, fault.undone),
        detection_s=_since(fault, detected.at if detected else None),
        election_s=_since(fault, elected.at if elected else None),
        new_leader=elected.leader if elected else None,
        new_term=elected.term if elected else None,
        first_write_s=_since(fault, min(took, default=None)),
        gap=switch_gap(known, fault, until),
        longest_gap=longest_gap(known, fault.at, until),
        mttr_s=_since(fault, back),
        acknowledged=sum(1 for one in writes if one.outcome is Outcome.OK),
        failed=sum(1 for one in writes if one.outcome is Outcome.FAILED),
        unknown=sum(1 for one in writes if one.outcome is Outcome.UNKNOWN),
        reads=len(reads),
        reads_failed=sum(1 for one in reads if one.outcome is not Outcome.OK),
    )


def last_sign_of_life(record: Record, fault: Fault) -> float:
    """Return when a node was struck that by now is: docker takes a second to kill, and it answers meanwhile."""
    return max([fault.at, *(one.at for one in _from(record.sights, _at, fault.at, math.inf) if one.node == fault.node)])


def switch_gap(writes: Sequence[Write], fault: Fault, until: float) -> Gap | None:
    """Return the longest time that a writer waited between the last answer of the old leader and the first of the new.

    A writer that is still waiting at `until` counts as far as that.
    """
    gaps: list[Gap] = []
    for answers in _acknowledged(writes, until).values():
        before = [one.ended for one in answers if one.term <= fault.term]
        after = [one.ended for one in answers if one.term > fault.term]
        if before:
            ended = min(after, default=until)
            gaps.append(Gap(began=min(before[-1], ended), ended=ended, closed=bool(after)))
    return max(gaps, key=lambda one: one.seconds, default=None)


def longest_gap(writes: Sequence[Write], since: float, until: float) -> Gap | None:
    """Return the longest time between two acknowledgements of one writer that touches [since, until].

    A writer that is still waiting at `until` counts as far as that. None: nobody had written before.
    """
    gaps: list[Gap] = []
    for answers in _acknowledged(writes, until).values():
        times = [one.ended for one in answers]
        gaps += (Gap(began=begin, ended=end, closed=True) for begin, end in pairwise(times) if end >= since)
        gaps.append(Gap(began=times[-1], ended=until, closed=False))
    return max(gaps, key=lambda one: one.seconds, default=None)


def _acknowledged(writes: Sequence[Write], until: float) -> Mapping[int, Sequence[Write]]:
    """Return what was acknowledged by `until`, by writer, in the order of the answers."""
    found: dict[int, list[Write]] = defaultdict(list)
    for one in writes:
        if one.outcome is Outcome.OK and one.ended <= until:
            found[one.writer].append(one)
    return found


def _end(record: Record) -> float:
    last = max(
        record.writes[-1].ended if record.writes else 0.0,
        record.sights[-1].at if record.sights else 0.0,
    )
    return last if record.ended is None else record.ended


def _at(sight: Sight) -> float:
    return sight.at


def _ended(request: Write | Read) -> float:
    return request.ended


def _from(seen: Sequence[T], when: Callable[[T], float], since: float, until: float) -> Sequence[T]:
    """Return what was seen in [since, until]: it is in the order in which it was."""
    return seen[bisect_left(seen, since, key=when) : bisect_right(seen, until, key=when)]


def _misses(sight: Sight, fault: Fault) -> bool:
    return sight.term > fault.term or sight.role is Role.CANDIDATE or sight.leader != fault.node


def _back(fault: Fault, elected: Sight | None, sights: Sequence[Sight]) -> float | None:
    """Return when the old leader was first seen in the new term with all that was committed before it was free."""
    if fault.undone is None or elected is None:
        return None
    free = max(fault.undone, elected.at)
    committed = max((one.commit for one in sights if one.at <= free), default=0)
    return next(
        (
            one.at
            for one in sights
            if one.node == fault.node
            and one.at >= free
            and one.term >= elected.term
            and one.leader
            and one.applied >= committed
        ),
        None,
    )


def _since(fault: Fault, at: float | None) -> float | None:
    return None if at is None else at - fault.at
