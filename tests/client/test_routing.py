from __future__ import annotations

from random import Random

import pytest

from raftkv.client.backoff import BACKOFF_MAX_S, BACKOFF_MIN_S, backoff_s, poll_s
from raftkv.client.routing import Health, Leader, Router


def make_router(*addresses: str, ready: bool = True, dial_learned: bool = True) -> Router:
    """Return a router whose endpoints a:1, b:1, ... are members 1, 2, ..."""
    router = Router(addresses, Random(1), dial_learned=dial_learned)
    for member_id, address in enumerate(router.to_open(0.0), start=1):
        router.opening(address, 0.0)
        if ready:
            router.ready(address, member_id)
    return router


def test_every_configured_endpoint_is_opened_once() -> None:
    router = Router(["a:1", "b:1"], Random(1))
    assert router.to_open(0.0) == ("a:1", "b:1")
    router.opening("a:1", 0.0)
    assert router.to_open(0.0) == ("b:1",)


def test_nothing_is_sent_to_an_endpoint_that_has_not_answered() -> None:
    router = make_router("a:1", "b:1", ready=False)
    assert router.choose() is None
    router.ready("b:1", 2)
    assert router.choose() == "b:1"


def test_the_choice_without_a_leader_stays_until_it_is_turned() -> None:
    router = make_router("a:1", "b:1", "c:1")
    assert [router.choose() for _ in range(3)] == ["a:1"] * 3
    router.turn()
    assert router.choose() == "b:1"


def test_avoided_endpoints_are_left_out_even_the_leaders() -> None:
    router = make_router("a:1", "b:1")
    router.heard_leader(Leader(1, 1, "a:1"))
    assert router.choose() == "a:1"
    assert router.choose(("a:1",)) == "b:1"
    assert router.choose(("a:1", "b:1")) is None


def test_a_configured_endpoint_known_to_be_the_leader_wins_over_its_announced_address() -> None:
    router = make_router("proxy:1", "proxy:2")
    router.heard_leader(Leader(3, 2, "10.0.0.2:7001"))
    assert router.choose() == "proxy:2"
    assert router.to_open(0.0) == ()


def test_an_announced_address_is_dialled_only_once_no_configured_endpoint_can_be_the_leader() -> None:
    router = make_router("proxy:1", "proxy:2", ready=False)
    router.ready("proxy:1", 1)
    router.heard_leader(Leader(3, 3, "h3:7001"))
    assert "h3:7001" not in router.to_open(0.0), "proxy:2 may still turn out to be member 3"
    router.ready("proxy:2", 2)
    assert router.to_open(0.0) == ("h3:7001",)
    router.opening("h3:7001", 0.0)
    assert router.choose() == "proxy:1"
    router.ready("h3:7001", 3)
    assert router.choose() == "h3:7001"


def test_an_announced_address_at_which_another_node_answers_is_not_the_leader() -> None:
    router = make_router("a:1")
    router.heard_leader(Leader(3, 3, "nat:7001"))
    router.to_open(0.0)
    router.opening("nat:7001", 0.0)
    router.ready("nat:7001", 1)
    assert router.choose() == "a:1"


def test_learned_addresses_are_not_dialled_when_told_so_nor_when_malformed() -> None:
    router = make_router("a:1", dial_learned=False)
    router.heard_leader(Leader(3, 3, "h3:7001"))
    assert router.to_open(0.0) == ()
    router = make_router("a:1")
    router.heard_leader(Leader(3, 3, "not an address"))
    assert router.to_open(0.0) == ()


def test_a_learned_endpoint_that_fails_is_forgotten_once_it_no_longer_leads() -> None:
    router = make_router("a:1")
    router.heard_leader(Leader(3, 3, "h3:7001"))
    router.to_open(0.0)
    router.opening("h3:7001", 0.0)
    router.failed("h3:7001", 0.0, "refused")
    assert router.health("h3:7001") is Health.DOWN
    assert router.to_open(0.0) == (), "it must wait, though every answer still names it"
    router.heard_leader(Leader(4, 1, "a:1"))
    router.opening("h3:7001", 0.0)
    router.failed("h3:7001", 1.0, "refused")
    assert [endpoint.address for endpoint in router.endpoints] == ["a:1"]


def test_a_failed_endpoint_waits_before_it_is_opened_again_and_a_success_forgives() -> None:
    router = make_router("a:1")
    for _ in range(50):
        router.failed("a:1", 10.0, "refused")
    assert router.to_open(10.0) == ()
    assert router.to_open(10.0 + BACKOFF_MAX_S) == ("a:1",)
    router.opening("a:1", 0.0)
    router.ready("a:1", 1)
    router.failed("a:1", 20.0, "refused")
    assert router.to_open(20.0 + 2 * BACKOFF_MIN_S) == ("a:1",)


def test_who_was_cut_off_and_names_an_old_leader_is_not_believed() -> None:
    router = make_router("a:1", "b:1")
    assert router.heard_leader(Leader(5, 2, "b:1"))
    assert not router.heard_leader(Leader(4, 1, "a:1"))
    assert not router.heard_leader(Leader(6, 0, ""))
    assert not router.heard_leader(Leader(5, 2, "b:1"))
    assert router.choose() == "b:1"
    assert router.heard_leader(Leader(6, 1, "a:1"))
    assert router.choose() == "a:1"


def test_only_the_leader_itself_can_disown_leadership() -> None:
    router = make_router("a:1", "b:1")
    router.heard_leader(Leader(5, 2, "b:1"))
    router.not_leader("a:1")
    assert router.choose() == "b:1"
    router.not_leader("b:1")
    assert router.choose() == "a:1"
    assert router.heard_leader(Leader(4, 2, "b:1")), "with no leader to believe in, any word is better than none"


def test_a_leader_whose_endpoint_is_down_is_reached_through_another_node() -> None:
    router = make_router("a:1", "b:1")
    router.heard_leader(Leader(5, 2, "b:1"))
    router.failed("b:1", 0.0, "b:1: reset")
    assert router.choose() == "a:1"
    assert "b:1: reset" in router.why_unreachable()
    router.opening("b:1", 0.0)
    router.ready("b:1", 2)
    assert router.choose() == "b:1"


@pytest.mark.parametrize("failures", [1, 2, 5, 100])
def test_backoff_is_jittered_between_its_bounds(failures: int) -> None:
    waits = {backoff_s(failures, Random(seed)) for seed in range(200)}
    ceiling = min(0.5, 0.01 * 2**failures)
    assert 0.010 <= min(waits) < max(waits) <= ceiling
    assert max(waits) > 0.9 * ceiling


def test_polling_stays_within_what_failover_may_cost() -> None:
    waits = {poll_s(Random(seed)) for seed in range(200)}
    assert 0.010 <= min(waits) < 0.012
    assert 0.023 < max(waits) <= 0.025


def test_members_are_dialled_only_when_the_endpoints_at_hand_cannot_serve() -> None:
    router = make_router("a:1")
    router.ready("a:1", 1)
    router.heard_members({1: "somewhere-else:1", 2: "b:1", 3: "c:1", 4: "nonsense"})
    assert router.to_open(0.0) == ()
    router.found_no_leader()
    assert router.to_open(0.0) == ("b:1", "c:1"), "node 1 is at hand, under another address"
    router.found_leader()
    router.opening("b:1", 0.0)
    router.failed("b:1", 0.0, "gone")
    assert router.to_open(0.0) == ("c:1",), "it has a back-off, and is not dialled again at once"


def test_members_are_dialled_when_no_endpoint_answers() -> None:
    router = make_router("a:1")
    router.heard_members({2: "b:1"})
    assert router.to_open(0.0) == ()
    router.failed("a:1", 0.0, "gone")
    assert router.to_open(0.0) == ("b:1",)


def test_members_are_not_dialled_against_the_users_will() -> None:
    router = make_router("a:1", dial_learned=False)
    router.heard_members({2: "b:1"})
    router.failed("a:1", 0.0, "gone")
    router.found_no_leader()
    assert router.to_open(0.0) == ()
