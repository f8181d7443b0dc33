"""One stream of watches, from requests to responses.

It is pulled: `responses` makes the next response when the one before it has been taken, so what is held for a client
that does not read is one turn's worth (`WatchLimits.turn_bytes`, or one revision if that is larger).

In each turn the cohort that is furthest ahead is told what is new, from the hub's ring; then the one furthest behind
makes one step, from the ring or from the store. So watches that are being caught up do not hold up the others. Cohorts
that meet become one, and each part of the past is read once, however many watches wait for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Final, Protocol

from raftkv.errors import Compacted, InvalidArgument, LimitExceeded, Overloaded, RaftKVError
from raftkv.kv.history import Cursor, Stretch
from raftkv.kv.versions import compacted
from raftkv.kv.view import View
from raftkv.server import wire
from raftkv.server.watch_events import Event
from raftkv.server.watch_groups import Cohort, Group, Response, Wish
from raftkv.server.watch_hub import WatchHub
from raftkv.server.watch_index import span_of
from raftkv.v1 import common_pb2, watch_pb2

MAX_ANSWERS: Final = 1_000
"""Answers to requests that wait to be sent; no further request is read while there are so many."""

_SHORTEST_REST_S: Final = 0.001
"""Timers are no finer than that."""

_FRAGMENT: Final = watch_pb2.WatchResponse(fragment=True).SerializeToString()


class Machine(Protocol):
    """What holds the state (`kv.machine.StateMachine`)."""

    def view(self) -> AbstractContextManager[View]: ...


class WatchSender:
    """The watches of one stream. All methods are to be called on the node's loop."""

    def __init__(
        self, hub: WatchHub, machine: Callable[[], Machine], header: Callable[[], common_pb2.ResponseHeader]
    ) -> None:
        """`machine` and `header` are asked anew each time: both change."""
        self._hub = hub
        self._limits = hub.limits
        self._machine = machine
        self._header = header
        self._loop = asyncio.get_running_loop()
        self._watches: dict[int, tuple[Cohort, Wish]] = {}
        self._cohorts: list[Cohort] = []
        self._answers: deque[watch_pb2.WatchResponse] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._moving: Cohort | None = None
        """It is about to be told something: who joins it now would be told before being told that it has joined."""
        self._idle = False
        """All is told, and nobody has touched it: its one cohort, if any, stands at the hub's revision."""
        self._asleep: asyncio.Future[None] | None = None
        self._progress_target: int | None = None
        self._progress_at = 0.0
        self._notified = 0
        """Watches with progress_notify."""
        self._rest_until = 0.0
        self._ended = False
        self._error: BaseException | None = None
        hub.enter(self)

    # --- requests -----------------------------------------------------------------------------------------------------

    def handle(self, request: watch_pb2.WatchRequest) -> None:
        """Do what a client asks for. Raises InvalidArgument where it makes no sense at all."""
        kind = request.WhichOneof("request")
        self._rouse()
        if kind == "create":
            self._create(request.create)
        elif kind == "cancel":
            self._cancel(request.cancel.watch_id)
        elif kind == "progress":
            self._progress_target = self._hub.revision
        else:
            raise InvalidArgument("a watch request of a kind that this node does not know")
        if len(self._answers) >= MAX_ANSWERS:
            self._room.clear()

    async def room(self) -> None:
        """Wait until the next request may be read."""
        await self._room.wait()

    def end(self, error: BaseException | None = None) -> None:
        """Let `responses` end, or raise `error`, once the answers to requests are sent."""
        if not self._ended:
            self._ended, self._error = True, error
            self._rouse()

    def close(self) -> None:
        """Forget all watches. Idempotent."""
        self._ended = True
        self._hub.leave(self)
        for watch_id in tuple(self._watches):
            self._drop(watch_id)

    def _create(self, request: watch_pb2.WatchCreate) -> None:
        watch_id = request.watch_id
        try:
            wish, start = self._judge(request)
        except RaftKVError as error:
            self._answer(watch_id, created=True, error=error)
            return
        hub = self._hub
        at = min(start, hub.revision + 1)
        cohort = next((one for one in self._cohorts if one.cursor == Cursor(at) and one is not self._moving), None)
        if cohort is None:
            cohort = Cohort(at, self._loop.time())
            self._cohorts.append(cohort)
        cohort.add(wish, watch_id)
        self._watches[watch_id] = (cohort, wish)
        hub.index.add(wish.span, self)
        hub.watches += 1
        if wish.progress:
            if not self._notified:
                self._progress_at = self._loop.time() + self._limits.progress_s
            self._notified += 1
        self._answer(watch_id, created=True, revision=start - 1)

    def _judge(self, request: watch_pb2.WatchCreate) -> tuple[Wish, int]:
        """Return what is wanted, from which revision on. Raises RaftKVError."""
        hub, limits = self._hub, self._limits
        if request.watch_id in self._watches:
            raise InvalidArgument(f"watch_id {request.watch_id} is in use on this stream")
        span = span_of(request)
        if request.no_puts and request.no_deletes:
            raise InvalidArgument("no_puts and no_deletes are both set: nothing is left to watch")
        if len(self._watches) >= limits.max_stream_watches:
            raise LimitExceeded(f"the stream has {limits.max_stream_watches} watches, the most that one may have")
        if hub.watches >= limits.max_watches:
            raise Overloaded(f"the node has {limits.max_watches} watches, the most that it takes: ask another one")
        if hub.index.another_range(span) > limits.max_ranges:
            raise Overloaded(
                f"the node watches {limits.max_ranges} different ranges, the most that it takes: watch keys or "
                "prefixes, or ask another one"
            )
        start = request.start_revision or max(hub.revision, request.min_revision) + 1
        if start <= hub.revision:
            with self._machine().view() as view:
                oldest = view.meta.compacted_revision
            if start < oldest:
                raise compacted(start, oldest)
        return (
            Wish(
                span,
                puts=not request.no_puts,
                deletes=not request.no_deletes,
                previous=request.prev_kv,
                fragment=request.fragment,
                progress=request.progress_notify,
                since=start if start > hub.revision + 1 else 0,
            ),
            start,
        )

    def _cancel(self, watch_id: int) -> None:
        if watch_id in self._watches:
            self._drop(watch_id)
            self._answer(watch_id, error=RaftKVError("the client has cancelled the watch"))
        else:
            self._answer(watch_id, error=InvalidArgument(f"there is no watch with watch_id {watch_id} on this stream"))

    def _drop(self, watch_id: int) -> None:
        cohort, wish = self._watches.pop(watch_id)
        cohort.remove(wish, watch_id)
        if not cohort.groups:
            self._cohorts.remove(cohort)
        self._hub.index.remove(wish.span, self)
        self._hub.watches -= 1
        if wish.progress:
            self._notified -= 1

    def _answer(
        self, watch_id: int, *, created: bool = False, revision: int = 0, error: RaftKVError | None = None
    ) -> None:
        answer = watch_pb2.WatchResponse(watch_ids=[watch_id], created=created, revision=revision)
        if error is not None:
            answer.canceled.CopyFrom(wire.to_error(error))
        self._answers.append(answer)

    # --- being woken (watch_hub.Listener) -----------------------------------------------------------------------------

    def touch(self, revision: int) -> None:
        if self._idle:
            self._idle = False
            # What came since it fell asleep did not concern it.
            for cohort in self._cohorts:
                cohort.cursor = Cursor(revision)
            self._hub.wake(self)

    def wake(self) -> None:
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)

    def _rouse(self) -> None:
        if self._idle:
            self._idle = False
            for cohort in self._cohorts:
                cohort.cursor = Cursor(self._hub.revision + 1)
        self.wake()

    async def _sleep(self, until: float | None) -> None:
        """Wait to be woken, or until then (loop time)."""
        self._asleep = self._loop.create_future()
        timer = None if until is None else self._loop.call_at(until, self._rouse)
        try:
            await self._asleep
        finally:
            self._asleep = None
            if timer is not None:
                timer.cancel()

    # --- responses ----------------------------------------------------------------------------------------------------

    async def responses(self) -> AsyncGenerator[bytes, None]:
        """Yield encoded WatchResponses until `end`; raise what it was given."""
        while True:
            while self._answers:
                answer = self._answers.popleft()
                if not self._answers:
                    self._room.set()
                answer.header.CopyFrom(self._header())
                yield answer.SerializeToString()
            if self._ended:
                if self._error is not None:
                    raise self._error
                return
            now = self._loop.time()
            if now < self._rest_until:
                await self._sleep(self._rest_until)
                continue
            responses: list[Response] = []
            more = await self._turn(responses)
            if responses:
                header = watch_pb2.WatchResponse(header=self._header()).SerializeToString()
                deliveries = 0
                for head, watches, events, fragment in responses:
                    yield header + head + (_FRAGMENT if fragment else b"") + b"".join(events)
                    deliveries += watches
                rest_s = min(deliveries * self._limits.rest_per_delivery_s, self._limits.max_rest_s)
                if rest_s >= _SHORTEST_REST_S:
                    self._rest_until = self._loop.time() + rest_s
            for notice in self._notices():
                yield notice
            if self._answers or self._ended:
                continue
            if more or not self._caught_up() or self._progress_target is not None:
                await asyncio.sleep(0)
            else:
                self._idle = True
                await self._sleep(self._progress_at if self._notified else None)

    def _caught_up(self) -> bool:
        at = Cursor(self._hub.revision + 1)
        return len(self._cohorts) <= 1 and all(cohort.cursor == at for cohort in self._cohorts)

    async def _turn(self, out: list[Response]) -> bool:
        """Let the first and the last cohort go on. Return whether there is more to do."""
        if not self._cohorts:
            return False
        front = max(self._cohorts, key=_place)
        if self._in_ring(front.cursor):
            self._walk_ring(front, self._hub.revision + 1, out)
        self._merge()
        rear = min(self._cohorts, key=_place, default=front)
        if rear is not max(self._cohorts, key=_place, default=front) or not self._has_recent(rear.cursor):
            self._moving = rear
            await self._advance(rear, out)
            self._moving = None
            self._merge()
        return not self._caught_up()

    def _has_recent(self, cursor: Cursor) -> bool:
        return self._in_ring(cursor) or cursor == Cursor(self._hub.revision + 1)

    def _in_ring(self, cursor: Cursor) -> bool:
        return cursor.skip == 0 and self._hub.recent(cursor.revision) is not None

    def _walk_ring(self, cohort: Cohort, stop: int, out: list[Response]) -> None:
        """Tell a cohort of changes in the ring, before revision `stop`: so many as make a turn."""
        hub, limits = self._hub, self._limits
        revision = cohort.cursor.revision
        size = looked_at = 0
        while revision < stop and size < limits.turn_bytes and looked_at < limits.turn_changes:
            events = hub.recent(revision)
            if events is None:
                break
            looked_at += len(events)
            taken = cohort.take(events, limits.message_bytes, out)
            if taken:
                size += taken
                cohort.end_revision(limits.message_bytes, out)
            revision += 1
        cohort.cursor = Cursor(revision)
        self._flush(cohort, out)

    async def _advance(self, cohort: Cohort, out: list[Response]) -> None:
        """Let a cohort that lags catch up by one step, at most up to the next one."""
        stop = min(
            (one.cursor.revision for one in self._cohorts if one.cursor.revision > cohort.cursor.revision),
            default=self._hub.revision + 1,
        )
        if self._in_ring(cohort.cursor):
            self._walk_ring(cohort, stop, out)
            return
        async with self._hub.history_turn:
            # Those who wait for a turn here wait for a turn of the loop each.
            await asyncio.sleep(0)
            if cohort not in self._cohorts:
                return  # its last watch was cancelled meanwhile
            try:
                stretch = self._read(cohort, stop)
            except Compacted as error:
                self._overtaken(cohort, error)
                return
        begun = cohort.cursor.revision
        if begun < stretch.next.revision and not (stretch.changes and stretch.changes[0].revision == begun):
            cohort.end_revision(self._limits.message_bytes, out)  # of which the steps before have told a part
        for revision, changes in groupby(stretch.changes, lambda change: change.revision):
            cohort.take([Event(change) for change in changes], self._limits.message_bytes, out)
            if revision < stretch.next.revision:
                cohort.end_revision(self._limits.message_bytes, out)
        cohort.cursor = stretch.next
        self._flush(cohort, out)

    def _overtaken(self, cohort: Cohort, error: Compacted) -> None:
        """End the watches that have missed something for good."""
        for group in tuple(cohort.groups.values()):
            if not group.wants(error.compacted_revision - 1):
                continue  # it begins behind what is gone
            for watch_id in tuple(group.ids):
                self._drop(watch_id)
                self._answer(watch_id, error=error)
        cohort.cursor = Cursor(error.compacted_revision)

    def _read(self, cohort: Cohort, stop: int) -> Stretch:
        with self._machine().view() as view:
            return view.history(cohort.cursor, stop, cohort.wants, self._limits.step_work)

    def _flush(self, cohort: Cohort, out: list[Response]) -> None:
        before = len(out)
        for group in cohort.flush(out):
            self._end_too_large(group)
        if len(out) > before:
            cohort.noticed_at = self._loop.time()

    def _end_too_large(self, group: Group) -> None:
        limit = self._limits.message_bytes
        error = LimitExceeded(f"a revision has more than {limit} bytes of events: open the watch with fragment")
        for watch_id in tuple(group.ids):
            self._drop(watch_id)
            self._answer(watch_id, error=error)

    def _merge(self) -> None:
        """Make one of the cohorts that stand at the same place."""
        if len(self._cohorts) < 2:
            return
        found: dict[int, Cohort] = {}
        for cohort in tuple(self._cohorts):
            if cohort.cursor.skip:
                continue
            other = found.setdefault(cohort.cursor.revision, cohort)
            if other is not cohort:
                small, large = sorted((cohort, other), key=lambda one: len(one.groups))
                for wish, group in small.groups.items():
                    for watch_id in group.ids:
                        large.add(wish, watch_id)
                        self._watches[watch_id] = (large, wish)
                self._cohorts.remove(small)
                found[cohort.cursor.revision] = large

    # --- how far it is ------------------------------------------------------------------------------------------------

    def _notices(self) -> list[bytes]:
        """Return what is to be said of progress: nothing before what is owed, least of all to watches just created."""
        if self._answers:
            return []
        now = self._loop.time()
        found: list[bytes] = []
        told = self._told()
        if self._progress_target is not None and told >= self._progress_target:
            self._progress_target = None
            found.append(self._notice(told, ()))
        if self._notified and now >= self._progress_at:
            self._progress_at = now + self._limits.progress_s
            found += self._periodic()
        for cohort in self._cohorts:
            behind = cohort.cursor.revision <= self._hub.revision
            if behind and now - cohort.noticed_at >= self._limits.notice_s:
                cohort.noticed_at = now
                found.append(self._notice(cohort.cursor.revision - 1, cohort.ids()))
        return found

    def _periodic(self) -> Iterator[bytes]:
        for cohort in self._cohorts:
            quiet: list[int] = []
            for wish, group in cohort.groups.items():
                if wish.progress and not group.told:
                    quiet += group.ids
                group.told = False
            if quiet:
                yield self._notice(cohort.cursor.revision - 1, quiet)

    def _told(self) -> int:
        """Return the revision up to which all watches have been told everything."""
        return min((cohort.cursor.revision - 1 for cohort in self._cohorts), default=self._hub.revision)

    def _notice(self, revision: int, ids: list[int] | tuple[()]) -> bytes:
        notice = watch_pb2.WatchResponse(header=self._header(), watch_ids=ids, progress=True, revision=revision)
        return notice.SerializeToString()


def _place(cohort: Cohort) -> Cursor:
    return cohort.cursor
