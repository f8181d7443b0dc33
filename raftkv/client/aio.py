"""The client for asyncio."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from raftkv.client import wire
from raftkv.client.backoff import backoff_s
from raftkv.client.calls import Kind
from raftkv.client.dispatcher import Dispatcher
from raftkv.client.results import (
    DeleteResult,
    EndpointFailure,
    KeyValue,
    Member,
    PutResult,
    RangeResult,
    ReadLevel,
    StateHash,
    Status,
)
from raftkv.client.spans import Pages, Span, between, one_key, to_bytes, under
from raftkv.client.unary import answer_of
from raftkv.client.urls import endpoints_from_environment, parse_endpoint, parse_endpoints
from raftkv.errors import ConfigurationError, ConnectionFailed, InvalidArgument, RaftKVError
from raftkv.v1 import cluster_pb2, kv_pb2

if TYPE_CHECKING:
    from raftkv.v1.cluster_pb2_grpc import ClusterAsyncStub

T = TypeVar("T")

DEFAULT_TIMEOUT_S: Final = 10.0
DEFAULT_ATTEMPT_TIMEOUT_S: Final = 1.0
MAX_STATUSES_TIMEOUT_S: Final = 2.0
_MAX_TIMEOUT_S: Final = 86_400.0


class AsyncClient:
    """A client of one cluster, for one event loop: that of its first call.

    Any number of tasks may use it; calls made in one turn of the loop share a message. Connects at the first call or on
    entering `async with`. While a node is down or a leader is elected, calls wait and are sent again; a write is
    applied at most once however often that happens.

    **Timeouts** are in seconds, more than 0 and at most one day, and cover everything that a call does. `timeout=None`
    takes the client's.

    **Errors** are those of `raftkv.errors`. Any call may raise
    - DeadlineExceeded: no answer in time. `ambiguous` on a write that may have taken effect, or may yet.
    - NoLeader, Overloaded, ConnectionFailed: the time is up, and the request provably had no effect (`ambiguous` False;
      ConnectionFailed of a client that was closed meanwhile says so).
    - InvalidArgument: the request breaks a limit, or makes no sense.
    and a write SessionExpired, ambiguous: the client was cut off for so long that the store forgot its session, and
    an earlier attempt may have been applied.
    **Cancelling** a call abandons it: a write may still take effect.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempt_timeout: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        dial_learned: bool = True,
    ) -> None:
        """`endpoints`: "raftkv://h1:7001,h2:7001", "h1:7001,h2:7001" or a list of "host:port".

        `attempt_timeout`: seconds of silence after which a node counts as gone and its calls move to another.
        `dial_learned`: connect to a leader that is not among `endpoints` under the address it announces.
        Raises ConfigurationError when `endpoints` is malformed, InvalidArgument for a timeout out of range.
        """
        self._dispatcher: Dispatcher | None = None
        self._endpoints = parse_endpoints(endpoints)
        self._timeout = _checked(timeout)
        self._attempt_timeout = _checked(attempt_timeout)
        self._dial_learned = dial_learned
        self._closed = False

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempt_timeout: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        dial_learned: bool = True,
    ) -> Self:
        """Make a client from raftkv://h1:7001,h2:7001. Raises ConfigurationError."""
        return cls(url, timeout=timeout, attempt_timeout=attempt_timeout, dial_learned=dial_learned)

    @classmethod
    def from_env(
        cls,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        attempt_timeout: float = DEFAULT_ATTEMPT_TIMEOUT_S,
        dial_learned: bool = True,
    ) -> Self:
        """Make a client from RAFTKV_ENDPOINTS: a URL, or comma-separated. Raises ConfigurationError."""
        found = endpoints_from_environment(os.environ)
        return cls(found, timeout=timeout, attempt_timeout=attempt_timeout, dial_learned=dial_learned)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints that were configured."""
        return self._endpoints

    def __repr__(self) -> str:
        return f"{type(self).__name__}({','.join(self._endpoints)!r})"

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __del__(self) -> None:
        # The constructor may have failed before it set anything. A forked child has a copy that was never its own.
        dispatcher = getattr(self, "_dispatcher", None)
        if dispatcher is not None and not self._closed and dispatcher.pid == os.getpid():
            warnings.warn(f"{self!r} was not closed", ResourceWarning, stacklevel=2, source=self)

    async def close(self) -> None:
        """Disconnect. Calls under way fail with ConnectionFailed. Idempotent."""
        self._closed = True
        if self._dispatcher is not None:
            await self._dispatcher.close()

    async def put(self, key: bytes | str, value: bytes | str, *, timeout: float | None = None) -> PutResult:
        """Set a key. Returns once the write is committed."""
        key_bytes, value_bytes = to_bytes(key), to_bytes(value)
        operation = wire.put_operation(key_bytes, value_bytes)
        answer = await self._perform(Kind.WRITE, operation, wire.size_estimate(key_bytes, value_bytes), timeout)
        return PutResult(answer.put.revision)

    async def delete(self, key: bytes | str, *, timeout: float | None = None) -> DeleteResult:
        """Remove a key. Returns once the delete is committed; `deleted` is 0 or 1."""
        return await self._delete(one_key(key), timeout)

    async def delete_range(
        self, start: bytes | str, end: bytes | str | None, *, timeout: float | None = None
    ) -> DeleteResult:
        """Remove the keys in [start, end), in one revision; `end` None: all from `start` on.

        Raises LimitExceeded, without effect, for more keys than one command may remove.
        """
        return await self._delete(between(start, end), timeout)

    async def delete_prefix(self, prefix: bytes | str, *, timeout: float | None = None) -> DeleteResult:
        """Remove the keys that begin with `prefix` (empty: all), in one revision. Raises LimitExceeded."""
        return await self._delete(under(prefix), timeout)

    async def get(
        self,
        key: bytes | str,
        *,
        revision: int = 0,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Return a key's pair as it was at `revision` (0: now), or None.

        With `endpoint`, that node is asked and no other, in one attempt: with LOCAL, what it holds itself.
        Raises Compacted, FutureRevision.
        """
        operation = wire.range_operation(one_key(key), revision=revision, level=level)
        return wire.to_pair(await self._read(operation, level, endpoint, timeout))

    async def range(
        self,
        start: bytes | str,
        end: bytes | str | None,
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> RangeResult:
        """Return the pairs in [start, end) at `revision` (0: now); `end` None: all from `start` on.

        One page: at most `limit` pairs (0: no limit) and 1 MiB; `more` says whether keys are left (`scan` goes on by
        itself). `endpoint` as in `get`. Raises Compacted, FutureRevision.
        """
        return await self._page(
            between(start, end),
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            level=level,
            endpoint=endpoint,
            timeout=timeout,
        )

    async def prefix(
        self,
        prefix: bytes | str,
        *,
        limit: int = 0,
        revision: int = 0,
        keys_only: bool = False,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> RangeResult:
        """Return the pairs whose keys begin with `prefix` (empty: all). Otherwise as `range`."""
        return await self._page(
            under(prefix),
            limit=limit,
            revision=revision,
            keys_only=keys_only,
            level=level,
            endpoint=endpoint,
            timeout=timeout,
        )

    async def count(
        self,
        prefix: bytes | str = b"",
        *,
        revision: int = 0,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        endpoint: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Return how many keys begin with `prefix` (empty: all). `revision`, `endpoint` and errors as in `get`."""
        operation = wire.range_operation(under(prefix), revision=revision, count_only=True, level=level)
        return (await self._read(operation, level, endpoint, timeout)).count

    async def scan(
        self,
        prefix: bytes | str = b"",
        *,
        page: int = 1000,
        revision: int = 0,
        keys_only: bool = False,
        level: ReadLevel = ReadLevel.LINEARIZABLE,
        timeout: float | None = None,
    ) -> AsyncIterator[KeyValue]:
        """Yield all pairs whose keys begin with `prefix` (empty: all), as they were at one revision.

        Asks for `page` pairs at a time (at least 1); `timeout` is for each page. Raises Compacted when the revision is
        compacted away meanwhile.
        """
        pages = Pages(prefix, page, revision)
        while not pages.done:
            found = await self.range(
                pages.start,
                pages.end,
                limit=pages.size,
                revision=pages.revision,
                keys_only=keys_only,
                level=level,
                timeout=timeout,
            )
            for pair in pages.take(found):
                yield pair

    async def status(self, endpoint: str | None = None, *, timeout: float | None = None) -> Status:
        """Return what a node knows of itself and of the cluster; without `endpoint`, any that can be reached.

        Works without a leader. Raises ConnectionFailed, DeadlineExceeded.
        """
        dispatcher = self._open()
        deadline = dispatcher.loop.time() + self._seconds(timeout)
        address = await dispatcher.wait_ready(deadline) if endpoint is None else parse_endpoint(endpoint)
        rpc = dispatcher.connections.get(address).cluster.Status(
            cluster_pb2.StatusRequest(), timeout=max(deadline - dispatcher.loop.time(), 0.0)
        )
        return wire.to_status(address, await answer_of(address, rpc))

    async def statuses(self, *, timeout: float | None = None) -> tuple[Status | EndpointFailure, ...]:
        """Ask every configured endpoint, and every further member that they name, for its status.

        Those that cannot be reached are in the answer as EndpointFailure; nothing is raised for them. Waits at most 2 s
        for each unless `timeout` says otherwise.
        """
        seconds = min(self._timeout, MAX_STATUSES_TIMEOUT_S) if timeout is None else timeout
        asked = self._endpoints
        first = await asyncio.gather(*(self._status_or_failure(one, seconds) for one in asked))
        answered = {one.member_id for one in first if isinstance(one, Status)}
        others = {
            member.id: member.client_address
            for one in first
            if isinstance(one, Status)
            for member in one.members
            if self._dial_learned
            and member.client_address
            and member.id not in answered
            and member.client_address.lower() not in asked
        }
        second = await asyncio.gather(*(self._status_or_failure(one, seconds) for one in others.values()))
        return (*first, *second)

    async def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Return the members of the cluster as its leader knows them, or whoever answers. Errors as `status`."""
        status = await self.status(timeout=timeout)
        if status.leader_id in (0, status.member_id) or not status.leader_address or not self._dial_learned:
            return status.members
        try:
            return (await self.status(status.leader_address, timeout=timeout)).members
        except RaftKVError:
            return status.members

    async def add_member(
        self, member_id: int, peer_address: str, *, witness: bool = False, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Let a node join as a learner, or as a witness, which votes at once. Return the members.

        Start it afterwards, with an empty data directory and `--join`. An id is never used again for another disk.

        Raises FailedPrecondition, without effect, when it is or was a member or another change is under way.
        ConnectionFailed, LeaderChanged and DeadlineExceeded are ambiguous unless they say otherwise: look at `members`.
        """
        wire.check_u64("member_id", member_id)
        try:
            address = parse_endpoint(peer_address)
        except ConfigurationError:
            raise InvalidArgument(
                f"peer_address is {peer_address!r}, not the HOST:PORT at which the node will listen for its peers"
            ) from None
        new = cluster_pb2.NewMember(id=member_id, peer_address=address, witness=witness)
        return await self._change_members(cluster_pb2.ChangeMembersRequest(add=[new]), timeout)

    async def promote_members(
        self, *member_ids: int, remove: Iterable[int] = (), timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Make learners voters, and `remove` others in the same step. Return the members.

        Raises FailedPrecondition, without effect, when one lags too far behind; else as `add_member`.
        """
        removed = tuple(remove)
        for member_id in (*member_ids, *removed):
            wire.check_u64("member_id", member_id)
        return await self._change_members(cluster_pb2.ChangeMembersRequest(promote=member_ids, remove=removed), timeout)

    async def remove_members(self, *member_ids: int, timeout: float | None = None) -> tuple[Member, ...]:
        """Remove members of whatever kind, the leader included, all in one step. Return the members. As `add_member`.

        What they hold is not deleted, and their ids must not be used again.
        """
        for member_id in member_ids:
            wire.check_u64("member_id", member_id)
        return await self._change_members(cluster_pb2.ChangeMembersRequest(remove=member_ids), timeout)

    async def state_hash(self, endpoint: str, *, timeout: float | None = None) -> StateHash:
        """Return the hash of one node's state. Raises ConnectionFailed, DeadlineExceeded."""
        address = parse_endpoint(endpoint)
        rpc = (
            self._open()
            .connections.get(address)
            .cluster.StateHash(cluster_pb2.StateHashRequest(), timeout=self._seconds(timeout))
        )
        return wire.to_state_hash(address, await answer_of(address, rpc))

    async def transfer_leader(self, target: int = 0, *, timeout: float | None = None) -> None:
        """Hand leadership to the member `target`; 0: the most caught-up follower.

        Retried only when the request had no effect for sure. Raises FailedPrecondition, without effect, when `target`
        is not fit to lead; ConnectionFailed and DeadlineExceeded are ambiguous unless they say otherwise.
        """
        wire.check_u64("target", target)
        request = cluster_pb2.TransferLeaderRequest(target=target)
        await self._on_cluster(lambda cluster, left_s: cluster.TransferLeader(request, timeout=left_s), timeout)

    async def _change_members(
        self, request: cluster_pb2.ChangeMembersRequest, timeout: float | None
    ) -> tuple[Member, ...]:
        answer = await self._on_cluster(lambda cluster, left_s: cluster.ChangeMembers(request, timeout=left_s), timeout)
        return wire.to_members(answer.members)

    async def _on_cluster(self, call: Callable[[ClusterAsyncStub, float], Awaitable[T]], timeout: float | None) -> T:
        """Call one node's Cluster service; again, elsewhere, as long as it had no effect for sure."""
        dispatcher = self._open()
        deadline = dispatcher.loop.time() + self._seconds(timeout)
        attempts = 0
        while True:
            address = await dispatcher.wait_ready(deadline)
            left_s = max(deadline - dispatcher.loop.time(), 0.0)
            try:
                return await answer_of(address, call(dispatcher.connections.get(address).cluster, left_s))
            except RaftKVError as error:
                attempts += 1
                pause_s = backoff_s(attempts, dispatcher.random)
                if error.ambiguous or not error.retryable or pause_s >= left_s:
                    raise
                await asyncio.sleep(pause_s)

    async def _status_or_failure(self, endpoint: str, timeout: float) -> Status | EndpointFailure:
        try:
            return await self.status(endpoint, timeout=timeout)
        except RaftKVError as error:
            return EndpointFailure(endpoint=endpoint, error=error)

    async def _delete(self, span: Span, timeout: float | None) -> DeleteResult:
        operation = wire.delete_operation(span)
        answer = await self._perform(Kind.WRITE, operation, wire.size_estimate(*span), timeout)
        return wire.to_delete_result(answer.delete)

    async def _page(
        self,
        span: Span,
        *,
        limit: int,
        revision: int,
        keys_only: bool,
        level: ReadLevel,
        endpoint: str | None,
        timeout: float | None,
    ) -> RangeResult:
        operation = wire.range_operation(span, limit=limit, revision=revision, keys_only=keys_only, level=level)
        return wire.to_range_result(await self._read(operation, level, endpoint, timeout))

    async def _read(
        self, operation: kv_pb2.Operation, level: ReadLevel, endpoint: str | None, timeout: float | None
    ) -> kv_pb2.RangeResponse:
        if endpoint is not None:
            address = parse_endpoint(endpoint)
            rpc = self._open().connections.get(address).kv.Range(operation.range, timeout=self._seconds(timeout))
            return await answer_of(address, rpc)
        kind = Kind.LOCAL_READ if level == ReadLevel.LOCAL else Kind.READ
        size_bytes = wire.size_estimate(operation.range.key, operation.range.range_end)
        return (await self._perform(kind, operation, size_bytes, timeout)).range

    async def _perform(
        self, kind: Kind, operation: kv_pb2.Operation, size_bytes: int, timeout: float | None
    ) -> kv_pb2.OperationResult:
        dispatcher = self._open()
        call = dispatcher.start(kind, operation, size_bytes, self._seconds(timeout))
        try:
            return await call.future
        except asyncio.CancelledError:
            dispatcher.abandon(call)
            raise

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else _checked(timeout)

    def _open(self) -> Dispatcher:
        dispatcher = self._dispatcher
        if self._closed:
            raise ConnectionFailed("the client is closed")
        if dispatcher is None:
            dispatcher = self._dispatcher = Dispatcher(
                self._endpoints,
                asyncio.get_running_loop(),
                timeout=self._timeout,
                attempt_timeout=self._attempt_timeout,
                dial_learned=self._dial_learned,
            )
            dispatcher.open()
        return dispatcher


def _checked(seconds: float) -> float:
    if not 0 < seconds <= _MAX_TIMEOUT_S:
        raise InvalidArgument(f"a timeout is {seconds!r} s, not more than 0 and at most {_MAX_TIMEOUT_S:g}")
    return seconds
