"""What is measured. The load shares the machine with the nodes, so an operation costs a format and a call."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final, Protocol

from raftkv.client import AsyncClient, Concern, Level, mod_revision
from raftkv.client import put as txn_put
from raftkv.errors import ConfigurationError, RaftKVError

KEYS_READ: Final = 10_000
"""So many different keys are read, or as many as there are reads."""
_PREFIX: Final = b"bench/"
_NEVER: Final = 1 << 62
"""No revision is so high."""

Perform = Callable[[int], Awaitable[object]]


class Operation(Protocol):
    """One kind of operation; they are numbered."""

    name: str
    total: int
    seeds: int
    """How many operations of `seed` come first."""

    @property
    def key_size(self) -> int | None:
        """None: it has no keys of its own."""

    @property
    def value_size(self) -> int | None:
        """None: it has no values."""

    @property
    def locks(self) -> int | None:
        """How many locks are contended for; None: it is not about locks."""

    @property
    def variant(self) -> str | None:
        """Which read level or write concern; None: there is no choice."""

    def seed(self, client: AsyncClient) -> Perform:
        """Return what must be done before the measurement, for each number below `seeds`."""
        ...

    def on(self, client: AsyncClient) -> Perform:
        """Return what one worker does that is measured, for each number below `total`."""
        ...

    async def worth(self, client: AsyncClient) -> str | None:
        """Do it once more, and return what the answer says of itself; None: nothing."""


class Puts:
    """Writes of new keys."""

    name = "put"
    locks = None
    seeds = 0

    def __init__(
        self,
        total: int,
        *,
        key_size: int,
        value_size: int,
        concern: Concern = None,
        variant: str | None = None,
        place: int = 0,
        places: int = 1,
    ) -> None:
        """`place` of `places`: which of several runs this is, each of keys of its own."""
        self.total = total
        self.key_size = key_size
        self.value_size = value_size
        self.variant = variant
        self._concern = concern
        self._first = place * total
        self._template = key_template(key_size, total * places)
        self._value = random.randbytes(value_size)

    def on(self, client: AsyncClient) -> Perform:
        template, value, put, concern, first = self._template, self._value, client.put, self._concern, self._first
        if concern is None and not first:
            return lambda number: put(template % number, value)
        return lambda number: put(template % (first + number), value, concern=concern)

    def seed(self, client: AsyncClient) -> Perform:
        return self.on(client)

    async def worth(self, client: AsyncClient) -> str | None:
        done = await client.put(self._template % self._first, self._value, concern=self._concern)
        return done.receipt.words


class Txns:
    """Transactions of one condition, which holds, and one put of a new key."""

    name = "txn"
    locks = None
    seeds = 0
    variant = None

    def __init__(self, total: int, *, key_size: int, value_size: int) -> None:
        self.total = total
        self.key_size = key_size
        self.value_size = value_size
        self._template = key_template(key_size, total)
        self._value = random.randbytes(value_size)

    def on(self, client: AsyncClient) -> Perform:
        template, value, txn = self._template, self._value, client.txn()

        async def perform(number: int) -> None:
            key = template % number
            # Always so: a second run over the same keys measures the same.
            result = await txn.when(mod_revision(key) < _NEVER).then(txn_put(key, value)).commit()
            if not result.succeeded:
                raise RaftKVError(f"the store says that key {key!r} was written at a revision above {_NEVER}")

        return perform

    def seed(self, client: AsyncClient) -> Perform:
        return self.on(client)

    async def worth(self, _: AsyncClient) -> str | None:
        return None


class Locks:
    """An acquire and a release: each worker is a contender for one of some mutexes, again and again.

    The tokens of a lock must grow from one holder to the next: that shows that they never overlapped.
    """

    name = "lock"
    variant = None
    key_size = None
    value_size = None
    seeds = 0

    def __init__(self, total: int, *, locks: int) -> None:
        self.total = total
        self.locks = locks
        self._contenders = count()
        self._names = [b"bench/lock/%d" % number for number in range(locks)]
        self._newest = dict.fromkeys(self._names, 0)

    def on(self, client: AsyncClient) -> Perform:
        name = self._names[next(self._contenders) % self.locks]
        lock, newest = client.lock(name), self._newest

        async def perform(_: int) -> None:
            token = (await lock.acquire()).token
            if token <= newest[name]:
                raise RaftKVError(f"lock {name!r} was granted with token {token} after {newest[name]}")
            newest[name] = token
            if not await lock.release():
                raise RaftKVError(f"the store did not confirm the release of lock {name!r}")

        return perform

    def seed(self, client: AsyncClient) -> Perform:
        return self.on(client)

    async def worth(self, _: AsyncClient) -> str | None:
        return None


class Gets:
    """Reads of keys that exist."""

    name = "get"
    locks = None

    def __init__(self, total: int, *, key_size: int, value_size: int, level: Level, variant: str) -> None:
        self.total = total
        self.key_size = key_size
        self.value_size = value_size
        self.variant = variant
        self.seeds = min(total, KEYS_READ)
        template = key_template(key_size, self.seeds)
        self._keys = [template % number for number in range(self.seeds)]
        self._value = random.randbytes(value_size)
        self._level = level

    def seed(self, client: AsyncClient) -> Perform:
        keys, value, put = self._keys, self._value, client.put
        return lambda number: put(keys[number], value)

    def on(self, client: AsyncClient) -> Perform:
        keys, level, get = self._keys, self._level, client.get
        count = len(keys)
        return lambda number: get(keys[number % count], level=level)

    async def worth(self, client: AsyncClient) -> str | None:
        return (await client.read(self._keys[0], level=self._level)).receipt.words


def key_template(size: int, count: int) -> bytes:
    """Return a format of keys of `size` bytes for the numbers below `count`. Raises ConfigurationError."""
    digits = len(str(count - 1))
    if size < digits:
        raise ConfigurationError(f"--key-size {size} is too short for {count} different keys: at least {digits}")
    prefix = _PREFIX if size >= digits + len(_PREFIX) else b""
    return prefix + b"%%0%dd" % (size - len(prefix))
