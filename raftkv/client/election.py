"""Elections for asyncio: one of many candidates leads, until it resigns or is lost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing
from types import TracebackType

from raftkv.client import wire_lock
from raftkv.client.calls import Kind
from raftkv.client.lock import AsyncHeld, AsyncLock, LockHost
from raftkv.client.patience import answered
from raftkv.client.results import Contender, Leader, LockKind, LockState
from raftkv.client.turn import LineChange, WatchLine
from raftkv.client.wire import size_estimate
from raftkv.client.wire_lock import LockSpec
from raftkv.errors import Compacted, InvalidArgument


class AsyncElection:
    """One candidate: `client.election(name, value)` makes one.

    Leadership is a lock that shows a value: everything that AsyncLock says of waiting, losing and fencing holds here.
    The body of the `async with` is cancelled when leadership is lost, and LockLost raised. `leader` and `observe` need
    no candidacy.

    Example::

        election = client.election("scheduler", "host-7:8000", ttl=10.0)
        async with election as led:
            await client.put("scheduler/state", "running", fence=led.fence())
    """

    def __init__(
        self,
        host: LockHost,
        watch_line: WatchLine,
        name: bytes,
        value: bytes,
        *,
        ttl: float,
        timeout: float | None,
        closed: Callable[[], bool],
    ) -> None:
        """Made by the client. `closed`: whether it is."""
        spec = LockSpec(name=name, kind=LockKind.ELECTION, exclusive=True)
        self._host = host
        self._watch_line = watch_line
        self._closed = closed
        self.lock = AsyncLock(host, spec, ttl=ttl, timeout=timeout, value=value)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"

    @property
    def name(self) -> bytes:
        """Of the election."""
        return self.lock.name

    @property
    def held(self) -> AsyncHeld | None:
        """The leadership that `campaign` returned, until `resign`; None: this candidate does not lead."""
        return self.lock.held

    async def __aenter__(self) -> AsyncHeld:
        return await self.lock.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.lock.__aexit__(kind, error, traceback)

    async def campaign(self, *, timeout: float | None = None, wait: bool = True) -> AsyncHeld:
        """Wait until this candidate leads. As AsyncLock.acquire.

        Example::

            election = client.election("scheduler", "host-7:8000")
            led = await election.campaign(timeout=5.0)
            await election.resign()
        """
        return await self.lock.acquire(timeout=timeout, wait=wait)

    async def resign(self) -> bool:
        """Give leadership up. Idempotent and shielded. As AsyncLock.release.

        Example::

            election = client.election("scheduler", "host-7:8000")
            await election.campaign()
            print(await election.resign())
        """
        return await self.lock.release()

    async def proclaim(self, value: bytes | str, *, timeout: float | None = None) -> int:
        """Show another value (at most 64 KiB) and keep on leading. Return the revision.

        Raises LockLost when leadership is lost, StaleFence when the store says so, InvalidArgument when this candidate
        never led or has resigned.

        Example::

            election = client.election("scheduler", "host-7:8000")
            async with election:
                await election.proclaim("host-7:8001")
        """
        shown = wire_lock.lock_value(value)
        held = self.lock.held
        if held is None:
            raise InvalidArgument("only a leader proclaims; campaign first")
        operation = wire_lock.proclaim_operation(self.name, held.lease_id, held.token, shown)
        answer = await self._host.perform(Kind.WRITE, operation, size_estimate(self.name, shown), timeout)
        return answer.lock_proclaim.revision

    async def leader(self, *, timeout: float | None = None) -> Leader | None:
        """Return who leads now, or None. Linearizable. `timeout` in seconds; None: the client's. Errors as any read.

        Example::

            leader = await client.election("scheduler").leader()
            print("nobody" if leader is None else leader.value)
        """
        return _first(await self._state(timeout))

    async def observe(self, *, timeout: float | None = None) -> AsyncGenerator[Leader | None, None]:
        """Yield who leads now (None: nobody), and whenever that or the value shown changes, for ever.

        Every leader there was is seen, in order. Only an observer that is cut off for so long that the store's history
        is compacted meanwhile goes on with who leads then. While the store cannot be reached it waits, at the beginning
        too: there for `timeout` seconds at most, if given, and then raises NoLeader, ConnectionFailed, Overloaded or
        DeadlineExceeded. Raises ConnectionFailed when the client is closed.

        Example::

            async for leader in client.election("scheduler").observe():
                print("nobody" if leader is None else leader.value)
                break
        """
        told: tuple[Leader | None] | tuple[()] = ()
        while True:
            state = await answered(self._state, self._closed, None if told else timeout)
            leader = _first(state)
            if not told or not _same(told[0], leader):
                told = (leader,)
                yield leader
            try:
                async with (
                    self._watch_line(self.name, state.revision + 1) as batches,
                    aclosing(_leaders(leader, batches)) as leaders,
                ):
                    async for leader in leaders:
                        told = (leader,)
                        yield leader
            except Compacted:
                continue  # as the docstring says

    async def _state(self, timeout: float | None) -> LockState:
        operation = wire_lock.query_operation(self.name, 1)
        answer = await self._host.perform(Kind.READ, operation, size_estimate(self.name), timeout)
        return wire_lock.to_lock_state(answer.lock_query)


async def _leaders(
    leader: Leader | None, batches: AsyncIterator[tuple[LineChange, ...]]
) -> AsyncGenerator[Leader | None, None]:
    async for batch in batches:
        for changes in _by_revision(batch):
            following = _after(leader, changes)
            if not _same(leader, following):
                leader = following
                yield leader


def _by_revision(batch: Iterable[LineChange]) -> Iterable[list[LineChange]]:
    """Part a batch by its revisions: a leader that goes and the one that follows it do so at one."""
    found: dict[int, list[LineChange]] = {}
    for change in batch:
        found.setdefault(change.revision, []).append(change)
    return found.values()


def _after(leader: Leader | None, changes: Iterable[LineChange]) -> Leader | None:
    """Return who leads after the changes of one revision."""
    following = leader
    for change in changes:
        if change.contender is None:
            if leader is not None and change.ticket == leader.ticket and following is leader:
                following = None
        elif change.contender.token:
            following = _to_leader(change.contender, change.revision)
    return following


def _first(state: LockState) -> Leader | None:
    for contender in state.contenders[:1]:
        if contender.token:
            return _to_leader(contender, state.revision)
    return None


def _to_leader(contender: Contender, revision: int) -> Leader:
    return Leader(contender.value, contender.token, contender.ticket, contender.lease, revision)


def _same(one: Leader | None, other: Leader | None) -> bool:
    """Whether nothing has changed but the revision."""
    if one is None or other is None:
        return one is other
    return (one.token, one.value) == (other.token, other.value)
