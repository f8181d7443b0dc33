"""Watches without a node or a network: a state machine, its hub, and streams that a test pulls."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from raftkv.kv.commands import Command, Compact, Result, Sweep, Swept
from raftkv.kv.store import OrderedStore
from raftkv.server.watch_hub import WatchHub, WatchLimits
from raftkv.server.watch_sender import WatchSender
from raftkv.v1 import common_pb2, watch_pb2
from tests.kv.host import Host

AT_ONCE = WatchLimits(max_rest_s=0.0)


class Watched(Host):
    """A store whose changes are published."""

    def __init__(self, limits: WatchLimits = AT_ONCE, store: OrderedStore | None = None) -> None:
        super().__init__(store)
        self.hub = WatchHub(self.machine.revision, limits)

    @property
    def revision(self) -> int:
        return self.machine.revision

    def do(self, *commands: Command) -> list[Result]:
        results = super().do(*commands)
        self.hub.publish(self.changes, self.machine.revision)
        return results

    def compact(self, revision: int) -> None:
        self.do(Compact(0, revision))
        while True:
            (swept,) = self.do(Sweep(0))
            assert isinstance(swept, Swept)
            if not swept.more:
                return

    def header(self) -> common_pb2.ResponseHeader:
        return common_pb2.ResponseHeader(member_id=1, revision=self.machine.revision)


@dataclass
class Told:
    """What one watch was told."""

    created: int | None = None
    """The revision of its `created`."""
    canceled: common_pb2.Error | None = None
    events: list[watch_pb2.Event] = field(default_factory=list)
    revisions: list[int] = field(default_factory=list)
    """Per response: the last revision in it."""
    fragments: int = 0
    split: bool = False
    """The rest of the last revision has not come yet."""
    progress: list[int] = field(default_factory=list)

    @property
    def keys(self) -> list[bytes]:
        return [event.kv.key for event in self.events]


class Stream:
    """One stream of watches, as its client sees it."""

    def __init__(self, watched: Watched) -> None:
        self.sender = WatchSender(watched.hub, lambda: watched.machine, watched.header)
        self.responses: AsyncGenerator[bytes, None] = self.sender.responses()
        self.told: dict[int, Told] = {}
        self.progress: list[int] = []
        """Of the whole stream."""
        self.received: list[watch_pb2.WatchResponse] = []
        self._pulled: asyncio.Task[bytes] | None = None

    def create(self, watch_id: int, key: bytes = b"", range_end: bytes = b"", **settings: object) -> None:
        request = watch_pb2.WatchCreate(watch_id=watch_id, key=key, range_end=range_end, **settings)  # type: ignore[arg-type]
        self.sender.handle(watch_pb2.WatchRequest(create=request))

    def cancel(self, watch_id: int) -> None:
        self.sender.handle(watch_pb2.WatchRequest(cancel=watch_pb2.WatchCancel(watch_id=watch_id)))

    def ask_progress(self) -> None:
        self.sender.handle(watch_pb2.WatchRequest(progress=watch_pb2.WatchProgress()))

    async def pull(self) -> watch_pb2.WatchResponse:
        """Take the next response."""
        async with asyncio.timeout(60):
            pulled, self._pulled = self._pulled or self._begin(), None
            response = watch_pb2.WatchResponse.FromString(await pulled)
        self.received.append(response)
        if response.progress and not response.watch_ids:
            self.progress.append(response.revision)
        for watch_id in response.watch_ids:
            if response.created:
                self.told[watch_id] = Told(response.revision)
            self._take(self.told[watch_id], response)
        return response

    @staticmethod
    def _take(told: Told, response: watch_pb2.WatchResponse) -> None:
        if response.HasField("canceled"):
            told.canceled = response.canceled
        if response.progress:
            told.progress.append(response.revision)
        if response.events:
            told.events += response.events
            told.revisions.append(response.events[-1].kv.mod_revision)
            told.split = response.fragment
        elif told.split and not (response.progress or response.HasField("canceled")):
            told.split = response.fragment
        told.fragments += response.fragment

    async def fall_asleep(self) -> None:
        """Wait until it has nothing to say, as a client does that reads."""
        await self.pull_all()
        self._pulled = self._begin()
        while not self.sender._idle:
            assert not self._pulled.done()
            await asyncio.sleep(0)

    def _begin(self) -> asyncio.Task[bytes]:
        return asyncio.create_task(anext(self.responses))

    async def pull_all(self) -> None:
        """Take what there is: up to the answer to a request for progress."""
        seen = len(self.progress)
        self.ask_progress()
        while len(self.progress) == seen:
            await self.pull()

    async def close(self) -> None:
        self.sender.close()
        if self._pulled is not None:
            self._pulled.cancel()
            await asyncio.gather(self._pulled, return_exceptions=True)
        await self.responses.aclose()


def summary(events: Sequence[watch_pb2.Event]) -> list[tuple[int, bytes, bytes | None, bytes | None]]:
    """Return (revision, key, value or None for a delete, previous value) of each event."""
    return [
        (
            event.kv.mod_revision,
            event.kv.key,
            None if event.kind == watch_pb2.Event.DELETE else event.kv.value,
            event.prev_kv.value if event.HasField("prev_kv") else None,
        )
        for event in events
    ]
