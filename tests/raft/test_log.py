"""The log against a plain list, and its refusals."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.invariant import InvariantViolation
from raftkv.raft import Entry, EntryKind, Index, Term
from raftkv.raft.log import ENTRY_OVERHEAD_BYTES, Log, entry_bytes
from tests.raft.network import entries_of

terms = st.lists(st.integers(1, 6), max_size=12).map(sorted)


def log_of(log_terms: Sequence[int], *, commit: int = 0, applied: int = 0) -> Log:
    return Log(entries_of(log_terms), commit=Index(commit), applied=Index(applied))


def content(log: Log) -> list[Entry]:
    return list(log.slice(log.first_index, Index(log.last_index + 1), 1 << 40))


@given(terms)
def test_a_log_reads_like_a_list(log_terms: list[int]) -> None:
    log = log_of(log_terms)
    assert content(log) == entries_of(log_terms)
    assert (log.first_index, log.last_index) == (1, len(log_terms))
    assert log.last_term == (log_terms[-1] if log_terms else 0)
    assert [log.term(Index(i)) for i in range(-1, len(log_terms) + 2)] == [None, 0, *log_terms, None]


@given(terms, st.integers(0, 12), st.lists(st.integers(0, 3), max_size=5), st.integers(0, 12))
def test_append_replaces_what_it_contradicts_and_everything_behind(
    log_terms: list[int], keep: int, growth: list[int], commit: int
) -> None:
    """Paper figure 2, AppendEntries receiver, steps 3 and 4."""
    keep = min(keep, len(log_terms))
    log = log_of(log_terms, commit=min(commit, keep))
    term = log_terms[keep - 1] if keep else 1
    added = []
    for offset, step in enumerate(growth, start=1):
        term += step
        added.append(Entry(Term(term), Index(keep + offset), EntryKind.COMMANDS, b"new"))
    log.append(added)
    if added:
        assert content(log) == entries_of(log_terms)[:keep] + added
        assert log.durable == log.handed_over == keep
        assert list(log.unwritten()) == added
    else:
        assert content(log) == entries_of(log_terms)
        assert log.durable == len(log_terms)
    log.validate()


@given(terms, st.data())
def test_new_entries_are_those_behind_the_first_difference(mine: list[int], data: st.DataObject) -> None:
    """Paper figure 2, AppendEntries receiver, step 3: what matches already is no conflict (raft-bugs 15)."""
    theirs = data.draw(terms)
    start = data.draw(st.integers(0, len(theirs)))
    stop = data.draw(st.integers(start, len(theirs)))
    request = entries_of(theirs)[start:stop]
    different = [e for e in request if e.index > len(mine) or mine[e.index - 1] != e.term]
    expected = request[different[0].index - 1 - start :] if different else []
    assert list(log_of(mine).new_entries(Index(start), request)) == expected


@given(terms, terms)
def test_up_to_date_compares_the_last_term_then_the_length(mine: list[int], theirs: list[int]) -> None:
    """Paper 5.4.1."""
    my_last, their_last = (mine or [0])[-1], (theirs or [0])[-1]
    expected = their_last > my_last if my_last != their_last else len(theirs) >= len(mine)
    assert log_of(mine).is_up_to_date(Index(len(theirs)), Term(their_last)) == expected


@given(terms, terms, st.integers(0, 12))
def test_a_hint_skips_no_index_at_which_the_logs_may_match(mine: list[int], theirs: list[int], previous: int) -> None:
    """Paper 5.3: linear probing would find the same index, one request at a time.

    A request of a leader with the log `theirs` does not match at `previous`. The true point of agreement never lies
    above the hint of the follower, nor above what the leader makes of that hint.
    """
    previous = min(previous, len(theirs))
    previous_term = Term(theirs[previous - 1] if previous else 0)
    follower, leader = log_of(mine), log_of(theirs)
    hint_index, hint_term = follower.hint(Index(previous), previous_term)
    next_probe, _ = leader.hint(hint_index, hint_term)

    probe = previous
    while not follower.matches(Index(probe), leader.term(Index(probe)) or Term(0)):
        probe -= 1  # linear probing

    assert probe <= next_probe <= hint_index <= previous
    assert follower.term(hint_index) == hint_term <= previous_term


@given(terms, terms)
def test_probing_by_hints_takes_at_most_one_request_a_term(mine: list[int], theirs: list[int]) -> None:
    """Paper 5.3: "one AppendEntries RPC will be required for each term with conflicting entries"."""
    follower, leader = log_of(mine), log_of(theirs)
    probe, requests = Index(len(theirs)), 0
    while not follower.matches(probe, leader.term(probe) or Term(0)):
        requests += 1
        hint_index, hint_term = follower.hint(probe, leader.term(probe) or Term(0))
        probe = Index(min(probe - 1, leader.hint(hint_index, hint_term)[0]))
    assert requests <= 1 + min(len(set(mine)), len(set(theirs)))


def test_one_hint_replaces_a_thousand_probes() -> None:
    """Thesis 3.5's example: a follower with a long tail of a term that the leader never saw."""
    follower, leader = log_of([1] * 5 + [2] * 1000), log_of([1] * 5 + [3] * 1000)
    hint_index, hint_term = follower.hint(Index(1005), Term(3))
    assert (hint_index, hint_term) == (1005, 2)
    assert leader.hint(hint_index, hint_term) == (5, 1)


@given(terms, st.data())
def test_a_slice_stops_at_the_size_but_never_at_nothing(log_terms: list[int], data: st.DataObject) -> None:
    log = log_of(log_terms)
    start = data.draw(st.integers(1, len(log_terms) + 1))
    stop = data.draw(st.integers(start, len(log_terms) + 1))
    limit = data.draw(st.integers(0, 10 * ENTRY_OVERHEAD_BYTES))
    wanted = entries_of(log_terms)[start - 1 : stop - 1]
    taken = log.slice(Index(start), Index(stop), limit)
    assert list(taken) == wanted[: len(taken)]
    assert taken or not wanted
    assert len(taken) <= 1 or sum(map(entry_bytes, taken)) <= limit
    if len(taken) < len(wanted):
        assert sum(map(entry_bytes, wanted[: len(taken) + 1])) > limit, "it could have taken one more"


def test_only_what_is_committed_and_durable_here_is_applied() -> None:
    """L2: the state on disk is never ahead of the log on disk."""
    log = log_of([1, 1])
    log.append([Entry(Term(2), Index(3)), Entry(Term(2), Index(4))])
    log.commit = Index(1)
    assert [entry.index for entry in log.applicable(1 << 20)] == [1], "committed only up to 1"
    log.commit = Index(4)
    assert [entry.index for entry in log.applicable(1 << 20)] == [1, 2], "durable only up to 2"
    log.durable = Index(4)
    log.handed_out = Index(2)
    assert [entry.index for entry in log.applicable(1)] == [3], "one at a time if they are large"


def test_a_committed_entry_is_never_replaced() -> None:
    """Raft-bugs 16."""
    log = log_of([1, 1, 1], commit=2)
    with pytest.raises(InvariantViolation, match="entry 2 would replace a committed one"):
        log.append([Entry(Term(2), Index(2))])
    assert content(log) == entries_of([1, 1, 1]), "the refusal changed the log"


def test_a_gap_is_refused() -> None:
    with pytest.raises(InvariantViolation, match="leaves a gap"):
        log_of([1]).append([Entry(Term(1), Index(3))])


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param([Entry(Term(1), Index(3))], id="an older term behind a newer one"),
        pytest.param([Entry(Term(3), Index(3)), Entry(Term(2), Index(4))], id="older within one append"),
        pytest.param([Entry(Term(2), Index(3)), Entry(Term(2), Index(5))], id="a hole within one append"),
    ],
)
def test_indexes_are_contiguous_and_terms_never_decrease(wrong: list[Entry]) -> None:
    """L1. The hints rely on it (paper 5.3), and so does the comparison of logs (paper 5.4.1)."""
    log = log_of([1, 2])
    with pytest.raises(InvariantViolation, match="L1"):
        log.append(wrong)
    assert content(log) == entries_of([1, 2]), "the refusal changed the log"


def test_a_recovered_log_that_is_out_of_order_is_refused() -> None:
    with pytest.raises(InvariantViolation, match="L1"):
        Log([Entry(Term(1), Index(2))], commit=Index(0), applied=Index(0))
    with pytest.raises(InvariantViolation, match="L1"):
        Log([Entry(Term(2), Index(1)), Entry(Term(1), Index(2))], commit=Index(0), applied=Index(0))


def test_a_state_ahead_of_its_log_is_refused() -> None:
    with pytest.raises(InvariantViolation, match="not of the same node"):
        log_of([1, 1], applied=3)


def test_a_recovered_commit_index_is_between_applied_and_the_end() -> None:
    """The commit index on disk is a hint: it may lag the applied index, and outlive a torn tail."""
    assert log_of([1, 1, 1], commit=1, applied=2).commit == 2
    assert log_of([1, 1], commit=9).commit == 2
