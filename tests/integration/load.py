"""Many tasks that write without a pause, and what must be true of a store that they wrote to."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster
from tests.integration.waiting import until


class CounterLoad:
    """Tasks of which each counts up a key of its own, one acknowledged put at a time.

    A put that was applied twice shows in the key's version, one that was lost in its value. Use it as an asynchronous
    context manager: the tasks run inside it, and an error that one of them met is raised at the next call or at the
    end. No put may fail: callers see a pause, not an error.
    """

    def __init__(self, client: AsyncClient, prefix: str, *, tasks: int = 24, value_bytes: int = 1) -> None:
        """Values are padded to `value_bytes`: large ones fill a log with few puts."""
        self._client = client
        self._value_bytes = value_bytes
        self._prefix = prefix
        self._acknowledged = {f"{prefix}{number}".encode(): 0 for number in range(tasks)}
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def acknowledged(self) -> int:
        """Number of puts that were acknowledged so far."""
        return sum(self._acknowledged.values())

    async def progress(self, puts: int = 200) -> None:
        """Wait until each task has got at least one more answer, and all of them `puts` more."""
        before = dict(self._acknowledged)
        target = self.acknowledged + puts

        def made() -> bool:
            self._raise_errors()
            return self.acknowledged >= target and all(self._acknowledged[key] > old for key, old in before.items())

        await until(f"{puts} more puts", made)

    async def verify_on_every_node(self, cluster: LocalCluster, *, at_least: int = 400) -> None:
        """Every acknowledged put is on every node, and was applied exactly once. Call it after the end."""
        assert self._stopping
        assert self.acknowledged >= at_least, "too few writes to prove anything"
        state = await cluster.converged()
        assert state.applied_index > 0
        for node in cluster.nodes:
            held = await cluster.contents(node.id, self._prefix)
            values = {key: int(pair.value) for key, pair in held.items()}
            assert values == self._acknowledged, f"node {node.id} lost acknowledged writes"
            versions = {key: pair.version for key, pair in held.items()}
            assert versions == self._acknowledged, f"node {node.id} applied a write twice"

    async def _count(self, key: bytes) -> None:
        while not self._stopping:
            value = self._acknowledged[key] + 1
            await self._client.put(key, str(value).ljust(self._value_bytes))
            self._acknowledged[key] = value

    def _raise_errors(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._count(key)) for key in self._acknowledged]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the puts under way end. The client's timeout bounds the wait."""
        self._stopping = True
        if error is not None:
            for task in self._tasks:
                task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        if error is None:
            for result in ended:
                if isinstance(result, BaseException):
                    raise result
