"""Leases, locks and fences without the machine around them: one transaction per command, tables kept or reloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from raftkv.errors import ErrorCode
from raftkv.kv import fence, lease, line, lock
from raftkv.kv.commands import (
    Acquire,
    Expired,
    Fence,
    FenceMode,
    GrantLease,
    KeepAlive,
    KeptAlive,
    LeaseGranted,
    LockKind,
    Place,
    Proclaim,
    Proclaimed,
    Rejected,
    Release,
    Released,
    Result,
    Revoked,
    RevokeLease,
)
from raftkv.kv.keys import (
    LINES,
    LOCKS,
    TABLES_END,
    UNFINISHED,
    line_key,
    lock_of_place,
    place_prefix,
    ticket_of,
    version_prefix,
)
from raftkv.kv.lease_table import Counters, LeaseTable
from raftkv.kv.records import VERSION_BYTES, decode_lock_head, decode_place
from raftkv.kv.versions import live, value_of
from raftkv.kv.writing import Change, Writing

from .dict_store import DictStore

T = TypeVar("T")
Do = Callable[[Writing, LeaseTable, Counters], T]


def code_of(result: Result) -> ErrorCode:
    assert isinstance(result, Rejected), result
    return result.code


class LockHost:
    def __init__(self) -> None:
        self.store = DictStore()
        self.revision = 1
        self.now = 0
        self.counters = Counters(0, 0)
        self.changes: list[Change] = []
        """What the last command changed."""
        self.reads = 0
        """Rows that the last command read."""
        self.reopen()

    def reopen(self) -> None:
        with self.store.read() as reader:
            self.leases = LeaseTable(reader)

    def run(self, do: Do[T]) -> T:
        self.counters.begin_entry()
        with self.store.write() as writer:
            writing = Writing(writer, self.leases, self.revision)
            result = do(writing, self.leases, self.counters)
            self.revision = writing.revision
            self.changes = writing.changes
            self.reads = writer.reads
        return result

    def grant(self, lease_id: int = 0, ttl_ms: int = 1_000) -> LeaseGranted | Rejected:
        return self.run(lambda w, t, c: lease.grant(w, t, c, GrantLease(0, lease_id, ttl_ms), self.now))

    def leased(self, ttl_ms: int = 1_000_000) -> int:
        granted = self.grant(0, ttl_ms)
        assert isinstance(granted, LeaseGranted)
        return granted.lease

    def keep_alive(self, *leases: int) -> KeptAlive | Rejected:
        return self.run(lambda w, t, c: lease.keep_alive(w, t, KeepAlive(0, leases), self.now))

    def revoke(self, lease_id: int) -> Revoked | Rejected:
        return self.run(lambda w, t, c: lease.revoke(w, t, c, RevokeLease(0, lease_id), self.now))

    def expire(self) -> Expired:
        return self.run(lambda w, t, c: lease.expire(w, t, c, self.now))

    def settle(self) -> None:
        """What a leader does: expire until nothing is due."""
        while (due := self.leases.next_deadline_ms()) is not None and due <= self.now:
            self.expire()

    def put(self, key: bytes, lease_id: int = 0, value: bytes = b"v") -> None:
        def do(writing: Writing, leases: LeaseTable, counters: Counters) -> None:
            mark = writing.mark()
            writing.put(version_prefix(key), value, lease_id)
            writing.commit(mark)

        self.run(do)

    def has(self, key: bytes) -> bool:
        with self.store.read() as reader:
            return live(reader, version_prefix(key)) is not None

    def acquire(
        self,
        name: bytes,
        lease_id: int,
        kind: int = LockKind.MUTEX,
        *,
        exclusive: bool | None = None,
        limit: int | None = None,
        value: bytes = b"",
        wait: bool = True,
    ) -> Place | Rejected:
        if exclusive is None:
            exclusive = kind != LockKind.SEMAPHORE
        if limit is None:
            limit = 1 if kind == LockKind.SEMAPHORE else 0
        command = Acquire(0, name, lease_id, kind, exclusive, limit, value, wait)
        return self.run(lambda w, t, c: lock.acquire(w, t, c, command, self.now))

    def token(self, name: bytes, lease_id: int, kind: int = LockKind.MUTEX, *, exclusive: bool | None = None) -> int:
        """The token of a lease that stands in line, or comes to stand there."""
        place = self.acquire(name, lease_id, kind, exclusive=exclusive)
        assert isinstance(place, Place), place
        return place.token

    def release(self, name: bytes, lease_id: int) -> Released | Rejected:
        return self.run(lambda w, t, c: lock.release(w, t, c, Release(0, name, lease_id), self.now))

    def proclaim(self, name: bytes, lease_id: int, token: int, value: bytes) -> Proclaimed | Rejected:
        return self.run(lambda w, t, c: lock.proclaim(w, t, Proclaim(0, name, lease_id, token, value), self.now))

    def check(self, name: bytes, token: int, mode: int = FenceMode.HOLDER) -> Rejected | None:
        with self.store.read() as reader:
            return fence.check(reader, self.leases, Fence(name, token, mode), self.now)

    def query(self, name: bytes, limit: int = 1_000) -> line.LockState:
        with self.store.read() as reader:
            return line.query(reader, name, limit)

    def tokens(self, name: bytes) -> list[int]:
        return [contender.token for contender in self.query(name).contenders]

    def seen(self) -> list[line.Contender | tuple[bytes, int]]:
        """What watchers of places are told of the last command; (lock, ticket): gone."""
        return [
            line.contender_of(one.prefix, one.row)
            if value_of(one.row)
            else (lock_of_place(one.prefix), ticket_of(one.prefix))
            for one in self.changes
        ]

    def validate(self) -> None:
        """Check what must always be true of the rows and the table."""
        with self.store.read() as reader:
            fresh = LeaseTable(reader)
            assert table(fresh) == table(self.leases)
            assert fresh.unfinished() == self.leases.unfinished()
            assert fresh.due(self.now) == self.leases.due(self.now)
            assert fresh.next_deadline_ms() == self.leases.next_deadline_ms()
            lines = 0
            for stored_key, row in reader.scan(LOCKS, LINES):
                name = stored_key[1:-2].replace(b"\0\xff", b"\0")
                head = decode_lock_head(row)
                places = list(reader.scan(line_key(name, 0), line_key(name, 2**64 - 1)))
                lines += len(places)
                tokens = [decode_place(place).token for _, place in places]
                held = [token for token in tokens if token]
                assert tokens == sorted(held) + [0] * (len(tokens) - len(held))
                assert (head.holders, head.waiting) == (len(held), len(tokens) - len(held))
                for key, place in places:
                    assert (ticket_of(key) <= head.last_granted) == bool(decode_place(place).token)
                    found = live(reader, place_prefix(name, ticket_of(key)))
                    assert found is not None
                    assert decode_place(found.row, VERSION_BYTES)._replace(value=b"") == decode_place(place)
            assert lines == sum(1 for _ in reader.scan(LINES, UNFINISHED))
            assert not self.leases.unfinished() or list(reader.scan(UNFINISHED, TABLES_END))


def table(leases: LeaseTable) -> dict[int, tuple[int, int, int]]:
    return {one: (held.ttl_ms, held.deadline_ms, held.weight) for one, held in leases._leases.items()}
