"""The circuit breaker by itself, and in the router."""

from __future__ import annotations

from random import Random

from raftkv.client.breaker import FAILURES_TO_OPEN, Breaker, BreakerState
from raftkv.client.routing import Router

RANDOM = Random(5)


def opened() -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(1.0, RANDOM)
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    breaker, states = Breaker(), []
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(1.0, RANDOM)
        states.append((breaker.state, breaker.allows(1.0)))
    *before, last = states
    assert before == [(BreakerState.CLOSED, True)] * (FAILURES_TO_OPEN - 1)
    assert last == (BreakerState.OPEN, False)


def test_a_success_in_between_begins_the_row_anew() -> None:
    breaker = Breaker()
    for _ in range(FAILURES_TO_OPEN - 1):
        breaker.failed(1.0, RANDOM)
    breaker.succeeded()
    breaker.failed(1.0, RANDOM)
    assert breaker.state is BreakerState.CLOSED


def test_it_lets_one_try_through_when_the_wait_is_over() -> None:
    breaker = opened()
    assert breaker.allows(breaker.retry_at)
    breaker.trying(breaker.retry_at, RANDOM)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.allows(breaker.retry_at - 0.001)


def test_a_try_that_comes_to_nothing_is_followed_by_another() -> None:
    """Its caller may have gone away: nobody tells how it ended."""
    breaker = opened()
    breaker.trying(breaker.retry_at, RANDOM)
    assert breaker.allows(breaker.retry_at)


def test_the_outcome_of_the_try_closes_it_or_opens_it_again() -> None:
    breaker = opened()
    breaker.trying(2.0, RANDOM)
    breaker.succeeded()
    assert (breaker.state, breaker.failures) == (BreakerState.CLOSED, 0)
    breaker = opened()
    breaker.trying(2.0, RANDOM)
    breaker.failed(2.0, RANDOM)
    assert breaker.state is BreakerState.OPEN
    assert breaker.retry_at > 2.0


def test_the_wait_grows_with_the_failures() -> None:
    def longest(failures: int) -> float:
        waits = []
        for seed in range(100):
            breaker, random = Breaker(), Random(seed)
            for _ in range(failures):
                breaker.broke(0.0, random)
            waits.append(breaker.retry_at)
        return max(waits)

    assert longest(1) < longest(3) < longest(6)


def test_what_was_asked_before_it_opened_changes_nothing() -> None:
    breaker = opened()
    before = breaker.retry_at, breaker.failures
    for _ in range(10):
        breaker.failed(1.5, RANDOM)
    assert (breaker.retry_at, breaker.failures) == before


def test_a_broken_stream_opens_it_at_once() -> None:
    breaker = Breaker()
    breaker.broke(1.0, RANDOM)
    assert breaker.state is BreakerState.OPEN


def router(*addresses: str) -> Router:
    made = Router(addresses, Random(1))
    for number, address in enumerate(addresses, 1):
        made.opening(address, 0.0)
        made.ready(address, number)
    return made


def test_reads_stay_away_from_an_open_endpoint_and_come_back() -> None:
    found = router("a:1", "b:1")
    for _ in range(FAILURES_TO_OPEN):
        found.read_failed("a:1", 1.0, "too far behind")
    assert found.choose_reader((), 1.0, nearest=False) == "b:1"
    assert found.choose(
        (),
    ) in ("a:1", "b:1")  # what the leader answers is another matter
    state = found.states(1.0)[0]
    assert (state.breaker, state.connected, state.last_error) == (BreakerState.OPEN, True, "too far behind")
    assert 0 < state.retry_in < 1
    assert found.choose_reader((), 2.0, nearest=False) == "a:1"  # one try
    assert found.states(2.0)[0].breaker is BreakerState.HALF_OPEN
    assert found.choose_reader((), 2.0, nearest=False) == "b:1"
    found.read_answered("a:1")
    assert found.states(2.0)[0].breaker is BreakerState.CLOSED


def test_with_nobody_else_an_open_endpoint_is_asked_all_the_same() -> None:
    found = router("a:1")
    for _ in range(FAILURES_TO_OPEN):
        found.read_failed("a:1", 1.0, "too far behind")
    assert found.choose_reader((), 1.0, nearest=False) == "a:1"


def test_the_stream_and_the_reads_of_an_endpoint_have_one_breaker() -> None:
    found = router("a:1", "b:1")
    found.failed("a:1", 1.0, "gone")
    assert found.states(1.0)[0].breaker is BreakerState.OPEN
    assert found.to_open(1.0) == ()
    assert found.to_open(2.0) == ("a:1",)
    found.opening("a:1", 2.0)
    assert found.states(2.0)[0].breaker is BreakerState.HALF_OPEN
    found.ready("a:1", 1)
    assert found.states(2.0)[0].breaker is BreakerState.CLOSED


def test_a_witness_is_asked_for_nothing_but_writes() -> None:
    found = router("a:1", "b:1")
    found.heard_members({1: "a:1", 2: "b:1"}, witnesses=frozenset({1}))
    assert found.choose_reader((), 1.0, nearest=True) == "b:1"
    assert not found.has_reader(("b:1",))


def test_the_nearest_is_gone_over_to_only_where_that_is_worth_it() -> None:
    found = router("a:1", "b:1", "c:1")
    assert found.choose_reader((), 1.0, nearest=True) == "a:1"  # not measured yet
    found.measured("a:1", 0.010)
    found.measured("b:1", 0.009)
    assert found.choose_reader((), 1.0, nearest=True) == "a:1"  # hardly nearer
    found.measured("c:1", 0.002)
    assert found.choose_reader((), 1.0, nearest=True) == "c:1"
    assert found.choose_reader(("c:1",), 1.0, nearest=True) == "b:1"
    found.failed("c:1", 1.0, "gone")
    assert found.states(1.0)[2].latency is None
