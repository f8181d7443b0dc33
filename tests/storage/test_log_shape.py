"""The rules of a log against a log that keeps every entry."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft.types import Index, Term
from raftkv.storage.log_shape import LogShape
from tests.storage.support import entry, hard


@given(seed=st.integers(0, 2**32 - 1))
def test_terms_and_extent_follow_every_append(seed: int) -> None:
    random = Random(seed)
    shape = LogShape()
    terms: list[int] = []
    term = 1
    for _ in range(20):
        term += random.choice((0, 0, 1, 3))
        first = random.randint(1, len(terms) + 1)
        low = terms[first - 2] if first > 1 else 1
        new = sorted(random.randint(low, term) for _ in range(random.randint(0, 4)))
        entries = tuple(entry(at, first + offset) for offset, at in enumerate(new))
        assert shape.violation(hard(term), entries) is None
        shape.advance(hard(term), entries)
        if entries:
            terms[first - 1 :] = new
        assert shape.last_index == len(terms)
        assert shape.hard_state == hard(term)
        assert [shape.term_at(Index(index)) for index in range(len(terms) + 2)] == [0, *terms, 0]


def test_a_log_may_begin_later_than_at_one() -> None:
    shape = LogShape(Index(9), Term(1))
    assert shape.last_index == 9
    assert shape.violation(hard(1), (entry(1, 1),)) is not None
    assert shape.violation(hard(1), (entry(1, 10),)) is None
    shape.advance(hard(1), (entry(1, 10),))
    assert shape.term_at(Index(10)) == Term(1)
    assert (shape.term_at(Index(9)), shape.term_at(Index(8))) == (Term(1), Term(0))


def test_a_log_begins_anew_only_where_term_vote_and_commit_allow_it() -> None:
    shape = LogShape()
    shape.advance(hard(3, 2, 4), tuple(entry(3, index) for index in range(1, 7)))
    assert shape.restart_violation(hard(3, 2, 4), Index(9), Term(3)) is None
    assert shape.restart_violation(hard(4), Index(4), Term(4)) is None
    for hard_state, index, term, message in (
        (hard(3, 2), 9, 4, "entry of term 4 with the node in term 3"),
        (hard(2, 2), 9, 2, "term goes back"),
        (hard(3, 1), 9, 3, "vote in term 3 changes"),
        (hard(3, 2), 3, 3, "commit index goes back from 4 to 3"),
        (hard(3, 2, 10), 9, 3, "commit index 10 lies beyond entry 9"),
    ):
        assert message in str(shape.restart_violation(hard_state, Index(index), Term(term)))
