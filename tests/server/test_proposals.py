"""Who waits for a write is told what is known, no more and no less."""

from __future__ import annotations

import pytest

from raftkv.errors import DeadlineExceeded, LeaderChanged, NotLeader, Overloaded, ShuttingDown
from raftkv.kv.commands import Batch, Group, KeepAlive, Put, Written
from raftkv.server.proposals import Decided, Proposals

GROUP = Group(0, 0, (Put(1, b"k", b"v"),))
WITH_SESSION = Group(9, 0, (Put(1, b"k", b"v"),))
RENEWAL = Group(9, 0, (KeepAlive(2, (1,)),))
BATCH = Batch(0, (GROUP,))
FOREVER = float("inf")


def proposals(max_bytes: int = 1000, max_commands: int = 10) -> Proposals:
    return Proposals(max_bytes=max_bytes, max_commands=max_commands)


async def test_results_go_to_those_who_proposed_them() -> None:
    queue = proposals()
    outcomes = [queue.add(GROUP, 10, FOREVER) for _ in range(2)]
    queue.placed(3, 7, BATCH, queue.take(1000, 100, 0.0))
    queue.applied(3, 7, [[Written(5)], [Written(6)]])
    assert [await outcome for outcome in outcomes] == [Decided([Written(5)], 3, 7), Decided([Written(6)], 3, 7)]


async def test_an_entry_of_another_leader_in_its_place_means_no_effect() -> None:
    queue = proposals()
    outcome = queue.add(GROUP, 10, FOREVER)
    queue.placed(3, 7, BATCH, queue.take(1000, 100, 0.0))
    queue.applied(4, 7, [[Written(5)]])
    with pytest.raises(NotLeader) as refused:
        await outcome
    assert not refused.value.ambiguous


async def test_an_entry_that_was_cut_off_here_may_still_be_applied() -> None:
    """It led, lost the entry at index 7 to another leader, and leads again: the old entry may live in another log."""
    for applied_term, expected in ((3, "first"), (5, "second"), (6, "neither")):
        queue = proposals()
        first, second = queue.add(GROUP, 10, FOREVER), queue.add(GROUP, 10, FOREVER)
        queue.placed(3, 7, BATCH, queue.take(10, 100, 0.0))
        queue.placed(5, 7, BATCH, queue.take(10, 100, 0.0))
        queue.applied(applied_term, 7, [[Written(9)]])
        for name, outcome in (("first", first), ("second", second)):
            if name == expected:
                assert await outcome == Decided([Written(9)], applied_term, 7)
            else:
                with pytest.raises(NotLeader, match="no effect"):
                    await outcome
        for _ in range(10):
            queue.add(GROUP, 100, FOREVER)  # all room was given back


async def test_an_entry_is_known_again_by_its_term_and_index_only() -> None:
    """It led in terms 3 and 5: another leader's entry is never taken for its own."""
    queue = proposals()
    batches = {term: Batch(term, (GROUP,)) for term in (3, 5)}
    for term, batch in batches.items():
        queue.add(GROUP, 10, FOREVER)
        queue.placed(term, 7, batch, queue.take(10, 100, 0.0))
    queue.leadership_lost()
    for term in range(2, 7):
        assert queue.batch_of(term, 7) is batches.get(term)
        assert queue.batch_of(term, 6) is queue.batch_of(term, 8) is None
    queue.applied(3, 7, [[Written(5)]])
    assert queue.batch_of(3, 7) is queue.batch_of(5, 7) is None


async def test_a_snapshot_takes_the_place_of_entries_that_were_made_here() -> None:
    queue = proposals()
    for index in (7, 8):
        queue.add(GROUP, 10, FOREVER)
        queue.placed(3, index, BATCH, queue.take(10, 100, 0.0))
    queue.overtaken(7)
    assert queue.batch_of(3, 7) is None
    assert queue.batch_of(3, 8) is BATCH


async def test_a_queued_write_had_no_effect_when_leadership_is_lost() -> None:
    queue = proposals()
    outcome = queue.add(WITH_SESSION, 10, FOREVER)
    queue.leadership_lost()
    with pytest.raises(NotLeader):
        await outcome


async def test_a_replicated_write_is_open_when_leadership_is_lost() -> None:
    queue = proposals()
    with_session, without = queue.add(WITH_SESSION, 10, FOREVER), queue.add(GROUP, 10, FOREVER)
    queue.placed(3, 7, BATCH, queue.take(1000, 100, 0.0))
    assert queue.leadership_lost() == [(without, 1)]
    with pytest.raises(LeaderChanged) as changed:
        await with_session
    assert changed.value.ambiguous
    assert not without.done()
    queue.applied(3, 7, [[Written(5)], [Written(6)]])
    assert (await without).results == [Written(6)]


async def test_a_write_whose_fate_stays_open_is_told_so() -> None:
    queue = proposals()
    outcome = queue.add(GROUP, 10, FOREVER)
    queue.placed(3, 7, BATCH, queue.take(1000, 100, 0.0))
    queue.give_up(queue.leadership_lost())
    with pytest.raises(LeaderChanged) as changed:
        await outcome
    assert changed.value.ambiguous
    queue.applied(3, 7, [[Written(5)]])  # nobody asks any more


async def test_room_is_given_back_when_a_write_is_decided() -> None:
    queue = proposals(max_bytes=20, max_commands=2)
    first, _ = queue.add(GROUP, 10, FOREVER), queue.add(GROUP, 10, FOREVER)
    with pytest.raises(Overloaded):
        queue.add(GROUP, 1, FOREVER)
    queue.placed(1, 1, BATCH, queue.take(10, 100, 0.0))
    with pytest.raises(Overloaded):
        queue.add(GROUP, 1, FOREVER)
    queue.applied(1, 1, [[Written(2)]])
    assert first.done()
    queue.add(GROUP, 10, FOREVER)


async def test_nobody_is_proposed_for_who_no_longer_waits() -> None:
    queue = proposals()
    late, cancelled, waiting = (queue.add(GROUP, 10, deadline) for deadline in (1.0, FOREVER, FOREVER))
    cancelled.cancel()
    taken = queue.take(1000, 100, 2.0)
    assert [proposal.outcome for proposal in taken] == [waiting]
    with pytest.raises(DeadlineExceeded) as refused:
        await late
    assert not refused.value.ambiguous


async def test_an_entry_holds_at_least_one_group_and_else_stays_within_its_bound() -> None:
    queue = proposals()
    for size in (50, 10, 10, 10):
        queue.add(GROUP, size, FOREVER)
    assert [len(queue.take(20, 100, 0.0)) for _ in range(3)] == [1, 2, 1]


async def test_an_entry_holds_a_bounded_number_of_commands() -> None:
    queue = proposals()
    for _ in range(5):
        queue.add(GROUP, 1, FOREVER)
    assert [len(queue.take(1000, 2, 0.0)) for _ in range(3)] == [2, 2, 1]


async def test_a_group_that_wants_an_entry_for_itself_gets_one() -> None:
    queue = proposals()
    for alone in (False, True, True, False, False):
        queue.add(GROUP, 1, FOREVER, alone=alone)
    assert [len(queue.take(1000, 100, 0.0)) for _ in range(4)] == [1, 1, 1, 2]


async def test_a_stopping_node_says_what_may_have_happened() -> None:
    queue = proposals()
    placed = queue.add(GROUP, 10, FOREVER)
    queue.placed(1, 1, BATCH, queue.take(1000, 100, 0.0))
    queued = queue.add(GROUP, 10, FOREVER)
    queue.fail_all(queued=ShuttingDown("no effect"), placed=ShuttingDown("open", ambiguous=True))
    with pytest.raises(ShuttingDown) as first:
        await placed
    with pytest.raises(ShuttingDown) as second:
        await queued
    assert (first.value.ambiguous, second.value.ambiguous) == (True, False)


async def test_what_takes_long_to_apply_fills_an_entry_sooner() -> None:
    """Heartbeats wait while an entry is applied: it may hold so much work, in however few commands."""
    queue = Proposals(max_bytes=1000, max_commands=120)
    for _ in range(4):
        queue.add(GROUP, 10, FOREVER, weight=30)
    assert [len(queue.take(1000, 60, 0.0)) for _ in range(2)] == [2, 2]
    with pytest.raises(Overloaded):
        queue.add(GROUP, 10, FOREVER, weight=30)  # those in the log count until they are applied


def groups(queue: Proposals, max_commands: int = 100) -> list[Group]:
    return [proposal.group for proposal in queue.take(1000, max_commands, 0.0)]


async def test_renewals_are_in_the_next_entry_however_much_waits() -> None:
    queue = proposals(max_commands=100)
    for _ in range(10):
        queue.add(GROUP, 1, FOREVER)
    first = RENEWAL._replace(acknowledged_below=1)
    queue.add(first, 1, FOREVER)
    queue.add(RENEWAL, 1, FOREVER)
    assert groups(queue, 4) == [first, RENEWAL, GROUP, GROUP]
    assert groups(queue, 4) == [GROUP] * 4


async def test_a_batch_that_does_more_than_renew_keeps_its_place() -> None:
    """A grant and the renewal of what it grants, in one batch, are applied in this order."""
    queue = proposals()
    mixed = Group(9, 0, (Put(1, b"k", b"v"), KeepAlive(2, (1,))))
    queue.add(GROUP, 1, FOREVER)
    queue.add(mixed, 1, FOREVER)
    assert groups(queue) == [GROUP, mixed]


@pytest.mark.parametrize("alone", [True, False])
async def test_renewals_without_end_hold_nothing_up(alone: bool) -> None:
    queue = proposals(max_commands=100)
    queue.add(GROUP, 1, FOREVER, alone=alone, weight=10)
    taken = []
    for _ in range(2):
        queue.add(RENEWAL, 1, FOREVER)
        taken.append(groups(queue, 10))
    assert taken == [[RENEWAL], [GROUP]]
    assert groups(queue, 10) == [RENEWAL]


async def test_renewals_have_room_where_writes_have_none_and_no_more_than_their_own() -> None:
    queue = proposals(max_bytes=800, max_commands=16)
    for _ in range(16):
        queue.add(GROUP, 1, FOREVER)
    with pytest.raises(Overloaded, match="16 writes"):
        queue.add(GROUP, 1, FOREVER)
    outcomes = [queue.add(RENEWAL, 1, FOREVER) for _ in range(2)]
    with pytest.raises(Overloaded, match="2 renewals"):
        queue.add(RENEWAL, 1, FOREVER)
    queue.placed(1, 1, BATCH, queue.take(1000, 2, 0.0))
    queue.applied(1, 1, [[Written(2)]] * 2)
    assert all(outcome.done() for outcome in outcomes)
    queue.add(RENEWAL, 1, FOREVER)


async def test_a_renewal_that_was_not_proposed_had_no_effect_either() -> None:
    queue = proposals()
    outcome = queue.add(RENEWAL, 1, FOREVER)
    queue.leadership_lost()
    with pytest.raises(NotLeader):
        await outcome


def full(queue: Proposals) -> bool:
    return queue.log_is_full  # asked for by a call: what it says changes between two of them


async def test_so_much_is_in_the_log_at_a_time() -> None:
    queue = Proposals(max_bytes=1000, max_commands=100, max_log_bytes=30, max_log_commands=3)
    for _ in range(4):
        queue.add(GROUP, 1, FOREVER)
    queue.placed(3, 7, BATCH, queue.take(1000, 2, 0.0))
    assert not full(queue)
    queue.placed(3, 8, BATCH, queue.take(1000, 1, 0.0))
    assert full(queue)
    queue.applied(3, 7, [[Written(5)]] * 2)
    assert not full(queue)
    queue.add(GROUP, 30, FOREVER)
    queue.placed(3, 9, BATCH, queue.take(1000, 10, 0.0))
    assert full(queue)
    queue.overtaken(9)
    assert not full(queue)


async def test_what_an_old_term_left_in_the_log_does_not_hold_up_a_new_one() -> None:
    """It may never be decided: nothing but new entries brings the log to where it stood."""
    queue = Proposals(max_bytes=1000, max_commands=100, max_log_commands=2)
    for _ in range(4):
        queue.add(GROUP, 1, FOREVER)
    queue.placed(3, 70, BATCH, queue.take(1000, 1, 0.0))
    queue.placed(5, 8, BATCH, queue.take(1000, 1, 0.0))
    assert not full(queue)
    queue.applied(5, 70, [])  # another leader's entry stands there by now
    assert not full(queue)
    queue.placed(5, 9, BATCH, queue.take(1000, 1, 0.0))
    assert full(queue)
