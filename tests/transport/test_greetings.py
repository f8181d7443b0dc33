"""Which versions of the protocol two nodes talk in, and what comes of it when they have none in common."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest
import structlog

from raftkv.raft import NodeId
from raftkv.testing.processes import free_port
from raftkv.transport import greetings
from raftkv.transport.complaints import LONGEST_S, REASONS, Complaints
from raftkv.transport.greetings import Greeting, Versions, newest_of_all
from raftkv.transport.grpc_peer import GrpcTransport, Identity, PeerStreams
from raftkv.v1 import peer_pb2, peer_pb2_grpc
from tests.transport.test_contract import CLUSTER, Recorder, Streams, reply

ONE, TWO = NodeId(1), NodeId(2)


@pytest.mark.parametrize(
    ("here", "there", "common"),
    [
        (Versions(1, 1), Versions(1, 1), 1),
        (Versions(1, 2), Versions(1, 1), 1),
        (Versions(1, 2), Versions(2, 3), 2),
        (Versions(1, 3), Versions(1, 3), 3),
        (Versions(1, 1), Versions(2, 2), None),
        (Versions(1, 2), Versions(3, 4), None),
        (Versions(1, 2), Versions(0, 0), None),
    ],
)
def test_two_nodes_talk_in_the_newest_version_that_both_know(
    here: Versions, there: Versions, common: int | None
) -> None:
    assert here.newest_common(there) == common
    assert there.newest_common(here) == common


def test_what_an_earlier_release_says_is_one_version() -> None:
    assert Greeting.of(peer_pb2.Hello(protocol_version=1)) == Greeting(Versions(1, 1), "", {})
    ranged = peer_pb2.Hello(protocol_version=4, oldest_protocol_version=2, release="0.4.0", agreed_settings={"a": "b"})
    assert Greeting.of(ranged) == Greeting(Versions(2, 4), "0.4.0", {"a": "b"})
    turned = peer_pb2.Hello(protocol_version=2, oldest_protocol_version=4)
    assert Greeting.of(turned).versions == Versions(2, 2)


def test_the_newest_version_of_all_is_that_of_the_oldest_release() -> None:
    assert newest_of_all(Versions(1, 3), []) == 3
    assert newest_of_all(Versions(1, 3), [Versions(1, 4), Versions(1, 2)]) == 2
    assert newest_of_all(Versions(2, 3), [Versions(1, 1)]) == 3, "they do not talk"


@asynccontextmanager
async def two(here: Greeting, there: Greeting) -> AsyncIterator[tuple[GrpcTransport, GrpcTransport]]:
    """Two nodes that say this of themselves, each with a port of its own."""
    async with AsyncExitStack() as stack:
        addresses = {node: f"127.0.0.1:{free_port()}" for node in (ONE, TWO)}
        transports = []
        for node, greeting in ((ONE, here), (TWO, there)):
            identity = Identity(cluster_id=CLUSTER, node_id=node, client_address="", greeting=greeting)
            transport = GrpcTransport(identity, {peer: at for peer, at in addresses.items() if peer != node})
            server = grpc.aio.server()
            server.add_insecure_port(addresses[node])
            peer_pb2_grpc.add_PeerServicer_to_server(Streams(transport), server)  # type: ignore[abstract]
            await server.start()
            stack.push_async_callback(server.stop, None)
            stack.push_async_callback(transport.close)
            transports.append(transport)
        yield transports[0], transports[1]


async def talk(sender: GrpcTransport, recorder: Recorder) -> None:
    """Send until something arrives."""
    async with asyncio.timeout(10):
        while not recorder.messages:
            sender.send([reply(ONE, TWO, 1)])
            await asyncio.sleep(0.01)


async def test_neighbouring_releases_talk_in_what_both_know_and_know_what_the_other_speaks() -> None:
    new, old = Greeting(Versions(1, 2), "0.3.0", {"quota_bytes": "1"}), Greeting(Versions(1, 1), "0.2.0")
    heard: list[Mapping[NodeId, Greeting]] = []
    with structlog.testing.capture_logs() as lines:
        async with two(new, old) as (sender, receiver):
            receiver._greeted = lambda greetings: heard.append(dict(greetings))
            recorders = Recorder(), Recorder()
            await receiver.start(recorders[1])
            await sender.start(recorders[0])
            await talk(sender, recorders[1])
            async with asyncio.timeout(10):
                while not sender.greetings:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert heard[0] == {ONE: new}
            assert sender.greetings == {TWO: old}
            assert (sender.protocol_version, receiver.protocol_version) == (1, 1)
            receiver.reconfigure({})
            assert heard[-1] == {}, "it was removed, though it still streams to this node"
            assert receiver.greetings == {ONE: new}
            receiver.left_by(ONE)
            assert receiver.greetings == {}
    connected = [line for line in lines if line["event"] == "connected to peer"]
    assert {line["protocol_version"] for line in connected} == {1}


@pytest.mark.parametrize("caller", [Greeting(Versions(3, 4), "0.9.0"), Greeting(Versions(3, 3), "")])
async def test_nodes_without_a_common_version_do_not_talk_and_say_why(caller: Greeting) -> None:
    with structlog.testing.capture_logs() as lines:
        async with two(caller, Greeting(Versions(1, 2), "0.3.0")) as (sender, receiver):
            recorders = Recorder(), Recorder()
            await receiver.start(recorders[1])
            await sender.start(recorders[0])
            async with asyncio.timeout(10):
                while sum(line["event"] == "no connection to peer" for line in lines) < 2:
                    sender.send([reply(ONE, TWO, 1)])
                    await asyncio.sleep(0.01)
            assert recorders[1].messages == []
            assert recorders[0].failures == recorders[1].failures == []
            assert sender.greetings == receiver.greetings == {}
    reasons = {line["reason"] for line in lines if "reason" in line}
    release = caller.release or "(an early one)"
    assert any(f"node 1 runs raftkv {release}, which speaks {caller.versions}" in reason for reason in reasons)
    assert any("node 2 runs raftkv 0.3.0, which speaks versions 1 to 2" in reason for reason in reasons)
    assert all("upgrade one release at a time" in reason for reason in reasons)


@pytest.mark.parametrize(
    "answer",
    [
        peer_pb2.HelloReply(verdict=77, reason="of a later release"),  # type: ignore[arg-type]
        peer_pb2.HelloReply(protocol_version=9),
    ],
    ids=["a verdict that it does not know", "a version that it does not speak"],
)
async def test_an_answer_that_a_node_does_not_know_is_no_welcome(answer: peer_pb2.HelloReply) -> None:
    """So OTHER_PROTOCOL reaches releases that have never heard of it: they show its reason and send nothing."""

    class Answers(peer_pb2_grpc.PeerServicer):
        async def Stream(  # noqa: N802
            self,
            request_iterator: AsyncIterator[peer_pb2.PeerFrame],
            context: grpc.aio.ServicerContext[peer_pb2.PeerFrame, peer_pb2.HelloReply],
        ) -> AsyncIterator[peer_pb2.HelloReply]:
            frames.append(await anext(request_iterator))
            yield answer
            async for frame in request_iterator:
                frames.append(frame)  # noqa: PERF401 - looked at while more come

    frames: list[peer_pb2.PeerFrame] = []
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    peer_pb2_grpc.add_PeerServicer_to_server(Answers(), server)  # type: ignore[abstract]
    await server.start()
    transport = GrpcTransport(Identity(cluster_id=CLUSTER, node_id=ONE, client_address=""), {TWO: f"127.0.0.1:{port}"})
    try:
        with structlog.testing.capture_logs() as lines:
            await transport.start(Recorder())
            async with asyncio.timeout(10):
                while len(frames) < 2:
                    transport.send([reply(ONE, TWO, 1)])
                    await asyncio.sleep(0.01)
        assert all(frame.HasField("hello") for frame in frames), "greetings, and nothing else"
        reasons = [line["reason"] for line in lines if line["event"] == "no connection to peer"]
        assert reasons == [answer.reason or "node 2 answers in version 9 of the protocol; this node speaks version 1"]
    finally:
        await transport.close()
        await server.stop(None)


def test_a_release_of_nonsense_is_shown_short_and_in_one_line() -> None:
    transport = GrpcTransport(Identity(cluster_id=CLUSTER, node_id=ONE, client_address=""), {})
    hello = peer_pb2.Hello(cluster_id=CLUSTER, to=1, protocol_version=9, release="\n\x1b[31m" + 5000 * "x")
    refusal = PeerStreams(transport).judge(hello)
    assert refusal is not None
    assert refusal.reason.isprintable()
    assert len(refusal.reason) < 500


def test_a_node_can_be_told_to_be_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greetings, "PROTOCOL_VERSION", 5)
    assert Identity(cluster_id=CLUSTER, node_id=ONE, client_address="").greeting.versions == Versions(1, 5)


async def test_a_peer_that_is_not_there_is_told_of_once_a_step_however_often_it_is_tried() -> None:
    transport = GrpcTransport(Identity(cluster_id=CLUSTER, node_id=ONE, client_address=""), {TWO: "127.0.0.1:1"})
    recorder, now = Recorder(), 0.0
    with structlog.testing.capture_logs() as lines:
        await transport.start(recorder)
        transport._links[TWO]._complaints = Complaints(lambda: now)

        async def tried(times: int) -> None:
            seen = len(recorder.lost) + times
            await recorder.until(lambda found: len(found.lost) >= seen)

        await tried(3)
        now = 1.0
        await tried(3)
        await transport.close()
    told = [line for line in lines if line["event"] == "no connection to peer"]
    assert [(line["peer"], line["for_s"], line["next_line_in_s"]) for line in told] == [
        (TWO, 0.0, 1.0),
        (TWO, 1.0, 2.0),
    ]
    assert "127.0.0.1:1" in told[0]["reason"]


def test_what_goes_on_is_told_in_steps_that_grow() -> None:
    now = 100.0
    complaints = Complaints(lambda: now)
    told = []
    for step in range(2000):  # ten attempts a second
        now = 100.0 + step / 10
        if complaints.due("nobody there"):
            told.append((round(complaints.lasts_s, 1), complaints.next_in_s))
    assert told == [(0.0, 1.0), (1.0, 2.0), (3.0, 4.0), (7.0, 8.0), (15.0, 16.0), (31.0, 32.0), (63.0, 60.0),
                    (123.0, LONGEST_S), (183.0, LONGEST_S)]  # fmt: skip
    complaints.over()
    assert complaints.lasts_s == 0
    assert complaints.due("nobody there"), "another outage"


def test_something_new_is_told_at_once_but_not_without_end() -> None:
    complaints = Complaints(lambda: 0.0)
    assert [complaints.due(reason) for reason in ("a", "b", "a", "b")] == [True, True, False, False]
    assert sum(complaints.due(f"reason {number}") for number in range(100)) == REASONS - 2
