"""Whether operations on one object can have happened one at a time, each at a moment between its call and its answer.

The search of Wing and Gong (1993), with Lowe's memo (2017), made to follow concurrency instead of length. Time is
walked through once. What is kept is every way in which things may stand, a *configuration*: the object's state, and
which of the operations now under way have taken effect. Configurations are worked on only when an operation returns: it
must have taken effect by then, perhaps after others that are under way; where it cannot have, the configuration is
dropped. When none is left, no order explains that answer.

Four rules keep their number small, and lose nothing:

- What never changes the state (a read, a compare that failed) takes effect in the first state that fits its answer.
- An operation of unknown outcome may take effect at any later time, or never. So, of two configurations that differ
  only in those, the one in which fewer have taken effect can do all that the other can; the other is dropped.
- Among operations of unknown outcome that do the same, the one that began first is as good as any.
- Those of unknown outcome that no answer speaks of are left out at first. What can be explained without them can be
  explained.

Objects are independent (Herlihy and Wing 1990, locality): check each key on its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Protocol

from raftkv.checker.history import Operation, Outcome
from raftkv.checker.verdict import OutOfTime, never

State = Any
"""Of an object: hashable, compared with ==."""


class Answer(Enum):
    """What a step may return instead of a state."""

    IMPOSSIBLE = "impossible"
    """In this state, it would have been answered otherwise."""


IMPOSSIBLE: Final = Answer.IMPOSSIBLE
Step = Callable[[State], State]
"""The state that an operation leaves behind, or IMPOSSIBLE. Pure."""

MOST_CONFIGURATIONS: Final = 200_000
_ASK_EVERY: Final = 1_024


@dataclass(frozen=True, slots=True)
class Call:
    """What an operation does to its object, given what it was answered."""

    step: Step
    passive: bool = False
    """It changes no state, whichever it meets."""
    twin: Hashable = None
    """Of unknown outcomes: those with equal ones, other than None, do the same."""


class Model(Protocol):
    """What an object does when it is used by one client at a time."""

    @property
    def initial(self) -> State:
        """The state before the first operation."""

    def call(self, operation: Operation) -> Call | None:
        """Return what an operation that is OK or unknown does. None: nothing can be learned from it.

        Raises ValueError for what the model does not know.
        """

    def spoken_of(self, operations: Sequence[Operation]) -> Iterable[Operation]:
        """Return those of unknown outcome that some answer points to. All of them is right, and slow."""

    def background(self, kept: Sequence[Operation], removed: Sequence[Operation]) -> Iterable[Step]:
        """Return steps that, taken at any time and any number of times, allow all that `removed` can do.

        Only what `kept`, the other operations, can notice counts: the fewer steps, the better.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the search found."""

    linearizable: bool | None
    """None: it gave up; `why` says why."""
    why: str = ""
    stuck: Operation | None = None
    """Where it is not: the first answer that no order explains."""
    states: frozenset[State] = frozenset()
    """The states that the object may have had while `stuck` was under way."""


class _GaveUpError(Exception):
    """The search was ended before its end."""


def linearizable(
    model: Model,
    operations: Iterable[Operation],
    *,
    out_of_time: OutOfTime = never,
    most: int = MOST_CONFIGURATIONS,
    background: Iterable[Step] = (),
) -> Result:
    """Search an order that explains all answers on one object. FAIL operations never happened, and are left out.

    `out_of_time` is asked regularly, and never more than `most` configurations are kept: past either, nothing is known.
    `background`: steps that may be taken at any time, any number of times, by nobody.
    """
    known, unknown = [], []
    for one in operations:
        if one.outcome is Outcome.OK:
            known.append(one)
        elif one.outcome is Outcome.INFO:
            unknown.append(one)
    steps = tuple(background)
    try:
        if unknown:
            likely = list(model.spoken_of([*known, *unknown]))
            if len(likely) < len(unknown):
                first = _Search(model, steps, out_of_time, most).run(known + likely)
                if first.linearizable:
                    return first
        return _Search(model, steps, out_of_time, most).run(known + unknown)
    except _GaveUpError as why:
        return Result(linearizable=None, why=str(why))


@dataclass(slots=True)
class _Search:
    model: Model
    background: tuple[Step, ...]
    out_of_time: OutOfTime
    most: int
    active: dict[int, Step] = field(default_factory=dict)
    """What is under way and may change the state, by its bit."""
    passive: dict[int, Step] = field(default_factory=dict)
    """What is under way and cannot."""
    optional: int = 0
    """The bits of what is under way for ever."""
    elder: dict[int, int] = field(default_factory=dict)
    """Of such a bit, the one that does the same, began just before, and is to take effect before it."""
    youngest: dict[Hashable, int] = field(default_factory=dict)
    """Of those that do the same, the bit of the last one to begin."""
    work: int = 0

    def run(self, operations: Sequence[Operation]) -> Result:
        configurations: set[tuple[State, int]] = {(self.model.initial, 0)}
        calls = [(one, call) for one in operations if (call := self.model.call(one)) is not None]
        # At equal times what begins comes before what ends: they are concurrent.
        events = [(one.began, 0, number) for number, (one, _) in enumerate(calls)]
        events += [(one.ended, 1, number) for number, (one, _) in enumerate(calls) if not one.unknown]
        events.sort()
        bits: dict[int, int] = {}
        free: list[int] = []
        fresh = (1 << number for number in itertools.count())
        for _, ends, number in events:
            operation, call = calls[number]
            if not ends:
                bit = free.pop() if free else next(fresh)
                if call.passive:
                    self.passive[bit] = step = call.step
                    configurations = {
                        (state, mask if step(state) is IMPOSSIBLE else mask | bit) for state, mask in configurations
                    }
                else:
                    self.active[bit] = call.step
                if operation.unknown:
                    self.optional |= bit
                    if call.twin is not None:
                        if elder := self.youngest.get(call.twin, 0):
                            self.elder[bit] = elder
                        self.youngest[call.twin] = bit
                else:
                    bits[number] = bit
                continue
            bit = bits.pop(number)
            configurations, states = self._returned(configurations, bit)
            if not configurations:
                return Result(linearizable=False, stuck=operation, states=states)
            (self.passive if call.passive else self.active).pop(bit)
            free.append(bit)
            if self.optional:
                configurations = self._without_the_settled(configurations, free)
        return Result(linearizable=True)

    def _returned(
        self, configurations: set[tuple[State, int]], bit: int
    ) -> tuple[set[tuple[State, int]], frozenset[State]]:
        """Return the configurations in which `bit`, which returns now, has taken effect, without it.

        Also the states that were passed through on the way.
        """
        done = {(state, mask ^ bit) for state, mask in configurations if mask & bit}
        reached = [one for one in configurations if not one[1] & bit]
        self._count(1 + len(reached))
        if not reached:
            return done, frozenset()
        optional, passive = self.optional, tuple(self.passive.items())
        # What is taken in the background leaves no mark; what comes after its elder waits for it.
        moves = [(other, self.elder.get(other, 0), step) for other, step in self.active.items()]
        moves += [(0, 0, step) for step in self.background]
        seen = set(reached)
        least: dict[tuple[State, int], list[int]] = {}
        if optional:
            for state, mask in reached:
                least.setdefault((state, mask & ~optional), []).append(mask & optional)
        for number, (state, mask) in enumerate(reached):
            # It grows meanwhile: the nearest first, so that those come first in which the fewest have taken effect.
            for move, elder, step in moves:
                if mask & move or (elder and not mask & elder):
                    continue
                after = step(state)
                if after is IMPOSSIBLE:
                    continue
                taken = mask | move
                for other, fits in passive:
                    if not taken & other and fits(after) is not IMPOSSIBLE:
                        taken |= other
                if taken & bit:
                    done.add((after, taken ^ bit))
                    continue
                found = (after, taken)
                if found in seen:
                    continue
                seen.add(found)
                if optional:
                    rivals = least.setdefault((after, taken & ~optional), [])
                    used = taken & optional
                    if any(rival & used == rival for rival in rivals):
                        continue
                    rivals.append(used)
                reached.append(found)
            if not number % 256:
                self._count(256 if number else 0)
                if len(reached) + len(done) > self.most:
                    raise _GaveUpError(f"more than {self.most} configurations")
        return self._least(done), frozenset(state for state, _ in reached)

    def _least(self, configurations: set[tuple[State, int]]) -> set[tuple[State, int]]:
        """Return them without those that another one outdoes, with fewer of unknown outcome."""
        if not self.optional or len(configurations) < 2:
            return configurations
        kept: dict[tuple[State, int], list[int]] = {}
        for state, mask in sorted(configurations, key=lambda one: (one[1] & self.optional).bit_count()):
            rivals = kept.setdefault((state, mask & ~self.optional), [])
            used = mask & self.optional
            if not any(rival & used == rival for rival in rivals):
                rivals.append(used)
        return {(state, mask | used) for (state, mask), rivals in kept.items() for used in rivals}

    def _without_the_settled(self, configurations: set[tuple[State, int]], free: list[int]) -> set[tuple[State, int]]:
        """Forget operations of unknown outcome that have taken effect in every configuration."""
        settled = self.optional
        for _, mask in configurations:
            settled &= mask
            if not settled:
                return configurations
        self.optional &= ~settled
        for bit in [bit for bit in self.active if bit & settled]:
            del self.active[bit]
            free.append(bit)
        self.elder = {bit: elder for bit, elder in self.elder.items() if not (bit | elder) & settled}
        self.youngest = {twin: bit for twin, bit in self.youngest.items() if not bit & settled}
        return {(state, mask & ~settled) for state, mask in configurations}

    def _count(self, work: int) -> None:
        self.work += work
        if self.work >= _ASK_EVERY:
            self.work = 0
            if self.out_of_time():
                raise _GaveUpError("out of time")
