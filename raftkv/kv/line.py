"""The lines of contenders for locks: who holds, who waits, who is next.

A lock has a head (a row of LOCKS), which stays for ever, and a line: a row of LINES per place, in the order of their
tickets. What a place looked like at each revision is in its versions, as for a key, so that it can be watched; its
version goes with the lease that it lives on. The invariants:

 1. Granted places are those with the lowest tickets: every place up to `head.last_granted` is granted, every one behind
    it waits. So the next one is found in one step, however long the line.
 2. Tokens ascend with tickets. So the place with a token is found by bisection (`holder_with`).
 3. The row of a place in LINES is how the value of its newest version begins.
 4. `head.holders` and `head.waiting` count the rows of LINES.
 5. The next one is granted in the revision that makes room for it, with two exceptions. Where it is dead (its lease is
    past its deadline) nobody is granted until the lease is ended, which is due. And where one entry would grant more
    than it may (`Granting.exhausted`), the lock is left unfinished: the next `Expire` goes on.

No function looks at more of a line than it grants or shows: nothing here costs more when a line or its history is long.
"""

from __future__ import annotations

from typing import NamedTuple

from raftkv.invariant import invariant
from raftkv.kv.commands import LockKind
from raftkv.kv.keys import attachment_key, line_key, line_prefix, lock_key, place_prefix, places_bounds, ticket_of
from raftkv.kv.lease_table import Counters, LeaseTable
from raftkv.kv.limits import GRANT_WEIGHT, MAX_GRANTED_BYTES, MAX_GRANTS, MIN_GRANTS, PAGE_BYTES
from raftkv.kv.records import (
    VERSION_BYTES,
    LockHead,
    PlaceRecord,
    decode_lock_head,
    decode_place,
    encode_lock_head,
    encode_place,
)
from raftkv.kv.store import Reader
from raftkv.kv.versions import live, live_head
from raftkv.kv.writing import Writing

_MAX_TICKET = 2**64 - 1


class Contender(NamedTuple):
    """Somebody in line."""

    ticket: int
    token: int
    """0: it waits."""
    lease: int
    kind: int
    exclusive: bool
    limit: int
    value: bytes


class LockState(NamedTuple):
    """What a lock shows to an observer."""

    contenders: tuple[Contender, ...]
    """In the order of the line."""
    more: bool
    newest_token: int
    """0: never granted."""
    floor_token: int
    """A fence of mode MAX_SEEN takes tokens from this one on. Means nothing for a semaphore."""


# --- reading -------------------------------------------------------------------------------------------------------


def query(reader: Reader, lock: bytes, limit: int) -> LockState:
    """Return the state of a lock, with at most `limit` contenders (1 or more) and about `PAGE_BYTES` of their values.

    A lock that was never asked for is like one that nobody contends for. A contender whose lease is past its deadline
    is shown until an `Expire` removes it. Raises CorruptRow.
    """
    head = read_head(reader, lock)
    if head is None:
        return LockState((), False, 0, 0)
    contenders: list[Contender] = []
    room = PAGE_BYTES
    for stored_key, _ in reader.scan(line_prefix(lock), _line_stop(lock)):
        if len(contenders) == limit or room <= 0:
            break
        prefix = place_prefix(lock, ticket_of(stored_key))
        contender = contender_of(prefix, _live_row(reader, prefix))
        contenders.append(contender)
        room -= len(contender.value)
    more = len(contenders) < head.holders + head.waiting
    return LockState(tuple(contenders), more, head.newest_token, head.floor_token)


def contender_of(prefix: bytes, row: bytes) -> Contender:
    """Return who stands at the place of `prefix`, by a version of it that is no tombstone. Raises CorruptRow."""
    return Contender(ticket_of(prefix), *decode_place(row, VERSION_BYTES))


def read_head(reader: Reader, lock: bytes) -> LockHead | None:
    """Return the head of a lock, None: it was never asked for. Raises CorruptRow."""
    row = reader.get(lock_key(lock))
    return None if row is None else decode_lock_head(row)


def ticket_held(reader: Reader, lock: bytes, lease: int) -> int:
    """Return the ticket of the place that a lease has in a line, or 0."""
    start, stop = places_bounds(lock)
    found = reader.first(attachment_key(lease, start), attachment_key(lease, stop))
    return 0 if found is None else ticket_of(found[0])


def read_place(reader: Reader, lock: bytes, ticket: int) -> PlaceRecord:
    """Return a place that exists, without its value. Raises CorruptRow."""
    row = reader.get(line_key(lock, ticket))
    invariant(row is not None, "lock {}: no row in line for ticket {}", lock, ticket)
    assert row is not None
    return decode_place(row)


def holder_with(reader: Reader, lock: bytes, head: LockHead, token: int) -> PlaceRecord | None:
    """Return the granted place with this token, without its value, or None.

    By bisection over tickets: the first read settles it for a lock with one holder, and at most 65 do for any.
    """
    low, high = 0, head.last_granted
    middle = low
    while low <= high:
        found = reader.first(line_key(lock, middle), line_key(lock, high + 1))
        if found is None:
            high = middle - 1
        else:
            place = decode_place(found[1])
            if place.token == token:
                return place
            if place.token > token:
                high = middle - 1
            else:
                low = ticket_of(found[0]) + 1
        middle = (low + high) // 2
    return None


# --- writing: all of it between `writing.mark` and `writing.commit` ------------------------------------------------


class Granting:
    """Who is granted by one command: how much its entry may still grant, and the numbers that it needs."""

    __slots__ = ("_counters", "_leases", "_now_ms", "_writing")

    def __init__(self, writing: Writing, leases: LeaseTable, counters: Counters, now_ms: int) -> None:
        self._writing = writing
        self._leases = leases
        self._counters = counters
        self._now_ms = now_ms

    @property
    def exhausted(self) -> bool:
        """Whether the entry has granted as much as it may."""
        counters = self._counters
        most = max(MAX_GRANTS - counters.ended // GRANT_WEIGHT, min(MAX_GRANTS, MIN_GRANTS))
        return counters.grants >= most or counters.granted_bytes >= MAX_GRANTED_BYTES

    def ends(self, weight: int) -> None:
        """A lease ends to which so much is attached: that leaves less time for grants."""
        self._counters.ended += weight

    def join(self, lock: bytes, head: LockHead, place: PlaceRecord, *, at_once: bool) -> tuple[int, PlaceRecord]:
        """Make a place at the end of the line, granted `at_once` or waiting; return its ticket and what it became."""
        writing = self._writing
        ticket = writing.next
        if at_once:
            head, place = self._granted(head, place, ticket)
        else:
            head = head._replace(waiting=head.waiting + 1)
        _write_place(writing, lock, ticket, place)
        writing.writer.put(lock_key(lock), encode_lock_head(head))
        return ticket, place

    def leave(self, lock: bytes, ticket: int) -> None:
        """Remove a place and grant whoever is next."""
        writer = self._writing.writer
        head = read_head(writer, lock)
        assert head is not None
        if read_place(writer, lock, ticket).token:
            head = head._replace(holders=head.holders - 1)
        else:
            head = head._replace(waiting=head.waiting - 1)
        prefix = place_prefix(lock, ticket)
        found = live_head(writer, prefix)
        assert found is not None
        self._writing.delete(prefix, found)
        writer.delete(line_key(lock, ticket))
        self._go_on(lock, head)

    def go_on(self, lock: bytes) -> None:
        """Grant whoever can be granted: what an earlier command left over."""
        head = read_head(self._writing.writer, lock)
        assert head is not None
        self._go_on(lock, head)

    def _go_on(self, lock: bytes, head: LockHead) -> None:
        writer = self._writing.writer
        stop = _line_stop(lock)
        finished = True
        while head.waiting:
            found = writer.first(line_key(lock, head.last_granted + 1), stop)
            invariant(found is not None, "lock {}: {} waiting, but nobody is", lock, head.waiting)
            assert found is not None
            place = decode_place(found[1])
            if not fits(head, place.exclusive) or not self._leases.alive(place.lease, self._now_ms):
                break
            if self.exhausted:
                finished = False
                break
            ticket = ticket_of(found[0])
            place = decode_place(_live_row(writer, place_prefix(lock, ticket)), VERSION_BYTES)
            head, place = self._granted(head._replace(waiting=head.waiting - 1), place, ticket)
            _write_place(self._writing, lock, ticket, place)
        if finished:
            self._leases.finish(writer, lock)
        else:
            self._leases.leave_unfinished(writer, lock)
        writer.put(lock_key(lock), encode_lock_head(head))

    def _granted(self, head: LockHead, place: PlaceRecord, ticket: int) -> tuple[LockHead, PlaceRecord]:
        self._counters.grants += 1
        self._counters.granted_bytes += len(place.value)
        self._counters.last_token += 1
        token = self._counters.last_token
        head = head._replace(
            shared=not place.exclusive,
            newest_token=token,
            floor_token=token if place.exclusive or not head.shared else head.floor_token,
            last_granted=ticket,
            holders=head.holders + 1,
        )
        return head, place._replace(token=token)


def fits(head: LockHead, exclusive: bool) -> bool:
    """Whether one more holder fits beside those there are."""
    if not head.holders:
        return True
    if exclusive or not head.shared:
        return False  # whoever is alone was granted last, so `head.shared` speaks of it
    return head.kind != LockKind.SEMAPHORE or head.holders < head.limit


def show(writing: Writing, lock: bytes, ticket: int, value: bytes) -> None:
    """Change the value of a place."""
    place = read_place(writing.writer, lock, ticket)
    writing.put(place_prefix(lock, ticket), encode_place(place._replace(value=value)), place.lease)


def _write_place(writing: Writing, lock: bytes, ticket: int, place: PlaceRecord) -> None:
    writing.put(place_prefix(lock, ticket), encode_place(place), place.lease)
    writing.writer.put(line_key(lock, ticket), encode_place(place._replace(value=b"")))


def _live_row(reader: Reader, prefix: bytes) -> bytes:
    found = live(reader, prefix)
    invariant(found is not None, "a place in line has no version: {}", prefix)
    assert found is not None
    return found.row


def _line_stop(lock: bytes) -> bytes:
    return line_key(lock, _MAX_TICKET)
