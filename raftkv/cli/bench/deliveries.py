"""What watchers were told, and when: taken down at the cost of two appends a batch, made sense of afterwards."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from raftkv.client import Event

STEPS_PER_S: Final = 10_000
"""Latencies are counted in steps of 0.1 ms: so many of them would fill the memory, and take long, one by one."""

Batch = tuple[Event, ...]


class Record:
    """What one watcher was told."""

    __slots__ = ("batches", "times")

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        """Watchers of one stream are handed the same object."""
        self.times = array("d")


@dataclass(frozen=True, slots=True)
class Deliveries:
    """All of it, put together."""

    events: int
    """Pairs of a watcher and an event that it was told for the first time."""
    lost: int
    duplicated: int
    """Told again, or after a later one."""
    histogram: Mapping[int, int]
    """How many took how many steps."""

    def percentile_s(self, percent: float) -> float | None:
        """Return the least latency, in seconds, that `percent` % of all do not exceed; None of none."""
        left = self.events * percent / 100
        for step, count in sorted(self.histogram.items()):
            left -= count
            if left <= 0:
                return step / STEPS_PER_S
        return None


class _Batch:
    """Events that many watchers were handed in one piece, and how many in which step."""

    __slots__ = ("arrivals", "in_order", "revisions")

    def __init__(self, batch: Batch, written: Mapping[int, int]) -> None:
        self.revisions = [event.revision for event in batch if event.revision in written]
        self.in_order = all(earlier < later for earlier, later in pairwise(self.revisions))
        self.arrivals: dict[int, int] = {}


def judge(records: Sequence[Record], sent_at: Mapping[int, float]) -> Deliveries:
    """Compare what watchers were told with what was written: revisions, and when their puts were sent."""
    written = {revision: round(seconds * STEPS_PER_S) for revision, seconds in sent_at.items()}
    batches: dict[int, _Batch] = {}
    histogram: dict[int, int] = {}
    events = lost = duplicated = 0
    for record in records:
        newest = told = 0
        for batch, time in zip(record.batches, record.times, strict=True):
            known = batches.get(id(batch))
            if known is None:  # `records` keeps the batch alive, so its id stays its own
                known = batches[id(batch)] = _Batch(batch, written)
            revisions, step = known.revisions, round(time * STEPS_PER_S)
            if not revisions:
                continue
            if known.in_order and revisions[0] > newest:
                newest = revisions[-1]
                told += len(revisions)
                known.arrivals[step] = known.arrivals.get(step, 0) + 1
                continue
            for revision in revisions:
                if revision <= newest:
                    duplicated += 1
                    continue
                newest = revision
                told += 1
                _count(histogram, step - written[revision], 1)
        events += told
        lost += len(written) - told
    for known in batches.values():
        for step, watchers in known.arrivals.items():
            for revision in known.revisions:
                _count(histogram, step - written[revision], watchers)
    return Deliveries(events, lost, duplicated, histogram)


def _count(histogram: dict[int, int], steps: int, number: int) -> None:
    histogram[steps] = histogram.get(steps, 0) + number
