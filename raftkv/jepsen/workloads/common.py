"""What several workloads do alike."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from raftkv.checker.history import Operation
from raftkv.client import AsyncClient, KeyValue, PutResult, ReadResult
from raftkv.errors import DeadlineExceeded
from raftkv.jepsen.worker import Answer

PATIENCE_S: Final = 30.0
"""For what a run begins and ends with, whatever its --op-timeout."""
TRY_EVERY_S: Final = 0.25
OWN_TIMEOUT_S: Final = 5.0
"""Of the calls of clients that a workload makes itself."""

T = TypeVar("T")


class LiveKeys:
    """Keys that are in use for a while each, so that the history of none grows beyond what can be checked."""

    def __init__(self, name: str, *, live: int, uses: int) -> None:
        """`live` keys at a time; each is followed by another one after about `uses` of its uses."""
        self.all = [f"{name}{number}" for number in range(live)]
        """Every key so far, the newest last."""
        self._name = name
        self._live = list(self.all)
        self._uses = uses
        self._used: dict[str, int] = {}

    def draw(self, rng: random.Random) -> str:
        """Return a live key. This is a use of it."""
        place = rng.randrange(len(self._live))
        key = self._live[place]
        self.use(key)
        return key

    def use(self, key: str) -> None:
        """Count a use of a key that came from `live`."""
        used = self._used[key] = self._used.get(key, 0) + 1
        if used >= self._uses and key in self._live:
            following = f"{self._name}{len(self.all)}"
            self.all.append(following)
            self._live[self._live.index(key)] = following

    @property
    def live(self) -> Sequence[str]:
        """The keys in use now."""
        return tuple(self._live)


def count(operations: Sequence[Operation], **shows: Callable[[Operation], bool]) -> Counter[str]:
    """Count operations that were OK by what they show, for `Workload.done`."""
    ok = [one for one in operations if one.ok]
    return Counter({what: sum(map(of_it, ok)) for what, of_it in shows.items()})


async def put(client: AsyncClient, path: str, value: object) -> Answer:
    """Put a value as text."""
    written: PutResult = await client.put(path, str(value))
    return Answer(revision=written.revision)


async def read_number(client: AsyncClient, path: str) -> Answer:
    """Read a key that holds a number: the number or None, and its mod_revision."""
    return number_of(await client.get(path))


def number_of(pair: KeyValue | ReadResult | None) -> Answer:
    """Return what a read of a number is in a history."""
    found = pair.pair if isinstance(pair, ReadResult) else pair
    return Answer() if found is None else Answer(int(found.value), found.mod_revision)


async def confirmed(release: Awaitable[bool]) -> Answer:
    """Give something back. Raises an ambiguous error unless the store has confirmed it."""
    if not await release:
        raise DeadlineExceeded("the store has not confirmed it", ambiguous=True)
    return Answer()


class NotAnsweredError(TimeoutError):
    """A healthy cluster did not do in time what a run ends with."""


async def insist(what: str, attempt: Callable[[], Awaitable[T | None]]) -> T:
    """Try again until there is an answer, for half a minute or so: for `finish`. Raises NotAnsweredError."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PATIENCE_S
    while (answer := await attempt()) is None:
        if loop.time() >= until:
            raise NotAnsweredError(f"not within {PATIENCE_S:g} s: {what}")
        await asyncio.sleep(TRY_EVERY_S)
    return answer
