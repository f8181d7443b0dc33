"""Owners of leases: they hold locks, win elections and write under fences, and not all of them behave."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

from raftkv.v1 import common_pb2, kv_pb2, lease_pb2, lock_pb2
from tests.sim.l1.caller import Caller, Habits, Look, Session, World
from tests.sim.l1.oracle import Call

LEASES_MS = (500, 600, 1000)
SEMAPHORE_LIMIT = 2

KINDS = {
    b"mutex": lock_pb2.MUTEX,
    b"read-write": lock_pb2.READ_WRITE,
    b"semaphore": lock_pb2.SEMAPHORE,
    b"election": lock_pb2.ELECTION,
}
"""Of each lock, by its name."""


@dataclass(frozen=True, slots=True)
class _Held:
    lock: bytes
    lease: int
    token: int


class Owner(Caller):
    """Lives one lease after the other, in each of its tasks."""

    def __init__(self, world: World, number: int, habits: Habits, random: Random, locks: tuple[bytes, ...]) -> None:
        super().__init__(world, number, habits, random)
        self._locks = locks
        self._stale: list[_Held] = []
        """What it held once; it may come back to it, as somebody who was stopped meanwhile."""
        self._values = 0
        self._results: dict[int, kv_pb2.OperationResult] = {}

    async def _work(self) -> None:
        while not self._stopping:
            await asyncio.sleep(self._random.uniform(0, 2 * self._habits.think_s))
            session = await self._open_session()
            if session is not None:
                await self._live(session)

    async def _live(self, session: Session) -> None:
        """Take a lease, stand in line, hold the lock; come to an end, in one way or another."""
        ttl_ms = self._random.choice(LEASES_MS)
        lease = await self._grant(session, ttl_ms)
        if not lease:
            return
        renews = self._random.random() < 0.8  # else it dies early on
        if self._random.random() < 0.3:
            await self._ask(session, kv_pb2.Operation(put=self._put(b"of-a-lease", lease)))
        lock = self._random.choice(self._locks)
        token = await self._stand_in_line(session, lock, lease, ttl_ms if renews else 0)
        if token:
            held = _Held(lock, lease, token)
            await self._use(session, held, ttl_ms if renews else 0)
            self._stale = [*self._stale[-3:], held]
        chance = self._random.random()
        if chance < 0.4:
            await self._ask(session, self._release(lock, lease))
            if self._random.random() < 0.5:
                await self._ask(session, self._revoke(lease))
        elif chance < 0.6:
            await self._ask(session, self._revoke(lease))
        # Else nobody hears of it again.

    async def _stand_in_line(self, session: Session, lock: bytes, lease: int, ttl_ms: int) -> int:
        """Return the token of the grant; 0: it was not granted in good time."""
        kind = KINDS[lock]
        request = lock_pb2.LockAcquireRequest(
            name=lock,
            lease=lease,
            kind=kind,
            exclusive=kind == lock_pb2.READ_WRITE and self._random.random() < 0.4,
            limit=SEMAPHORE_LIMIT if kind == lock_pb2.SEMAPHORE else 0,
            value=self._value(),
            no_wait=self._random.random() < 0.1,
        )
        for _ in range(self._random.randint(2, 8)):
            answer = await self._ask(session, kv_pb2.Operation(lock_acquire=request))
            if answer is not None and not answer.HasField("lock_acquire"):
                return 0
            if answer is not None and answer.lock_acquire.token:
                self.counts["locks held"] += 1
                return answer.lock_acquire.token
            if self._stopping:
                return 0
            self.counts["places in line"] += 1
            if self._random.random() < 0.3:
                await self._query(session, lock)
            await asyncio.sleep(self._random.uniform(0.02, 0.2))
            if ttl_ms and not await self._renew(session, lease):
                return 0
        return 0

    async def _use(self, session: Session, held: _Held, ttl_ms: int) -> None:
        for _ in range(self._random.randint(1, 4)):
            if self._random.random() < 0.2:  # it is stopped: long enough to lose its lease, and does not know
                await asyncio.sleep(self._random.uniform(0.5, 2.0) * (ttl_ms or LEASES_MS[-1]) / 1000)
            elif ttl_ms:
                await asyncio.sleep(ttl_ms / 3000)
                await self._renew(session, held.lease)
            if KINDS[held.lock] == lock_pb2.ELECTION and self._random.random() < 0.4:
                proclaim = lock_pb2.LockProclaimRequest(
                    name=held.lock, lease=held.lease, token=held.token, value=self._value()
                )
                await self._ask(session, kv_pb2.Operation(lock_proclaim=proclaim))
            else:
                await self._write(session, held)
            if self._stale and self._random.random() < 0.3:
                await self._write(session, self._random.choice(self._stale))

    # --- requests -----------------------------------------------------------------------------------------------------

    async def _ask(self, session: Session, operation: kv_pb2.Operation) -> kv_pb2.OperationResult | None:
        """Have a command done. Return the answer, refusals by the state machine included; None: it is not known."""
        if self._session is not session:
            return None
        call = Call(operation, session.number, session.take())
        await self._run(session, [call])
        return self._results.pop(call.sequence, None)

    def _answered(self, call: Call, result: kv_pb2.OperationResult) -> None:
        self._results[call.sequence] = result
        if result.HasField("error"):
            self.counts[common_pb2.ErrorCode.Name(result.error.code)] += 1

    async def _grant(self, session: Session, ttl_ms: int) -> int:
        asked_at = self._now()
        grant = lease_pb2.LeaseGrantRequest(ttl_ms=ttl_ms)
        answer = await self._ask(session, kv_pb2.Operation(lease_grant=grant))
        if answer is None:
            return 0
        self._world.oracle.lease_promised(answer.lease_grant.id, asked_at, answer.lease_grant.ttl_ms)
        self.counts["leases"] += 1
        return answer.lease_grant.id

    async def _renew(self, session: Session, lease: int) -> bool:
        asked_at = self._now()
        keep_alive = lease_pb2.LeaseKeepAliveRequest(ids=[lease])
        answer = await self._ask(session, kv_pb2.Operation(lease_keep_alive=keep_alive))
        if answer is None:
            return True  # nobody knows
        (ttl_ms,) = answer.lease_keep_alive.ttls_ms
        if ttl_ms:
            self._world.oracle.lease_promised(lease, asked_at, ttl_ms)
            self.counts["renewals"] += 1
        return bool(ttl_ms)

    async def _write(self, session: Session, held: _Held) -> None:
        """Write under a fence: what a lock is for."""
        mode = kv_pb2.HOLDER
        if KINDS[held.lock] != lock_pb2.SEMAPHORE and self._random.random() < 0.5:
            mode = kv_pb2.MAX_SEEN
        put = self._put(b"under-" + held.lock, 0)
        fence = put.fences.add()
        fence.lock, fence.token, fence.mode = held.lock, held.token, mode
        answer = await self._ask(session, kv_pb2.Operation(put=put))
        if answer is not None and answer.HasField("put"):
            self.counts["writes under a fence"] += 1

    async def _query(self, session: Session, lock: bytes) -> None:
        query = kv_pb2.Operation(lock_query=lock_pb2.LockQueryRequest(name=lock))
        oracle = self._world.oracle
        look = Look(query, lambda result, floor: oracle.queried(lock, result.lock_query, floor))
        look.sequence = session.take()
        await self._run(session, [look])

    def _release(self, lock: bytes, lease: int) -> kv_pb2.Operation:
        return kv_pb2.Operation(lock_release=lock_pb2.LockReleaseRequest(name=lock, lease=lease))

    def _revoke(self, lease: int) -> kv_pb2.Operation:
        return kv_pb2.Operation(lease_revoke=lease_pb2.LeaseRevokeRequest(id=lease))

    def _put(self, key: bytes, lease: int) -> kv_pb2.PutRequest:
        return kv_pb2.PutRequest(key=key, value=self._value(), lease=lease, prev_kv=self._random.random() < 0.3)

    def _value(self) -> bytes:
        self._values += 1
        return b"%d/%d" % (self.number, self._values)
