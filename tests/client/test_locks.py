"""Locks of the client, over the scripted cluster: waiting, holding, losing, and leaving."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from raftkv.client import AsyncClient, AsyncHeld, AsyncLock, FenceMode, FencingToken, LockKind
from raftkv.client.keeper import KeptLease
from raftkv.client.turn import GONE
from raftkv.errors import (
    Compacted,
    ConnectionFailed,
    DeadlineExceeded,
    ErrorCode,
    InvalidArgument,
    LockBusy,
    LockLost,
    NoLeader,
    RaftKVError,
)
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster, FakeNode, Reply, apply_and_ignore, execute, ignore, refusal
from tests.client.fake_locks import FakeLine


class Turns:
    """Tells contenders when it is their turn, without watches."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self.waiting = asyncio.Event()
        """Somebody was told to wait."""
        self.compacted = False

    async def watch_turn(self, lock: bytes, ticket: int, start_revision: int) -> int:
        self.waiting.set()
        if self.compacted:
            self.compacted = False
            raise Compacted("history is gone", number=9)
        places = self._cluster.store.locks

        def token() -> int | None:
            for one in places.lines[lock].contenders:
                if one.ticket == ticket:
                    return one.token or None
            return GONE

        await self._cluster[1].wait_for(lambda: token() is not None)
        found = token()
        assert found is not None
        return found


@pytest.fixture
def turns(single: FakeCluster) -> Turns:
    return Turns(single)


@pytest.fixture
async def client(single: FakeCluster, turns: Turns, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(single.addresses, timeout=5.0) as client, asyncio.timeout(30):
        monkeypatch.setattr(client, "_watch_turn", turns.watch_turn)
        yield client


def kinds(node: FakeNode) -> list[str | None]:
    return [operation.WhichOneof("operation") for operation in node.operations]


def line(cluster: FakeCluster, name: bytes = b"x") -> list[int]:
    """Return the tokens in line; 0: it waits."""
    return [one.token for one in cluster.store.locks.lines.get(name, FakeLine()).contenders]


def kept(held: AsyncHeld) -> KeptLease:
    return held.grant.kept


async def in_line(cluster: FakeCluster, count: int) -> None:
    await cluster[1].wait_for(lambda: len(line(cluster)) == count)


def lose(held: AsyncHeld) -> None:
    """Let the time of the lease be over, as if the loop had hung."""
    kept(held).tenure.deadline = 0.0


async def test_an_acquire_and_a_release_are_one_operation_each(single: FakeCluster, client: AsyncClient) -> None:
    lock = client.lock("x")
    for number in range(1, 4):
        async with lock as held:
            assert held.token == number
            assert held.name == b"x"
            assert 0 < held.remaining() <= 9.5
    async with client.lock("x") as held:
        assert held.token == 4
    assert kinds(single[1]) == ["register_session", "lease_grant", *["lock_acquire", "lock_release"] * 4]


async def test_contenders_of_one_client_exclude_each_other_in_the_order_they_came(
    single: FakeCluster, client: AsyncClient
) -> None:
    inside = 0
    order: list[int] = []

    async def work(number: int) -> None:
        nonlocal inside
        async with client.lock("x") as held:
            inside += 1
            assert inside == 1
            if number == 0:
                await in_line(single, 8)
            order.append(number)
            assert held.token == len(order)
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(work(number))
            await in_line(single, number + 1)
    assert order == list(range(8))
    grants = [token for _, _, token in single.store.locks.grants]
    assert grants == list(range(1, 9))


async def test_an_object_is_one_contender(client: AsyncClient) -> None:
    lock = client.lock("x")
    async with lock:
        with pytest.raises(InvalidArgument, match="wait for itself"):
            await lock.acquire()
        with pytest.raises(InvalidArgument, match="wait for itself"):
            async with lock:
                pass
    async with lock:
        pass


async def test_bug_44_a_retried_acquire_is_the_same_place(single: FakeCluster, client: AsyncClient) -> None:
    node = single[1]
    await client.put("warm", "up")
    lost: list[int] = []

    def lose_the_first_answers(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        if operation.HasField("lock_acquire") and len(lost) < 3:
            lost.append(operation.id)
            return apply_and_ignore(node, batch, operation)
        return execute(node, batch, operation)

    node.script = lose_the_first_answers
    acquiring = asyncio.ensure_future(client.lock("x").acquire())
    for count in range(1, 4):
        await node.wait_for(lambda count=count: len(lost) == count)  # type: ignore[misc]
        node.break_streams()
    held = await acquiring
    assert held.token == 1
    assert len(set(lost)) == 1
    assert single.store.locks.grants == [(b"x", 3, 1)]
    assert line(single) == [1]


async def test_a_lock_without_waiting_is_had_at_once_or_not(single: FakeCluster, client: AsyncClient) -> None:
    mine, yours = client.lock("x"), client.lock("x")
    held = await mine.acquire(wait=False)
    for _ in range(3):
        with pytest.raises(LockBusy):
            await yours.acquire(wait=False)
    assert kinds(single[1]).count("lease_grant") == 2  # trying again needs no new lease
    assert held.token == 1
    await mine.release()
    assert (await yours.acquire(wait=False)).token == 2


async def test_a_wait_that_is_over_leaves_the_line(single: FakeCluster, client: AsyncClient) -> None:
    async with client.lock("x"):
        waiting = client.lock("x", timeout=0.05)
        with pytest.raises(DeadlineExceeded, match=r"within 0.05 s"):
            await waiting.acquire()
        assert line(single) == [1]
        with pytest.raises(DeadlineExceeded, match=r"within 0.02 s"):
            await waiting.acquire(timeout=0.02)
        assert line(single) == [1]
    assert (await waiting.acquire()).token == 2


async def test_a_cancelled_wait_leaves_the_line(single: FakeCluster, turns: Turns, client: AsyncClient) -> None:
    async with client.lock("x"):
        task = asyncio.ensure_future(client.lock("x").acquire())
        await in_line(single, 2)
        await turns.waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert line(single) == [1]


async def test_a_wait_cancelled_before_its_answer_leaves_nobody_in_line(
    single: FakeCluster, client: AsyncClient
) -> None:
    # The acquire is on its way when it is given up: applied before or after, nobody must stay in line for it.
    node = single[1]
    await client.put("warm", "up")
    held_up: list[tuple[kv_pb2.BatchRequest, kv_pb2.Operation]] = []

    def hold_up(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        if operation.HasField("put"):
            return None
        if operation.HasField("lock_acquire"):
            held_up.append((batch, operation))
            return None
        return execute(node, batch, operation)

    node.script = hold_up
    # An older write that stays open: the client cannot acknowledge the acquire, so the store takes late copies of it.
    older = asyncio.ensure_future(client.put("k", "v"))
    await node.wait_for(lambda: len(node.ids("put")) == 2)
    task = asyncio.ensure_future(client.lock("x").acquire())
    await node.wait_for(lambda: bool(held_up))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    batch, operation = held_up[0]
    late = single.store.execute(batch, operation)
    assert ErrorCode(late.error.code) is ErrorCode.LEASE_NOT_FOUND
    assert line(single) == []
    assert single.store.locks.ttls_ms == {}
    older.cancel()
    await asyncio.wait({older})


async def test_the_body_is_cancelled_and_lock_lost_raised(single: FakeCluster, client: AsyncClient) -> None:
    reached = "nothing"
    with pytest.raises(LockLost, match="token 1, is not held any more: it is over") as raised:  # noqa: PT012 - it is the body that matters
        async with client.lock("x") as held:
            asyncio.get_running_loop().call_soon(kept(held).end, "it is over")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                reached = "the cancellation"
                raise
    assert reached == "the cancellation"
    assert isinstance(raised.value.__cause__, asyncio.CancelledError)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # nothing is left over that would be thrown here
    assert "lock_release" not in kinds(single[1])


async def test_a_renewal_that_finds_no_lease_cancels_the_body(single: FakeCluster, client: AsyncClient) -> None:
    with pytest.raises(LockLost, match="the store has ended it"):  # noqa: PT012 - it is the body that matters
        async with client.lock("x", ttl=0.5) as held:
            single.store.locks.end(held.lease_id)
            await asyncio.Event().wait()


async def test_a_lock_that_cannot_be_renewed_is_lost_before_its_ttl(single: FakeCluster, client: AsyncClient) -> None:
    with pytest.raises(LockLost, match=r"could not be renewed within its ttl of 0.5 s"):  # noqa: PT012 - it is the body that matters
        async with client.lock("x", ttl=0.5):
            single[1].script = ignore
            await asyncio.Event().wait()
    single[1].script = execute


async def test_an_outer_cancellation_stays_one(single: FakeCluster, client: AsyncClient) -> None:
    inside = asyncio.Event()

    async def work(*, lost: bool) -> None:
        async with client.lock("x") as held:
            inside.set()
            try:
                await asyncio.Event().wait()
            finally:
                if lost:
                    kept(held).end("it is over")
                    await asyncio.sleep(0)

    for lost in (False, True):
        inside.clear()
        task = asyncio.ensure_future(work(lost=lost))
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()
        assert line(single) == [2] * lost  # given back, or left to its lease
    single.store.locks.end(single.store.locks.lines[b"x"].contenders[0].lease)


async def test_both_cancellations_at_once_are_the_outer_one(client: AsyncClient) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with client.lock("x") as held:
            held_by_work.append(held)
            inside.set()
            await asyncio.Event().wait()

    held_by_work: list[AsyncHeld] = []
    task = asyncio.ensure_future(work())
    await inside.wait()
    kept(held_by_work[0]).end("it is over")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_timeout_around_the_body_is_a_timeout(client: AsyncClient) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02), client.lock("x"):
            await asyncio.Event().wait()


async def test_the_error_of_the_body_goes_before_the_loss(client: AsyncClient) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - it is the body that matters
        async with client.lock("x") as held:
            lose(held)
            raise ZeroDivisionError


async def test_a_body_that_does_not_notice_is_told_at_its_end(client: AsyncClient) -> None:
    with pytest.raises(LockLost):
        async with client.lock("x") as held:
            lose(held)


async def test_after_a_hang_the_first_use_says_lost(single: FakeCluster, client: AsyncClient) -> None:
    lock = client.lock("x")
    held = await lock.acquire()
    lose(held)
    with pytest.raises(LockLost, match="could not be renewed"):
        held.fence()
    with pytest.raises(LockLost):
        _ = held.token
    with pytest.raises(LockLost):
        held.check()
    assert held.remaining() == 0
    assert held.lost.is_set()
    assert not await lock.release()
    assert "lock_release" not in kinds(single[1])


async def test_releasing_is_idempotent_and_ends_the_proof(single: FakeCluster, client: AsyncClient) -> None:
    lock = client.lock("x")
    held = await lock.acquire()
    assert lock.held == held
    assert held.fence() == FencingToken(b"x", 1, FenceMode.HOLDER)
    assert held.fence(FenceMode.MAX_SEEN).mode is FenceMode.MAX_SEEN
    assert await lock.release()
    assert lock.held != held
    assert not await lock.release()
    assert kinds(single[1]).count("lock_release") == 1
    with pytest.raises(LockLost, match="given back"):
        _ = held.token
    assert held.lost.is_set()
    again = await lock.acquire()
    assert again.token == 2
    assert not again.lost.is_set()
    with pytest.raises(LockLost, match="given back"):
        held.fence()


async def test_a_release_inside_the_body_is_the_end_of_it(single: FakeCluster, client: AsyncClient) -> None:
    lock = client.lock("x")
    async with lock as held:
        await lock.release()
        kept(held).end("it is somebody else's by now")
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_a_release_is_shielded_from_cancellation(single: FakeCluster, client: AsyncClient) -> None:
    lock = client.lock("x")
    await lock.acquire()
    answer = asyncio.Event()
    asked = asyncio.Event()

    async def slow(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
        asked.set()
        await answer.wait()
        return node.cluster.store.execute(batch, operation)

    single[1].script = slow
    task = asyncio.ensure_future(lock.release())
    await asked.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    assert not task.done()
    answer.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert line(single) == []
    single[1].script = execute
    assert (await lock.acquire()).token == 2


async def test_a_lock_that_cannot_be_given_back_goes_with_its_lease(single: FakeCluster, client: AsyncClient) -> None:
    lock = client.lock("x", ttl=0.5)
    held = await lock.acquire()
    single[1].script = refusal(ErrorCode.NO_LEADER)
    assert not await lock.release()
    assert not kept(held).alive()  # so it is not renewed any more
    single[1].script = execute
    single.store.locks.end(held.lease_id)
    assert (await lock.acquire()).lease_id != held.lease_id


async def test_only_a_release_that_is_confirmed_makes_the_lease_free_for_others(
    single: FakeCluster, client: AsyncClient
) -> None:
    lock = client.lock("x")
    held = await lock.acquire()
    single[1].script = refusal(ErrorCode.FAILED_PRECONDITION)  # at once: nearly all of the lease is left
    assert not await lock.release()
    assert not kept(held).alive()
    single[1].script = execute
    assert await client.lock("y").acquire()
    assert [one.lease for one in single.store.locks.lines[b"y"].contenders] != [held.lease_id]


async def test_a_grant_that_comes_when_the_lease_is_over_is_none(
    single: FakeCluster, turns: Turns, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = client.lock("x")
    await mine.acquire()
    asked: list[int] = []

    async def hang_and_release(lock: bytes, ticket: int, start_revision: int) -> int:
        asked.append(ticket)
        await mine.release()
        if len(asked) == 1:
            for lease in client._kept_leases()._kept:
                lease.tenure.deadline = 0.0  # the loop hung while the grant was on its way
            single.store.locks.end(single.store.locks.lines[b"x"].contenders[0].lease)
        return 2

    monkeypatch.setattr(client, "_watch_turn", hang_and_release)
    async with client.lock("x") as held:
        assert held.token == 3
    assert len(asked) == 1


async def test_a_waiter_whose_lease_is_gone_stands_in_line_anew(
    single: FakeCluster, turns: Turns, client: AsyncClient
) -> None:
    mine = client.lock("x")
    await mine.acquire()
    task = asyncio.ensure_future(client.lock("x").acquire())
    await in_line(single, 2)
    await turns.waiting.wait()
    single.store.locks.end(single.store.locks.lines[b"x"].contenders[1].lease)
    await client.put("any", "thing")  # the place is seen to be gone
    await in_line(single, 2)
    await mine.release()
    assert (await task).token == 2


async def test_an_idle_lease_that_is_gone_is_replaced(single: FakeCluster, client: AsyncClient) -> None:
    async with client.lock("x") as held:
        pass
    single.store.locks.end(held.lease_id)
    async with client.lock("x") as again:
        assert again.token == 2


async def test_a_waiter_for_whom_history_is_gone_asks_where_it_stands(
    single: FakeCluster, turns: Turns, client: AsyncClient
) -> None:
    mine = client.lock("x")
    await mine.acquire()
    turns.compacted = True
    task = asyncio.ensure_future(client.lock("x").acquire())
    await single[1].wait_for(lambda: kinds(single[1]).count("lock_acquire") == 3)
    assert line(single) == [1, 0]
    await mine.release()
    assert (await task).token == 2


async def test_no_leader_is_raised_and_nobody_stays_in_line(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses, timeout=2.0) as client:
        await client.lock("y").acquire()

        def no_locks(node: FakeNode, batch: kv_pb2.BatchRequest, operation: kv_pb2.Operation) -> Reply:
            if operation.HasField("lock_acquire"):
                return refusal(ErrorCode.NO_LEADER)(node, batch, operation)  # type: ignore[no-any-return]
            return execute(node, batch, operation)

        single[1].script = no_locks
        lock = client.lock("x")
        with pytest.raises(NoLeader):
            await lock.acquire()
        single[1].script = execute
        assert (await lock.acquire()).token == 2


async def test_closing_the_client_cancels_the_bodies(single: FakeCluster) -> None:
    client = AsyncClient(single.addresses)
    inside = asyncio.Event()

    async def work() -> None:
        async with client.lock("x"):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await inside.wait()
    await client.close()
    with pytest.raises(LockLost, match="closed"):
        await task
    with pytest.raises(ConnectionFailed, match="closed"):
        await client.lock("x").acquire()


async def test_readers_share_and_a_writer_has_it_alone(single: FakeCluster, client: AsyncClient) -> None:
    rwlock = client.rwlock("x")
    first, second, writer, third = rwlock.reader(), rwlock.reader(), rwlock.writer(), rwlock.reader()
    await first.acquire()
    await second.acquire()
    writing = asyncio.ensure_future(writer.acquire())
    await in_line(single, 3)
    reading = asyncio.ensure_future(third.acquire())
    await in_line(single, 4)
    assert line(single) == [1, 2, 0, 0]
    await first.release()
    await second.release()
    assert (await writing).token == 3
    assert line(single) == [3, 0]
    await writer.release()
    assert (await reading).token == 4
    sent = [one.lock_acquire for one in single[1].operations if one.HasField("lock_acquire")]
    assert {LockKind(one.kind) for one in sent} == {LockKind.READ_WRITE}
    assert [one.exclusive for one in sent] == [False, False, True, False]


async def test_a_semaphore_has_so_many_holders(single: FakeCluster, client: AsyncClient) -> None:
    held = [await client.semaphore("x", limit=3).acquire() for _ in range(3)]
    with pytest.raises(LockBusy):
        await client.semaphore("x", limit=3).acquire(wait=False)
    assert [one.token for one in held] == [1, 2, 3]
    state = await client.lock_state("x")
    assert [one.limit for one in state.contenders] == [3, 3, 3]
    assert {one.kind for one in state.contenders} == {LockKind.SEMAPHORE}
    assert state.newest_token == 3


async def test_nonsense_is_refused_before_anything_is_sent(single: FakeCluster, client: AsyncClient) -> None:
    for ttl in (0.4, -1, math.nan, math.inf, 1e9):
        for make in (client.lock, client.rwlock, client.election):
            with pytest.raises(InvalidArgument, match="ttl"):
                make("x", ttl=ttl)
        with pytest.raises(InvalidArgument, match="ttl"):
            client.semaphore("x", limit=1, ttl=ttl)
        with pytest.raises(InvalidArgument, match="ttl"):
            client.lease(ttl)
        with pytest.raises(InvalidArgument, match="ttl"):
            await client.grant_lease(ttl)
    for timeout in (0, -1, math.nan, 1e9):
        with pytest.raises(InvalidArgument, match="timeout"):
            client.lock("x", timeout=timeout)
        with pytest.raises(InvalidArgument, match="timeout"):
            await client.lock("x").acquire(timeout=timeout)
    for name in ("", "n" * 201, "\0" * 101):
        with pytest.raises(InvalidArgument, match="name of the lock"):
            client.lock(name)
    for limit in (0, -1, 1_000_001, True, 1.5):
        with pytest.raises(InvalidArgument, match="limit"):
            client.semaphore("x", limit=limit)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="too large"):
        client.election("x", b"v" * 65_537)
    for lease in (0, -1, 2**64, True, "7", object()):
        with pytest.raises(InvalidArgument, match="lease"):
            await client.put("k", "v", lease=lease)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgument, match="renewed"):
        await client.renew_leases()
    with pytest.raises(InvalidArgument, match="lease"):
        await client.revoke_lease(None)
    assert kinds(single[1]) == []


async def test_leases_by_hand(single: FakeCluster, client: AsyncClient) -> None:
    grant = await client.grant_lease(2.5, lease=7)
    assert (grant.id, grant.ttl) == (7, 2.5)
    with pytest.raises(RaftKVError, match="LEASE_EXISTS"):
        await client.grant_lease(2.5, lease=7)
    others = [(await client.grant_lease(1)).id for _ in range(4)]
    assert await client.lease_ids() == (7, *others)
    assert await client.renew_leases(7, 999, grant) == (2.5, 0.0, 2.5)
    status = await client.lease_status(grant)
    assert status is not None
    assert (status.id, status.ttl, status.remaining, status.keys) == (7, 2.5, 1.25, ())
    await client.revoke_lease(7)
    assert await client.lease_status(7) is None
    async with client.lease(ttl=5.0) as lease:
        await client.put("k", "v", lease=lease)
        pair = await client.get("k")
        assert pair is not None
        assert pair.lease == lease.id


async def test_a_candidate_leads_proclaims_and_resigns(single: FakeCluster, client: AsyncClient) -> None:
    election = client.election("x", "first")
    assert await election.leader() is None
    with pytest.raises(InvalidArgument, match="campaign first"):
        await election.proclaim("too early")
    async with election as led:
        leader = await client.election("x").leader()
        assert leader is not None
        assert (leader.value, leader.token, leader.lease) == (b"first", led.token, led.lease_id)
        await election.proclaim("second")
        leader = await election.leader()
        assert leader is not None
        assert leader.value == b"second"
        lose(led)
        with pytest.raises(LockLost):
            await election.proclaim("too late")
        kept(led).tenure.deadline = math.inf
        kept(led).why = ""
    assert await election.leader() is None
    assert election.held is None
    await election.campaign()
    assert await election.resign()
    assert not await election.resign()


def test_locks_say_what_they_are() -> None:
    client = AsyncClient("h:1")
    assert repr(client.lock("x")) == "<AsyncLock b'x' MUTEX ttl=10>"
    assert repr(client.rwlock("x").writer()) == "<AsyncLock b'x' READ_WRITE writer ttl=10>"
    assert isinstance(client.semaphore("x", limit=1), AsyncLock)
