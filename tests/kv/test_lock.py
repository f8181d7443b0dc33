from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.errors import ErrorCode
from raftkv.kv import limits, line, lock
from raftkv.kv.commands import (
    Acquire,
    Expire,
    Expired,
    LockKind,
    Place,
    Proclaim,
    Proclaimed,
    Rejected,
    Release,
    Released,
    Revoked,
)
from raftkv.kv.keys import lock_key
from raftkv.kv.line import Contender, LockState
from raftkv.kv.records import (
    CorruptRow,
    LockHead,
    PlaceRecord,
    decode_lease_head,
    decode_lock_head,
    decode_place,
    encode_lock_head,
    encode_place,
)
from raftkv.kv.writing import Writing

from .host import Host
from .lock_host import LockHost, code_of

MUTEX, READ_WRITE, SEMAPHORE, ELECTION = LockKind


def acquire(
    kind: int = MUTEX,
    *,
    name: bytes = b"l",
    lease: int = 1,
    exclusive: bool = True,
    limit: int = 0,
    value: bytes = b"",
) -> Acquire:
    return Acquire(0, name, lease, kind, exclusive, limit, value, True)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (limits.acquire_fault(acquire(name=b"")), "name of the lock is empty"),
        (limits.acquire_fault(acquire(name=b"n" * 201)), "201 bytes, of which 0 zero; at most 200, zeros twice"),
        (limits.acquire_fault(acquire(name=b"\0" * 101)), "101 bytes, of which 101 zero"),
        (limits.acquire_fault(acquire(lease=0)), "lease is 0"),
        (limits.acquire_fault(acquire(value=b"v" * 65_537)), "65537 bytes, at most 65536"),
        (limits.acquire_fault(acquire(4)), "unknown kind of lock 4"),
        (limits.acquire_fault(acquire(MUTEX, exclusive=False)), "always held exclusively"),
        (limits.acquire_fault(acquire(ELECTION, exclusive=False)), "always held exclusively"),
        (limits.acquire_fault(acquire(MUTEX, limit=1)), "limit 1 for a lock that is no semaphore"),
        (limits.acquire_fault(acquire(READ_WRITE, limit=2)), "limit 2 for a lock that is no semaphore"),
        (limits.acquire_fault(acquire(SEMAPHORE, limit=1)), "cannot be held exclusively"),
        (limits.acquire_fault(acquire(SEMAPHORE, exclusive=False)), "limit of a semaphore is 0, not from 1 to 1000000"),
        (limits.acquire_fault(acquire(SEMAPHORE, exclusive=False, limit=1_000_001)), "is 1000001"),
        (limits.release_fault(Release(0, b"", 1)), "name of the lock is empty"),
        (limits.release_fault(Release(0, b"l", 0)), "lease is 0"),
        (limits.proclaim_fault(Proclaim(0, b"", 1, 1, b"")), "name of the lock is empty"),
        (limits.proclaim_fault(Proclaim(0, b"l", 0, 1, b"")), "lease is 0"),
        (limits.proclaim_fault(Proclaim(0, b"l", 1, 0, b"")), "token is 0"),
        (limits.proclaim_fault(Proclaim(0, b"l", 1, 1, b"v" * 65_537)), "65537 bytes, at most 65536"),
    ],
)
def test_faults_name_the_limit(fault: str | None, message: str) -> None:
    assert fault is not None
    assert message in fault


@pytest.mark.parametrize(
    "fault",
    [
        limits.acquire_fault(acquire(name=b"n" * 200, value=b"v" * 65_536)),
        limits.acquire_fault(acquire(name=b"\0" * 100)),
        limits.acquire_fault(acquire(READ_WRITE, exclusive=False)),
        limits.acquire_fault(acquire(SEMAPHORE, exclusive=False, limit=1)),
        limits.acquire_fault(acquire(SEMAPHORE, exclusive=False, limit=1_000_000)),
        limits.proclaim_fault(Proclaim(0, b"l", 1, 1, b"v" * 65_536)),
    ],
)
def test_the_limit_itself_is_allowed(fault: str | None) -> None:
    assert fault is None


def test_faults_are_refused_at_apply_too() -> None:
    host = LockHost()
    one = host.leased()
    rows = dict(host.store.rows)
    assert code_of(host.acquire(b"", one)) is ErrorCode.INVALID_ARGUMENT
    assert code_of(host.acquire(b"l", one, 9)) is ErrorCode.INVALID_ARGUMENT
    assert code_of(host.release(b"n" * 512, one)) is ErrorCode.INVALID_ARGUMENT
    assert code_of(host.proclaim(b"l", one, 0, b"")) is ErrorCode.INVALID_ARGUMENT
    assert host.store.rows == rows


def test_the_longest_name_fits_in_every_table() -> None:
    host = LockHost()
    one, two = host.leased(), host.leased()
    for name in (b"n" * 200, b"\0" * 100):
        host.acquire(name, one)
        host.acquire(name, two)
        host.release(name, one)
        assert len(host.query(name).contenders) == 1
    host.validate()


def test_first_come_first_served() -> None:
    host = LockHost()
    a, b, c = host.leased(), host.leased(), host.leased()
    assert host.acquire(b"l", a, value=b"a") == Place(1, 2, 2)
    assert host.seen() == [Contender(2, 1, a, MUTEX, True, 0, b"a")]
    assert host.acquire(b"l", b, value=b"b") == Place(0, 3, 3)
    assert host.acquire(b"l", c, value=b"c") == Place(0, 4, 4)
    assert host.seen() == [Contender(4, 0, c, MUTEX, True, 0, b"c")]
    assert host.release(b"l", a) == Released(True, 5)
    assert host.seen() == [(b"l", 2), Contender(3, 2, b, MUTEX, True, 0, b"b")]
    assert {change.revision for change in host.changes} == {5}
    assert host.query(b"l") == LockState(
        (Contender(3, 2, b, MUTEX, True, 0, b"b"), Contender(4, 0, c, MUTEX, True, 0, b"c")), False, 2, 2
    )
    assert host.release(b"l", c) == Released(True, 6)  # leaves the line
    assert host.release(b"l", b) == Released(True, 7)
    assert host.query(b"l") == LockState((), False, 2, 2)
    host.validate()


def test_release_without_a_place_has_no_effect() -> None:
    host = LockHost()
    a, b = host.leased(), host.leased()
    assert host.release(b"l", a) == Released(False, 1)
    host.acquire(b"l", a)
    assert host.release(b"l", b) == Released(False, 2)
    assert host.release(b"l", 77) == Released(False, 2)
    assert host.release(b"l", a) == Released(True, 3)
    assert host.release(b"l", a) == Released(False, 3)
    assert host.changes == []


def test_to_ask_again_is_answered_with_the_same_place() -> None:
    """A client whose leader died in the middle of an acquire gets the same token, and after a release a new one."""
    host = LockHost()
    a, b = host.leased(), host.leased()
    host.acquire(b"l", a)
    host.acquire(b"l", b)
    rows = dict(host.store.rows)
    assert host.acquire(b"l", a) == Place(1, 2, 3)
    assert host.acquire(b"l", b) == Place(0, 3, 3)
    assert host.acquire(b"l", a, value=b"other", wait=False) == Place(1, 2, 3)
    assert host.store.rows == rows
    host.release(b"l", a)
    assert host.acquire(b"l", b) == Place(2, 3, 4)  # granted meanwhile
    assert host.acquire(b"l", a) == Place(0, 5, 5)


def test_not_to_wait_is_to_be_refused_with_nothing_changed() -> None:
    host = LockHost()
    a, b = host.leased(), host.leased()
    host.acquire(b"l", a)
    rows = dict(host.store.rows)
    assert code_of(host.acquire(b"l", b, wait=False)) is ErrorCode.LOCK_BUSY
    assert host.store.rows == rows
    host.acquire(b"l", b)
    rows = dict(host.store.rows)
    assert code_of(host.acquire(b"l", b, wait=False)) is ErrorCode.LOCK_BUSY  # it waits since an earlier request
    assert host.store.rows == rows
    host.release(b"l", a)
    host.release(b"l", b)
    assert host.acquire(b"l", b, wait=False) == Place(3, 6, 6)
    host.validate()


@pytest.mark.parametrize(
    ("kind", "exclusive", "limit", "message"),
    [
        (MUTEX, True, 0, "lock b'l' is in use as a semaphore of 2, not as a mutex"),
        (ELECTION, True, 0, "not as an election"),
        (READ_WRITE, False, 0, "not as a read-write lock"),
        (SEMAPHORE, False, 3, "in use as a semaphore of 2, not as a semaphore of 3"),
    ],
)
@pytest.mark.parametrize("own", [True, False])
def test_kind_and_limit_are_those_of_the_line(kind: int, exclusive: bool, limit: int, message: str, own: bool) -> None:
    host = LockHost()
    a, b = host.leased(), host.leased()
    host.acquire(b"l", a, SEMAPHORE, limit=2)
    rows = dict(host.store.rows)
    refused = host.acquire(b"l", a if own else b, kind, exclusive=exclusive, limit=limit)
    assert code_of(refused) is ErrorCode.FAILED_PRECONDITION
    assert isinstance(refused, Rejected)
    assert message in refused.message
    assert host.store.rows == rows
    host.release(b"l", a)
    assert isinstance(host.acquire(b"l", b, kind, exclusive=exclusive, limit=limit), Place)  # nobody is in line
    host.validate()


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_reader_does_not_become_a_writer_by_asking(exclusive: bool) -> None:
    host = LockHost()
    one = host.leased()
    host.acquire(b"l", one, READ_WRITE, exclusive=exclusive)
    rows = dict(host.store.rows)
    refused = host.acquire(b"l", one, READ_WRITE, exclusive=not exclusive)
    assert code_of(refused) is ErrorCode.FAILED_PRECONDITION
    assert host.store.rows == rows


def test_readers_share_and_nobody_overtakes_a_writer() -> None:
    host = LockHost()
    a, b, writer, c, d, late = (host.leased() for _ in range(6))
    assert [host.token(b"l", one, READ_WRITE, exclusive=False) for one in (a, b)] == [1, 2]
    assert host.token(b"l", writer, READ_WRITE) == 0
    assert code_of(host.acquire(b"l", c, READ_WRITE, exclusive=False, wait=False)) is ErrorCode.LOCK_BUSY
    assert [host.token(b"l", one, READ_WRITE, exclusive=False) for one in (c, d)] == [0, 0]
    assert host.token(b"l", late, READ_WRITE) == 0
    host.release(b"l", a)
    assert host.tokens(b"l") == [2, 0, 0, 0, 0]
    host.release(b"l", b)
    assert host.tokens(b"l") == [3, 0, 0, 0]
    host.release(b"l", writer)
    assert host.tokens(b"l") == [4, 5, 0]
    assert len({change.revision for change in host.changes}) == 1
    host.release(b"l", d)
    host.release(b"l", c)
    assert host.tokens(b"l") == [6]
    host.validate()


def test_a_writer_who_gives_up_lets_the_readers_behind_it_in() -> None:
    host = LockHost()
    reader, writer, other = host.leased(), host.leased(), host.leased()
    host.acquire(b"l", reader, READ_WRITE, exclusive=False)
    host.acquire(b"l", writer, READ_WRITE)
    host.acquire(b"l", other, READ_WRITE, exclusive=False)
    host.release(b"l", writer)
    assert host.tokens(b"l") == [1, 2]
    host.validate()


def test_a_semaphore_admits_its_limit() -> None:
    host = LockHost()
    leases = [host.leased() for _ in range(5)]
    for one in leases:
        host.acquire(b"l", one, SEMAPHORE, limit=2)
    assert host.tokens(b"l") == [1, 2, 0, 0, 0]
    host.release(b"l", leases[1])
    assert host.tokens(b"l") == [1, 3, 0, 0]
    host.release(b"l", leases[3])
    assert host.tokens(b"l") == [1, 3, 0]
    host.release(b"l", leases[0])
    assert host.tokens(b"l") == [3, 4]
    host.validate()


def test_places_go_with_their_lease_and_the_next_is_granted_in_the_same_revision() -> None:
    host = LockHost()
    one, two = host.leased(), host.leased()
    host.put(b"k", one)
    for name in (b"l", b"m"):
        host.acquire(name, one)
        host.acquire(name, two)
    host.acquire(b"waits", two)
    host.acquire(b"waits", one)
    before = host.revision
    assert host.revoke(one) == Revoked(before + 1, 1)
    assert {change.revision for change in host.changes} == {before + 1}
    assert [host.tokens(name) for name in (b"l", b"m", b"waits")] == [[4], [5], [3]]
    host.validate()


def test_bug_46_the_dead_are_not_granted() -> None:
    """All commands but `Expire` leave a dead lease's places to `Expire`, and nobody behind one is granted before."""
    host = LockHost()
    a, b, dying, c = host.leased(1_000), host.leased(), host.leased(1_000), host.leased()
    host.acquire(b"l", b)
    host.acquire(b"l", dying)
    host.acquire(b"l", c)
    host.acquire(b"m", a)
    host.acquire(b"m", dying)
    host.acquire(b"m", c)
    host.now = 1_001
    assert code_of(host.acquire(b"l", dying)) is ErrorCode.LEASE_NOT_FOUND
    assert host.release(b"m", a) == Released(False, host.revision)
    assert code_of(host.proclaim(b"m", a, 2, b"")) is ErrorCode.LEASE_NOT_FOUND
    host.release(b"l", b)
    assert host.tokens(b"l") == [0, 0]
    host.validate()
    assert host.expire() == Expired(2)
    assert (host.tokens(b"l"), host.tokens(b"m")) == ([3], [4])
    assert host.counters.last_token == 4  # none was drawn for the dead
    host.validate()


def test_bug_46_a_dead_lease_can_acquire_nothing_new() -> None:
    host = LockHost()
    one = host.leased(500)
    host.now = 501
    assert code_of(host.acquire(b"l", one)) is ErrorCode.LEASE_NOT_FOUND
    assert code_of(host.acquire(b"l", 77)) is ErrorCode.LEASE_NOT_FOUND
    assert host.query(b"l") == LockState((), False, 0, 0)


def test_proclaim_changes_what_the_holder_shows() -> None:
    host = LockHost()
    a, b = host.leased(), host.leased()
    host.acquire(b"l", a, ELECTION, value=b"a")
    host.acquire(b"l", b, ELECTION, value=b"b")
    assert host.proclaim(b"l", a, 1, b"new") == Proclaimed(4)
    assert host.seen() == [Contender(2, 1, a, ELECTION, True, 0, b"new")]
    host.validate()
    rows = dict(host.store.rows)
    for one, token in ((b, 1), (a, 2), (77, 1)):
        refused = host.proclaim(b"l", one, token, b"x")
        assert isinstance(refused, Rejected)
        if one != 77:
            assert (refused.code, refused.number) == (ErrorCode.STALE_FENCE, 1)
    assert code_of(host.proclaim(b"never", a, 1, b"x")) is ErrorCode.STALE_FENCE
    assert host.store.rows == rows
    host.release(b"l", a)
    assert host.proclaim(b"l", b, 2, b"") == Proclaimed(6)
    assert [contender.value for contender in host.query(b"l").contenders] == [b""]
    assert code_of(host.proclaim(b"l", a, 1, b"late")) is ErrorCode.STALE_FENCE


def test_a_key_may_look_like_a_place() -> None:
    host = LockHost()
    one = host.leased()
    host.acquire(b"l", one)
    look_alikes = [b"\0\1l\0\0" + bytes(7) + b"\2", b"\1l", b"l", b"\0"]
    for key in look_alikes:
        host.put(key, one)
    assert host.tokens(b"l") == [1]
    assert host.release(b"l", one) == Released(True, host.revision)
    assert all(host.has(key) for key in look_alikes)
    host.validate()
    assert host.revoke(one) == Revoked(host.revision, 4)


def test_names_that_begin_with_each_other_are_different_locks() -> None:
    host = LockHost()
    one, two = host.leased(), host.leased()
    for name in (b"l", b"l\0", b"l\0\0", b"ll", b"\0"):
        assert host.token(name, one) > 0
        assert host.token(name, two) == 0
    host.release(b"l\0", one)
    assert [host.tokens(name) for name in (b"l", b"l\0", b"l\0\0", b"ll", b"\0")] == [
        [1, 0],
        [6],
        [3, 0],
        [4, 0],
        [5, 0],
    ]
    host.validate()


def test_a_query_is_a_page() -> None:
    host = LockHost()
    for _ in range(4):
        host.acquire(b"l", host.leased(), value=b"v" * 65_536)
    first = host.query(b"l", 3)
    assert (len(first.contenders), first.more) == (3, True)
    assert host.query(b"l", 4).more is False
    assert host.query(b"never", 4) == LockState((), False, 0, 0)
    for _ in range(20):
        host.acquire(b"l", host.leased(), value=b"v" * 65_536)
    state = host.query(b"l")
    assert (len(state.contenders), state.more) == (16, True)  # 1 MiB of values


def test_bulk_grants_are_bounded_and_go_on_with_expire(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_GRANTS", 3)
    host = LockHost()
    writer, late = host.leased(), host.leased()
    host.acquire(b"l", writer, READ_WRITE)
    for _ in range(7):
        host.acquire(b"l", host.leased(), READ_WRITE, exclusive=False)
    host.acquire(b"l", late, READ_WRITE)
    assert host.leases.next_deadline_ms() == 1_000_001
    host.release(b"l", writer)
    assert host.tokens(b"l") == [2, 3, 4, 0, 0, 0, 0, 0]
    assert host.leases.next_deadline_ms() == 0
    host.validate()
    host.reopen()  # what is left over is in the rows
    assert host.leases.next_deadline_ms() == 0
    newcomer = host.leased()
    assert code_of(host.acquire(b"l", newcomer, READ_WRITE, exclusive=False, wait=False)) is ErrorCode.LOCK_BUSY
    before = host.revision
    assert host.expire() == Expired(0)
    assert host.revision == before + 1
    assert host.tokens(b"l") == [2, 3, 4, 5, 6, 7, 0, 0]
    host.validate()
    host.expire()
    assert host.tokens(b"l") == [2, 3, 4, 5, 6, 7, 8, 0]
    assert host.leases.next_deadline_ms() == 1_000_001
    host.validate()


def test_the_commands_of_an_entry_share_the_bound_of_grants(monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry is applied in one go: hundreds of releases, with a thousand readers behind each, would take seconds."""
    monkeypatch.setattr(line, "MAX_GRANTS", 4)
    host = Host()
    leases = [host.grant(60_000) for _ in range(4)]
    for name in (b"a", b"b", b"c"):
        host.do(Acquire(0, name, leases[0], READ_WRITE, True, 0, b"", True))
    for name in (b"a", b"b", b"c"):
        host.do(*[Acquire(0, name, one, READ_WRITE, False, 0, b"", True) for one in leases[1:]])

    def granted() -> list[int]:
        with host.machine.view() as view:
            lines = [view.line(name, 10).contenders for name in (b"a", b"b", b"c")]
        return [sum([one.token > 0 for one in contenders]) for contenders in lines]

    assert granted() == [1, 1, 1]
    host.do(*[Release(0, name, leases[0]) for name in (b"a", b"b", b"c")])
    assert granted() == [3, 1, 0]
    assert host.machine.leases.next_deadline_ms() == 0
    host.reopen()
    host.do(Expire(0))
    assert granted() == [3, 3, 2]
    host.do(Expire(0))
    assert granted() == [3, 3, 3]


def test_ending_the_heaviest_lease_is_bounded_work() -> None:
    """In deleted keys: what takes the place of those who leave is work too, so the entry grants less of it."""
    host = LockHost()
    one = host.leased()
    locks = [b"%d" % number for number in range(limits.MAX_LEASE_KEYS // limits.PLACE_WEIGHT)]
    for name in locks:
        host.acquire(name, one)
    assert code_of(host.acquire(b"one more", one)) is ErrorCode.LIMIT_EXCEEDED
    waiter = host.leased()
    for name in locks:
        host.acquire(name, waiter)
    before = host.counters.last_token
    host.revoke(one)
    granted = host.counters.last_token - before
    assert granted == limits.MIN_GRANTS
    assert len(host.changes) == len(locks) + granted
    assert len(host.leases.unfinished()) == len(locks) - granted
    host.validate()
    host.expire()
    assert host.counters.last_token - before == granted + limits.MAX_GRANTS
    host.settle()
    assert host.counters.last_token - before == len(locks)
    assert host.leases.unfinished() == []


def test_what_an_entry_ends_it_grants_less_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_GRANTS", 8)
    monkeypatch.setattr(line, "MIN_GRANTS", 1)
    host = LockHost()
    writer = host.leased()
    host.acquire(b"l", writer, READ_WRITE)
    host.acquire(b"m", writer)
    for number in range(7):
        host.put(b"%d" % number, writer)
    for _ in range(10):
        host.acquire(b"l", host.leased(), READ_WRITE, exclusive=False)
    before = host.counters.last_token
    host.revoke(writer)
    weight = 2 * limits.PLACE_WEIGHT + 7
    assert host.counters.last_token - before == 8 - weight // limits.GRANT_WEIGHT == 5
    host.expire()
    assert host.counters.last_token - before == 10


def test_a_release_goes_on_with_what_is_left_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_GRANTS", 2)
    host = LockHost()
    writer, *readers = [host.leased() for _ in range(5)]
    host.acquire(b"l", writer, READ_WRITE)
    for one in readers:
        host.acquire(b"l", one, READ_WRITE, exclusive=False)
    host.release(b"l", writer)
    host.release(b"l", readers[0])
    assert host.tokens(b"l") == [3, 4, 5]
    assert host.leases.next_deadline_ms() == 1_000_001
    host.validate()


def test_grants_are_bounded_by_the_values_that_they_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_GRANTED_BYTES", 100)
    host = LockHost()
    writer = host.leased()
    host.acquire(b"l", writer, READ_WRITE)
    for size in (200, 60, 60, 60):
        host.acquire(b"l", host.leased(), READ_WRITE, exclusive=False, value=b"v" * size)
    host.release(b"l", writer)
    assert host.tokens(b"l") == [2, 0, 0, 0]
    host.expire()
    assert host.tokens(b"l") == [2, 3, 4, 0]
    host.settle()
    assert host.tokens(b"l") == [2, 3, 4, 5]


def test_many_locks_left_by_one_lease_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MAX_GRANTS", 2)
    host = LockHost()
    one, two = host.leased(), host.leased()
    names = [b"%d" % n for n in range(5)]
    for name in names:
        host.acquire(name, one)
        host.acquire(name, two)
    host.revoke(one)
    assert [host.tokens(name) for name in names] == [[6], [7], [0], [0], [0]]
    host.validate()
    host.settle()
    assert [host.tokens(name) for name in names] == [[6], [7], [8], [9], [10]]
    host.validate()


def test_what_is_left_over_may_lose_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next in an unfinished line dies, or leaves, before the next Expire."""
    monkeypatch.setattr(line, "MAX_GRANTS", 1)
    host = LockHost()
    writer, first, second, third = host.leased(), host.leased(), host.leased(700), host.leased()
    host.acquire(b"l", writer, READ_WRITE)
    for one in (first, second, third):
        host.acquire(b"l", one, READ_WRITE, exclusive=False)
    host.release(b"l", writer)
    assert host.tokens(b"l") == [2, 0, 0]
    host.release(b"l", third)
    host.revoke(first)
    host.now = 701
    host.settle()
    assert host.tokens(b"l") == []
    assert host.leases.next_deadline_ms() == 1_000_001
    host.validate()


def test_long_lines_cost_no_more_than_short_ones() -> None:
    """Rows read per command, with a long history (nothing is ever compacted here), many holders and many waiting."""

    def reads(holders: int, waiting: int) -> set[int]:
        host = LockHost()
        leases = [host.leased() for _ in range(holders + waiting)]
        spare = host.leased()

        def fill(writing: Writing, *_: object) -> None:
            for one in leases:
                command = Acquire(0, b"l", one, SEMAPHORE, False, holders, b"", True)
                lock.acquire(writing, host.leases, host.counters, command, 0)

        host.run(fill)
        counts = set()
        for gone in (leases[0], leases[holders // 2], leases[-1]):
            host.release(b"l", gone)
            counts.add(host.reads)
            host.acquire(b"l", gone, SEMAPHORE, limit=holders)
            counts.add(host.reads)
        host.acquire(b"l", spare, SEMAPHORE, limit=holders)
        counts.add(host.reads)
        host.validate()
        return counts

    assert max(reads(2_000, 2_000)) <= max(reads(4, 4))


def test_records_round_trip_and_refuse_other_bytes() -> None:
    head = LockHead(3, 5, True, 1, 2, 3, 4, 2**64 - 1)
    assert decode_lock_head(encode_lock_head(head)) == head
    place = PlaceRecord(2**64 - 1, 7, 2, False, 1_000_000, b"value")
    assert decode_place(encode_place(place)) == place
    assert decode_place(b"xyz" + encode_place(place), 3) == place
    with pytest.raises(CorruptRow, match="lock row of 4 bytes"):
        decode_lock_head(b"four")
    with pytest.raises(CorruptRow, match="place of 4 bytes"):
        decode_place(b"four")
    with pytest.raises(CorruptRow, match="unknown flags 0x2"):
        decode_lock_head(encode_lock_head(head)[:5] + b"\2" + encode_lock_head(head)[6:])
    with pytest.raises(CorruptRow, match="unknown flags 0x2"):
        decode_place(encode_place(place)[:17] + b"\2" + encode_place(place)[18:])


@given(st.binary(max_size=80))
def test_any_bytes_decode_or_are_corrupt(row: bytes) -> None:
    for decode in (decode_lock_head, decode_place, decode_lease_head):
        with suppress(CorruptRow):
            decode(row)


def test_the_head_stays_when_the_line_is_empty() -> None:
    host = LockHost()
    one = host.leased()
    host.acquire(b"l", one)
    host.revoke(one)
    assert lock_key(b"l") in host.store.rows
    host.reopen()
    assert host.query(b"l") == LockState((), False, 1, 1)
