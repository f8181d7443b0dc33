"""Watchers: each has some watches on one stream, moves from node to node, and goes on where it was."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import grpc

from raftkv.v1 import common_pb2, watch_pb2
from tests.sim.l1.caller import World
from tests.sim.l1.state import EVERYTHING
from tests.sim.l1.watch_streams import UNKNOWN, decode_answer, encode_poll
from tests.sim.l1.watching import Watched, Wish

WAIT_S = 0.25
"""A node that has nothing to say lets a poll wait for so long."""

ASK_S = 0.5
"""Now and then it asks how far it is."""

WISHES = (
    Wish(EVERYTHING, EVERYTHING),
    Wish(EVERYTHING, EVERYTHING, previous=True),
    Wish(b"key-", b"key."),
    Wish(b"key-0"),
    Wish(b"counter-0", previous=True),
    Wish(b"account-", b"account."),
    Wish(b"key-", EVERYTHING, puts=False),
    Wish(b"key-", b"key.", deletes=False),
    Wish(lock=b"mutex"),
    Wish(lock=b"read-write"),
    Wish(lock=b"semaphore", deletes=False),
    Wish(lock=b"election"),
)

_ENDS = frozenset({UNKNOWN, common_pb2.NO_LEADER, common_pb2.SHUTTING_DOWN, common_pb2.FAILED_PRECONDITION})
"""What a stream may end with: it has been closed, or the node has no leader, stops, holds no data or is no member."""


class Watcher:
    """See the module's docstring."""

    def __init__(self, world: World, number: int, random: Random, count: int) -> None:
        self.number = number
        self.counts: Counter[str] = Counter()
        self.watches = [world.oracle.watch(wish) for wish in random.sample(WISHES, count)]
        self._world = world
        self._random = random
        self._patience_s = random.choice([0.4, 1.0])
        self._restless = random.choice([0.0, 0.05])
        self._idles = random.choice([0.02, 0.05, 0.3])
        """It does other things between two polls, up to so long: what is new piles up."""
        self._streams = 0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self._world.loop.create_task(self._work())

    async def stop(self) -> None:
        self._stopping = True
        if self._task is not None:
            await self._task

    @property
    def up_to_date(self) -> bool:
        """Whether all of its watches were told everything."""
        return all(watched.next > self._world.oracle.revision for watched in self.watches)

    async def _work(self) -> None:
        while not self._stopping:
            node = self._random.choice(self._world.nodes)
            self._streams += 1
            await self._follow(node, self.number * 1_000_000 + self._streams)
            await asyncio.sleep(self._random.uniform(0.01, 0.1))

    async def _follow(self, node: int, stream: int) -> None:
        """Open a stream and stay on it until something ends it."""
        requests = [self._create(number, watched) for number, watched in enumerate(self.watches)]
        exist: set[int] = set()
        opens, asks_at = True, 0.0
        while not self._stopping and self._random.random() >= (0.0 if self._world.calm else self._restless):
            now = self._world.loop.time()
            if now >= asks_at:
                asks_at = now + ASK_S * self._random.uniform(0.5, 1.5)
                requests.append(watch_pb2.WatchRequest(progress=watch_pb2.WatchProgress()))
            try:
                answer = await self._world.network.call(
                    self.number, node, encode_poll(stream, requests, WAIT_S, opens=opens), self._patience_s
                )
            except grpc.aio.AioRpcError as error:
                self.counts[f"watch streams {error.code().name}"] += 1
                return
            requests, opens = [], False
            responses, end = decode_answer(answer)
            for response in responses:
                self._world.trace.note(f"c{self.number}", f"<- n{node} stream {stream} {_outcome(response)}")
            for response in responses:
                for number in response.watch_ids or sorted(exist):
                    again = self._take(number, response, exist)
                    if again is not None:
                        requests.append(again)
            if end is not None:
                self.counts["watch streams ended"] += 1
                if end not in _ENDS:
                    self._world.violation(f"watch: a stream on node {node} ends with {end}")
                return
            await asyncio.sleep(self._random.uniform(0.0, self._idles))

    def _create(self, number: int, watched: Watched) -> watch_pb2.WatchRequest:
        wish = watched.wish
        watched.resumed()
        create = watch_pb2.WatchCreate(
            watch_id=number,
            key=wish.key,
            range_end=wish.range_end,
            start_revision=watched.next,
            no_puts=not wish.puts,
            no_deletes=not wish.deletes,
            prev_kv=wish.previous,
            progress_notify=self._random.random() < 0.3,
            fragment=True,
        )
        if wish.lock:
            create.place.lock = wish.lock
        return watch_pb2.WatchRequest(create=create)

    def _take(self, number: int, response: watch_pb2.WatchResponse, exist: set[int]) -> watch_pb2.WatchRequest | None:
        """Take in what is said to one watch; return what to ask for then."""
        watched = self.watches[number]
        if response.HasField("canceled"):
            if response.canceled.code != common_pb2.COMPACTED:
                self._world.violation(f"watch: {watched.wish} is ended with {response.canceled}")
            self.counts["watches overtaken by compaction"] += 1
            exist.discard(number)
            watched.compacted(response.canceled.number)
            return self._create(number, watched)
        if response.created:
            watched.created(response.revision)
            exist.add(number)
        elif response.progress:
            watched.everything_up_to(response.revision)
        else:
            self.counts["events"] += len(response.events)
            watched.told(list(response.events), fragment=response.fragment)
        return None


def _outcome(response: watch_pb2.WatchResponse) -> str:
    what = "created" if response.created else "progress" if response.progress else f"{len(response.events)} events"
    if response.HasField("canceled"):
        what = common_pb2.ErrorCode.Name(response.canceled.code)
    revisions = f"{response.events[0].kv.mod_revision}.." if response.events else response.revision
    return f"watches {list(response.watch_ids)} {what} {revisions}"
