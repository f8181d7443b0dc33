"""The lines of locks as the log defines them, and what must not be about them.

Written anew from the rules (kv/lock.py has them), not from the rows: a line is the places in it, by ticket.

    mutual exclusion    a lock is held by one at a time; a read-write lock by readers together or by one writer; a
                        semaphore by no more than its limit
    tokens              every grant has a greater token than any before it, of whatever lock
    line                granted in the order of the tickets, as soon as there is room; a lease has one place in a line
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from raftkv.kv.commands import Fence, FenceMode, LockKind

Report = Callable[[str], None]


class Place(NamedTuple):
    """Somebody in line."""

    token: int
    lease: int
    kind: int
    exclusive: bool
    limit: int
    value: bytes


class Line:
    """One lock."""

    def __init__(self) -> None:
        self.places: dict[int, Place] = {}
        self.newest = 0
        self.floor = 0
        self.shared = False
        """The newest grant was a shared one."""
        self.kind: int | None = None

    @property
    def holders(self) -> list[Place]:
        return [place for place in self.places.values() if place.token]

    def ticket_of(self, lease: int) -> int:
        """Return the ticket of a lease's place; 0: it has none."""
        return next((ticket for ticket, place in self.places.items() if place.lease == lease), 0)


def admits(holders: list[Place], newcomer: Place) -> bool:
    """Whether a lock may have one more holder."""
    if not holders:
        return True
    if newcomer.exclusive or any(holder.exclusive for holder in holders):
        return False
    return newcomer.kind != LockKind.SEMAPHORE or len(holders) < newcomer.limit


class Lines:
    """All lines."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.last_token = 0
        self.grants = 0
        self._lines: dict[bytes, Line] = {}

    def __getitem__(self, lock: bytes) -> Line:
        return self._lines.setdefault(lock, Line())

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._lines)

    @property
    def crowd(self) -> int:
        """How many stand in lines."""
        return sum(len(line.places) for line in self._lines.values())

    def write(self, lock: bytes, ticket: int, place: Place | None, revision: int) -> None:
        """A place was made or changed at a revision, or (None) has gone."""
        line = self[lock]
        before = line.places.get(ticket)
        if place is None:
            if before is None:
                self._report(f"line: ticket {ticket} of {lock!r} leaves at revision {revision} and was not there")
            line.places.pop(ticket, None)
            return
        if before is None:
            if ticket != revision:
                self._report(f"line: {lock!r} has a new place {ticket} at revision {revision}")
            if line.ticket_of(place.lease):
                self._report(f"line: lease {place.lease} has two places in the line of {lock!r}")
            if not line.places:
                line.shared = line.shared and line.kind == place.kind
                line.kind = place.kind
        elif before._replace(token=place.token, value=place.value) != place or (before.token and not place.token):
            self._report(f"line: the place {ticket} of {lock!r} turns from {before} into {place}")
        line.places[ticket] = place
        if place.token and (before is None or before.token != place.token):
            self._granted(lock, line, place)

    def _granted(self, lock: bytes, line: Line, place: Place) -> None:
        self.grants += 1
        if place.token <= self.last_token:
            self._report(f"tokens: {lock!r} is granted with token {place.token} after {self.last_token} was given")
        self.last_token = line.newest = place.token
        if place.exclusive or not line.shared:
            line.floor = place.token
        line.shared = not place.exclusive

    def check(self, lock: bytes, revision: int, alive: Callable[[int], bool]) -> None:
        """Judge a line whose places have changed, as it is after the command."""
        places = sorted(self[lock].places.items())
        holders = self[lock].holders
        for position, holder in enumerate(holders):
            if not admits(holders[:position], holder):
                self._report(f"mutual exclusion: at revision {revision} {lock!r} is held by {holders}")
                return
        waits = [ticket for ticket, place in places if not place.token]
        granted = [ticket for ticket, place in places if place.token]
        if waits and granted and granted[-1] > waits[0]:
            self._report(f"line: at revision {revision} ticket {granted[-1]} of {lock!r} has overtaken {waits[0]}")
        elif waits:
            first = self[lock].places[waits[0]]
            if admits(holders, first) and alive(first.lease):
                self._report(f"line: at revision {revision} there is room for ticket {waits[0]} of {lock!r}: it waits")

    def good(self, fence: Fence, alive: Callable[[int], bool]) -> bool:
        """Whether a fence lets a write pass."""
        line = self[fence.lock]
        if fence.mode == FenceMode.HOLDER:
            return any(holder.token == fence.token and alive(holder.lease) for holder in line.holders)
        return bool(line.newest) and line.floor <= fence.token <= line.newest
