from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from raftkv.client.calls import Call, Kind, Verdict, final_error, judge, out_of_time, worth_retrying
from raftkv.errors import (
    ERROR_TYPES,
    ConnectionFailed,
    DeadlineExceeded,
    ErrorCode,
    NoLeader,
    NotLeader,
    Overloaded,
    RaftKVError,
)
from raftkv.v1 import kv_pb2


@pytest.fixture(name="loop")
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def make_call(
    loop: asyncio.AbstractEventLoop, kind: Kind = Kind.WRITE, *, number: int = 1, session: int = 0, size: int = 10
) -> Call:
    operation = kv_pb2.Operation(put=kv_pb2.PutRequest(key=b"k", value=b"v"))
    call = Call(kind, operation, size, timeout=2.0, deadline=100.0, future=loop.create_future())
    call.id = operation.id = number
    call.session = session
    return call


@pytest.mark.parametrize(
    ("code", "verdict"),
    [
        (ErrorCode.NO_LEADER, Verdict.ELSEWHERE),
        (ErrorCode.NOT_LEADER, Verdict.ELSEWHERE),
        (ErrorCode.LEADER_CHANGED, Verdict.ELSEWHERE),
        (ErrorCode.SHUTTING_DOWN, Verdict.ELSEWHERE),
        (ErrorCode.CORRUPT_STATE, Verdict.ELSEWHERE),
        (ErrorCode.OVERLOADED, Verdict.LATER),
        (ErrorCode.DEADLINE_EXCEEDED, Verdict.LATER),
        (ErrorCode.INVALID_ARGUMENT, Verdict.FAIL),
        (ErrorCode.SEQUENCE_OUT_OF_WINDOW, Verdict.FAIL),
        (ErrorCode.COMPACTED, Verdict.FAIL),
        (ErrorCode.CLUSTER_MISMATCH, Verdict.FAIL),
    ],
)
def test_verdicts(loop: asyncio.AbstractEventLoop, code: ErrorCode, verdict: Verdict) -> None:
    assert judge(make_call(loop), ERROR_TYPES[code]("")) is verdict


def test_an_error_that_this_client_does_not_know_is_retried_when_it_says_so(loop: asyncio.AbstractEventLoop) -> None:
    error = RaftKVError("new in 9.0")
    assert judge(make_call(loop), error) is Verdict.FAIL
    error.retryable = True
    assert judge(make_call(loop), error) is Verdict.LATER


def test_only_a_write_without_doubt_goes_on_under_a_new_session(loop: asyncio.AbstractEventLoop) -> None:
    expired = ERROR_TYPES[ErrorCode.SESSION_EXPIRED]("")
    call = make_call(loop)
    assert judge(call, expired) is Verdict.NEW_SESSION
    call.in_flight = True
    call.unanswered()
    assert judge(call, expired) is Verdict.FAIL
    assert final_error(call, expired).ambiguous


def test_a_refusal_that_every_attempt_gets_alike_is_not_ambiguous(loop: asyncio.AbstractEventLoop) -> None:
    call = make_call(loop)
    call.doubtful = True
    for code in (
        ErrorCode.LIMIT_EXCEEDED,
        ErrorCode.STALE_FENCE,
        ErrorCode.LEASE_NOT_FOUND,
        ErrorCode.LEASE_EXISTS,
        ErrorCode.LOCK_BUSY,
    ):
        assert not final_error(call, ERROR_TYPES[code]("")).ambiguous
    assert final_error(call, ERROR_TYPES[ErrorCode.SPACE_EXCEEDED]("")).ambiguous
    assert final_error(call, ERROR_TYPES[ErrorCode.SEQUENCE_OUT_OF_WINDOW]("")).ambiguous
    read = make_call(loop, Kind.READ)
    read.doubtful = True
    assert not final_error(read, ERROR_TYPES[ErrorCode.COMPACTED]("")).ambiguous


@pytest.mark.parametrize("kind", ["put", "delete", "txn"])
@pytest.mark.parametrize("concern", [0, 1, 3, -2])
def test_a_concern_that_is_refused_now_may_have_been_possible_before(
    loop: asyncio.AbstractEventLoop, kind: str, concern: int
) -> None:
    call = make_call(loop)
    getattr(call.operation, kind).write_concern = concern
    refused = ERROR_TYPES[ErrorCode.INVALID_ARGUMENT]
    assert not final_error(call, refused("")).ambiguous, "no earlier attempt"
    call.doubtful = True
    assert final_error(call, refused("")).ambiguous is (concern != 0)
    assert not final_error(call, ERROR_TYPES[ErrorCode.LIMIT_EXCEEDED]("")).ambiguous


def test_a_call_that_only_waited_in_a_queue_is_not_in_doubt(loop: asyncio.AbstractEventLoop) -> None:
    call = make_call(loop)
    call.unanswered()
    assert not call.ambiguous


@pytest.mark.parametrize(
    ("last", "unreachable", "expected"),
    [
        (None, "a:1: refused", ConnectionFailed),
        (ConnectionFailed("reset"), "a:1: refused", ConnectionFailed),
        (None, "", DeadlineExceeded),
        (NoLeader("electing"), "", NoLeader),
        (NotLeader("ask another"), "", NoLeader),
        (Overloaded("full"), "", Overloaded),
        (DeadlineExceeded("the node gave up"), "", DeadlineExceeded),
    ],
)
def test_a_write_without_effect_says_so_at_its_deadline(
    loop: asyncio.AbstractEventLoop, last: RaftKVError | None, unreachable: str, expected: type[RaftKVError]
) -> None:
    call = make_call(loop)
    call.last_error = last
    error = out_of_time(call, unreachable)
    assert type(error) is expected
    assert not error.ambiguous
    assert "no effect" in error.message
    assert (last.message if last and not unreachable else unreachable) in error.message


@pytest.mark.parametrize("in_flight", [True, False])
def test_a_write_that_was_sent_and_not_answered_is_ambiguous_at_its_deadline(
    loop: asyncio.AbstractEventLoop, in_flight: bool
) -> None:
    call = make_call(loop)
    call.in_flight, call.doubtful = in_flight, not in_flight
    call.last_error = NoLeader("electing")
    error = out_of_time(call, "a:1: refused")
    assert isinstance(error, DeadlineExceeded)
    assert error.ambiguous
    assert "electing" in error.message
    read = make_call(loop, Kind.READ)
    read.in_flight = True
    assert not out_of_time(read, "").ambiguous


def test_the_last_moments_before_the_deadline_are_not_spent_on_losing_certainty(
    loop: asyncio.AbstractEventLoop,
) -> None:
    call = make_call(loop)
    assert worth_retrying(call, 99.99), "the first attempt is always worth it"
    call.last_error = NoLeader("electing")
    assert worth_retrying(call, 99.9)
    assert not worth_retrying(call, 99.96)
    call.doubtful = True
    assert worth_retrying(call, 99.99)


def test_a_read_at_a_node_with_a_corrupt_state_goes_to_another_and_says_why_there_is_none(
    loop: asyncio.AbstractEventLoop,
) -> None:
    refusal = ERROR_TYPES[ErrorCode.CORRUPT_STATE]("out of service")
    call = make_call(loop, Kind.LOCAL_READ)
    assert judge(call, refusal) is Verdict.ANOTHER
    call.last_error = refusal
    assert type(out_of_time(call, "")) is ERROR_TYPES[ErrorCode.CORRUPT_STATE]
