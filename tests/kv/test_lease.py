from __future__ import annotations

import random

import pytest

from raftkv.errors import ErrorCode
from raftkv.kv import lease, lease_table, limits
from raftkv.kv.commands import Expired, GrantLease, KeepAlive, KeptAlive, LeaseGranted, Place, Revoked
from raftkv.kv.keys import lease_key, lease_keys_prefix, version_prefix
from raftkv.kv.lease_table import LeaseTable
from raftkv.kv.records import CorruptRow

from .dict_store import DictStore
from .lock_host import LockHost, code_of


def info(host: LockHost, lease_id: int, *, with_keys: bool = True) -> lease.LeaseInfo | None:
    with host.store.read() as reader:
        return lease.lease_info(reader, lease_id, with_keys=with_keys)


def ids(host: LockHost, after: int, limit: int) -> tuple[tuple[int, ...], bool]:
    with host.store.read() as reader:
        return lease.lease_ids(reader, after, limit)


def test_ids_go_on_above_every_id_ever_chosen_or_given() -> None:
    host = LockHost()
    assert host.grant() == LeaseGranted(1, 1_000)
    assert host.grant(7, 500) == LeaseGranted(7, 500)
    assert host.grant(3) == LeaseGranted(3, 1_000)
    assert isinstance(host.revoke(7), Revoked)
    host.reopen()
    assert host.grant() == LeaseGranted(8, 1_000)
    highest = limits.MAX_GIVEN_LEASE
    assert host.grant(highest) == LeaseGranted(highest, 1_000)
    assert host.grant() == LeaseGranted(highest + 1, 1_000)
    host.validate()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (limits.grant_fault(GrantLease(0, 0, 499)), "ttl of 499 ms; a lease lasts from 500 to 31536000000 ms"),
        (limits.grant_fault(GrantLease(0, 0, 31_536_000_001)), "ttl of 31536000001 ms"),
        (limits.grant_fault(GrantLease(0, 2**63, 500)), "at most 9223372036854775807"),
        (limits.keep_alive_fault(KeepAlive(0, ())), "no lease is named"),
        (limits.keep_alive_fault(KeepAlive(0, (1,) * 1_001)), "1001, at most 1000"),
    ],
)
def test_faults_name_the_limit(fault: str | None, message: str) -> None:
    assert fault is not None
    assert message in fault


@pytest.mark.parametrize(
    "fault",
    [
        limits.grant_fault(GrantLease(0, 0, 500)),
        limits.grant_fault(GrantLease(0, 2**63 - 1, 31_536_000_000)),
        limits.keep_alive_fault(KeepAlive(0, (1,) * 1_000)),
    ],
)
def test_the_limit_itself_is_allowed(fault: str | None) -> None:
    assert fault is None


def test_a_refused_command_changes_nothing() -> None:
    host = LockHost()
    host.grant(5)
    rows = dict(host.store.rows)
    assert code_of(host.grant(5)) is ErrorCode.LEASE_EXISTS
    assert code_of(host.grant(0, 1)) is ErrorCode.INVALID_ARGUMENT
    assert code_of(host.keep_alive()) is ErrorCode.INVALID_ARGUMENT
    assert code_of(host.revoke(6)) is ErrorCode.LEASE_NOT_FOUND
    assert code_of(host.revoke(0)) is ErrorCode.LEASE_NOT_FOUND
    assert (host.store.rows, host.counters.last_lease, host.revision) == (rows, 5, 1)
    host.validate()


def test_no_more_leases_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "MAX_LEASES", 2)
    host = LockHost()
    host.grant()
    host.grant(9)
    assert code_of(host.grant()) is ErrorCode.LIMIT_EXCEEDED
    host.now = 1_001
    assert host.grant(9) == LeaseGranted(9, 1_000)  # in the place of the dead one
    host.validate()


def test_a_lease_lives_for_its_ttl_and_not_two_stamps_longer() -> None:
    """At the stamp of grant and ttl it may still be up to a millisecond younger than its ttl: it lives."""
    host = LockHost()
    one = host.leased(1_000)
    host.now = 1_000
    assert host.leases.alive(one, 1_000)
    assert host.leases.due(1_000) == 0
    assert host.expire() == Expired(0)
    assert host.keep_alive(one, 77) == KeptAlive((1_000, 0))
    host.now = 2_000
    assert host.expire() == Expired(0)
    host.now = 2_001
    assert not host.leases.alive(one, host.now)
    assert host.keep_alive(one) == KeptAlive((0,))
    assert code_of(host.revoke(one)) is ErrorCode.LEASE_NOT_FOUND
    assert host.leases.next_deadline_ms() == 2_001
    assert host.expire() == Expired(1)
    assert (len(host.leases), host.leases.next_deadline_ms(), host.revision) == (0, None, 1)
    host.validate()


def test_expiry_goes_by_the_time_of_the_entry() -> None:
    """A table that was just loaded, on a node that was down for long, judges by no clock of its own."""
    host = LockHost()
    one = host.leased(1_000)
    host.reopen()
    assert host.expire() == Expired(0)
    assert host.leases.alive(one, host.now)


def test_keys_go_with_their_lease_at_one_revision() -> None:
    host = LockHost()
    one, two = host.leased(), host.leased()
    for key in (b"a", b"\0", b"b\0\xff"):
        host.put(key, one)
    host.put(b"other", two)
    host.put(b"c")
    assert info(host, one) == lease.LeaseInfo(1_000_000, 1_000_001, (b"\0", b"a", b"b\0\xff"))
    before = host.revision
    assert host.revoke(one) == Revoked(before + 1, 3)
    assert {change.revision for change in host.changes} == {before + 1}
    assert [host.has(key) for key in (b"a", b"\0", b"b\0\xff", b"other", b"c")] == [False] * 3 + [True] * 2
    assert info(host, one) is None
    host.validate()


def test_a_key_belongs_to_the_lease_of_its_last_write() -> None:
    host = LockHost()
    one, two = host.leased(), host.leased()
    host.put(b"moved", one)
    host.put(b"moved", two)
    host.put(b"freed", one)
    host.put(b"freed")
    host.put(b"again", one)
    host.put(b"again", one)
    host.validate()
    assert host.leases.weight(one) == 1
    assert host.revoke(one) == Revoked(host.revision, 1)
    assert [host.has(key) for key in (b"moved", b"freed", b"again")] == [True, True, False]
    host.validate()


def test_a_lease_without_keys_ends_without_a_revision() -> None:
    host = LockHost()
    assert host.revoke(host.leased()) == Revoked(1, 0)
    assert host.changes == []


def test_a_dead_lease_of_the_same_id_is_ended_first() -> None:
    host = LockHost()
    host.grant(4, 500)
    waiter = host.leased()
    host.put(b"k", 4)
    host.acquire(b"l", 4)
    host.acquire(b"l", waiter)
    host.now = 501
    before = host.revision
    assert host.grant(4, 600) == LeaseGranted(4, 600)
    assert host.revision == before + 1
    assert not host.has(b"k")
    assert info(host, 4) == lease.LeaseInfo(600, 1_102, ())
    assert host.tokens(b"l") == [2]
    assert host.keep_alive(4) == KeptAlive((600,))
    # What the heap still holds of the first lease of this id ends nothing of the second.
    host.now = 1_000
    assert host.expire() == Expired(0)
    host.validate()


def test_expire_ends_the_oldest_deadline_first_and_ties_by_id() -> None:
    host = LockHost()
    for lease_id, ttl_ms in ((1, 900), (2, 700), (3, 700), (4, 800)):
        host.grant(lease_id, ttl_ms)
        host.put(b"%d" % lease_id, lease_id)
    host.now = 100
    host.keep_alive(2)  # now due at 801, like 4
    host.now = 901
    assert host.expire() == Expired(4)
    assert [change.prefix for change in host.changes] == [version_prefix(key) for key in (b"3", b"2", b"4", b"1")]
    first = host.changes[0].revision
    assert [change.revision for change in host.changes] == [first, first + 1, first + 2, first + 3]
    host.validate()


def test_expire_is_bounded_but_ends_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "MAX_EXPIRED_KEYS", 4)
    host = LockHost()
    big, small, other, empty = (host.leased(500 + n) for n in range(4))
    for n in range(6):
        host.put(b"big%d" % n, big)
    host.put(b"small", small)
    host.put(b"other", other)
    host.now = 600
    assert host.expire() == Expired(1)
    assert host.expire() == Expired(2)
    assert host.leases.next_deadline_ms() == 504
    assert host.expire() == Expired(1)
    assert empty not in host.leases
    host.validate()


def test_room_counts_places_and_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_table, "MAX_LEASE_KEYS", 8)
    host = LockHost()
    one = host.leased()
    for key in (b"j", b"k"):
        host.put(key, one)
    assert host.leases.room(one, 6)
    assert not host.leases.room(one, 7)
    host.acquire(b"l", one)
    assert host.leases.weight(one) == 6
    assert host.leases.room(one, 2)
    host.reopen()
    assert host.leases.weight(one) == 6
    rows, changes = dict(host.store.rows), host.revision
    assert code_of(host.acquire(b"m", one)) is ErrorCode.LIMIT_EXCEEDED
    assert (host.store.rows, host.revision) == (rows, changes)
    assert isinstance(host.acquire(b"l", one), Place)  # it has that one already


def test_reading_leases() -> None:
    host = LockHost()
    for lease_id in (5, 1, 3, limits.MAX_GIVEN_LEASE):
        host.grant(lease_id)
    assert ids(host, 0, 2) == ((1, 3), True)
    assert ids(host, 3, 2) == ((5, limits.MAX_GIVEN_LEASE), False)
    assert ids(host, 2**64 - 1, 2) == ((), False)
    host.put(b"k", 3)
    host.acquire(b"l", 3)
    assert info(host, 3) == lease.LeaseInfo(1_000, 1_001, (b"k",))
    assert info(host, 3, with_keys=False) == lease.LeaseInfo(1_000, 1_001, ())
    assert info(host, 4) is None


def load(rows: dict[bytes, bytes]) -> LeaseTable:
    with DictStore(rows).read() as reader:
        return LeaseTable(reader)


def test_a_key_row_without_its_lease_is_corrupt() -> None:
    with pytest.raises(CorruptRow, match="lease that does not exist"):
        load({lease_keys_prefix(1) + b"k\0\0": b""})
    with pytest.raises(CorruptRow, match="lease row of 3 bytes"):
        load({lease_key(1): b"abc"})


def test_the_heap_follows_the_leases_and_not_their_history() -> None:
    """Leases of a year that are revoked at once must not stay in memory for a year, nor must renewals pile up."""
    host = LockHost()
    kept = [host.leased(limits.MAX_LEASE_TTL_MS) for _ in range(3)]
    with host.store.write() as writer:
        for n in range(5_000):
            host.leases.grant(writer, 1_000 + n, limits.MAX_LEASE_TTL_MS, n)
            host.leases.end(writer, 1_000 + n)
            host.leases.renew(writer, kept[n % 3], n)
    assert len(host.leases._by_deadline) <= 2 * len(host.leases) + lease_table._SPARE_ITEMS + 1
    host.now = 5_000
    host.validate()


def test_many_leases_against_a_list() -> None:
    """The lazy heap against sorting everything each time; ids are used again, so that items of the dead lie about."""
    rng = random.Random(4)
    host = LockHost()
    deadlines: dict[int, tuple[int, int]] = {}
    with host.store.write() as writer:
        for _ in range(3_000):
            host.now += rng.randrange(3)
            lease_id = rng.randrange(1, 60)
            if lease_id not in deadlines:
                ttl_ms = rng.randrange(5, 400)
                host.leases.grant(writer, lease_id, ttl_ms, host.now)
                deadlines[lease_id] = (host.now + ttl_ms + 1, ttl_ms)
            elif rng.random() < 0.7:
                deadline_ms, ttl_ms = deadlines[lease_id]
                alive = host.now < deadline_ms
                assert host.leases.renew(writer, lease_id, host.now) == (ttl_ms if alive else 0)
                if alive:
                    deadlines[lease_id] = (host.now + ttl_ms + 1, ttl_ms)
            else:
                host.leases.end(writer, lease_id)
                del deadlines[lease_id]
            earliest = min([(deadline_ms, one) for one, (deadline_ms, _) in deadlines.items()], default=(None, 0))
            assert host.leases.next_deadline_ms() == earliest[0]
            due = earliest[1] if earliest[0] is not None and earliest[0] <= host.now else 0
            assert host.leases.due(host.now) == due
