"""One stream of watches, pulled by hand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftkv.errors import InvalidArgument, NoLeader
from raftkv.kv import history
from raftkv.kv.changes import decode_changed
from raftkv.kv.commands import (
    Acquire,
    Branch,
    GrantLease,
    LeaseGranted,
    LockKind,
    Place,
    Put,
    Release,
    RevokeLease,
    Txn,
    TxnPut,
)
from raftkv.kv.machine import StateMachine
from raftkv.kv.records import VERSION_BYTES
from raftkv.kv.view import View
from raftkv.server.watch_events import Event
from raftkv.server.watch_groups import Response
from raftkv.server.watch_hub import WatchHub, WatchLimits
from raftkv.v1 import common_pb2, watch_pb2
from tests.kv.dict_store import DictStore
from tests.kv.host import delete, put
from tests.server.watching import AT_ONCE, Stream, Watched, summary


def texts(told: list[watch_pb2.Event]) -> list[tuple[int, bytes]]:
    return [(event.kv.mod_revision, event.kv.key) for event in told]


def large_txn(keys: int, value_bytes: int) -> Txn:
    return Txn(0, (), Branch((), tuple(TxnPut(b"%03d" % n, b"v" * value_bytes, 0, False) for n in range(keys)), ()))


async def test_created_comes_first_and_says_where_it_begins() -> None:
    watched = Watched()
    watched.do(put(b"k", b"1"), put(b"k", b"2"))
    stream = Stream(watched)
    stream.create(1, b"k")
    stream.create(2, b"k", start_revision=2)
    stream.create(3, b"k", start_revision=9)
    stream.create(4, b"k", min_revision=5)
    watched.do(put(b"k", b"3"))
    await stream.pull_all()
    assert [one.created for one in stream.received[:4]] == [True] * 4
    assert {number: told.created for number, told in stream.told.items()} == {1: 3, 2: 1, 3: 8, 4: 5}
    assert {number: texts(told.events) for number, told in stream.told.items()} == {
        1: [(4, b"k")],
        2: [(2, b"k"), (3, b"k"), (4, b"k")],
        3: [],
        4: [],
    }
    watched.do(*(put(b"k") for _ in range(6)))
    await stream.pull_all()
    assert [event.kv.mod_revision for event in stream.told[3].events] == [9, 10]
    assert [event.kv.mod_revision for event in stream.told[4].events] == [6, 7, 8, 9, 10]
    await stream.close()


async def test_watches_that_want_the_same_are_told_at_once() -> None:
    watched = Watched()
    stream = Stream(watched)
    for number in range(1, 101):
        stream.create(number, b"k")
    stream.create(101, b"k", prev_kv=True)
    await stream.pull_all()
    before = len(stream.received)
    watched.do(put(b"k"))
    await stream.pull_all()
    responses = [one for one in stream.received[before:] if one.events]
    assert [len(one.watch_ids) for one in responses] == [100, 1]
    await stream.close()


async def test_filters_and_previous_values() -> None:
    watched = Watched()
    stream = Stream(watched)
    stream.create(1, b"k", no_puts=True, prev_kv=True)
    stream.create(2, b"k", no_deletes=True)
    watched.do(put(b"k", b"1"), delete(b"k"), put(b"k", b"2"))
    await stream.pull_all()
    assert summary(stream.told[1].events) == [(3, b"k", None, b"1")]
    assert summary(stream.told[2].events) == [(2, b"k", b"1", None), (4, b"k", b"2", None)]
    await stream.close()


def counting_previous(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Return what grows by (revision, size of the version before it) when that is read for the ring."""
    read: list[tuple[int, int]] = []
    plain = Event.read_previous

    def counted(event: Event, view: View) -> int:
        size = plain(event, view)
        read.append((event.change.revision, size))
        return size

    monkeypatch.setattr(Event, "read_previous", counted)
    return read


@pytest.mark.parametrize("from_history", [False, True])
async def test_large_previous_values_are_read_when_they_are_told(
    monkeypatch: pytest.MonkeyPatch, from_history: bool
) -> None:
    """Of the ring once for all streams, and only for those who want them."""
    read = counting_previous(monkeypatch)
    watched = Watched(WatchLimits(ring_bytes=0 if from_history else 32 << 20, max_rest_s=0.0))
    large = [bytes([65 + number]) * 100_000 for number in range(4)]
    watched.do(GrantLease(0, 7, 10_000))
    watched.do(put(b"k", large[0]), put(b"j", large[1]))
    watched.do(Txn(0, (), Branch((), (TxnPut(b"i", large[2], 7, False), TxnPut(b"h", large[3], 7, False)), ())))
    first = watched.revision + 1
    streams = [Stream(watched), Stream(watched)]
    for stream in streams:
        stream.create(1, b"\0", b"\0")
        await stream.pull_all()
    watched.do(put(b"k", b"1"), put(b"k", b"2"))
    for stream in streams:
        await stream.pull_all()
    assert read == []
    for stream in streams:
        stream.create(2, b"\0", b"\0", prev_kv=True, start_revision=first)
        stream.create(3, b"j", prev_kv=True)
        await stream.pull_all()
    watched.do(delete(b"j"), RevokeLease(0, 7))
    expected = [
        (first, b"k", b"1", large[0]),
        (first + 1, b"k", b"2", b"1"),
        (first + 2, b"j", None, large[1]),
        (first + 3, b"h", None, large[3]),
        (first + 3, b"i", None, large[2]),
    ]
    for stream in streams:
        await stream.pull_all()
        assert summary(stream.told[1].events) == [(*event[:3], None) for event in expected]
        assert summary(stream.told[2].events) == expected
        assert summary(stream.told[3].events) == expected[2:3]
        await stream.close()
    size = VERSION_BYTES + 100_000
    assert read == ([] if from_history else [(first + number, size) for number in (0, 2, 3, 3)])


async def test_large_previous_values_that_were_compacted_away_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    read = counting_previous(monkeypatch)
    watched = Watched()
    watched.do(put(b"k", b"v" * 100_000))
    stream = Stream(watched)
    stream.create(1, b"k", prev_kv=True)
    await stream.pull_all()
    watched.do(put(b"k", b"1"))
    watched.do(put(b"other"))
    watched.compact(watched.revision)
    watched.do(put(b"k", b"2"))
    await stream.pull_all()
    assert summary(stream.told[1].events) == [(3, b"k", b"1", None), (5, b"k", b"2", b"1")]
    assert read == [(3, 0)]
    await stream.close()


async def test_the_ring_counts_large_previous_values_that_it_may_come_to_hold() -> None:
    """Whether or not they are read, found or gone: else it grows without bound, or shrinks to nothing."""
    watched = Watched(WatchLimits(ring_bytes=1_000_000, max_rest_s=0.0))
    watched.do(*(put(b"%02d" % number, b"v" * 100_000) for number in range(20)))
    stream = Stream(watched)
    stream.create(1, b"\0", b"\0", prev_kv=True)
    await stream.pull_all()
    for number in range(20):
        watched.do(put(b"%02d" % number, b""))
        if number == 10:
            watched.compact(watched.revision)
        if number % 3:
            await stream.pull_all()
        held = [watched.hub.recent(revision) for revision in range(22, watched.revision + 1)]
        assert len([one for one in held if one is not None]) == min(number + 1, 4)
    await stream.pull_all()
    assert len(stream.told[1].events) == 20
    await stream.close()


async def test_a_canceled_watch_is_told_nothing_more() -> None:
    watched = Watched()
    stream = Stream(watched)
    stream.create(1, b"k")
    stream.create(2, b"k")
    watched.do(put(b"k", b"1"))
    await stream.pull_all()
    stream.cancel(1)
    watched.do(put(b"k", b"2"))
    await stream.pull_all()
    assert stream.told[1].canceled is not None
    assert len(stream.told[1].events) == 1
    assert len(stream.told[2].events) == 2
    assert watched.hub.watches == 1
    stream.create(1, b"k")
    watched.do(put(b"k", b"3"))
    await stream.pull_all()
    assert [event.kv.value for event in stream.told[1].events] == [b"3"]
    await stream.close()


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"key": b""}, common_pb2.INVALID_ARGUMENT),
        ({"key": b"b", "range_end": b"a"}, common_pb2.INVALID_ARGUMENT),
        ({"key": b"k", "no_puts": True, "no_deletes": True}, common_pb2.INVALID_ARGUMENT),
        ({"key": b"k", "place": watch_pb2.LockPlace(lock=b"l")}, common_pb2.INVALID_ARGUMENT),
        ({"key": b"k", "start_revision": 1}, common_pb2.COMPACTED),
    ],
)
async def test_a_watch_that_is_refused_leaves_the_others_alone(settings: dict[str, Any], code: int) -> None:
    watched = Watched()
    watched.do(put(b"k"), put(b"k"))
    watched.compact(3)
    stream = Stream(watched)
    stream.create(1, b"k")
    stream.create(2, **settings)
    watched.do(put(b"k", b"1"))
    await stream.pull_all()
    error = stream.told[2].canceled
    assert error is not None
    assert error.code == code
    assert error.message
    assert error.number == (3 if code == common_pb2.COMPACTED else 0)
    assert len(stream.told[1].events) == 1
    await stream.close()


async def test_a_number_in_use_is_refused_and_goes_on_as_it_was() -> None:
    watched = Watched()
    stream = Stream(watched)
    stream.create(1, b"k")
    await stream.pull()
    stream.create(1, b"other")
    response = await stream.pull()
    assert response.created
    assert response.canceled.code == common_pb2.INVALID_ARGUMENT
    watched.do(put(b"k"), put(b"other"))
    await stream.pull_all()
    assert stream.told[1].keys == [b"k"]
    await stream.close()


async def test_cancelling_a_watch_that_is_not_there_is_answered() -> None:
    stream = Stream(Watched())
    stream.cancel(7)
    response = watch_pb2.WatchResponse.FromString(await anext(stream.responses))
    assert list(response.watch_ids) == [7]
    assert response.canceled.code == common_pb2.INVALID_ARGUMENT
    with pytest.raises(InvalidArgument, match="kind"):
        stream.sender.handle(watch_pb2.WatchRequest())
    await stream.close()


async def test_limits_of_a_stream_and_of_a_node() -> None:
    watched = Watched(WatchLimits(max_stream_watches=3, max_watches=5, max_rest_s=0.0))
    first, second = Stream(watched), Stream(watched)
    for number in range(4):
        first.create(number, b"k")
        second.create(number, b"k")
    await first.pull_all()
    await second.pull_all()
    refused = first.told[3].canceled
    assert refused is not None
    assert refused.code == common_pb2.LIMIT_EXCEEDED
    refused = second.told[2].canceled
    assert refused is not None
    assert refused.code == common_pb2.OVERLOADED
    assert refused.retryable
    await first.close()
    assert watched.hub.watches == 2
    second.create(9, b"k")
    await second.pull_all()
    assert second.told[9].canceled is None
    await second.close()
    assert watched.hub.watches == 0


@pytest.mark.parametrize("from_history", [False, True])
async def test_a_large_revision_comes_in_fragments_or_ends_the_watch(from_history: bool) -> None:
    limits = WatchLimits(message_bytes=1_000, step_work=7, max_rest_s=0.0, ring_bytes=0 if from_history else 1 << 20)
    watched = Watched(limits)
    stream = Stream(watched)
    stream.create(1, b"0", b"1", fragment=True)
    stream.create(2, b"0", b"1")
    stream.create(3, b"001")
    watched.do(put(b"0", b"before"))
    watched.do(large_txn(40, 100))
    watched.do(put(b"0", b"after"))
    await stream.pull_all()
    expected = [b"0", *(b"%03d" % number for number in range(40)), b"0"]
    assert stream.told[1].keys == expected
    assert stream.told[1].fragments >= 4
    error = stream.told[2].canceled
    assert error is not None
    assert error.code == common_pb2.LIMIT_EXCEEDED
    assert stream.told[2].keys == [b"0"]
    assert stream.told[3].keys == [b"001"]
    for response in stream.received:
        assert response.ByteSize() < 1_500
        if response.fragment:
            assert {event.kv.mod_revision for event in response.events} == {3}
    await stream.close()


async def test_progress_is_told_to_those_who_want_it_while_nothing_happens() -> None:
    watched = Watched(WatchLimits(progress_s=0.01, max_rest_s=0.0))
    stream = Stream(watched)
    stream.create(1, b"k", progress_notify=True)
    stream.create(2, b"k")
    await stream.pull()
    await stream.pull()
    watched.do(put(b"other"))
    while stream.told[1].progress[-1:] != [2]:
        await stream.pull()
    assert not stream.told[2].progress
    await stream.close()


async def test_catching_up_does_not_hold_up_the_others() -> None:
    watched = Watched(WatchLimits(step_work=10, ring_bytes=20_000, max_rest_s=0.0))
    watched.do(*(put(b"old") for _ in range(1_000)))
    stream = Stream(watched)
    stream.create(1, b"old", start_revision=2)
    stream.create(2, b"new")
    await stream.pull()
    await stream.pull()
    for number in range(5):
        watched.do(put(b"new"))
        while len(stream.told[2].events) <= number:
            await stream.pull()
    assert len(stream.told[1].events) < 500
    await stream.pull_all()
    assert [event.kv.mod_revision for event in stream.told[1].events] == list(range(2, 1_002))
    await stream.close()


async def test_watches_that_are_opened_all_over_the_past_read_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(WatchLimits(ring_bytes=0, max_rest_s=0.0))
    watched.do(*(put(b"k", b"%d" % number) for number in range(300)))
    read: list[int] = []
    stream = Stream(watched)
    plain = stream.sender._read

    def counted(cohort: Any, stop: int) -> Any:
        stretch = plain(cohort, stop)
        read.extend(change.revision for change in stretch.changes)
        return stretch

    monkeypatch.setattr(stream.sender, "_read", counted)
    for number in range(300, 1, -3):
        stream.create(number, b"k", start_revision=number)
    await stream.pull_all()
    for number, told in stream.told.items():
        assert [event.kv.mod_revision for event in told.events] == list(range(number, 302))
    assert read == sorted(set(read))
    await stream.close()


@pytest.mark.parametrize("from_history", [False, True])
async def test_a_step_takes_along_all_watches_that_it_comes_to(
    monkeypatch: pytest.MonkeyPatch, from_history: bool
) -> None:
    """However many points in the past there are to begin at: the work is that of one watch from the first of them."""
    revisions, per_entry = 1_000, 100
    watched = Watched(WatchLimits(ring_bytes=0 if from_history else 1 << 30, max_rest_s=0.0))
    stream = Stream(watched)
    stream.create(0, b"other")  # the ring is filled for somebody only
    for number in range(0, revisions, per_entry):
        watched.do(*(put(b"k%d" % (number + one)) for one in range(per_entry)))
    rows: list[bytes] = []
    turns: list[int] = []

    def counted_row(row: bytes) -> Any:
        rows.append(row)
        return decode_changed(row)

    plain = stream.sender._turn

    async def counted_turn(out: list[Any]) -> bool:
        turns.append(len(stream.sender._cohorts))
        return await plain(out)

    monkeypatch.setattr(history, "decode_changed", counted_row)
    monkeypatch.setattr(stream.sender, "_turn", counted_turn)
    for number in range(2, revisions):
        stream.create(number, b"k%d" % (revisions - 1), start_revision=number)
    await stream.pull_all()
    for number in range(2, revisions):
        assert stream.told[number].revisions == [revisions + 1]
    assert len(turns) < 20
    assert len(rows) <= (revisions // per_entry + len(turns) if from_history else 0)
    await stream.close()


@pytest.mark.parametrize("from_history", [False, True])
async def test_a_turn_that_many_watches_join_is_as_small_as_others(
    monkeypatch: pytest.MonkeyPatch, from_history: bool
) -> None:
    """Whenever one joins, all that want the same must be told first: their numbers may be more than the events."""
    watches, turn_bytes = 400, 2_000
    ring_bytes = 0 if from_history else 1 << 30
    watched = Watched(WatchLimits(ring_bytes=ring_bytes, turn_bytes=turn_bytes, max_rest_s=0.0))
    stream = Stream(watched)
    stream.create(0, b"other")
    watched.do(*(put(b"k") for _ in range(watches)))
    sizes: list[int] = []
    plain = stream.sender._turn

    async def measured(out: list[Response]) -> bool:
        more = await plain(out)
        sizes.append(sum(len(response.head) + sum(map(len, response.events)) for response in out))
        return more

    monkeypatch.setattr(stream.sender, "_turn", measured)
    for number in range(1, watches + 1):
        stream.create(number, b"k", start_revision=number + 1)
    await stream.pull_all()
    for number in range(1, watches + 1):
        assert [event.kv.mod_revision for event in stream.told[number].events] == list(range(number + 1, watches + 2))
    # The last one to join may be one too many, and there is the end of the turn; 3 bytes for each number.
    assert max(sizes) < turn_bytes + 2 * 3 * watches + 1_000
    assert sum(sizes) > 20 * turn_bytes
    await stream.close()


async def test_a_long_search_in_the_past_gives_signs_of_life() -> None:
    watched = Watched(WatchLimits(notice_s=0.0, step_work=5, ring_bytes=0, max_rest_s=0.0))
    for _ in range(100):
        watched.do(put(b"other"))
    stream = Stream(watched)
    stream.create(1, b"k", start_revision=2)
    await stream.pull_all()
    progress = stream.told[1].progress
    assert len(progress) >= 2
    assert progress == sorted(progress)
    await stream.close()


async def test_who_does_not_pull_costs_nothing() -> None:
    """Nothing is made for it; the ring is bounded; what has left the ring comes from the store."""
    watched = Watched(WatchLimits(ring_bytes=10_000, max_rest_s=0.0))
    stream = Stream(watched)
    stream.create(1, b"k")
    await stream.pull_all()
    for number in range(2_000):
        watched.do(put(b"k", b"%d" % number))
    assert len(watched.hub._ring) < 30
    assert not stream.sender._answers
    await stream.pull_all()
    assert [event.kv.value for event in stream.told[1].events] == [b"%d" % number for number in range(2_000)]
    await stream.close()


async def test_nothing_is_kept_for_nobody() -> None:
    watched = Watched()
    watched.do(put(b"k"))
    assert not watched.hub._ring


async def test_a_change_wakes_whom_it_concerns_and_nobody_else() -> None:
    """However many there are: the others are not even looked at."""
    watched = Watched()
    touched: list[int] = []

    class Counted(Stream):
        def __init__(self, number: int) -> None:
            super().__init__(watched)
            plain = self.sender.touch

            def touch(revision: int) -> None:
                touched.append(number)
                plain(revision)

            self.sender.touch = touch  # type: ignore[method-assign]

    streams = [Counted(number) for number in range(200)]
    for number, stream in enumerate(streams):
        stream.create(1, b"k%d/" % number, b"k%d0" % number)
    watched.do(put(b"k7/x"), put(b"other"), put(b"k8/x"))
    assert touched == [7, 8]
    for stream in streams:
        await stream.close()


async def test_a_stream_that_slept_is_woken() -> None:
    watched = Watched()
    stream = Stream(watched)
    stream.create(1, b"k")
    await stream.pull()
    pull = asyncio.ensure_future(stream.pull())
    for _ in range(5):
        await asyncio.sleep(0)
    assert stream.sender._idle
    watched.do(put(b"other"))
    watched.do(put(b"k"))
    assert texts(list((await pull).events)) == [(3, b"k")]
    await stream.close()


async def test_requests_are_not_read_while_answers_wait() -> None:
    stream = Stream(Watched())
    for number in range(1_000):
        stream.create(number, b"k")
    room = asyncio.ensure_future(stream.sender.room())
    await asyncio.sleep(0)
    assert not room.done()
    await stream.pull_all()
    await room
    await stream.close()


async def test_the_end_comes_after_the_answers() -> None:
    stream = Stream(Watched())
    stream.create(1, b"k")
    stream.sender.end(NoLeader("gone"))
    assert (await stream.pull()).created
    with pytest.raises(NoLeader):
        await stream.pull()
    await stream.close()


@pytest.mark.parametrize("compacted", [False, True])
async def test_bug_45_a_store_that_is_replaced_leaves_no_gap(compacted: bool) -> None:
    """As by a snapshot from the leader: the node never applied what lies between."""
    watched = Watched(AT_ONCE)
    entries = [[put(b"k", b"%d" % number)] for number in range(10)]
    stream = Stream(watched)
    stream.create(1, b"k")
    ahead = Watched(AT_ONCE)
    for entry in entries[:3]:
        watched.do(*entry)
        ahead.do(*entry)
    await stream.fall_asleep()
    for entry in entries[3:7]:
        ahead.do(*entry)
    if compacted:
        ahead.compact(7)
    assert isinstance(ahead.store, DictStore)
    watched.store = DictStore(ahead.store.rows)
    watched.machine = StateMachine(watched.store)
    watched.hub.reset(watched.machine.revision)
    for entry in entries[7:]:
        watched.do(*entry)
    await stream.pull_all()
    told = stream.told[1]
    if compacted:
        assert told.canceled is not None
        assert told.canceled.code == common_pb2.COMPACTED
        assert told.canceled.number == 7
        assert len(told.events) == 3
    else:
        assert [event.kv.value for event in told.events] == [b"%d" % number for number in range(10)]
    await stream.close()


async def test_the_hub_finds_out_by_itself_that_it_missed_something() -> None:
    watched = Watched()
    stream = Stream(watched)
    stream.create(1, b"k")
    watched.do(Put(0, b"k", b"1"))
    await stream.fall_asleep()
    hub, watched.hub = watched.hub, WatchHub(watched.revision)
    watched.do(put(b"k", b"2"))
    watched.hub = hub
    watched.do(put(b"k", b"3"))
    await stream.pull_all()
    assert [event.kv.value for event in stream.told[1].events] == [b"1", b"2", b"3"]
    await stream.close()


async def test_what_did_not_concern_a_stream_that_slept_is_not_read_again() -> None:
    """Nor does it matter that it has been compacted away."""
    watched = Watched(WatchLimits(ring_bytes=0, max_rest_s=0.0))
    stream = Stream(watched)
    stream.create(1, b"k")
    await stream.fall_asleep()
    for _ in range(10):
        watched.do(put(b"other"))
    watched.compact(watched.revision)
    stream.create(2, b"k")
    await stream.fall_asleep()
    assert stream.told[1].canceled is None
    watched.do(put(b"k"))
    await stream.pull_all()
    assert len(stream.told[1].events) == len(stream.told[2].events) == 1
    await stream.close()


async def test_who_joins_while_the_past_is_read_is_told_so_first() -> None:
    watched = Watched(WatchLimits(ring_bytes=0, max_rest_s=0.0, step_work=1))
    for _ in range(20):
        watched.do(put(b"k"))
    stream = Stream(watched)
    stream.create(1, b"k", start_revision=2)
    await stream.pull()
    joined = 1
    while len(stream.told[1].events) < 20:
        pull = asyncio.create_task(stream.pull())
        while not pull.done():
            await asyncio.sleep(0)
            if watched.hub.history_turn.locked() and joined < 10:
                joined += 1
                rear = stream.sender._cohorts[0].cursor.revision
                stream.create(joined, b"k", start_revision=rear + joined % 2)
        await pull  # a KeyError: events of a watch that was never created
    assert joined == 10
    await stream.pull_all()
    for told in stream.told.values():
        assert told.created is not None
        assert [event.kv.mod_revision for event in told.events] == list(range(told.created + 1, 22))
    await stream.close()


async def test_a_stream_that_told_many_rests() -> None:
    """So that what comes meanwhile costs their client one message, and not one for each change."""
    watched = Watched(WatchLimits(rest_per_delivery_s=0.01, max_rest_s=0.05))
    stream = Stream(watched)
    for number in range(10):
        stream.create(number, b"k")
    await stream.pull_all()
    for _ in range(3):
        watched.do(put(b"k"))
    first = await stream.pull()
    assert len(first.events) == 3
    pull = asyncio.create_task(stream.pull())
    for _ in range(4):
        watched.do(put(b"k"))
        for _ in range(5):
            await asyncio.sleep(0)
    assert len((await pull).events) == 4
    await stream.close()


async def test_places_in_a_line_are_watched_one_by_one_or_all() -> None:
    """Whoever waits for a lock is told of its own place only."""
    watched = Watched()
    leases = []
    for _ in range(3):
        (granted,) = watched.do(GrantLease(0, 0, 10_000))
        assert isinstance(granted, LeaseGranted)
        leases.append(granted.lease)
    places = []
    for lease in leases:
        (place,) = watched.do(Acquire(0, b"lock", lease, LockKind.MUTEX, True, 0, b"host", True))
        assert isinstance(place, Place)
        places.append(place)
    stream = Stream(watched)
    for number, place in enumerate(places, 1):
        stream.create(
            number,
            place=watch_pb2.LockPlace(lock=b"lock", ticket=place.ticket),
            start_revision=place.revision + 1,
        )
    stream.create(9, place=watch_pb2.LockPlace(lock=b"lock"), start_revision=2)
    stream.create(10, b"\0", b"\0", start_revision=2)
    watched.do(Release(0, b"lock", leases[0]))
    await stream.pull_all()

    def contenders(number: int) -> list[tuple[int, int, int]]:
        return [(event.kind, event.contender.ticket, event.contender.token) for event in stream.told[number].events]

    deleted, put_ = watch_pb2.Event.DELETE, watch_pb2.Event.PUT
    first, second, third = (place.ticket for place in places)
    assert contenders(1) == [(deleted, first, 0)]
    (granted_second,) = stream.told[2].events
    contender = granted_second.contender
    assert (contender.ticket, contender.lease, contender.value) == (second, leases[1], b"host")
    assert (int(contender.kind), contender.exclusive, contender.limit) == (int(LockKind.MUTEX), True, 0)
    assert contender.token > places[0].token
    assert granted_second.kv.mod_revision == watched.revision
    assert contenders(3) == []
    assert sorted(contenders(9)) == sorted(
        [
            (put_, first, places[0].token),
            (put_, second, 0),
            (put_, third, 0),
            (deleted, first, 0),
            (put_, second, contender.token),
        ]
    )
    assert stream.told[10].events == []
    await stream.close()
