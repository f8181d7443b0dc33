"""Fencing (notes/testing.md): what a holder that wakes up too late may still do, which is nothing.

The tests of controls at the end switch a safeguard off for good: they show what it is for.
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from raftkv.errors import ErrorCode
from raftkv.kv import fence, limits, lock
from raftkv.kv.commands import Acquire, Fence, FenceMode, LockKind, Place, Rejected, Release
from raftkv.kv.lease_table import Counters, LeaseTable
from raftkv.kv.line import holder_with, read_head
from raftkv.kv.writing import Writing

from .lock_host import LockHost

HOLDER, MAX_SEEN = FenceMode
BOTH = pytest.mark.parametrize("mode", [HOLDER, MAX_SEEN])


def stale(refused: Rejected | None) -> int:
    """The lock's newest token, as the rejection of a stale fence has it."""
    assert refused is not None
    assert refused.code is ErrorCode.STALE_FENCE
    return refused.number


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (limits.fence_fault(Fence(b"", 1, 0)), "fence: name of the lock is empty"),
        (limits.fence_fault(Fence(b"n" * 201, 1, 0)), "fence: name of the lock is too long"),
        (limits.fence_fault(Fence(b"l", 0, 0)), "fence: token is 0"),
        (limits.fence_fault(Fence(b"l", 1, 2)), "fence: unknown mode 2"),
    ],
)
def test_faults_name_what_is_wrong(fault: str | None, message: str) -> None:
    assert fault is not None
    assert message in fault


def test_faults_are_refused_at_apply_too() -> None:
    refused = LockHost().check(b"n" * 600, 1)
    assert refused is not None
    assert refused.code is ErrorCode.INVALID_ARGUMENT
    assert limits.fence_fault(Fence(b"n" * 200, 2**64 - 1, 1)) is None


@BOTH
def test_a_holder_passes_and_nobody_else(mode: int) -> None:
    host = LockHost()
    one, two = host.leased(), host.leased()
    assert stale(host.check(b"l", 1, mode)) == 0
    token = host.token(b"l", one)
    host.acquire(b"l", two)
    assert host.check(b"l", token, mode) is None
    assert stale(host.check(b"l", token + 1, mode)) == token
    assert stale(host.check(b"l", 2**64 - 1, mode)) == token


@BOTH
def test_bug_46_a_regrant_makes_the_old_token_stale(mode: int) -> None:
    """The fence advances at the grant, before the new holder has written anything."""
    host = LockHost()
    old, new = host.leased(500), host.leased()
    host.token(b"l", old)
    host.acquire(b"l", new)
    host.now = 501
    host.expire()
    assert stale(host.check(b"l", 1, mode)) == 2
    assert host.check(b"l", 2, mode) is None
    refused = host.check(b"l", 1, mode)
    assert refused is not None
    assert "whose newest token is 2" in refused.message


def test_a_token_that_was_given_back() -> None:
    """MAX_SEEN asks only that nobody came after; HOLDER asks for the lock itself."""
    host = LockHost()
    one = host.leased()
    host.token(b"l", one)
    host.release(b"l", one)
    assert stale(host.check(b"l", 1, HOLDER)) == 1
    assert host.check(b"l", 1, MAX_SEEN) is None


@BOTH
def test_delete_and_create_again(mode: int) -> None:
    """The last place goes, the head stays: a lock that begins anew does not begin from token 0."""
    host = LockHost()
    for expected in (1, 2, 3):
        one = host.leased()
        assert host.token(b"l", one) == expected
        host.revoke(one)
        assert host.query(b"l").contenders == ()
    last = host.leased()
    assert host.token(b"l", last) == 4
    for token in (1, 2, 3):
        assert stale(host.check(b"l", token, mode)) == 4
    assert host.check(b"l", 4, mode) is None


@BOTH
def test_the_newest_token_survives_a_restart(mode: int) -> None:
    host = LockHost()
    one, two = host.leased(), host.leased()
    host.token(b"l", one)
    host.release(b"l", one)
    host.token(b"l", two)
    host.release(b"l", two)
    host.reopen()
    assert stale(host.check(b"l", 1, mode)) == 2
    assert host.token(b"l", one) == 3
    host.reopen()
    assert stale(host.check(b"l", 2, mode)) == 3
    assert host.check(b"l", 3, mode) is None


def test_a_holder_is_stale_from_its_deadline_on_by_the_time_of_the_entry() -> None:
    """Not before, whatever clocks say; and not only once somebody came to remove it."""
    host = LockHost()
    one = host.leased(500)
    host.token(b"l", one)
    host.now = 500
    assert host.check(b"l", 1) is None
    host.now = 501
    assert stale(host.check(b"l", 1)) == 1
    assert len(host.query(b"l").contenders) == 1
    assert host.check(b"l", 1, MAX_SEEN) is None  # nobody came after it


@BOTH
def test_a_token_of_another_lock_is_stale(mode: int) -> None:
    host = LockHost()
    one = host.leased()
    tokens = {name: host.token(name, one) for name in (b"a", b"b", b"c")}
    for name, newest in tokens.items():
        for token in tokens.values():
            if token != newest:
                assert stale(host.check(name, token, mode)) == newest
        assert host.check(name, newest, mode) is None


def test_a_writer_ends_the_readers_before_it_and_a_first_reader_the_writer() -> None:
    host = LockHost()
    a, b, writer, c, d = (host.leased() for _ in range(5))

    def passes(token: int) -> bool:
        return host.check(b"l", token, MAX_SEEN) is None

    for one in (a, b):
        host.token(b"l", one, LockKind.READ_WRITE, exclusive=False)
    assert [passes(token) for token in (1, 2)] == [True, True]
    host.release(b"l", a)
    host.token(b"l", a, LockKind.READ_WRITE, exclusive=False)  # one more reader, after one has left
    assert [passes(token) for token in (1, 2, 3)] == [True, True, True]
    host.release(b"l", a)
    host.release(b"l", b)
    host.token(b"l", writer, LockKind.READ_WRITE)
    assert [passes(token) for token in (1, 2, 3, 4)] == [False, False, False, True]
    for one in (c, d):
        host.acquire(b"l", one, LockKind.READ_WRITE, exclusive=False)
    host.release(b"l", writer)
    assert host.tokens(b"l") == [5, 6]
    assert [passes(token) for token in (4, 5, 6)] == [False, True, True]


def test_max_seen_takes_a_range_of_tokens_while_readers_share_a_lock() -> None:
    """Those of other locks included, as docs/api.md says: the store does not remember which readers have left."""
    host = LockHost()
    one, two, other = (host.leased() for _ in range(3))
    host.token(b"l", one, LockKind.READ_WRITE, exclusive=False)
    between = host.token(b"m", other)
    host.token(b"l", two, LockKind.READ_WRITE, exclusive=False)
    assert host.check(b"l", between, MAX_SEEN) is None
    assert stale(host.check(b"l", between)) == 3
    assert stale(host.check(b"m", 3, MAX_SEEN)) == between


def test_max_seen_is_not_for_semaphores() -> None:
    host = LockHost()
    one, two = host.leased(), host.leased()
    for lease in (one, two):
        host.acquire(b"l", lease, LockKind.SEMAPHORE, limit=2)
    refused = host.check(b"l", 1, MAX_SEEN)
    assert refused is not None
    assert refused.code is ErrorCode.FAILED_PRECONDITION
    assert "semaphore" in refused.message
    assert host.check(b"l", 1) is None
    assert host.check(b"l", 2) is None


def test_a_change_of_kind_ends_what_was_granted_before() -> None:
    """Holders of a semaphore that is used as a read-write lock now do not share the floor of its readers."""
    host = LockHost()
    one = host.leased()
    host.acquire(b"l", one, LockKind.SEMAPHORE, limit=2)
    host.release(b"l", one)
    host.token(b"l", one, LockKind.READ_WRITE, exclusive=False)
    assert stale(host.check(b"l", 1, MAX_SEEN)) == 2
    assert host.check(b"l", 2, MAX_SEEN) is None


def test_ten_thousand_grants_are_strictly_increasing() -> None:
    """Over locks, leases that end, and restarts."""
    host = LockHost()
    leases = [host.leased() for _ in range(20)]
    granted: list[int] = []

    def some(writing: Writing, table: LeaseTable, counters: Counters) -> None:
        for _ in range(25):
            for name in (b"a", b"b"):
                for lease in leases:
                    place = lock.acquire(writing, table, counters, Acquire(0, name, lease, 0, True, 0, b"", True), 0)
                    assert isinstance(place, Place)
                for lease in leases:
                    place = lock.acquire(writing, table, counters, Acquire(0, name, lease, 0, True, 0, b"", True), 0)
                    assert isinstance(place, Place)
                    granted.append(place.token)
                    lock.release(writing, table, counters, Release(0, name, lease), 0)

    for _ in range(10):
        host.run(some)
        host.reopen()
    assert len(granted) == 10_000
    assert all(before < after for before, after in pairwise(granted))
    assert granted[-1] == host.counters.last_token
    assert host.query(b"b").newest_token == granted[-1]


def test_a_holder_is_found_in_bounded_work_among_many() -> None:
    """The rows of a line that one check reads, and that it finds exactly those who hold."""
    host = LockHost()
    count = 1_000
    leases = [host.leased() for _ in range(count + 10)]

    def fill(writing: Writing, table: LeaseTable, counters: Counters) -> None:
        for one in leases:
            lock.acquire(writing, table, counters, Acquire(0, b"l", one, 2, False, count, b"", True), 0)
        counters.begin_entry()
        for one in leases[100:900]:
            lock.release(writing, table, counters, Release(0, b"l", one), 0)

    host.run(fill)
    held = {one for one in host.tokens(b"l") if one}
    assert len(held) == 210
    with host.store.read() as reader:
        head = read_head(reader, b"l")
        assert head is not None
        for token in range(1, host.counters.last_token + 2):
            before = reader.reads
            found = holder_with(reader, b"l", head, token)
            assert (found is not None) == (token in held)
            assert reader.reads - before <= 1 + head.last_granted.bit_length()
            if found is not None:
                assert found.token == token
                assert fence.check(reader, host.leases, Fence(b"l", token, HOLDER), 0) is None


# --- controls: the tests above can fail ------------------------------------------------------------------------------


def test_control_without_a_fence_an_update_is_lost() -> None:
    """Read, be paused, write late: a counter that a lock protects loses an update, unless the write is fenced."""

    def run(*, fenced: bool) -> int:
        host = LockHost()
        counter = 0
        slow, fast = host.leased(500), host.leased()
        slow_token = host.token(b"l", slow)
        host.acquire(b"l", fast)
        seen_by_slow = counter
        host.now = 501  # paused past its lease
        host.settle()
        fast_token = host.token(b"l", fast)
        for token, value in ((fast_token, counter + 1), (slow_token, seen_by_slow + 10)):
            if not fenced or host.check(b"l", token) is None:
                counter = value
        return counter

    assert run(fenced=True) == 1
    assert run(fenced=False) == 10


def test_control_a_lock_whose_head_goes_with_its_line_forgets_its_tokens() -> None:
    """What keeps MAX_SEEN true when nobody is in line is the head alone."""
    host = LockHost()
    one = host.leased()
    for _ in range(2):
        host.token(b"l", one)
        host.release(b"l", one)
    assert stale(host.check(b"l", 1, MAX_SEEN)) == 2
    for key in [key for key in host.store.rows if key.startswith(b"\x08")]:
        with host.store.write() as writer:
            writer.delete(key)
    assert stale(host.check(b"l", 1, MAX_SEEN)) == 0


def test_control_tokens_that_do_not_outlive_a_restart_are_used_again() -> None:
    """The counter lies in Meta; from 0 again, a token of before the restart passes as that of the new holder."""
    host = LockHost()
    one, two = host.leased(), host.leased()
    old = host.token(b"l", one)
    host.release(b"l", one)
    host.counters.last_token = 0
    host.token(b"l", two)
    assert host.check(b"l", old) is None
