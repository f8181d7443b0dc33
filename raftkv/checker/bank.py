"""Money that moves between accounts: none is made or lost, nobody owes, and each read is one moment's truth.

`transfer` ({"from", "to", "amount"}) with the revision that it made; `read` -> {account: balance} with `extra["at"]`,
the revision of the store that it was answered at.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from raftkv.checker import revisions
from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, Verdict, judged, never, together, undecided

_MOST_TRIED: Final = 50_000
"""Choices of unknown transfers that are tried for one read; with more, what they explain is not known."""

_Balances = tuple[int, ...]


class _TooManyError(Exception):
    """There are more possibilities than can be looked at."""


def check(
    operations: Sequence[Operation],
    out_of_time: OutOfTime = never,
    *,
    total: int,
    accounts: Sequence[str],
    initial: Mapping[str, int] | None = None,
) -> Verdict:
    """Judge one bank. `initial` is what the accounts held before the first transfer, where that is known."""
    for one in operations:
        if one.f not in ("transfer", "read"):
            raise ValueError(f"a bank knows no {one.f!r}")
    reads = [one for one in operations if one.f == "read" and one.ok]
    if not reads:
        return undecided(len(operations), "the balances were never read")
    order = revisions.check(operations, out_of_time, content=None)
    found = Findings()
    book = _Book([one for one in operations if one.f == "transfer"], accounts, initial)
    whole = []
    for read in reads:
        balances = read.result
        if set(balances) != set(accounts):
            missing = ", ".join(sorted(set(accounts) ^ set(balances)))
            found.add("wrong accounts", f"a read has not the accounts that there are: {missing}", read)
            continue
        if sum(balances.values()) != total:
            text = f"all balances together were {sum(balances.values())}, and should be {total}"
            found.add("total changed", text, read)
        below = {account: balance for account, balance in balances.items() if balance < 0}
        if below:
            told = ", ".join(f"{account} holds {balance}" for account, balance in below.items())
            found.add("negative balance", told, read)
        whole.append(read)
    try:
        book.compare(whole, found, out_of_time)
    except _TooManyError as why:
        return together(len(operations), undecided(len(operations), str(why), found.problems), order)
    return together(len(operations), judged(len(operations), found.problems), order)


class _Book:
    """All transfers, in the order in which they took effect."""

    def __init__(
        self, transfers: Sequence[Operation], accounts: Sequence[str], initial: Mapping[str, int] | None
    ) -> None:
        self._accounts = accounts
        self._initial = None if initial is None else tuple(initial[account] for account in accounts)
        self._made = sorted((one for one in transfers if one.ok), key=lambda one: one.revision)
        self._unknown = sorted((one for one in transfers if one.unknown), key=lambda one: one.began)

    def compare(self, reads: Sequence[Operation], found: Findings, out_of_time: OutOfTime) -> None:
        """Each read holds what the one before held, moved by the transfers between their revisions.

        What is left over must be the work of transfers of unknown outcome, each of which took effect once at most.
        Raises _TooManyError.
        """
        if any(not one.revision for one in self._made):
            return
        held, last, place = self._initial, None, 0
        unknown = _Explanations([self._effect(one) for one in self._unknown])
        beginnings = [one.began for one in self._unknown]
        for read in sorted((one for one in reads if one.extra.get("at")), key=lambda one: (one.extra["at"], one.began)):
            if out_of_time():
                raise _TooManyError("out of time: not all reads were held against the transfers")
            expected = held
            while place < len(self._made) and self._made[place].revision <= read.extra["at"]:
                if expected is not None:
                    expected = _plus(expected, self._effect(self._made[place]))
                place += 1
            balances = tuple(read.result[account] for account in self._accounts)
            if expected is not None and balances != expected:
                left_over = tuple(now - then for now, then in zip(balances, expected, strict=True))
                same = last is not None and last.extra["at"] == read.extra["at"]
                if same or not unknown.explain(left_over, bisect_right(beginnings, read.ended)):
                    self._report(read, last, left_over, found)
            held, last = balances, read

    def _report(self, read: Operation, last: Operation | None, left_over: _Balances, found: Findings) -> None:
        at = read.extra["at"]
        told = ", ".join(f"{account} by {by:+}" for account, by in zip(self._accounts, left_over, strict=True) if by)
        if last is None:
            text = f"a read at revision {at} is not what all transfers by then make: {told}"
            found.add("read off the books", text, read)
        elif last.extra["at"] == at:
            found.add("one revision, two values", f"two reads at revision {at} differ: {told}", last, read)
        else:
            since = f"since the read at revision {last.extra['at']}"
            text = f"a read at revision {at} is not what the transfers {since} make: {told}"
            found.add("read off the books", text, last, read)

    def _effect(self, transfer: Operation) -> _Balances:
        asked = transfer.value
        source, target, amount = str(asked["from"]), str(asked["to"]), asked["amount"]
        return tuple(amount * ((account == target) - (account == source)) for account in self._accounts)


class _Explanations:
    """Which transfers of unknown outcome may have made what was left over from read to read, each of them once."""

    def __init__(self, effects: Sequence[_Balances]) -> None:
        """`effects` in the order in which their transfers began."""
        self._effects = effects
        self._left_over: list[tuple[_Balances, int]] = []
        """What was left over, and how many transfers had begun by then."""
        self._chosen: list[tuple[int, ...]] = []
        """For each of these, who made it."""
        self._ways: list[Iterator[tuple[int, ...]]] = []
        """For each of these, the choices that are left."""
        self._tried = 0

    def explain(self, left_over: _Balances, begun: int) -> bool:
        """Whether that, too, may come of the first `begun` transfers. If not, all begins anew. Raises _TooManyError."""
        self._left_over.append((left_over, begun))
        self._ways.append(self._ways_to(left_over, begun))
        self._tried = 0
        while self._ways:
            way = next(self._ways[-1], None)
            if way is None:  # then what was chosen before was wrong
                self._ways.pop()
                if self._chosen:
                    self._chosen.pop()
                continue
            self._chosen.append(way)
            if len(self._chosen) == len(self._left_over):
                return True
            self._ways.append(self._ways_to(*self._left_over[len(self._chosen)]))
        self._left_over.clear()
        return False

    def _ways_to(self, wanted: _Balances, begun: int) -> Iterator[tuple[int, ...]]:
        """Yield choices of transfers that were not chosen yet and add up to `wanted`: the smallest and latest first.

        Of transfers that do the same it does not matter which one is chosen.
        """
        used = {number for way in self._chosen for number in way}
        free = [number for number in reversed(range(begun)) if number not in used]
        seen: set[tuple[_Balances, ...]] = set()
        for count in range(1, len(free) + 1):
            for way in itertools.combinations(free, count):
                self._tried += 1
                if self._tried > _MOST_TRIED:
                    raise _TooManyError(f"{begun} transfers of unknown outcome explain too much")
                effects = [self._effects[number] for number in way]
                if tuple(map(sum, zip(*effects, strict=True))) != wanted:
                    continue
                if (kind := tuple(sorted(effects))) not in seen:
                    seen.add(kind)
                    yield way


def _plus(one: _Balances, other: _Balances) -> _Balances:
    return tuple(a + b for a, b in zip(one, other, strict=True))
