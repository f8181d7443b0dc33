"""Gets every operation answered once: over whichever stream, however often it must be sent, until its deadline.

Where a call is, from `start` until its future is done:

    waiting       a write without a session, or beyond the session's window
    a stream      queued or outstanding at one endpoint
    parked        no reachable node has a leader, or no node is reachable: sent when that changes, and polled for
    backing off   a node asked for patience

This file moves calls between those places as routing, calls and session decide.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Final

from raftkv.client.backoff import backoff_s, poll_s
from raftkv.client.batches import RENEWALS
from raftkv.client.calls import COMMON, Call, Kind, Verdict, closed, final_error, judge, out_of_time, worth_retrying
from raftkv.client.channels import Connections
from raftkv.client.pipeline import Pipeline
from raftkv.client.reasons import Reasons
from raftkv.client.receipts import UNTOLD_READ, UNTOLD_WRITE, ReadReceipt, WriteReceipt
from raftkv.client.routing import Leader, Router
from raftkv.client.seen import Seen
from raftkv.client.session import Sequences, Session
from raftkv.client.tls import Tls
from raftkv.client.unary import answer_of
from raftkv.client.watch_mux import WatchMux
from raftkv.client.wire import size_estimate, to_error
from raftkv.client.wire_quorum import to_read_receipt, to_write_receipt
from raftkv.errors import ClusterMismatch, ConnectionFailed, DeadlineExceeded, RaftKVError
from raftkv.v1 import cluster_pb2, common_pb2, kv_pb2

TICK_S: Final = 0.020
"""How exactly deadlines, silence and reconnects are timed while calls are under way."""
IDLE_TICK_S: Final = 0.500
"""How often broken connections are tried while nobody waits."""
LEARN_S: Final = 30.0
"""How often a node is asked who the members are."""
POLL_CALLS: Final = 64
"""How many parked calls ask for a leader at a time: an election must not be held up by the clients that wait for it."""
MEASURE_S: Final = 5.0
"""How often the latencies of endpoints are measured, where that is of use."""
READ_BACKOFFS: Final = 4
"""How far the wait grows between attempts at a read that no node could answer: to 160 ms. The nodes wait, too."""
_NEVER: Final = float("inf")


class Dispatcher:
    """The engine of one client, on one event loop. All methods are to be called on it."""

    def __init__(
        self,
        addresses: Sequence[str],
        loop: asyncio.AbstractEventLoop,
        *,
        timeout: float,
        attempt_timeout: float,
        dial_learned: bool,
        seen: Seen,
        nearest: bool,
        tls: Tls | None = None,
    ) -> None:
        """`nearest`: reads that any node answers go to the one that answers soonest.

        Raises ConfigurationError for files of `tls` that are of no use.
        """
        self.loop = loop
        self.seen = seen
        """What the answers so far have shown of the log."""
        self.pid = os.getpid()
        self.connections = Connections(tls)
        self.router = Router(addresses, Random(), dial_learned=dial_learned)
        self.reasons = Reasons(tls, self.router.explained)
        self.random = Random()
        self.revision = 0
        """The highest revision of the store that an answer named."""
        self.watches = WatchMux(self, attempt_timeout)
        self._timeout = timeout
        self.attempt_timeout = attempt_timeout
        """Seconds after which a node that has not answered is given up for the moment."""
        self._sequences = Sequences()
        self._session = Session()
        self._registration: Call | None = None
        self._streams: dict[str, Pipeline] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._live: set[Call] = set()
        self._waiting: deque[Call] = deque()
        self._parked: deque[Call] = deque()
        self._nearest = nearest
        self._hedging = False  # reads are under way that another node may have to be asked for
        self._measure_timer: asyncio.TimerHandle | None = None
        self._target: Pipeline | None = None  # where `choose` points while nothing changes
        self._reader: Pipeline | None = None  # where `choose_reader` does
        self._next_deadline = _NEVER
        self._poll_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._tick_s = _NEVER
        self._ready_waiters: set[asyncio.Future[None]] = set()
        self._cluster_id = 0
        """That of the first endpoint that took operations."""
        self._configuration_index = 0
        self._learning: asyncio.Task[None] | None = None
        self._learn_timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether it takes no more calls."""
        return self._closed

    def open(self) -> None:
        """Connect to all endpoints; does not wait."""
        self._keep_open(self.loop.time())
        self._keep_ticking()

    def _learn_members(self) -> None:
        """Ask a node who the members are: those that this client was told of may leave, one after the other."""
        if self._learn_timer is not None:
            self._learn_timer.cancel()
        self._learn_timer = None
        address = self.router.choose()
        if self._closed or address is None:
            return
        if self._learning is not None and not self._learning.done():
            self._learning.cancel()  # what it hears is out of date
        self._learning = self.loop.create_task(self._ask_members(address))

    async def _ask_members(self, address: str) -> None:
        await self.learn_members_from(address)
        if not self._closed:
            self._learn_timer = self.loop.call_later(LEARN_S, self._learn_members)

    async def learn_members_from(self, address: str) -> None:
        """Ask the node at `address` who the members are, and where."""
        request = cluster_pb2.StatusRequest()
        try:
            status = await answer_of(
                address, self.connections.get(address).cluster.Status(request, timeout=self.attempt_timeout)
            )
        except RaftKVError:
            pass  # of use only later, and asked again until then
        else:
            self.router.heard_members(
                {member.id: member.client_address for member in status.members if member.client_address},
                witnesses=frozenset(one.id for one in status.members if one.kind == cluster_pb2.WITNESS),
            )
            self._rerouted()

    def start(
        self, kind: Kind, operation: kv_pb2.Operation, size_bytes: int, timeout: float, lane: int = COMMON
    ) -> Call:
        """Set an operation on its way. Its future gets the answer, or an error of `raftkv.errors`.

        `lane`: what it may share a message with (`raftkv.client.batches`).

        Raises ConnectionFailed when the client is closed.
        """
        if self._closed:
            raise ConnectionFailed("the client is closed")
        loop = self.loop
        deadline = loop.time() + timeout
        call = Call(
            kind, operation, size_bytes, timeout=timeout, deadline=deadline, future=loop.create_future(), lane=lane
        )
        self._live.add(call)
        self._next_deadline = min(self._next_deadline, deadline)
        if self._tick_s != TICK_S:
            self._keep_ticking()
        if kind is Kind.WRITE:
            self._begin_write(call)
        else:
            self._dispatch(call)
        return call

    def abandon(self, call: Call) -> None:
        """Nobody waits for it any more. It is never sent again; a copy on its way may still take effect."""
        if call in self._live:
            self._retire(call)
            self._fill_window()

    async def wait_ready(self, deadline: float) -> str:
        """Return the best endpoint, once one is reachable. Raises ConnectionFailed at the deadline."""
        while (address := self.router.choose()) is None:
            if self._closed:
                raise ConnectionFailed("the client is closed")
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._ready_waiters.add(waiter)
            self._keep_ticking()
            try:
                async with asyncio.timeout_at(deadline):
                    await waiter
            except TimeoutError:
                why = self.router.why_unreachable()
                raise ConnectionFailed(f"no endpoint can be reached: {why}") from None
            finally:
                self._ready_waiters.discard(waiter)
        return address

    async def close(self) -> None:
        """Fail what is under way with ConnectionFailed, and end all streams and connections. Idempotent."""
        self._closed = True
        await self.watches.close()
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.gather(self._learning, return_exceptions=True)
        for timer in (self._poll_timer, self._tick_timer, self._learn_timer, self._measure_timer):
            if timer is not None:
                timer.cancel()
        self._wake_ready_waiters()
        for call in tuple(self._live):
            self._fail(call, closed(call))
        for stream in tuple(self._streams.values()):
            self._drop(stream)
        await asyncio.gather(*self._ending)
        await self.reasons.close()
        await self.connections.close()

    # What streams tell (pipeline.Host).

    def acknowledged_below(self) -> int:
        """Return the mark for the next message."""
        return self._sequences.acknowledged_below()

    def next_id(self) -> int:
        """Return an id for an operation of the stream's own."""
        return self._sequences.next_id()

    def ready(self, stream: Pipeline, member_id: int, cluster_id: int) -> None:
        """An endpoint takes operations."""
        self._cluster_id = self._cluster_id or cluster_id
        if cluster_id not in (0, self._cluster_id):
            self._foreign(stream, cluster_id)
            return
        self.router.ready(stream.address, member_id)
        self.reasons.well(stream.address)
        if self._nearest:
            stream.probe()
            if self._measure_timer is None:
                self._measure_timer = self.loop.call_later(MEASURE_S, self._measure)
        self._learn_members()
        self._rerouted()
        self._wake_ready_waiters()
        self._release()

    def _foreign(self, stream: Pipeline, cluster_id: int) -> None:
        """An endpoint is of another cluster than this client's: sequences, tokens and revisions mean nothing there.

        Where all do, no call is left waiting: a cluster that was restored from a backup does not become the old one.
        """
        problem = (
            f"{stream.address} is of cluster {cluster_id:016x}, and this client talks to {self._cluster_id:016x}: if "
            "it was restored from a backup, a new client is needed"
        )
        self._lose(stream, problem)
        if not self.router.any_ready():
            for call in tuple(self._live):
                self._fail(call, ClusterMismatch(problem, ambiguous=call.ambiguous))

    def answered(self, stream: Pipeline, response: kv_pb2.BatchResponse) -> None:
        """Give every answer of a message to its call."""
        header = response.header
        self.revision = max(self.revision, header.revision)
        if header.configuration_index != self._configuration_index:
            self._configuration_index = header.configuration_index
            self._learn_members()
        leader = Leader(header.raft_term, header.leader_id, header.leader_address)
        self._heard(leader)
        outstanding = stream.outstanding
        live = self._live
        led = near = shown = False
        wrote, read = self._receipts(response)
        for result in response.results:
            call = outstanding.pop(result.id, None)
            if call is None:
                continue
            call.in_flight = False
            if call not in live:
                if call.kind is Kind.PROBE:
                    self.router.measured(stream.address, self.loop.time() - call.deadline)
                    self._reader = None
                    call.future.cancel()
            elif result.HasField("error"):
                self._refused(call, stream, result.error, header.raft_term)
            else:
                live.discard(call)
                kind = call.kind
                if kind is Kind.WRITE:
                    led = True
                    self._sequences.done(call.id)
                    call.wrote = wrote if not result.HasField("wrote") else self._wrote(result.wrote, header)
                else:
                    if kind is Kind.LOCAL_READ:
                        near = True
                    else:
                        led = True
                    if result.HasField("read"):
                        call.read = to_read_receipt(result.read, header.cluster_id)
                        self._shown(call.read)
                    else:
                        call.read = read
                        shown = True
                if not call.future.done():
                    call.future.set_result(result)
        if shown:
            self._shown(read)
        if near:
            self.router.read_answered(stream.address)
        self._fill_window()
        # What a leader answered shows that there is one. That a node names one shows nothing: a dead leader that all
        # still name would send the parked calls on their way again and again.
        if led:
            self.router.found_leader()
            if self._parked:
                self._release()

    def _receipts(self, response: kv_pb2.BatchResponse) -> tuple[WriteReceipt, ReadReceipt]:
        """Return what all answers of a message share."""
        header = response.header
        return (
            self._wrote(response.wrote, header) if response.HasField("wrote") else UNTOLD_WRITE,
            to_read_receipt(response.read, header.cluster_id) if response.HasField("read") else UNTOLD_READ,
        )

    def _wrote(self, receipt: common_pb2.WriteReceipt, header: common_pb2.ResponseHeader) -> WriteReceipt:
        found = to_write_receipt(receipt, header.cluster_id)
        self.seen.heard(found.cluster_id, found.term, found.index, committed=found.committed)
        return found

    def _shown(self, receipt: ReadReceipt) -> None:
        """A caller is shown this state. Those that only signs of life come from, nobody has seen."""
        self.seen.heard(receipt.cluster_id, receipt.applied_term, receipt.applied_index, committed=True)

    def ended(self, stream: Pipeline, reason: str) -> None:
        """A stream broke: its calls go elsewhere at once."""
        # One that had answered knew what it was told: what ended it is no matter of TLS.
        self._lose(stream, reason if stream.is_ready else self.reasons.of(stream.address, reason))

    # Ways of a call.

    def _begin_write(self, call: Call) -> None:
        if self._session.id and not self._waiting and self._sequences.has_room():
            self._stamp(call)
        else:
            if call.lane == RENEWALS:
                # A backlog of the caller's own, seconds long, must not cost it its locks. Never before those that have
                # a sequence already: it may be waiting for just that one to be done.
                begun = next((at for at, waiting in enumerate(self._waiting) if not waiting.id), len(self._waiting))
                self._waiting.insert(begun, call)
            else:
                self._waiting.append(call)
            self._fill_window()

    def _fill_window(self) -> None:
        """Send the writes that wait, as far as there is a session and room in it."""
        waiting = self._waiting
        while waiting:
            call = waiting[0]
            if call not in self._live:
                waiting.popleft()
            elif not self._session.id:
                self._register()
                return
            elif call.id or self._sequences.has_room():
                waiting.popleft()
                self._stamp(call)
            else:
                return

    def _stamp(self, call: Call) -> None:
        call.session = self._session.id
        if not call.id:
            call.id = call.operation.id = self._sequences.begin()
        self._dispatch(call)

    def _dispatch(self, call: Call) -> None:
        if call.kind is Kind.LOCAL_READ:
            self._dispatch_reader(call)
            return
        if call.tried or self._target is None:
            address = self.router.choose(call.tried)
            if address is None:
                self._park(call)
                return
            stream = self._streams[address]
            if not call.tried:
                self._target = stream
        else:
            stream = self._target
        if call.kind is not Kind.WRITE:
            call.id = call.operation.id = self._sequences.next_id()
        stream.submit(call)

    def _dispatch_reader(self, call: Call) -> None:
        """Send a read to a node that answers it from its own state."""
        now = self.loop.time()
        stream = None if call.tried else self._reader
        if stream is None:
            address = self.router.choose_reader(call.tried, now, nearest=self._nearest)
            if address is None:
                if call.tried:
                    self._later(call)
                else:
                    self._park(call)
                return
            stream = self._streams[address]
            if not call.tried and self.router.trusts_readers():
                self._reader = stream
        call.id = call.operation.id = self._sequences.next_id()
        call.sent_at = now
        self._hedging = True
        stream.submit(call)

    def _later(self, call: Call) -> None:
        """Every node has refused it: ask them all again after a while."""
        call.tried = ()
        call.attempts += 1
        self.loop.call_later(backoff_s(min(call.attempts, READ_BACKOFFS), self.random), self._again, call)

    def _hedge(self, now: float) -> None:
        """Ask another node where one is reachable, and does not come to an answer: it may be cut off from the rest."""
        self._hedging = bool(self._live)
        reads = [
            (call, stream)
            for stream in self._streams.values()
            for call in stream.outstanding.values()
            if call.kind is Kind.LOCAL_READ and call in self._live
        ]
        before = now - self.attempt_timeout
        for call, stream in reads:
            if call.sent_at > before:
                continue
            reason = f"{stream.address}: no answer to a read within {self.attempt_timeout:g} s"
            tried = (*call.tried, stream.address)
            if not self.router.has_reader(tried):
                call.sent_at = now  # there is nobody else to ask
                continue
            self._unable(stream, reason)
            del stream.outstanding[call.id]
            call.in_flight = False
            call.tried = tried
            call.last_error = DeadlineExceeded(reason)
            self._dispatch(call)

    def _park(self, call: Call) -> None:
        call.tried = ()
        self._parked.append(call)
        self.router.found_no_leader()
        # With nobody to ask, the next endpoint that becomes ready releases them.
        if self._poll_timer is None and self.router.any_ready():
            self._poll_timer = self.loop.call_later(poll_s(self.random), self._poll)

    def _poll(self) -> None:
        self._poll_timer = None
        self.router.turn()
        self._rerouted()
        self._release(POLL_CALLS)
        if self._parked and self._poll_timer is None and self.router.any_ready():
            self._poll_timer = self.loop.call_later(poll_s(self.random), self._poll)

    def _release(self, at_most: int | None = None) -> None:
        count = len(self._parked) if at_most is None else min(at_most, len(self._parked))
        for _ in range(count):
            self._again(self._parked.popleft())

    def _refused(self, call: Call, stream: Pipeline, error: common_pb2.Error, term: int) -> None:
        call.doubtful = call.doubtful or error.ambiguous
        failure = to_error(error)
        call.last_error = failure
        verdict = judge(call, failure)
        if verdict is Verdict.FAIL:
            self._fail(call, final_error(call, failure))
        elif verdict is Verdict.NEW_SESSION:
            self._session.expired(call.session)
            # In front: it has a sequence already, and those behind it may be waiting for just that one to be done.
            self._waiting.appendleft(call)
        elif verdict is Verdict.LATER:
            call.attempts += 1
            self.loop.call_later(backoff_s(call.attempts, self.random), self._again, call)
        elif verdict is Verdict.ANOTHER:
            # It is well, and has said so: only silence and broken streams count against a node.
            call.tried = (*call.tried, stream.address)
            if worth_retrying(call, self.loop.time()):
                self._dispatch(call)
        else:
            self.router.not_leader(stream.address)
            self._heard(Leader(term, error.leader_id, error.leader_address))
            self._rerouted()
            call.tried = (*call.tried, stream.address)
            self._dispatch(call)

    def _again(self, call: Call) -> None:
        # What is not worth it stays where it is, in no queue: its deadline is near.
        if call in self._live and worth_retrying(call, self.loop.time()):
            self._dispatch(call)

    def _fail(self, call: Call, error: RaftKVError) -> None:
        self._retire(call)
        if not call.future.done():
            call.future.set_exception(error)

    def _retire(self, call: Call) -> None:
        self._live.discard(call)
        if call.kind is Kind.WRITE and call.id:
            self._sequences.done(call.id)

    def _measure(self) -> None:
        self._measure_timer = None if self._closed else self.loop.call_later(MEASURE_S, self._measure)
        for stream in self._streams.values():
            if stream.is_ready:
                stream.probe()

    # The session.

    def _register(self) -> None:
        if self._registration is None and not self._closed:
            operation = kv_pb2.Operation(register_session=kv_pb2.RegisterSessionRequest())
            self._registration = call = self.start(Kind.REGISTER, operation, size_estimate(), self._timeout)
            call.future.add_done_callback(self._registered)

    def _registered(self, future: asyncio.Future[kv_pb2.OperationResult]) -> None:
        self._registration = None
        error = future.exception()
        if error is None:
            answer = future.result().register_session
            self._session.id = answer.session
            self._sequences.window = max(1, answer.window)
        elif isinstance(error, RaftKVError) and not (error.retryable or isinstance(error, DeadlineExceeded)):
            for call in tuple(self._waiting):
                if call in self._live:
                    self._fail(call, type(error)(f"no session could be registered: {error.message}"))
        self._fill_window()

    # Streams.

    def _heard(self, leader: Leader) -> None:
        if self.router.heard_leader(leader):
            self._rerouted()

    def _rerouted(self) -> None:
        """What the router says may have changed: it is asked again."""
        self._target = self._reader = None

    def _unable(self, stream: Pipeline, reason: str) -> None:
        """A node is reachable, and came to no answer from its own state."""
        self.router.read_failed(stream.address, self.loop.time(), reason)
        self._reader = None

    def _keep_open(self, now: float) -> None:
        for address in self.router.to_open(now):
            self.router.opening(address, now)
            self._streams[address] = Pipeline(address, self.connections.get(address), self, self.loop)

    def _lose(self, stream: Pipeline, reason: str) -> None:
        self.router.failed(stream.address, self.loop.time(), reason)
        calls = self._drop(stream)
        self._rerouted()
        failure = ConnectionFailed(reason)
        for call in calls:
            if call in self._live:
                call.last_error = failure
                self._again(call)
        if not self._closed:
            self._keep_ticking()

    def _drop(self, stream: Pipeline) -> list[Call]:
        del self._streams[stream.address]
        stream.close()
        task = self.loop.create_task(stream.wait_closed())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return stream.take_back()

    # Time.

    def _keep_ticking(self) -> None:
        if self._live or self._ready_waiters:
            wanted = TICK_S
        elif not self.router.all_ready():
            wanted = IDLE_TICK_S
        else:
            wanted = _NEVER
        if wanted < self._tick_s:
            if self._tick_timer is not None:
                self._tick_timer.cancel()
            self._tick_s = wanted
            self._tick_timer = self.loop.call_later(wanted, self._tick)

    def _tick(self) -> None:
        self._tick_timer = None
        self._tick_s = _NEVER
        now = self.loop.time()
        if now >= self._next_deadline:
            self._expire(now)
        if self._hedging:
            self._hedge(now)
        self._watch_silence(now)
        self._keep_open(now)
        self._keep_ticking()

    def _expire(self, now: float) -> None:
        why = "" if self.router.any_ready() else self.router.why_unreachable()
        late = [call for call in self._live if call.deadline <= now]
        for call in late:
            if not call.id and self._registration is not None:
                call.last_error = self._registration.last_error
            self._fail(call, out_of_time(call, why))
        self._parked = deque(call for call in self._parked if call in self._live)
        self._waiting = deque(call for call in self._waiting if call in self._live)
        self._next_deadline = min((call.deadline for call in self._live), default=_NEVER)
        self._fill_window()

    def _watch_silence(self, now: float) -> None:
        for stream in tuple(self._streams.values()):
            silent_s = now - stream.silent_since()
            if silent_s > self.attempt_timeout:
                self.connections.discard(stream.address)
                self._lose(stream, f"{stream.address}: connected, but no answer for {self.attempt_timeout:g} s")
            elif silent_s > self.attempt_timeout / 2 and stream.is_ready:
                stream.probe()

    def _wake_ready_waiters(self) -> None:
        for waiter in self._ready_waiters:
            if not waiter.done():
                waiter.set_result(None)
