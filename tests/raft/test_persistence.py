"""What the confirmation of a write is worth, when later writes replace what it stored (raft-bugs 11, ADR 0001)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.invariant import InvariantViolation
from raftkv.raft import (
    Configuration,
    Entry,
    EntryKind,
    HardState,
    Index,
    LogWrite,
    Message,
    NodeId,
    Raft,
    RaftConfig,
    Term,
)
from raftkv.raft.messages import AppendRequest, AppendResponse, VoteRequest, VoteResponse
from raftkv.raft.persistence import PendingWrites
from tests.raft.network import Network, entries_of

ME, OLD, NEW = NodeId(1), NodeId(2), NodeId(3)


def follower(log_terms: list[int], term: int = 0) -> Raft:
    config = RaftConfig(node_id=ME, configuration=Configuration(frozenset({ME, OLD, NEW})))
    entries = entries_of(log_terms)
    last = entries[-1].term if entries else 0
    return Raft(
        config,
        hard_state=HardState(Term(max(term, last))),
        entries=entries,
        applied=Index(0),
        rng=random.Random(1),
    )


def append(leader: NodeId, term: int, previous: tuple[int, int], *terms: int) -> AppendRequest:
    """A request of `leader` in `term` behind (previous term, previous index), with entries of `terms`."""
    previous_term, previous_index = previous
    return AppendRequest(
        sender=leader,
        receiver=ME,
        term=Term(term),
        previous_index=Index(previous_index),
        previous_term=Term(previous_term),
        commit=Index(0),
        entries=tuple(
            Entry(Term(t), Index(previous_index + i), EntryKind.COMMANDS, b"of %d" % t)
            for i, t in enumerate(terms, start=1)
        ),
    )


def next_write(raft: Raft) -> LogWrite:
    ready = raft.ready()
    assert ready is not None
    assert ready.write is not None
    return ready.write


def acknowledged(message: Message) -> int:
    assert isinstance(message, AppendResponse)
    assert not message.rejected
    return message.index


def test_nothing_is_durable_before_it_is_confirmed() -> None:
    raft = follower([1])
    raft.step(append(OLD, 1, (1, 1), 1, 1))
    write = next_write(raft)
    assert (raft.log.last_index, raft.log.durable) == (3, 1)
    raft.persisted(write.number)
    assert raft.log.durable == 3


def test_an_acknowledgement_waits_for_its_write() -> None:
    raft = follower([1])
    raft.step(append(OLD, 1, (1, 1), 1))
    ready = raft.ready()
    assert ready is not None
    assert ready.messages == ()
    assert ready.write is not None
    assert [acknowledged(message) for message in ready.write.messages] == [2]


def test_a_repeated_request_is_not_acknowledged_before_the_first_one_is_durable() -> None:
    """The entries are in memory already; that is not what an acknowledgement says."""
    raft = follower([1])
    request = append(OLD, 1, (1, 1), 1)
    raft.step(request)
    first = next_write(raft)
    raft.step(request)
    second = next_write(raft)
    assert (second.entries, second.needs_disk) == ((), False)
    assert [acknowledged(message) for message in second.messages] == [2], "and only behind the first write"
    assert second.number > first.number


def test_what_is_replaced_before_it_was_stored_is_not_acknowledged() -> None:
    """Its leader would count a copy that was never on this disk, and tell so (durable_on)."""
    raft = follower([1])
    raft.step(append(OLD, 1, (1, 1), 1, 1))
    raft.step(append(NEW, 2, (1, 1), 2))
    write = next_write(raft)
    assert [(entry.term, entry.index) for entry in write.entries] == [(2, 2)]
    assert [(message.term, acknowledged(message)) for message in write.messages] == [(2, 2)]


def test_what_is_replaced_after_it_was_handed_over_is_acknowledged_with_the_write_that_stores_it() -> None:
    raft = follower([1])
    raft.step(append(OLD, 1, (1, 1), 1, 1))
    first = next_write(raft)
    raft.step(append(OLD, 1, (1, 2), 1))  # once more, the last of them
    raft.step(append(NEW, 2, (1, 1), 2))
    second = next_write(raft)
    assert [(message.term, acknowledged(message)) for message in first.messages] == [(1, 3)]
    assert [(message.term, acknowledged(message)) for message in second.messages] == [(2, 2)]


def test_confirming_a_write_confirms_all_before_it() -> None:
    raft = follower([1])
    for index in (1, 2, 3):
        raft.step(append(OLD, 1, (1, index), 1))
        write = next_write(raft)
    raft.persisted(write.number)
    assert raft.log.durable == 4
    raft.persisted(1)
    assert raft.log.durable == 4, "a confirmation that comes late says nothing new"


def test_a_confirmation_of_a_write_that_was_never_handed_out_is_a_bug_of_the_driver() -> None:
    raft = follower([1])
    with pytest.raises(InvariantViolation, match="write 1 was confirmed"):
        raft.persisted(1)


def test_bug_11_late_confirmation_of_an_overwritten_append() -> None:
    """The bug: an append was confirmed after another leader had replaced it, and the replacement counted as durable."""
    raft = follower([1])
    raft.step(append(OLD, 1, (1, 1), 1, 1))
    overwritten = next_write(raft)
    raft.step(append(NEW, 2, (1, 1), 2, 2))
    replacement = next_write(raft)

    raft.persisted(overwritten.number)
    assert raft.log.durable == 1, "entries 2 and 3 on disk are not those of the log"
    raft.persisted(replacement.number)
    assert raft.log.durable == 3


def test_bug_11_a_b_a() -> None:
    """The bug in its worst form: the entries come back. A position (term, index) cannot tell the first A from the
    second, because it is the same entry (log matching); the *number* of the write can.

    A: entries 2, 3 of term 1 are queued. B: a leader of term 3 replaces them. A again: a leader of term 4, whose log
    has the entries of term 1, puts them back. Confirming the first write says "(1, 3) is durable", and the log does
    hold (1, 3); but the disk is about to replace it by B, and a crash then would leave B.
    """
    raft = follower([1])
    raft.step(append(OLD, 2, (1, 1), 1, 1))
    first_a = next_write(raft)
    raft.step(append(NEW, 3, (1, 1), 3))
    b = next_write(raft)
    raft.step(append(OLD, 4, (1, 1), 1, 1, 4))
    second_a = next_write(raft)
    assert raft.log.matches(Index(3), Term(1)), "to a position, the first A would look confirmed"

    raft.persisted(first_a.number)
    assert raft.log.durable == 1
    raft.persisted(b.number)
    assert raft.log.durable == 1
    raft.persisted(second_a.number)
    assert raft.log.durable == 4


def test_bug_02_term_and_vote_are_one_value_and_the_promise_waits_for_it() -> None:
    """The bug: term and vote were persisted one after the other. The storage half is tests/storage's."""
    raft = follower([1])
    raft.step(VoteRequest(sender=NEW, receiver=ME, term=Term(7), last_index=Index(1), last_term=Term(1)))
    ready = raft.ready()
    assert ready is not None
    assert not [message for message in ready.messages if isinstance(message, VoteResponse)]
    assert ready.write is not None
    assert (ready.write.hard_state.term, ready.write.hard_state.vote) == (7, NEW)
    assert [type(message) for message in ready.write.messages] == [VoteResponse]


def test_the_commit_index_on_disk_lets_a_restarted_node_apply_before_it_hears_a_leader() -> None:
    """A hint: it is written along with what must be written anyway, and never above the entries beside it."""
    network = Network()
    network.elect(1)
    network.propose(1, b"x")
    network.propose(1, b"y")
    commit = network.node(2).disk_hard_state.commit
    assert 2 <= commit <= len(network.node(2).disk_log)
    network.node(2).applied.clear()  # the state machine was lost, as after a power loss
    network.oracle.state_lost(network.node(2))
    network.crash(2)
    network.restart(2)
    network.collect(2)
    assert network.applied_data(2) == [b"x"]


# --- against a model disk ---------------------------------------------------------------------------------------------

writes_and_confirmations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 6), st.integers(1, 3)),
        st.tuples(st.just("hand over"), st.just(0), st.just(0)),
        st.tuples(st.just("confirm"), st.integers(1, 3), st.just(0)),
    ),
    max_size=40,
)


@settings(derandomize=True)  # a control relies on its finding what it is there to find
@given(writes_and_confirmations)
def test_what_counts_as_durable_is_on_disk_now_and_after_every_write_under_way(
    script: list[tuple[str, int, int]],
) -> None:
    """A disk of which each write replaces a suffix. Up to `durable`, it agrees with the log, and no queued write will
    change that; and whenever all writes are confirmed, everything is durable.
    """
    pending = PendingWrites()
    log: list[int] = []  # each entry is unique
    disk: list[int] = []
    handed = durable = 0
    queue: list[tuple[int, int, list[int]]] = []
    unique = 0
    for action, a, b in script:
        if action == "append":
            first = max(1, len(log) + 1 - a)
            pending.truncate(Index(first))
            durable, handed = min(durable, first - 1), min(handed, first - 1)
            del log[first - 1 :]
            for _ in range(b):
                unique += 1
                log.append(unique)
        elif action == "hand over":
            number = pending.queue(Index(len(log)))
            queue.append((number, handed + 1, log[handed:]))
            handed = len(log)
        else:
            done, queue = queue[:a], queue[a:]
            for _, first, entries in done:
                if entries:
                    disk[first - 1 :] = entries
            if done:
                durable = max(durable, pending.confirm(done[-1][0]) or 0)
        future = list(disk)
        for state in [None, *queue]:
            if state is not None and state[2]:
                future[state[1] - 1 :] = state[2]
            assert future[:durable] == log[:durable], f"up to {durable} is not safe on disk: {future} against {log}"
        if not queue:
            assert durable == handed, "everything handed over is confirmed"
