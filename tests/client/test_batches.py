"""What shares a message with what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from raftkv.client import AsyncClient, AtLeast, Bounded, Quorum, ReadFrom, ReadLevel
from raftkv.client.batches import (
    MAX_BATCH_BYTES,
    MAX_BATCH_OPERATIONS,
    PROBES,
    RENEWALS,
    Queue,
    lane_of_read,
    lane_of_write,
)
from raftkv.client.calls import COMMON, Call, Kind
from raftkv.client.levels import Concern, Level
from raftkv.quorum import parse_concern
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster


@pytest.fixture(name="loop")
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def make_call(
    loop: asyncio.AbstractEventLoop,
    kind: Kind = Kind.WRITE,
    *,
    number: int = 1,
    session: int = 0,
    size: int = 10,
    lane: int = COMMON,
) -> Call:
    operation = kv_pb2.Operation(put=kv_pb2.PutRequest(key=b"k", value=b"v"))
    call = Call(kind, operation, size, timeout=2.0, deadline=100.0, future=loop.create_future(), lane=lane)
    call.id = operation.id = number
    call.session = session
    return call


def queue_of(*calls: Call) -> Queue:
    queue = Queue()
    for call in calls:
        queue.push(call)
    return queue


def ids(queue: Queue) -> list[int]:
    """Cut a message and return what is in it."""
    return [call.id for call in queue.cut(1, 0.0)[1]]


def test_a_message_is_bounded_in_operations_and_bytes(loop: asyncio.AbstractEventLoop) -> None:
    queue = queue_of(*(make_call(loop, number=number) for number in range(1, MAX_BATCH_OPERATIONS + 3)))
    request, calls = queue.cut(1, 0.0)
    assert len(calls) == len(request.operations) == MAX_BATCH_OPERATIONS
    assert len(queue.take_all()) == 2
    assert not queue
    half = MAX_BATCH_BYTES // 2
    assert ids(queue_of(*(make_call(loop, number=number, size=half + 1) for number in (1, 2)))) == [1]
    queue = queue_of(make_call(loop, size=5 * MAX_BATCH_BYTES))
    assert ids(queue) == [1], "one operation always fits, or it would never leave"


def test_what_is_urgent_goes_first_and_shares_a_message_with_nothing_else(loop: asyncio.AbstractEventLoop) -> None:
    """A message is answered as a whole: it would wait for the slowest of what is in it."""
    lanes = (COMMON, RENEWALS, COMMON, PROBES, RENEWALS)
    queue = queue_of(*(make_call(loop, number=number, lane=lane) for number, lane in enumerate(lanes)))
    assert queue.has_urgent()
    assert [ids(queue), ids(queue)] == [[3], [1, 4]]
    assert not queue.has_urgent()
    assert ids(queue) == [0, 2]
    assert not queue


def test_lanes_take_turns(loop: asyncio.AbstractEventLoop) -> None:
    many = [make_call(loop, number=number) for number in range(2 * MAX_BATCH_OPERATIONS)]
    other = lane_of_write(parse_concern("all"))
    queue = queue_of(*many, make_call(loop, number=1000, lane=other), make_call(loop, number=1001, lane=other))
    assert ids(queue) == [call.id for call in many[:MAX_BATCH_OPERATIONS]]
    assert ids(queue) == [1000, 1001]
    assert ids(queue) == [call.id for call in many[MAX_BATCH_OPERATIONS:]]


def test_a_message_holds_writes_of_one_session_and_any_reads(loop: asyncio.AbstractEventLoop) -> None:
    read = Kind.READ
    queue = queue_of(
        make_call(loop, read, number=1),
        make_call(loop, number=2, session=7),
        make_call(loop, read, number=3),
        make_call(loop, number=4, session=8),
    )
    request, _ = queue.cut(2, 0.0)
    assert (request.session, [one.id for one in request.operations]) == (7, [1, 2, 3])
    request, _ = queue.cut(2, 0.0)
    assert (request.session, [one.id for one in request.operations]) == (8, [4])


def test_a_message_leaves_out_what_nobody_waits_for_and_gives_the_most_patient_its_time(
    loop: asyncio.AbstractEventLoop,
) -> None:
    gone, patient, hasty = make_call(loop, number=1), make_call(loop, number=2), make_call(loop, number=3)
    gone.future.cancel()
    hasty.deadline = 99.0
    request, calls = queue_of(gone, patient, hasty).cut(2, 98.5)
    assert calls == [patient, hasty]
    assert 1500 <= request.timeout_ms <= 1501
    queue = queue_of(gone)
    assert queue.cut(2, 98.5)[1] == []
    assert not queue


def test_no_two_kinds_have_one_lane() -> None:
    read, level = kv_pb2.RangeRequest, kv_pb2.ReadLevel
    reads = [
        read(here=True),
        read(level=level.LOCAL),
        read(level=level.LEASE),
        read(level=level.AT_LEAST),
        *(read(level=level.BOUNDED, max_staleness_ms=bound) for bound in (1, 2, 2**32 - 1)),
        *(read(level=level.QUORUM, replicas=replicas) for replicas in (0, 1, 2, 2**32 - 1)),
    ]
    lanes = [COMMON, PROBES, RENEWALS]
    lanes += [lane_of_read(one, foreign=foreign) for one in reads for foreign in (False, True)]
    lanes += [lane_of_write(parse_concern(concern)) for concern in ("leader", 2, 3, 2**31 - 1, "all")]
    assert len(set(lanes)) == len(lanes)
    assert lane_of_read(read()) == lane_of_write(0) == lane_of_write(parse_concern("majority")) == COMMON


async def test_what_may_wait_longer_travels_by_itself(single: FakeCluster) -> None:
    """Everything is asked for in one turn of the loop; each message is of one kind."""
    node = single.nodes[1]
    async with AsyncClient(single.nodes[1].address) as client:
        token = (await client.put("k", "v")).receipt.token
        assert token is not None
        await client.get("k")
        node.batches.clear()
        levels: list[Level] = [ReadLevel.LOCAL, ReadLevel.LEASE, Quorum(1), Bounded(1.0), AtLeast(token)]
        concerns: list[Concern] = [1, "all"]
        await asyncio.gather(
            *(client.put(f"a{number}", "v") for number in range(3)),
            *(client.put("b", "v", concern=concern) for concern in concerns for _ in range(2)),
            client.put("c", "v", concern="majority"),
            client.delete("c", concern="all"),
            client.get("k"),
            *(client.get("k", level=level) for level in levels for _ in range(2)),
        )
    kinds = [[kind_of(one) for one in batch.operations] for batch in node.batches]
    assert all(len(set(one)) == 1 for one in kinds), kinds
    counts = sorted((one[0], len(one)) for one in kinds)
    # LOCAL carries what the client has seen: it is AT_LEAST that, and apart from AT_LEAST a token that was handed in.
    expected = [("common", 5), ("write 1", 2), ("write -2", 3), ("AT_LEAST", 2), ("AT_LEAST", 2)]
    expected += [("LEASE", 2), ("QUORUM", 2), ("BOUNDED", 2)]
    assert counts == sorted(expected)


async def test_reads_that_a_follower_answers_linearizably_travel_apart_from_writes(single: FakeCluster) -> None:
    async with AsyncClient(single.nodes[1].address, read_from=ReadFrom.NEAREST) as client:
        await client.put("k", "v")
        single.nodes[1].batches.clear()
        await asyncio.gather(client.put("k", "v"), client.get("k"), client.get("k"))
    assert sorted(len(batch.operations) for batch in single.nodes[1].batches) == [1, 2]


def kind_of(operation: kv_pb2.Operation) -> str:
    if operation.HasField("range"):
        level = operation.range.level
        return kv_pb2.ReadLevel.Name(level) if level != kv_pb2.ReadLevel.LINEARIZABLE else "common"
    write = operation.put if operation.HasField("put") else operation.delete
    return "common" if write.write_concern in (0, -1) else f"write {write.write_concern}"
