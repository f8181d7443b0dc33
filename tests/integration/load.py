"""Many tasks that write without a pause, and what must be true of a store that they wrote to."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster
from tests.integration.waiting import until
from tests.integration.workers import Workers


class CounterLoad(Workers):
    """Tasks of which each counts up a key of its own, one acknowledged put at a time.

    A put that was applied twice shows in the key's version, one that was lost in its value. No put may fail: callers
    see a pause, not an error.
    """

    def __init__(self, client: AsyncClient, prefix: str, *, tasks: int = 24, value_bytes: int = 1) -> None:
        """Values are padded to `value_bytes`: large ones fill a log with few puts."""
        super().__init__()
        self._client = client
        self._value_bytes = value_bytes
        self._prefix = prefix
        self._acknowledged = {f"{prefix}{number}".encode(): 0 for number in range(tasks)}

    @property
    def acknowledged(self) -> int:
        """Number of puts that were acknowledged so far."""
        return sum(self._acknowledged.values())

    async def progress(self, puts: int = 200) -> None:
        """Wait until each task has got at least one more answer, and all of them `puts` more."""
        before = dict(self._acknowledged)
        target = self.acknowledged + puts

        def made() -> bool:
            self.raise_errors()
            return self.acknowledged >= target and all(self._acknowledged[key] > old for key, old in before.items())

        await until(f"{puts} more puts", made)

    async def verify_on_every_node(self, cluster: LocalCluster, *, at_least: int = 400) -> None:
        """Every acknowledged put is on every node, and was applied exactly once. Call it after the end."""
        assert self.stopping
        assert self.acknowledged >= at_least, "too few writes to prove anything"
        state = await cluster.converged()
        assert state.applied_index > 0
        for node in cluster.nodes:
            held = await cluster.contents(node.id, self._prefix)
            values = {key: int(pair.value) for key, pair in held.items()}
            assert values == self._acknowledged, f"node {node.id} lost acknowledged writes"
            versions = {key: pair.version for key, pair in held.items()}
            assert versions == self._acknowledged, f"node {node.id} applied a write twice"

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        return [self._count(key) for key in self._acknowledged]

    async def _count(self, key: bytes) -> None:
        while not self.stopping:
            value = self._acknowledged[key] + 1
            await self._client.put(key, str(value).ljust(self._value_bytes))
            self._acknowledged[key] = value
