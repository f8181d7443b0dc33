"""A cluster in memory that does as much as a drill asks of one, and loses what it has acknowledged if it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Self

from raftkv.client import (
    Alarm,
    DeleteResult,
    EndpointFailure,
    Guarantee,
    KeyValue,
    Member,
    MemberKind,
    PeerProgress,
    PutResult,
    RaisedAlarm,
    RangeResult,
    Role,
    Status,
    WriteReceipt,
)
from raftkv.errors import ConnectionFailed

ADDRESSES = {1: "127.0.0.1:1", 2: "127.0.0.1:2", 3: "127.0.0.1:3"}


class FakeCluster:
    """What all clients share."""

    def __init__(self) -> None:
        self.leader = 1
        self.term = 3
        self.index = 100
        self.pairs: dict[bytes, KeyValue] = {}
        self.loses = 0
        """So many acknowledged writes are lost with the next change of leaders."""
        self.down: set[int] = set()
        self.lag = 0
        """Entries that every follower lacks."""
        self.alarms: tuple[RaisedAlarm, ...] = ()
        self.changing = False
        self.transfers = 0
        self.stuck = False
        """It takes a transfer, and nothing comes of it."""
        self.write_s = 0.001
        self.applying: set[asyncio.Task[PutResult]] = set()
        """Writes that were sent, and will be applied whether or not anybody waits for the answer."""

    def raise_alarm(self) -> None:
        self.alarms = (RaisedAlarm(Alarm.SLOW_DISK, "slow", 0.0),)

    def transfer(self) -> None:
        self.transfers += 1
        if self.stuck:
            return
        self.leader = self.leader % 3 + 1
        self.term += 1
        for key in list(self.pairs)[-self.loses :] if self.loses else ():
            del self.pairs[key]

    def status(self, node: int) -> Status:
        followers = [other for other in ADDRESSES if other != self.leader]
        return Status(
            endpoint=ADDRESSES[node],
            cluster_id=7,
            member_id=node,
            version="1",
            role=Role.LEADER if node == self.leader else Role.FOLLOWER,
            term=self.term,
            leader_id=self.leader,
            leader_address=ADDRESSES.get(self.leader, ""),
            revision=self.index,
            commit_index=self.index,
            applied_index=self.index,
            last_index=self.index,
            durable_index=self.index,
            store_bytes=0,
            log_bytes=0,
            members=tuple(
                Member(one, f"127.0.0.1:{one + 100}", address, MemberKind.VOTER, leaving=self.changing and one == 3)
                for one, address in ADDRESSES.items()
            ),
            progress=tuple(
                PeerProgress(id=one, match_index=self.index - self.lag, state="replicate", recently_active=True)
                for one in followers
            )
            if node == self.leader
            else (),
            alarms=self.alarms,
        )


class FakeClient:
    """A client of it."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def statuses(self, *, timeout: float | None = None) -> tuple[Status | EndpointFailure, ...]:
        away = self._cluster.down
        return tuple(
            EndpointFailure(endpoint=address, error=ConnectionFailed(f"{address}: refused"))
            if node in away
            else self._cluster.status(node)
            for node, address in ADDRESSES.items()
        )

    async def status(self, endpoint: str, *, timeout: float | None = None) -> Status:
        return self._cluster.status(next(node for node, address in ADDRESSES.items() if address == endpoint))

    async def transfer_leader(self) -> None:
        self._cluster.transfer()

    async def put(self, key: bytes, value: bytes) -> PutResult:
        applying = asyncio.create_task(self._apply(key, value))
        self._cluster.applying.add(applying)
        applying.add_done_callback(self._cluster.applying.discard)
        return await asyncio.shield(applying)

    async def _apply(self, key: bytes, value: bytes) -> PutResult:
        await asyncio.sleep(self._cluster.write_s)
        self._cluster.index += 1
        at = self._cluster.index
        self._cluster.pairs[key] = KeyValue(key, value, at, at, 1, Guarantee.LINEARIZABLE)
        return PutResult(at, None, WriteReceipt(7, self._cluster.term, at, committed=True, durable_on=2, wanted=2))

    async def get(self, key: bytes) -> KeyValue | None:
        return self._cluster.pairs.get(key)

    async def scan(self, prefix: bytes, *, page: int) -> AsyncIterator[KeyValue]:
        for pair in list(self._between(prefix, prefix + b"\xff")):
            yield pair

    async def prefix(self, prefix: bytes, *, limit: int, keys_only: bool) -> RangeResult:
        found = list(self._between(prefix, prefix + b"\xff"))
        return RangeResult(
            tuple(found[:limit]), len(found) > limit, len(found[:limit]), self._cluster.index, Guarantee.LINEARIZABLE
        )

    async def delete_range(self, start: bytes, end: bytes) -> DeleteResult:
        found = [pair.key for pair in self._between(start, end)]
        for key in found:
            del self._cluster.pairs[key]
        return DeleteResult(self._cluster.index, len(found))

    def _between(self, start: bytes, end: bytes) -> Iterator[KeyValue]:
        return (pair for key, pair in sorted(self._cluster.pairs.items()) if start <= key < end)
