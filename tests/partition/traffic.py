"""Clients that write and read without a pause, and remember all they were told."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from itertools import count
from typing import Any

from raftkv.checker.history import Operation
from raftkv.client import AsyncClient, Guarantee
from raftkv.testing.cluster import LocalCluster
from tests.integration.waiting import until
from tests.integration.workers import Workers
from tests.partition.history import read, seconds, violations, write


class Traffic(Workers):
    """Tasks that each write keys of their own, and write and read one register that all of them share.

    No operation may fail: callers see a pause, not an error.
    """

    def __init__(self, client: AsyncClient, prefix: str, *, tasks: int = 8) -> None:
        super().__init__()
        self.register = f"{prefix}register"
        self.operations: list[Operation] = []
        """On the register."""
        self._client = client
        self._prefix = f"{prefix}unique/"
        self._acknowledged: dict[bytes, tuple[bytes, int]] = {}
        self._count = tasks

    @property
    def acknowledged(self) -> int:
        """Number of writes to keys of their own that were acknowledged so far."""
        return len(self._acknowledged)

    async def progress(self, writes: int = 100) -> None:
        """Wait until so many further writes, and reads, were answered that were asked for from now on."""
        now = time.monotonic()
        target = self.acknowledged + writes + self._count  # those under way were asked for before

        def made() -> bool:
            self.raise_errors()
            return self.acknowledged >= target and self._read_since(now)

        await until(f"{writes} more writes, and reads", made)

    async def verify(self, cluster: LocalCluster, *, at_least: int = 300) -> None:
        """Everything acknowledged is on every node as it was, and the register behaved like one. After the end."""
        assert self.stopping
        assert self.acknowledged >= at_least, "too few writes to prove anything"
        for node in cluster.nodes:
            held = await cluster.contents(node.id, self._prefix)
            assert {key: (pair.value, pair.mod_revision) for key, pair in held.items()} == self._acknowledged
            assert {pair.version for pair in held.values()} == {1}, f"node {node.id} applied a write twice"
        writes = sum(operation.f == "write" for operation in self.operations)
        assert writes >= at_least
        assert len(self.operations) - writes >= at_least
        assert violations(self.operations) == []

    def _read_since(self, moment: float) -> bool:
        return any(one.f == "read" and one.began > seconds(moment) for one in self.operations[-10 * self._count :])

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        return [self._run(task) for task in range(self._count)]

    async def _run(self, task: int) -> None:
        for number in count():
            if self.stopping:
                return
            key, value = f"{self._prefix}{task}/{number}".encode(), f"{task}/{number}".encode()
            written = await self._client.put(key, value)
            self._acknowledged[key] = (value, written.revision)

            began = time.monotonic()
            written = await self._client.put(self.register, value)
            self.operations.append(write(began, time.monotonic(), written.revision, value))

            began = time.monotonic()
            pair = await self._client.get(self.register)
            assert pair is not None, "the register has lost its value"
            assert pair.guarantee is Guarantee.LINEARIZABLE
            self.operations.append(read(began, time.monotonic(), pair.mod_revision, pair.value))
