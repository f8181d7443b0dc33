from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.quorum import Guarantee, in_words, majority, of_quorum_read
from raftkv.v1 import common_pb2

LINEARIZABLE, SEES = Guarantee.LINEARIZABLE, Guarantee.SEES_WRITES_AT_W_GE


@pytest.mark.parametrize(
    ("voters", "row"),
    [
        (1, [(LINEARIZABLE, 1)]),
        (2, [(SEES, 2), (LINEARIZABLE, 2)]),
        (3, [(SEES, 3), (LINEARIZABLE, 2), (LINEARIZABLE, 2)]),
        (4, [(SEES, 4), (SEES, 3), (LINEARIZABLE, 3), (LINEARIZABLE, 3)]),
        (5, [(SEES, 5), (SEES, 4), (LINEARIZABLE, 3), (LINEARIZABLE, 3), (LINEARIZABLE, 3)]),
    ],
)
def test_what_reads_of_every_size_are(voters: int, row: list[tuple[Guarantee, int]]) -> None:
    assert [of_quorum_read(replicas, voters) for replicas in range(1, voters + 1)] == row


@given(st.integers(1, 9), st.data())
def test_a_read_meets_what_it_claims_to_see(voters: int, data: st.DataObject) -> None:
    replicas = data.draw(st.integers(1, voters))
    guarantee, sees = of_quorum_read(replicas, voters)
    assert (guarantee is LINEARIZABLE) == (2 * replicas > voters)
    assert sees + replicas > voters, "some voter that has the write is asked"
    assert sees >= majority(voters), "below a majority a write may be lost, and come back"


def test_the_numbers_are_those_of_the_wire() -> None:
    assert {f"GUARANTEE_{one.name}": one.value for one in Guarantee} == dict(common_pb2.Guarantee.items())


def test_each_has_words_of_its_own() -> None:
    words = [in_words(one, sees_writes_at=4, staleness_ms=250) for one in Guarantee]
    assert len(set(words)) == len(Guarantee)
    assert in_words(SEES, sees_writes_at=4) == "sees every write acknowledged at W >= 4"
    assert in_words(Guarantee.BOUNDED, staleness_ms=250) == (
        "sees every write acknowledged at a majority more than 250 ms before"
    )
