"""What clients do meanwhile: write, remember what was acknowledged, count what failed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from raftkv.client import AsyncClient
from raftkv.errors import RaftKVError
from tests.deploy.compose.shell import CommandFailed

TASKS = 8


@dataclass(slots=True)
class Acknowledged:
    """Every write that a client was told to be done, and what was answered to the others."""

    values: dict[str, str] = field(default_factory=dict)
    failures: list[RaftKVError] = field(default_factory=list)
    _next: int = 0

    async def write(self, client: AsyncClient, count: int) -> None:
        """Write new keys; raises what goes wrong."""
        for _ in range(count):
            await self._one(client)

    async def _one(self, client: AsyncClient) -> None:
        self._next += 1
        key, value = f"compose/{self._next:06}", f"value {self._next}"
        await client.put(key, value)
        self.values[key] = value

    async def _on_and_on(self, client: AsyncClient) -> None:
        while True:
            try:
                await self._one(client)
            except RaftKVError as error:
                self.failures.append(error)

    @asynccontextmanager
    async def under_way(self, client: AsyncClient) -> AsyncIterator[None]:
        """Write all the time while the block runs, with a client that is closed after it."""
        async with client:
            tasks = [asyncio.create_task(self._on_and_on(client)) for _ in range(TASKS)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with suppress(asyncio.CancelledError):
                        await task

    async def more(self, count: int, timeout_s: float = 60.0) -> None:
        """Wait until so many further writes are acknowledged: what was done did not stop them for good."""
        goal = len(self.values) + count
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.values) < goal:  # noqa: ASYNC110 - polled as everything here, with a deadline
                    await asyncio.sleep(0.02)
        except TimeoutError:
            last = self.failures[-1] if self.failures else "nothing failed"
            raise CommandFailed(f"no {count} further writes in {timeout_s:.0f} s (last failure: {last})") from None

    async def read_back(self, client: AsyncClient) -> int:
        """Prove that nothing acknowledged is missing or different. Return how much that is. Closes the client."""
        async with client:
            found = {pair.key.decode(): pair.value.decode() async for pair in client.scan("compose/")}
        lost = {key for key, value in self.values.items() if found.get(key) != value}
        if lost:
            raise CommandFailed(f"{len(lost)} acknowledged writes of {len(self.values)} are lost: {sorted(lost)[:10]}")
        return len(self.values)
