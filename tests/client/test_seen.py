"""What a client has seen, and what its reads carry."""

from __future__ import annotations

import pytest

from raftkv.client import Guarantee, ReadReceipt, ReadToken, WriteReceipt
from raftkv.client.seen import Seen
from raftkv.errors import ClusterMismatch, InvalidArgument, WriteLost


def seen(*places: tuple[int, int, bool]) -> Seen:
    made = Seen()
    for term, index, committed in places:
        made.heard(7, term, index, committed=committed)
    return made


def test_who_has_seen_nothing_carries_nothing() -> None:
    assert seen().to_carry() == ()
    assert seen().newest is None
    assert seen((1, 0, True)).newest is None


def test_the_highest_committed_place_is_kept() -> None:
    assert seen((1, 5, True), (2, 9, True), (1, 7, True)).to_carry() == (ReadToken(7, 2, 9),)


def test_an_open_write_is_carried_until_it_is_settled() -> None:
    made = seen((1, 5, True), (1, 6, False))
    assert made.to_carry() == (made.newest,) == (ReadToken(7, 1, 6, committed=False),)
    assert made.committed == ReadToken(7, 1, 5)


@pytest.mark.parametrize(
    ("place", "carried"),
    [
        ((1, 6, True), ReadToken(7, 1, 6)),  # that very entry
        ((1, 8, True), ReadToken(7, 1, 8)),  # one leader wrote that term's log in order
        ((2, 9, True), ReadToken(7, 1, 6, committed=False)),  # nobody can tell
    ],
)
def test_what_is_heard_later_settles_an_open_write(place: tuple[int, int, bool], carried: ReadToken) -> None:
    assert seen((1, 5, True), (1, 6, False), place).to_carry() == (carried,)


def test_an_older_answer_settles_it_as_well() -> None:
    made = seen((1, 6, False), (2, 9, True))
    made.heard(7, 1, 7, committed=True)
    assert made.to_carry() == (ReadToken(7, 2, 9),)


def test_a_later_term_below_it_means_that_it_is_lost_and_is_told_once() -> None:
    made = seen((1, 9, False), (2, 8, True))
    with pytest.raises(WriteLost, match=r"0000000000000007-1-9\?.* is lost: index 8 is committed in term 2"):
        made.to_carry()
    assert made.to_carry() == (ReadToken(7, 2, 8),)


@pytest.mark.parametrize(
    ("open_one", "committed"), [((1, 6), (2, 6)), ((1, 6), (2, 5)), ((2, 6), (1, 6)), ((2, 6), (1, 8))]
)
def test_what_cannot_be_in_one_log_with_the_committed_place_is_lost(
    open_one: tuple[int, int], committed: tuple[int, int]
) -> None:
    made = seen((*open_one, False), (*committed, True))
    with pytest.raises(WriteLost, match=f"is lost: index {committed[1]} is committed in term {committed[0]}"):
        made.to_carry()
    assert made.to_carry() == (ReadToken(7, *committed),)


def test_an_open_write_of_each_term_is_kept() -> None:
    """Of (1, 6) and (2, 6) one is lost, and which one is for the nodes to tell: none is forgotten."""
    first, second = ReadToken(7, 1, 6, committed=False), ReadToken(7, 2, 6, committed=False)
    for places in ([first, second], [second, first]):
        made = seen(*((one.term, one.index, False) for one in places))
        assert made.to_carry() == (first, second)
        assert made.newest == second
        assert made.settle(first)
        assert not made.settle(first)
        assert made.to_carry() == (second,)
        made.heard(7, 2, 6, committed=True)
        assert not made.is_open
    made = seen((1, 6, False), (2, 6, False), (2, 7, True))
    assert made.to_carry() == (first,)
    made = seen((1, 6, False), (2, 6, False), (2, 6, True))
    with pytest.raises(WriteLost, match="0000000000000007-1-6"):
        made.to_carry()
    assert made.to_carry() == (ReadToken(7, 2, 6),)


def test_the_newest_of_several_open_writes_of_a_term_is_kept() -> None:
    assert seen((1, 6, False), (1, 8, False), (1, 7, False)).to_carry() == (ReadToken(7, 1, 8, committed=False),)


def test_a_write_that_is_committed_already_is_not_open() -> None:
    assert seen((1, 8, True), (1, 7, False)).to_carry() == (ReadToken(7, 1, 8),)


def test_only_the_open_place_can_be_settled_and_only_once() -> None:
    made = seen((1, 5, True), (1, 6, False))
    assert not made.settle(ReadToken(7, 1, 4, committed=False))
    assert not made.settle(ReadToken(7, 1, 6))
    assert made.settle(ReadToken(7, 1, 6, committed=False))
    assert not made.settle(ReadToken(7, 1, 6, committed=False))
    assert made.to_carry() == (ReadToken(7, 1, 5),)


def test_another_cluster_is_not_taken_in() -> None:
    made = seen((1, 5, True))
    made.heard(8, 1, 99, committed=True)
    assert made.newest == ReadToken(7, 1, 5)
    with pytest.raises(ClusterMismatch, match="cluster 0000000000000008; this client talks to 0000000000000007"):
        made.take_over(ReadToken(8, 1, 99))
    made.take_over(ReadToken(7, 1, 6))
    assert made.newest == ReadToken(7, 1, 6)


@pytest.mark.parametrize("token", [ReadToken(1234, 7, 4211), ReadToken(2**64 - 1, 1, 1, committed=False)])
def test_a_token_is_carried_as_text(token: ReadToken) -> None:
    assert ReadToken.parse(str(token)) == token


def test_how_a_token_is_written() -> None:
    assert str(ReadToken(1234, 7, 4211)) == "00000000000004d2-7-4211"
    assert str(ReadToken(1234, 7, 4211, committed=False)) == "00000000000004d2-7-4211?"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?",
        "7-4211",
        "x-7-4211",
        "4d2-7",
        "4d2-7-",
        "4d2-7-0",
        "4d2--7-1",
        "4d2-7-1-1",
        "4d2-7-99999999999999999999",
        pytest.param("4d2-7-" + "9" * 5000, id="long index"),
        pytest.param("4d2-" + "9" * 5000 + "-1", id="long term"),
        pytest.param("9" * 5000 + "-1-1", id="long cluster"),
    ],
)
def test_what_is_no_token(text: str) -> None:
    with pytest.raises(InvalidArgument, match="token"):
        ReadToken.parse(text)


def read_at(index: int) -> ReadReceipt:
    return ReadReceipt(Guarantee.STALE_PREFIX, 7, 1, 1, index)


def test_a_local_read_is_called_no_more_than_it_is() -> None:
    made = seen((1, 5, True))
    assert made.labelled(read_at(5)).guarantee is Guarantee.AT_LEAST
    assert made.labelled(read_at(4)).guarantee is Guarantee.STALE_PREFIX
    assert seen().labelled(read_at(4)).guarantee is Guarantee.STALE_PREFIX
    made.heard(7, 1, 6, committed=False)
    assert made.labelled(read_at(9)).guarantee is Guarantee.STALE_PREFIX  # the open write may not be in it


@pytest.mark.parametrize(
    ("token", "called"),
    [
        (ReadToken(7, 1, 9), Guarantee.AT_LEAST),
        (ReadToken(7, 1, 10), Guarantee.STALE_PREFIX),
        (ReadToken(7, 1, 9, committed=False), Guarantee.STALE_PREFIX),
        (ReadToken(8, 1, 9), Guarantee.STALE_PREFIX),
        (ReadToken(7, 2, 9), Guarantee.STALE_PREFIX),
    ],
)
def test_what_was_asked_for_is_compared_with_the_token_that_was_given(token: ReadToken, called: Guarantee) -> None:
    assert seen().labelled(read_at(9), token).guarantee is called
    assert seen((1, 5, True)).labelled(read_at(9), token).guarantee is called
    assert seen((1, 10, True)).labelled(read_at(9), token).guarantee is Guarantee.STALE_PREFIX


def test_receipts_in_words() -> None:
    early = WriteReceipt(7, 1, 6, committed=False, durable_on=1, wanted=1)
    assert early.words == "not known to be committed, on the disks of 1: a change of leaders may lose it"
    assert early.token == ReadToken(7, 1, 6, committed=False)
    missed = WriteReceipt(7, 1, 6, committed=True, durable_on=2, wanted=3)
    assert missed.words == "committed, on the disks of 2, 3 were asked for and not reached in time"
    assert missed.reached is False
    uncounted = WriteReceipt(7, 1, 6, committed=True, durable_on=0, wanted=2)
    assert uncounted.words == "committed, how many have it on disk is not known"
    assert uncounted.reached is None
    assert WriteReceipt(7, 1, 6, committed=True, durable_on=0, wanted=1).reached is True
    assert WriteReceipt(7, 1, 6, committed=False, durable_on=0, wanted=1).reached is None
    assert (
        ReadReceipt(Guarantee.BOUNDED, staleness=0.25).words
        == "sees every write acknowledged at a majority more than 250 ms before"
    )
