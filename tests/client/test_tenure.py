"""How long a lease may be relied on. The clock is a number here."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.client import tenure
from raftkv.client.tenure import MAX_TTL_S, MIN_TTL_S, Tenure, margin_s, ttl_ms
from raftkv.errors import InvalidArgument

ttls = st.floats(MIN_TTL_S, MAX_TTL_S)
moments = st.floats(0, 1e9)


def test_the_margin_is_five_percent_and_at_least_a_tenth_of_a_second() -> None:
    assert margin_s(0.5) == 0.1
    assert margin_s(2.0) == 0.1
    assert margin_s(10.0) == 0.5
    assert margin_s(60.0) == 3.0


@given(ttl=ttls, sent_at=moments, on_the_way=st.floats(0, 100), drift=st.floats(-0.02, 0.02))
def test_the_client_knows_before_the_store_whatever_was_on_the_way(
    ttl: float, sent_at: float, on_the_way: float, drift: float
) -> None:
    ends_in_the_store = sent_at + on_the_way + ttl / (1 + drift)
    assert Tenure(ttl, sent_at).deadline < ends_in_the_store


def test_it_counts_from_sending_and_ends_for_good_at_the_deadline() -> None:
    lease = Tenure(10.0, sent_at=100.0)
    assert lease.remaining(100.0) == 9.5
    assert lease.remaining(104.5) == 5.0
    assert lease.remaining(109.5) == 0.0
    assert lease.remaining(1e9) == 0.0


def test_a_renewal_counts_from_its_own_sending_and_never_shortens() -> None:
    lease = Tenure(10.0, sent_at=100.0)
    lease.renewed(10.0, sent_at=106.0)
    lease.renewed(10.0, sent_at=103.0)  # an earlier attempt, answered later
    assert lease.deadline == 115.5
    lease.renewed(2.0, sent_at=107.0)  # the store says that less is left
    assert lease.deadline == 115.5


def test_it_is_renewed_at_a_third_of_its_ttl_and_a_failure_leaves_time_for_more() -> None:
    lease = Tenure(9.0, sent_at=100.0)
    assert not lease.due(102.9)
    assert lease.due(103.0)
    assert not lease.nearly_due(101.4)
    assert lease.nearly_due(101.5)
    lease.put_off(106.0)
    assert not lease.due(106.7)
    assert lease.due(106.75)
    assert lease.remaining(106.75) > 1.0


@given(ttl=ttls)
def test_three_attempts_of_a_third_fit_before_the_deadline(ttl: float) -> None:
    lease = Tenure(ttl, sent_at=0.0)
    assert lease.renew_at < lease.deadline
    assert lease.renew_at + ttl / 3 <= lease.deadline


@pytest.mark.parametrize("ttl", [0.5, 1, 10.0, 31_536_000])
def test_ttls_in_range(ttl: float) -> None:
    assert ttl_ms(ttl) == ttl * 1000


@pytest.mark.parametrize(
    "ttl", [0, 0.499, -1.0, math.nan, math.inf, -math.inf, 31_536_000.1, 1e300, "10", None, True, 10**400]
)
def test_nonsense_is_refused(ttl: float) -> None:
    with pytest.raises(InvalidArgument, match="ttl is"):
        ttl_ms(ttl)


def test_the_clock_passes_and_does_not_go_back() -> None:
    first = tenure.clock()
    time.sleep(0.002)
    assert tenure.clock() > first
