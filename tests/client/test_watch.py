"""Watches of the client: every event once and in order, whatever nodes do and however slow the reader is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest

from raftkv.client import AsyncClient, Client, watch_mux
from raftkv.client import watch as watch_module
from raftkv.client.watch import AsyncWatch, Event, EventKind
from raftkv.errors import Compacted, ConnectionFailed, ErrorCode, InvalidArgument
from raftkv.kv.commands import Branch, Delete, Txn, TxnPut
from raftkv.server.watch_hub import WatchLimits
from tests.client.fake_watch import WatchCluster, client_of, watch_cluster


@pytest.fixture
async def cluster() -> AsyncIterator[WatchCluster]:
    async with watch_cluster(3) as running:
        yield running


@pytest.fixture
async def client(cluster: WatchCluster) -> AsyncIterator[AsyncClient]:
    async with client_of(cluster, attempt_timeout=0.3) as client, asyncio.timeout(60):
        yield client


async def take(events: AsyncWatch, count: int) -> list[Event]:
    return [await anext(events) for _ in range(count)]


def serving(cluster: WatchCluster) -> int:
    """Return the node that the watches are on."""
    (found,) = [node.id for node in cluster.nodes.values() if node.watched.hub.watches]
    return found


async def test_events_say_what_happened(cluster: WatchCluster, client: AsyncClient) -> None:
    cluster.put(b"a", b"before")
    async with client.watch(prefix="a", previous=True) as events:
        cluster.put(b"a", b"1")
        cluster.put(b"b")
        cluster.do(Delete(0, b"a", b""))
        put, deleted = await take(events, 2)
    assert (put.kind, put.key, put.value, put.revision) == (EventKind.PUT, b"a", b"1", 3)
    assert put.pair is not None
    assert (put.pair.create_revision, put.pair.mod_revision, put.pair.version) == (2, 3, 2)
    assert put.previous is not None
    assert put.previous.value == b"before"
    assert (deleted.kind, deleted.key, deleted.value, deleted.revision) == (EventKind.DELETE, b"a", b"", 5)
    assert deleted.pair is None
    assert deleted.previous is not None
    assert deleted.previous.mod_revision == 3


async def test_all_watches_of_a_client_share_one_stream(cluster: WatchCluster, client: AsyncClient) -> None:
    async with (
        client.watch("a") as one,
        client.watch(start="a", end="c") as two,
        client.watch("b", deletes=False, start_revision=1) as three,
    ):
        cluster.put(b"a")
        cluster.put(b"b")
        assert [event.key for event in await take(one, 1)] == [b"a"]
        assert [event.key for event in await take(two, 2)] == [b"a", b"b"]
        assert [event.key for event in await take(three, 1)] == [b"b"]
        assert sum(node.opened for node in cluster.nodes.values()) == 1
    node = cluster[1]
    while node.watched.hub.watches:  # noqa: ASYNC110 - the requests are on their way
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["break", "kill", "mute"])
async def test_a_watch_goes_on_elsewhere_without_gap_or_repeat(
    cluster: WatchCluster, client: AsyncClient, how: str
) -> None:
    seen: list[bytes] = []
    written: list[bytes] = []

    async def write(count: int) -> None:
        for _ in range(count):
            written.append(b"%d" % len(written))
            cluster.put(b"k", written[-1])
            await asyncio.sleep(0)

    async with client.watch("k") as events:
        for _ in range(3):
            await write(20)
            seen += [event.value for event in await take(events, 10)]
            node = cluster[serving(cluster)]
            if how == "break":
                node.break_streams()
            elif how == "kill":
                await node.stop()
            else:
                node.speaks.clear()
            await write(20)
            while len(seen) < len(written):
                seen.append((await anext(events)).value)
            if how == "kill":
                await node.restart()
            node.speaks.set()
    assert seen == written


async def test_a_quiet_watch_does_not_reread_the_past_when_it_moves(cluster: WatchCluster, client: AsyncClient) -> None:
    """Progress has brought it forward: it goes on behind what the store was at, not behind its last event."""
    async with client.watch("k") as events:
        for number in range(10):
            cluster.put(b"other", b"%d" % number)
        while events.revision < cluster.revision:  # noqa: ASYNC110 - the client asks by itself
            await asyncio.sleep(0.01)
        before = serving(cluster)
        cluster[before].break_streams()
        cluster.put(b"k")
        assert (await anext(events)).revision == cluster.revision
        after = cluster[serving(cluster)]
    assert after.creates[-1].start_revision == cluster.revision


async def test_a_quiet_watch_is_brought_forward_beside_a_busy_one(cluster: WatchCluster, client: AsyncClient) -> None:
    """Else it begins anew far back when it moves, and finds that compacted away though it has missed nothing."""
    async with client.watch("quiet") as quiet, client.watch("busy") as busy:
        opened = cluster.revision
        async with asyncio.timeout(60):
            while quiet.revision == opened:
                cluster.put(b"busy")
                await take(busy, 1)
                await asyncio.sleep(0.01)  # far less than the silence after which a stream is asked if it lives
        cluster.compact(quiet.revision)
        cluster[serving(cluster)].break_streams()
        cluster.put(b"quiet", b"seen")
        assert (await anext(quiet)).value == b"seen"


async def test_a_node_that_lags_tells_nothing_twice(cluster: WatchCluster, client: AsyncClient) -> None:
    async with client.watch("k") as events:
        before = serving(cluster)
        cluster.put(b"k", b"1", on=(before,))
        assert (await anext(events)).value == b"1"
        await cluster[before].stop()
        following = asyncio.ensure_future(anext(events))
        others = [node for node in cluster.nodes.values() if node.id != before]
        while not any(node.creates for node in others):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        (node,) = [node for node in others if node.creates]
        assert node.creates[-1].start_revision == 3
        assert node.watched.revision == 1
        cluster.put(b"k", b"2")
        assert (await following).value == b"2"


async def test_a_new_watch_does_not_see_what_its_client_wrote_before(
    cluster: WatchCluster, client: AsyncClient
) -> None:
    """Also on a node that has not applied it yet."""
    cluster.put(b"k", b"old", on=(1,))
    client._open().revision = 2
    cluster[1].refusal = ErrorCode.NO_LEADER
    async with client.watch("k") as events:
        assert serving(cluster) != 1
        cluster.put(b"k", b"new")
        assert (await anext(events)).value == b"new"


async def test_history_that_is_gone_is_an_error(cluster: WatchCluster, client: AsyncClient) -> None:
    for number in range(10):
        cluster.put(b"k", b"%d" % number)
    cluster.compact(7)
    with pytest.raises(Compacted) as caught:
        async with client.watch("k", start_revision=6):
            pass
    assert caught.value.compacted_revision == 7
    async with client.watch("k", start_revision=7) as events:
        assert (await anext(events)).revision == 7


async def test_compaction_while_no_node_is_there(cluster: WatchCluster, client: AsyncClient) -> None:
    async with client.watch("k") as events:
        cluster.put(b"k", b"1")
        assert (await anext(events)).value == b"1"
        for node in cluster.nodes.values():
            await node.stop()
        cluster.put(b"k", b"2")
        cluster.put(b"k", b"3")
        cluster.compact(4)
        for node in cluster.nodes.values():
            await node.restart()
        with pytest.raises(Compacted) as caught:
            await anext(events)
        assert caught.value.compacted_revision == 4
        with pytest.raises(Compacted):
            await anext(events)


async def test_what_makes_no_sense_is_refused(client: AsyncClient) -> None:
    with pytest.raises(InvalidArgument, match="which keys"):
        client.watch()
    with pytest.raises(InvalidArgument, match="nothing is left"):
        client.watch("k", puts=False, deletes=False)
    with pytest.raises(InvalidArgument, match="start_revision"):
        client.watch("k", start_revision=-1)
    with pytest.raises(InvalidArgument, match="key is too long"):
        async with client.watch(b"k" * 501):
            pass
    with pytest.raises(InvalidArgument, match="enter the watch first"):
        await anext(client.watch("k"))


async def test_a_reader_that_does_not_read_is_bounded_and_loses_nothing(
    cluster: WatchCluster, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its watch is given up and taken up again; the other one on the same stream goes on meanwhile."""
    monkeypatch.setattr(watch_module, "MAX_QUEUED_EVENTS", 50)
    async with client.watch("k") as slow, client.watch("k") as quick:
        most = 0
        for number in range(1_000):
            cluster.put(b"k", b"%d" % number)
            assert (await anext(quick)).value == b"%d" % number
            assert slow._subscription is not None
            most = max(most, slow._subscription._queued_events)
        assert most <= 60
        assert [event.value for event in await take(slow, 1_000)] == [b"%d" % number for number in range(1_000)]
    (node,) = [node for node in cluster.nodes.values() if node.opened]
    assert node.opened == 1
    starts = [create.start_revision for create in node.creates[2:]]
    assert starts, "the slow watch was never given up"
    assert starts == sorted(set(starts))


async def test_a_revision_is_handed_out_whole_also_when_its_fragments_break_off() -> None:
    limits = WatchLimits(message_bytes=1_000, turn_bytes=1, max_rest_s=0.0)
    async with watch_cluster(1, limits) as cluster, client_of(cluster) as client:  # noqa: SIM117 - what needs what
        async with client.watch(prefix="") as events, asyncio.timeout(30):
            keys = [b"%03d" % number for number in range(60)]
            puts = tuple(TxnPut(key, b"v" * 100, 0, False) for key in keys)
            cluster[1].fragments_to_break = 2
            cluster.do(Txn(0, (), Branch((), puts, ())))
            cluster.put(b"z")
            batches = [await events.next_batch() for _ in range(2)]
            assert [[event.key for event in batch or ()] for batch in batches] == [keys, [b"z"]]
            assert cluster[1].opened == 2


async def test_progress_is_told_when_nothing_happens() -> None:
    limits = WatchLimits(progress_s=0.02, max_rest_s=0.0)
    async with watch_cluster(1, limits) as cluster, client_of(cluster) as client:  # noqa: SIM117 - what needs what
        async with client.watch("k", progress=True) as events, asyncio.timeout(30):
            cluster.put(b"other")
            assert await events.next_batch() == ()
            assert events.revision >= 2 or await events.next_batch() == ()
            cluster.put(b"k")
            while not (batch := await events.next_batch()):
                assert batch is not None
            assert [event.revision for event in batch] == [3]


async def test_progress_of_the_watches_before_it_says_nothing_of_a_new_one(
    cluster: WatchCluster, client: AsyncClient
) -> None:
    """Found by the Jepsen workload `watch`: it opened a watch of the past, and was not told what it began with.

    Progress of a whole stream had been asked for before the watch was, and was answered before it existed.
    """
    for value in (b"1", b"2", b"3"):
        cluster.put(b"k", value)
    for node in cluster.nodes.values():
        node.tells_before_creating = True
    async with asyncio.timeout(60), client.watch("k", start_revision=2) as events:
        assert [event.value for event in await take(events, 3)] == [b"1", b"2", b"3"]
        cluster.put(b"k", b"4")
        async with client.watch("k", start_revision=3) as others:
            assert [event.value for event in await take(others, 3)] == [b"2", b"3", b"4"]


async def test_closing_ends_the_iteration(cluster: WatchCluster, client: AsyncClient) -> None:
    async with client.watch("k") as events:
        reader = asyncio.ensure_future(anext(events, None))
        await asyncio.sleep(0)
        events.close()
        assert await reader is None
    with pytest.raises(InvalidArgument, match="once"):
        await events.__aenter__()


async def test_closing_the_client_ends_its_watches(cluster: WatchCluster) -> None:
    async with client_of(cluster) as client:
        events = await client.watch("k").__aenter__()
        await client.close()
        with pytest.raises(ConnectionFailed, match="closed"):
            await anext(events)


async def test_two_readers_of_one_watch_are_told_so(client: AsyncClient) -> None:
    async with client.watch("k") as events:
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        with pytest.raises(InvalidArgument, match="two tasks"):
            await anext(events)
        first.cancel()


async def test_without_any_node_opening_fails_in_time() -> None:
    async with watch_cluster(1) as cluster:
        address = cluster[1].address
    async with AsyncClient([address]) as client:
        with pytest.raises(ConnectionFailed, match="no node has opened the watch within"):
            async with client.watch("k", timeout=0.1):
                pass


def test_the_blocking_twin_is_closed_from_another_thread() -> None:
    """What it runs on is an event loop of its own, so the nodes run on one too."""
    ready, done = threading.Event(), threading.Event()
    addresses: list[str] = []

    async def serve() -> None:
        async with watch_cluster(1) as cluster:
            cluster.put(b"k", b"1")
            addresses.extend(cluster.addresses)
            ready.set()
            await asyncio.to_thread(done.wait)

    server = threading.Thread(target=lambda: asyncio.run(serve()))
    server.start()
    try:
        assert ready.wait(60)
        with Client(addresses) as client, client.watch("k", start_revision=1) as events:
            assert next(events).value == b"1"
            closer = threading.Timer(0.05, events.close)
            closer.start()
            assert list(events) == []
            closer.join()
            assert list(events.batches()) == []
    finally:
        done.set()
        server.join()


async def test_nodes_that_break_every_stream_are_not_asked_in_a_tight_loop(
    cluster: WatchCluster, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[int] = []
    enough = asyncio.Event()

    def counted(in_a_row: int, _: object) -> float:
        failures.append(in_a_row)
        if in_a_row >= 5:
            enough.set()
        return 0.0

    monkeypatch.setattr(watch_mux, "backoff_s", counted)
    monkeypatch.setattr(watch_mux, "LASTING_S", 3600.0)
    for node in cluster.nodes.values():
        node.fickle = True
    async with client.watch("a"):
        await enough.wait()
    assert failures[:4] == [2, 3, 4, 5]
