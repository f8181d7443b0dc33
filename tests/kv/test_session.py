from __future__ import annotations

import pytest

from raftkv.errors import ErrorCode
from raftkv.kv import limits
from raftkv.kv.commands import (
    Delete,
    Deleted,
    Group,
    Put,
    RegisterSession,
    Rejected,
    Result,
    SessionRegistered,
    Written,
)
from raftkv.kv.keys import RESULTS, SESSIONS
from raftkv.kv.records import CorruptRow

from .dict_store import DictStore
from .host import Host, delete, put

WINDOW = limits.SESSION_WINDOW
TTL = limits.SESSION_TTL_MS


def code_of(result: Result) -> ErrorCode:
    assert isinstance(result, Rejected), result
    return result.code


def rows_of(host: Host, table: bytes) -> list[bytes]:
    assert isinstance(host.store, DictStore)
    return [key for key in host.store.order if key.startswith(table)]


def test_ids_count_up_and_are_never_used_again() -> None:
    host = Host()
    assert host.do(RegisterSession(0), RegisterSession(0)) == [SessionRegistered(1), SessionRegistered(2)]
    host.now = TTL
    host.reopen()
    assert host.register() == 3
    assert host.machine.session_count == 1


def test_a_repeated_sequence_gets_its_first_result() -> None:
    host = Host()
    session = host.register()
    first = host.write(session, put(b"k", b"1", 1), delete(b"k", sequence=2))
    assert first == [Written(2), Deleted(3, 1)]
    # Whatever else is sent under a sequence that was answered: the answer stands.
    assert host.write(session, put(b"k", b"1", 1), put(b"other", b"x", 2)) == first
    assert host.get(b"other") is None
    assert host.machine.revision == 3


def test_a_sequence_twice_in_one_batch_is_applied_once() -> None:
    host = Host()
    session = host.register()
    assert host.write(session, put(b"k", b"1", 1), put(b"k", b"1", 1)) == [Written(2), Written(2)]
    group = Group(session, 1, (put(b"k", b"2", 2),))
    assert host.apply(group, group) == ([Written(3)], [Written(3)])


def test_sessions_do_not_share_sequences() -> None:
    host = Host()
    one, two = host.register(), host.register()
    assert host.apply(Group(one, 1, (put(b"k", b"1", 1),)), Group(two, 1, (put(b"k", b"2", 1),))) == (
        [Written(2)],
        [Written(3)],
    )


def test_an_acknowledged_sequence_is_out_of_the_window() -> None:
    host = Host()
    session = host.register()
    host.write(session, put(b"k", b"1", 1), put(b"k", b"2", 2))
    (again,) = host.write(session, put(b"k", b"1", 1), low=2)
    assert code_of(again) is ErrorCode.SEQUENCE_OUT_OF_WINDOW
    assert host.write(session, put(b"k", b"2", 2), low=2) == [Written(3)]
    assert code_of(host.write(session, put(b"k", b"0", 0))[0]) is ErrorCode.SEQUENCE_OUT_OF_WINDOW


def test_the_mark_never_goes_down() -> None:
    host = Host()
    session = host.register()
    host.write(session, put(b"k", b"1", 5), low=5)
    (late,) = host.write(session, put(b"late", b"1", 4), low=1)
    assert code_of(late) is ErrorCode.SEQUENCE_OUT_OF_WINDOW
    host.reopen()
    (late,) = host.write(session, put(b"late", b"1", 4), low=1)
    assert code_of(late) is ErrorCode.SEQUENCE_OUT_OF_WINDOW
    assert host.get(b"late") is None


def test_the_window_ends_where_it_says() -> None:
    host = Host()
    session = host.register()
    (too_far,) = host.write(session, put(b"k", b"1", 10 + WINDOW), low=10)
    assert code_of(too_far) is ErrorCode.SEQUENCE_OUT_OF_WINDOW
    assert host.write(session, put(b"k", b"1", 9 + WINDOW), low=10) == [Written(2)]
    # Not remembered, because it depends on a mark that moves: the same sequence is applied once the window reaches it.
    assert host.write(session, put(b"k", b"1", 10 + WINDOW), low=11) == [Written(3)]


def test_an_absurd_mark_ends_in_rejections_not_in_work() -> None:
    host = Host()
    session = host.register()
    host.write(session, put(b"k", b"1", 1))
    (lost,) = host.write(session, put(b"k", b"1", 2), low=2**64 - 1)
    assert code_of(lost) is ErrorCode.SEQUENCE_OUT_OF_WINDOW
    host.reopen()
    assert host.write(session, put(b"k", b"2", 2**64 - 1)) == [Written(3)]


def test_rejections_that_depend_on_the_state_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.kv.mvcc.MAX_DELETED_KEYS", 2)
    host = Host()
    session = host.register()
    host.do(put(b"a"), put(b"b"), put(b"c"))
    (rejected,) = host.write(session, delete(b"a", b"z", 1))
    assert code_of(rejected) is ErrorCode.LIMIT_EXCEEDED
    host.do(delete(b"a"))
    assert host.write(session, delete(b"a", b"z", 1)) == [rejected]
    host.reopen()
    assert host.write(session, delete(b"a", b"z", 1)) == [rejected]
    assert host.write(session, delete(b"a", b"z", 2)) == [Deleted(6, 2)]


def test_an_unknown_session_is_expired_and_nothing_is_applied() -> None:
    host = Host()
    assert [code_of(result) for result in host.write(99, put(b"k", b"1", 1), put(b"k", b"2", 2))] == [
        ErrorCode.SESSION_EXPIRED
    ] * 2
    assert host.machine.revision == 1


@pytest.mark.parametrize("reopen", [False, True])
def test_a_session_expires_by_cluster_time_alone(reopen: bool) -> None:
    host = Host()
    idle, busy = host.register(), host.register()
    host.now = TTL - 1
    assert host.write(busy, put(b"k", b"1", 1)) == [Written(2)]
    host.now = TTL
    if reopen:
        host.reopen()
    assert code_of(host.write(idle, put(b"k", b"2", 1))[0]) is ErrorCode.SESSION_EXPIRED
    assert host.write(busy, put(b"k", b"1", 1)) == [Written(2)]
    assert host.machine.session_count == 1
    # Once expired it stays so, even if a leader with an older clock takes over.
    host.now = 0
    assert code_of(host.write(idle, put(b"k", b"2", 1))[0]) is ErrorCode.SESSION_EXPIRED


def test_a_retry_keeps_a_session_alive() -> None:
    host = Host()
    session = host.register()
    for host.now in range(0, 3 * TTL, TTL - 1):
        assert host.write(session, put(b"k", b"1", 1)) == [Written(2)]


def test_an_expired_session_leaves_no_rows() -> None:
    host = Host()
    session = host.register()
    host.write(session, put(b"k", b"1", 1))
    assert (len(rows_of(host, SESSIONS)), len(rows_of(host, RESULTS))) == (1, 1)
    host.now = TTL
    host.write(session, put(b"k", b"1", 2))
    assert (rows_of(host, SESSIONS), rows_of(host, RESULTS)) == ([], [])


def test_registering_sweeps_the_expired() -> None:
    host = Host()
    sessions = [host.register() for _ in range(3)]
    host.write(sessions[0], put(b"k", b"1", 1))
    host.now = TTL - 1
    host.write(sessions[1], put(b"k", b"1", 1))
    host.now = TTL
    new = host.register()
    assert host.machine.session_count == 2
    assert host.write(sessions[1], put(b"k", b"1", 1)) == [Written(3)]
    assert host.write(new, put(b"k", b"1", 1)) == [Written(4)]
    assert len(rows_of(host, SESSIONS)) == 2


@pytest.mark.parametrize("reopen", [False, True])
def test_at_the_bound_the_least_recently_active_session_gives_way(
    reopen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raftkv.kv.session.MAX_SESSIONS", 3)
    host = Host()
    sessions = [host.register() for _ in range(3)]
    host.now = 1
    host.write(sessions[0], put(b"k", b"1", 1))
    host.now = 2
    if reopen:
        host.reopen()
    # Sessions 1 and 2 are equally old: the lower id goes first.
    for victim in (sessions[1], sessions[2], sessions[0]):
        host.register()
        assert host.machine.session_count == 3
        assert code_of(host.write(victim, put(b"k", b"2", 2))[0]) is ErrorCode.SESSION_EXPIRED


def test_a_session_may_be_ended_by_its_own_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of a session must not outlive its head, or the store cannot be loaded."""
    monkeypatch.setattr("raftkv.kv.session.MAX_SESSIONS", 1)
    host = Host()
    session = host.register()
    results = host.apply(
        Group(session, 1, (put(b"k", b"1", 1), RegisterSession(2), put(b"k", b"2", 3))),
        Group(session, 1, (put(b"k", b"3", 4),)),
    )
    assert results[0] == [Written(2), SessionRegistered(2), Written(3)]
    assert code_of(results[1][0]) is ErrorCode.SESSION_EXPIRED
    assert rows_of(host, RESULTS) == []
    host.reopen()
    assert host.write(2, put(b"k", b"4", 1)) == [Written(4)]


def test_rows_of_results_go_when_all_their_sequences_are_acknowledged() -> None:
    host = Host()
    session = host.register()
    host.write(session, put(b"k", b"1", 1), put(b"k", b"4", 4))
    host.write(session, put(b"k", b"2", 2), put(b"k", b"3", 3))
    assert len(rows_of(host, RESULTS)) == 2
    host.write(session, put(b"k", b"5", 5), low=4)
    assert len(rows_of(host, RESULTS)) == 2
    host.reopen()
    assert host.write(session, put(b"k", b"4", 4), low=4) == [Written(3)]
    host.write(session, low=6)
    assert rows_of(host, RESULTS) == []
    host.reopen()
    assert host.write(session, put(b"k", b"6", 6)) == [Written(7)]


def test_a_retry_writes_no_row() -> None:
    host = Host()
    session = host.register()
    host.write(session, put(b"k", b"1", 1))
    before = rows_of(host, RESULTS)
    host.write(session, put(b"k", b"1", 1))
    assert rows_of(host, RESULTS) == before


def test_a_row_of_results_without_its_session_is_corrupt() -> None:
    host = Host()
    session = host.register()
    host.write(session, Put(1, b"k", b"v"))
    with host.store.write() as writer:
        writer.delete(rows_of(host, SESSIONS)[0])
    with pytest.raises(CorruptRow, match="of no session"):
        host.reopen()


def test_a_session_that_remembers_too_much_is_refused_until_it_acknowledges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.kv.session.SESSION_RESULT_BYTES", 100)
    host = Host()
    session = host.register()
    results: list[Result] = []
    while not isinstance(last := host.write(session, wide(len(results) + 1))[0], Rejected):
        results.append(last)
        host.reopen()
    assert last.code is ErrorCode.OVERLOADED
    assert 5 < len(results) < 100
    # What it was told before is still known, and the refusal is not remembered.
    assert host.write(session, wide(1)) == results[:1]
    revision = host.machine.revision
    assert host.write(session, wide(len(results) + 1), low=len(results)) == [Deleted(revision, 0)]


def wide(sequence: int) -> Delete:
    """A write whose result is not known to be short."""
    return delete(b"x", b"y", sequence)


@pytest.mark.parametrize("bound", ["SESSION_RESULT_BYTES", "ALL_RESULTS_BYTES"])
def test_no_bound_of_bytes_refuses_what_may_have_been_acknowledged_early(
    bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others of its session were put into the log before it, and it was acknowledged before they were applied."""
    monkeypatch.setattr(f"raftkv.kv.session.{bound}", 100)
    host = Host()
    session = host.register()
    group = Group(session, 1, (put(b"k", b"1", 90), delete(b"k", sequence=91)))
    assert host.machine.admits(group, host.now, 1)
    host.write(session, *[wide(number) for number in range(1, 21)])
    assert code_of(host.write(session, wide(21))[0]) is ErrorCode.OVERLOADED
    assert host.apply(group) == ([Written(2), Deleted(3, 1)],)
    host.reopen()
    assert code_of(host.write(session, wide(21))[0]) is ErrorCode.OVERLOADED


def test_too_many_bytes_end_the_least_recently_active_session_but_none_that_was_active_lately(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raftkv.kv.session.ALL_RESULTS_BYTES", 100)
    host = Host()
    idle = host.register()
    host.now = limits.SESSION_SAFE_MS
    first, second = host.register(), host.register()
    for session in (first, second):
        host.write(session, *[wide(number) for number in range(1, 21)])
    assert host.machine.session_count == 2, "the idle one had to go"
    assert code_of(host.write(idle, wide(1))[0]) is ErrorCode.SESSION_EXPIRED
    assert host.write(first, wide(1)) == [Deleted(1, 0)]
    host.now = 2 * limits.SESSION_SAFE_MS - 1
    host.write(first, put(b"k", sequence=21))
    assert host.machine.session_count == 2
    host.now += 1
    host.write(first, put(b"k", sequence=22))
    assert host.machine.session_count == 1
    assert host.write(first, wide(1), low=1) == [Deleted(1, 0)]


def test_a_session_is_sure_to_be_there_unless_what_is_in_the_log_may_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.kv.session.MAX_SESSIONS", 5)
    host = Host()
    session, *_ = (host.register() for _ in range(2))
    host.now = 1
    group = Group(session, 1, (put(b"k", sequence=1),))
    admits = host.machine.admits
    assert admits(group, 1, 3)
    assert not admits(group, 1, 4)
    assert not admits(group, limits.SESSION_SAFE_MS, 1)
    for _ in range(3):
        host.register()
    assert host.apply(group) == ([Written(2)],)
    assert host.machine.session_count == 5
    for _ in range(5):
        host.register()
    assert code_of(host.write(session, put(b"k", sequence=2))[0]) is ErrorCode.SESSION_EXPIRED, "control: four can"


def test_what_all_sessions_remember_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.kv.session.ALL_RESULTS_BYTES", 100)
    host = Host()
    sessions = [host.register() for _ in range(4)]
    for turn in range(1, 11):
        for session in sessions:
            host.now += limits.SESSION_SAFE_MS
            host.write(session, put(b"k", sequence=turn))
            host.reopen()
    assert code_of(host.write(sessions[0], put(b"k", sequence=11))[0]) is ErrorCode.SESSION_EXPIRED
    assert isinstance(host.write(sessions[-1], put(b"k", sequence=11))[0], Written)
    assert isinstance(host.store, DictStore)
    assert sum(len(host.store.rows[key]) for key in rows_of(host, RESULTS)) <= 100
