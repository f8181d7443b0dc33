"""What is measured. The load shares the machine with the nodes, so an operation costs a format and a call."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from raftkv.client import AsyncClient, ReadLevel
from raftkv.errors import ConfigurationError

KEYS_READ: Final = 10_000
"""So many different keys are read, or as many as there are reads."""
_PREFIX: Final = b"bench/"

Perform = Callable[[int], Awaitable[object]]


class Operation(Protocol):
    """One kind of operation; they are numbered."""

    name: str
    total: int
    key_size: int
    value_size: int
    seeds: int
    """How many operations of `seed` come first."""

    def seed(self, client: AsyncClient) -> Perform:
        """Return what must be done before the measurement, for each number below `seeds`."""
        ...

    def on(self, client: AsyncClient) -> Perform:
        """Return what is measured, for each number below `total`."""
        ...


class Puts:
    """Writes of new keys."""

    name = "put"
    seeds = 0

    def __init__(self, total: int, *, key_size: int, value_size: int) -> None:
        self.total = total
        self.key_size = key_size
        self.value_size = value_size
        self._template = key_template(key_size, total)
        self._value = random.randbytes(value_size)

    def on(self, client: AsyncClient) -> Perform:
        template, value, put = self._template, self._value, client.put
        return lambda number: put(template % number, value)

    def seed(self, client: AsyncClient) -> Perform:
        return self.on(client)


class Gets:
    """Reads of keys that exist."""

    name = "get"

    def __init__(self, total: int, *, key_size: int, value_size: int, level: ReadLevel) -> None:
        self.total = total
        self.key_size = key_size
        self.value_size = value_size
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


def key_template(size: int, count: int) -> bytes:
    """Return a format of keys of `size` bytes for the numbers below `count`. Raises ConfigurationError."""
    digits = len(str(count - 1))
    if size < digits:
        raise ConfigurationError(f"--key-size {size} is too short for {count} different keys: at least {digits}")
    prefix = _PREFIX if size >= digits + len(_PREFIX) else b""
    return prefix + b"%%0%dd" % (size - len(prefix))
