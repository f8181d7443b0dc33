"""One stream of watches, from requests to responses.

It is pulled: `responses` makes the next response when the one before it has been taken, so what is held for a client
that does not read is one turn's worth (`WatchLimits.turn_bytes`, or one revision if that is larger).

In each turn the cohort that is furthest ahead is told what is new, from the hub's ring; then the one furthest behind
makes one step, from the ring or from the store. So watches that are being caught up do not hold up the others. A cohort
takes those along that it comes to, in the middle of a step too: each part of the past is read once, however many
watches wait for it, and however many points they begin at.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager
from itertools import groupby, islice, takewhile
from typing import Final, Protocol

from raftkv.errors import Compacted, InvalidArgument, LimitExceeded, Overloaded, RaftKVError
from raftkv.kv.history import Cursor, Stretch, Want
from raftkv.kv.versions import compacted
from raftkv.kv.view import View
from raftkv.server import wire
from raftkv.server.watch_events import Event
from raftkv.server.watch_groups import Cohort, Company, Group, Response, Wish
from raftkv.server.watch_hub import WatchHub
from raftkv.server.watch_index import span_of
from raftkv.v1 import common_pb2, watch_pb2

MAX_ANSWERS: Final = 1_000
"""Answers to requests that wait to be sent; no further request is read while there are so many."""

_SHORTEST_REST_S: Final = 0.001
"""Timers are no finer than that."""

_LOOKS_PER_NOTICE: Final = 4
"""How exactly `WatchLimits.notice_s` is kept: looking at all cohorts in each turn would cost more than the turn."""

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
        """By their places. Two at one place: only within a revision."""
        self._divided: set[Cohort] = set()
        """Those of them that stand within a revision."""
        self._arrivals: dict[Cursor, Cohort] = {}
        """Watches that were opened since the turn began: to be told so before they are told anything else."""
        self._answers: deque[watch_pb2.WatchResponse] = deque()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = False
        """All is told, and nobody has touched it: its one cohort, if any, stands at the hub's revision."""
        self._asleep: asyncio.Future[None] | None = None
        self._progress_target: int | None = None
        self._progress_at = 0.0
        self._notified = 0
        """Watches with progress_notify."""
        self._looked_at = 0.0
        """When somebody last looked for cohorts that have heard nothing for long."""
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
        at = Cursor(min(start, hub.revision + 1))
        cohort = self._arrivals.get(at)
        if cohort is None:
            cohort = self._arrivals[at] = Cohort(at.revision, self._loop.time())
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
            if self._arrivals.get(cohort.cursor) is cohort:
                del self._arrivals[cohort.cursor]
            else:
                self._take_out(cohort)
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
        return not self._arrivals and len(self._cohorts) <= 1 and all(cohort.cursor == at for cohort in self._cohorts)

    async def _turn(self, out: list[Response]) -> bool:
        """Let the first and the last cohort go on. Return whether there is more to do."""
        arrivals, self._arrivals = self._arrivals, {}
        for cohort in arrivals.values():
            self._place(cohort, out)
        if not self._cohorts:
            return False
        front = self._cohorts[-1]
        if self._in_ring(front.cursor):
            self._take_out(front)
            self._place(self._walk_ring(front, self._hub.revision + 1, out), out)
        if self._cohorts and (len(self._cohorts) > 1 or not self._has_recent(self._cohorts[0].cursor)):
            await self._advance(out)
        return not self._caught_up()

    def _has_recent(self, cursor: Cursor) -> bool:
        return self._in_ring(cursor) or cursor == Cursor(self._hub.revision + 1)

    def _in_ring(self, cursor: Cursor) -> bool:
        return cursor.skip == 0 and self._hub.recent(cursor.revision) is not None

    def _walk_ring(self, cohort: Cohort, stop: int, out: list[Response]) -> Cohort:
        """Tell a cohort that is in no list of changes in the ring, before revision `stop`: so many as make a turn.

        Return what it has become.
        """
        hub, limits = self._hub, self._limits
        begun = revision = cohort.cursor.revision
        size = looked_at = 0
        while revision < stop and size < limits.turn_bytes and looked_at < limits.turn_changes:
            events = hub.recent(revision)
            if events is None:
                break
            looked_at += len(events)
            cohort.cursor = Cursor(revision)
            before, watches = len(out), cohort.watches
            cohort = self._meet(cohort, begun, out)
            size += sum([len(response.head) for response in out[before:]])
            looked_at += cohort.watches - watches
            for event in events:
                if event.unread:
                    size += self._read_previous(event, cohort)
            taken = cohort.take(events, limits.message_bytes, out)
            if taken:
                size += taken
                cohort.end_revision(limits.message_bytes, out)
            revision += 1
        cohort.cursor = Cursor(revision)
        self._flush(cohort, out)
        return cohort

    def _read_previous(self, event: Event, cohort: Cohort) -> int:
        """Read what a write did not read of the version that it replaced, if anybody wants it: once for all streams.

        Return how many bytes that was. The ring counts them as if they had always been there.
        """
        if cohort.wants(event.change.revision, event.change.prefix) is not Want.WITH_PREVIOUS:
            return 0
        with self._machine().view() as view:
            return event.read_previous(view)

    async def _advance(self, out: list[Response]) -> None:
        """Let the cohort that lags most catch up by one step."""
        rear = self._cohorts[0]
        if self._in_ring(rear.cursor):
            self._take_out(rear)
            self._place(self._walk_ring(rear, self._stop(rear), out), out)
            return
        async with self._hub.history_turn:
            # Those who wait for a turn here wait for a turn of the loop each.
            await asyncio.sleep(0)
            if not self._cohorts:
                return  # the last watch was cancelled meanwhile
            rear = self._cohorts[0]
            try:
                stretch = self._read(rear, self._stop(rear))
            except Compacted as error:
                self._overtaken(error, out)
                return
        self._take_out(rear)
        self._place(self._tell(rear, stretch, out), out)

    def _tell(self, cohort: Cohort, stretch: Stretch, out: list[Response]) -> Cohort:
        """Tell a cohort that is in no list of a part of the past. Return what it has become."""
        message_bytes = self._limits.message_bytes
        begun, end = cohort.cursor.revision, stretch.next.revision
        if begun < end and not (stretch.changes and stretch.changes[0].revision == begun):
            cohort.end_revision(message_bytes, out)  # of which the steps before have told a part
        for revision, changes in groupby(stretch.changes, lambda change: change.revision):
            cohort.cursor = Cursor(revision)
            cohort = self._meet(cohort, begun, out)
            cohort.take([Event(change) for change in changes], message_bytes, out)
            if revision < end:
                cohort.end_revision(message_bytes, out)
        cohort.cursor = Cursor(end)
        cohort = self._meet(cohort, begun, out)
        cohort.cursor = stretch.next
        self._flush(cohort, out)
        return cohort

    def _overtaken(self, error: Compacted, out: list[Response]) -> None:
        """End the watches that have missed something for good."""
        oldest = Cursor(error.compacted_revision)
        for cohort in self._cohorts[: bisect_left(self._cohorts, oldest, key=_place_of)]:
            if self._in_ring(cohort.cursor):
                break
            self._take_out(cohort)
            for group in tuple(cohort.groups.values()):
                if not group.wants(error.compacted_revision - 1):
                    continue  # it begins behind what is gone
                for watch_id in tuple(group.ids):
                    self._drop(watch_id)
                    self._answer(watch_id, error=error)
            cohort.cursor = oldest
            self._place(cohort, out)

    def _read(self, cohort: Cohort, stop: int) -> Stretch:
        limits = self._limits
        ahead = takewhile(lambda other: not other.cursor.skip, islice(self._cohorts, 1, None))
        company = Company(cohort, ahead, limits.step_work, limits.turn_bytes)
        with self._machine().view() as view:
            return view.history(cohort.cursor, stop, company.wants, limits.step_work)

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

    # --- where the cohorts are ----------------------------------------------------------------------------------------

    def _place(self, cohort: Cohort, out: list[Response]) -> None:
        """Put a cohort into the list, as one with another at the same place."""
        if not cohort.groups:
            return  # all of its watches have ended
        if cohort.cursor.skip:
            self._divided.add(cohort)
        else:
            cohort = self._meet(cohort, cohort.cursor.revision - 1, out)
        insort(self._cohorts, cohort, key=_place_of)

    def _take_out(self, cohort: Cohort) -> None:
        """Take a cohort out of the list, if it is there, so that it can be moved."""
        number = bisect_left(self._cohorts, cohort.cursor, key=_place_of)
        while number < len(self._cohorts) and self._cohorts[number].cursor == cohort.cursor:
            if self._cohorts[number] is cohort:
                del self._cohorts[number]
                self._divided.discard(cohort)
                return
            number += 1

    def _meet(self, cohort: Cohort, begun: int, out: list[Response]) -> Cohort:
        """Join a cohort that has come from revision `begun` with those that it has come to. Return what it has become.

        It is in no list, and has told its watches, in `out` or to be flushed, of all revisions before its cursor.
        """
        if not self._cohorts or self._cohorts[-1].cursor.revision <= begun:
            return cohort
        cursor = cohort.cursor
        first = last = bisect_left(self._cohorts, Cursor(begun + 1), key=_place_of)
        while last < len(self._cohorts) and self._cohorts[last].cursor <= cursor:
            last += 1
        met = self._cohorts[first:last]
        del self._cohorts[first:last]
        for other in met:
            small, large = (cohort, other) if cohort.watches < other.watches else (other, cohort)
            self._flush(small, out)
            for wish, group in small.groups.items():
                twin = large.groups.get(wish)
                if twin is not None and twin.too_large:
                    self._end_too_large(twin)
                elif twin is not None:
                    twin.flush(out)
                for watch_id in group.ids:
                    large.add(wish, watch_id)
                    self._watches[watch_id] = (large, wish)
            large.cursor = cursor
            large.noticed_at = min(small.noticed_at, large.noticed_at)
            cohort = large
        return cohort

    def _stop(self, rear: Cohort) -> int:
        """Return the revision that a cohort may go on to: one that stands within a revision cannot be joined."""
        return min(
            (max(other.cursor.revision, rear.cursor.revision + 1) for other in self._divided if other is not rear),
            default=self._hub.revision + 1,
        )

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
        if now - self._looked_at < self._limits.notice_s / _LOOKS_PER_NOTICE:
            return found
        self._looked_at = now
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
        return self._cohorts[0].cursor.revision - 1 if self._cohorts else self._hub.revision

    def _notice(self, revision: int, ids: list[int] | tuple[()]) -> bytes:
        notice = watch_pb2.WatchResponse(header=self._header(), watch_ids=ids, progress=True, revision=revision)
        return notice.SerializeToString()


def _place_of(cohort: Cohort) -> Cursor:
    return cohort.cursor
