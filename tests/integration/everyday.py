"""What applications do all day: puts and gets, a watch, a lock that is held throughout. Not one request may fail."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from raftkv.client import AsyncClient, AsyncHeld, Event
from raftkv.errors import RaftKVError
from tests.integration.waiting import until
from tests.integration.workers import Workers

WRITERS = 8
READERS = 4
TTL_S = 5.0
"""Shorter than the restarts take together: a lock that is not renewed meanwhile is lost."""


class Everyday(Workers):
    """Every put is fenced by the lock, so it fails the moment the lock is lost."""

    def __init__(self, client: AsyncClient, prefix: str) -> None:
        super().__init__()
        self._client = client
        self._prefix = prefix
        self.failed: list[RaftKVError] = []
        """Ambiguous ones too."""
        self.gets = 0
        self.written: list[tuple[bytes, bytes, int]] = []
        """Key, value and revision of every put that was acknowledged."""
        self.told: list[Event] = []
        self.held: AsyncHeld | None = None
        self._last = f"{prefix}end".encode()
        self._newest = {f"{prefix}{number}".encode(): 0 for number in range(WRITERS)}

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        return [
            self._hold(),
            self._watch(),
            *(self._put(key) for key in self._newest),
            *(self._get(number) for number in range(READERS)),
        ]

    async def progress(self, puts: int = 100) -> None:
        """Wait until each writer has got at least one more answer, all of them `puts` more, and readers as many."""
        before, written, gets = dict(self._newest), len(self.written), self.gets

        def made() -> bool:
            self.raise_errors()
            return (
                len(self.written) >= written + puts
                and self.gets >= gets + READERS
                and all(self._newest[key] > old for key, old in before.items())
            )

        await until(f"{puts} more puts", made)

    async def finish(self) -> None:
        """Let what is under way end, and wait until the watch has told the last change."""
        self.stopping = True
        await until("the end of the puts and gets", lambda: all(task.done() for task in self._tasks[2:]))
        self.raise_errors()
        await self._client.put(self._last, b"")
        await until("the watch to tell the last change", self._tasks[1].done)

    def verify(self) -> None:
        """Nothing failed, every change was told once and in order, and the lock was never lost."""
        assert self.stopping
        assert not self.failed, f"{len(self.failed)} requests failed: {self.failed[0]!r}"
        told = [(event.key, event.value, event.revision) for event in self.told[:-1]]
        assert told == sorted(self.written, key=lambda one: one[2]), "the watch has gaps, or told something twice"

    async def _hold(self) -> None:
        async with self._client.lock(f"{self._prefix}lock", ttl=TTL_S) as held:
            self.held = held
            await until("the end", lambda: self.stopping, timeout_s=600)
            assert not held.lost.is_set(), "the lock was lost"

    async def _watch(self) -> None:
        async with self._client.watch(prefix=self._prefix) as events:
            async for event in events:
                self.told.append(event)
                if event.key == self._last:
                    return

    async def _put(self, key: bytes) -> None:
        await until("the lock", lambda: self.held is not None)
        assert self.held is not None
        while not self.stopping:
            value = b"%d" % (self._newest[key] + 1)
            try:
                done = await self._client.put(key, value, fence=self.held.fence())
            except RaftKVError as error:
                self.failed.append(error)
                continue
            self._newest[key] += 1
            self.written.append((key, value, done.revision))

    async def _get(self, number: int) -> None:
        key = list(self._newest)[number]
        while not self.stopping:
            least = self._newest[key]
            try:
                pair = await self._client.get(key)
            except RaftKVError as error:
                self.failed.append(error)
                continue
            assert int(pair.value if pair is not None else 0) >= least, "a linearizable read went back"
            self.gets += 1
