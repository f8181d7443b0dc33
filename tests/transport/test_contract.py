"""One suite for both transports: in memory, and gRPC streams between real ports of this machine."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest

from raftkv.errors import FailedPrecondition, NoRoom, StorageError
from raftkv.raft import Entry, EntryKind, Index, Message, NodeId, Term
from raftkv.raft.messages import AppendRequest, HeartbeatResponse
from raftkv.testing.processes import free_port
from raftkv.transport import checkpoints, grpc_peer
from raftkv.transport.channel import SERVER_OPTIONS
from raftkv.transport.greetings import Greeting
from raftkv.transport.grpc_peer import PROTOCOL_VERSION, GrpcTransport, Identity, PeerStreams, _Link
from raftkv.transport.memory import MemoryHub
from raftkv.transport.protocols import CheckpointNotSent, Incoming, Transport
from raftkv.v1 import peer_pb2, peer_pb2_grpc

IDS = [NodeId(1), NodeId(2), NodeId(3)]
CLUSTER = 42


class IncomingBytes:
    """A checkpoint that is received into memory; the first 5 bytes were here already."""

    def __init__(self) -> None:
        self.content = b"01234"
        self.finished = self.closed = False

    @property
    def offset(self) -> int:
        return len(self.content)

    async def write_chunk(self, offset: int, data: bytes, crc: int) -> int:
        assert (offset, crc) == (self.offset, zlib.crc32(data))
        self.content += data
        return self.offset

    async def finish(self) -> None:
        self.finished = True

    def close(self) -> None:
        self.closed = True


@dataclass(frozen=True)
class BytesPiece:
    offset: int
    data: bytes
    crc: int


class OutgoingBytes:
    """A checkpoint in memory, which is read in pieces of at most 1000 bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def encoded_manifest(self) -> bytes:
        return b"manifest"

    async def read_chunk(self, offset: int, size: int) -> BytesPiece:
        data = self.content[offset : offset + min(size, 1000)]
        return BytesPiece(offset, data, zlib.crc32(data))

    def size_bytes(self) -> int:
        return len(self.content)


class Recorder:
    """A driver that only writes down what comes."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.unreachable: list[NodeId] = []
        self.lost: list[NodeId] = []
        self.failures: list[BaseException] = []
        self.accepts = b""
        self.incoming: IncomingBytes | None = None
        self.changed = asyncio.Event()

    def on_messages(self, messages: Sequence[Message]) -> None:
        self.messages += messages
        self.changed.set()

    def on_unreachable(self, peer: NodeId) -> None:
        self.unreachable.append(peer)
        self.changed.set()

    def on_connection_lost(self, peer: NodeId) -> None:
        self.lost.append(peer)
        self.changed.set()

    async def begin_checkpoint(self, manifest: bytes) -> Incoming:
        if manifest != self.accepts:
            raise FailedPrecondition(f"no room for {manifest!r}")
        self.incoming = IncomingBytes()
        return self.incoming

    def on_failure(self, error: BaseException) -> None:
        self.failures.append(error)
        self.changed.set()

    async def until(self, condition: Callable[[Recorder], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()


class Nodes:
    """Three transports and their recorders."""

    def __init__(self, transports: dict[NodeId, Transport], cut: Callable[[NodeId], None]) -> None:
        self.transports = transports
        self.recorders = {node: Recorder() for node in transports}
        self.cut = cut
        """Make one node unreachable for the others."""

    async def connect(self) -> None:
        """Start, and talk until every message gets through: connections need a moment."""
        for node, transport in self.transports.items():
            await transport.start(self.recorders[node])
        async with asyncio.timeout(60):
            while any(len({message.sender for message in r.messages}) < 2 for r in self.recorders.values()):
                self._send_all(0)
                await asyncio.sleep(0.01)
            # Some of them may be on their way still. What comes last comes behind them.
            self._send_all(last := 1_000_000)
            for node, recorder in self.recorders.items():
                wanted = [reply(other, node, last) for other in IDS if other != node]
                await recorder.until(lambda found, wanted=wanted: all(one in found.messages for one in wanted))  # type: ignore[misc]
        for recorder in self.recorders.values():
            recorder.messages.clear()

    def _send_all(self, number: int) -> None:
        for sender in IDS:
            self.transports[sender].send([reply(sender, other, number) for other in IDS if other != sender])


def reply(sender: NodeId, receiver: NodeId, number: int) -> HeartbeatResponse:
    return HeartbeatResponse(sender=sender, receiver=receiver, term=Term(1), read_sequence=number)


class Streams(peer_pb2_grpc.PeerServicer):
    def __init__(self, transport: GrpcTransport) -> None:
        self.transport = transport
        self.streams = PeerStreams(transport)

    async def SendCheckpoint(  # noqa: N802
        self,
        request_iterator: AsyncIterator[peer_pb2.CheckpointPiece],
        context: grpc.aio.ServicerContext[peer_pb2.CheckpointPiece, peer_pb2.CheckpointProgress],
    ) -> AsyncIterator[peer_pb2.CheckpointProgress]:
        async for progress in checkpoints.receive(self.transport, request_iterator, context):
            yield progress

    async def Stream(  # noqa: N802
        self,
        request_iterator: AsyncIterator[peer_pb2.PeerFrame],
        context: grpc.aio.ServicerContext[peer_pb2.PeerFrame, peer_pb2.HelloReply],
    ) -> AsyncIterator[peer_pb2.HelloReply]:
        async for answer in self.streams.serve(request_iterator, context):
            yield answer


@asynccontextmanager
async def memory_nodes() -> AsyncIterator[Nodes]:
    hub = MemoryHub()

    def cut(node: NodeId) -> None:
        for other in IDS:
            if other != node:
                hub.cut(other, node)

    nodes = Nodes({node: hub.transport(node) for node in IDS}, cut)
    yield nodes
    for transport in nodes.transports.values():
        await transport.close()


@asynccontextmanager
async def grpc_nodes() -> AsyncIterator[Nodes]:
    async with contextlib.AsyncExitStack() as stack:
        addresses = {node: f"127.0.0.1:{free_port()}" for node in IDS}
        servers: dict[NodeId, grpc.aio.Server] = {}
        transports: dict[NodeId, Transport] = {}
        for node in IDS:
            transport = GrpcTransport(
                Identity(cluster_id=CLUSTER, node_id=node, client_address=f"client-{node}:1"),
                {peer: address for peer, address in addresses.items() if peer != node},
            )
            server = grpc.aio.server(options=list(SERVER_OPTIONS))
            server.add_insecure_port(addresses[node])
            peer_pb2_grpc.add_PeerServicer_to_server(Streams(transport), server)  # type: ignore[abstract]
            await server.start()
            stack.push_async_callback(server.stop, None)
            stack.push_async_callback(transport.close)
            servers[node], transports[node] = server, transport
        cuts: list[asyncio.Task[None]] = []
        yield Nodes(transports, lambda node: cuts.append(asyncio.ensure_future(servers[node].stop(None))))
        await asyncio.gather(*cuts)


@pytest.fixture(params=[memory_nodes, grpc_nodes], ids=["memory", "grpc"])
async def nodes(request: pytest.FixtureRequest) -> AsyncIterator[Nodes]:
    async with request.param() as found:
        await found.connect()
        yield found


async def test_messages_arrive_whole_and_in_order(nodes: Nodes) -> None:
    entries = tuple(Entry(Term(1), Index(i), EntryKind.COMMANDS, bytes([i]) * 50_000) for i in range(1, 40))
    sent: list[Message] = []
    for number in range(200):
        sent.append(reply(IDS[0], IDS[1], number))
        if number % 50 == 0:
            sent.append(
                AppendRequest(
                    sender=IDS[0],
                    receiver=IDS[1],
                    term=Term(1),
                    previous_index=Index(0),
                    previous_term=Term(0),
                    commit=Index(0),
                    entries=entries,
                )
            )
    for message in sent:
        nodes.transports[IDS[0]].send([message])
    receiver = nodes.recorders[IDS[1]]
    await receiver.until(lambda recorder: len([m for m in recorder.messages if m.sender == IDS[0]]) >= len(sent))
    assert [message for message in receiver.messages if message.sender == IDS[0]] == sent


async def test_a_lost_peer_is_reported_and_holds_up_nobody(nodes: Nodes) -> None:
    nodes.cut(IDS[2])
    sender = nodes.recorders[IDS[0]]
    await sender.until(lambda recorder: IDS[2] in recorder.unreachable)
    nodes.transports[IDS[0]].send([reply(IDS[0], IDS[2], 1), reply(IDS[0], IDS[1], 2)])
    await nodes.recorders[IDS[1]].until(lambda recorder: reply(IDS[0], IDS[1], 2) in recorder.messages)
    assert reply(IDS[0], IDS[2], 1) not in nodes.recorders[IDS[2]].messages


async def test_a_checkpoint_arrives_whole_and_goes_on_where_it_ended(nodes: Nodes) -> None:
    content = b"0123456789" * 700
    receiver = nodes.recorders[IDS[1]]
    receiver.accepts = b"manifest"
    await nodes.transports[IDS[0]].send_checkpoint(IDS[1], OutgoingBytes(content))
    assert receiver.incoming is not None
    assert receiver.incoming.content == content
    assert receiver.incoming.finished


async def test_a_checkpoint_that_is_refused_or_has_no_way_says_why(nodes: Nodes) -> None:
    with pytest.raises(CheckpointNotSent, match="no room for b'manifest'"):
        await nodes.transports[IDS[0]].send_checkpoint(IDS[1], OutgoingBytes(b"content"))
    with pytest.raises(CheckpointNotSent, match="node 9"):
        await nodes.transports[IDS[0]].send_checkpoint(NodeId(9), OutgoingBytes(b"content"))


async def test_nothing_is_delivered_after_close(nodes: Nodes) -> None:
    await nodes.transports[IDS[1]].close()
    nodes.transports[IDS[0]].send([reply(IDS[0], IDS[1], 1), reply(IDS[0], IDS[2], 1)])
    await nodes.recorders[IDS[2]].until(lambda recorder: reply(IDS[0], IDS[2], 1) in recorder.messages)
    assert nodes.recorders[IDS[1]].messages == []
    await nodes.transports[IDS[1]].close()


async def test_who_streams_to_a_node_is_answered_whatever_the_members() -> None:
    """A new node installs a snapshot whose members are older than the leader that sent it (simulator L1, seed 271)."""
    transport = GrpcTransport(Identity(cluster_id=CLUSTER, node_id=IDS[0], client_address=""), {})
    await transport.start(Recorder())
    transport.greeted_by(IDS[2], "", "127.0.0.1:1", Greeting())
    transport.reconfigure({IDS[1]: "127.0.0.1:1"})
    assert transport.stub(IDS[2]) is not None
    assert transport.stub(IDS[1]) is not None
    transport.reconfigure({})
    assert transport.stub(IDS[1]) is None, "it does not stream to this node, and is no member any more"
    transport.left_by(IDS[2])
    assert transport.stub(IDS[2]) is None
    await transport.close()


async def start_with_stub(sender: GrpcTransport, recorder: Recorder, stub: object) -> None:
    """Start a transport whose link to node 2 calls `stub` instead of a node."""
    link = sender._links[IDS[1]] = _Link(sender, IDS[1], "127.0.0.1:1")
    link.stub = stub  # type: ignore[assignment]
    await sender.start(recorder)
    link.start()


class EndedUnderAWrite:
    """A call whose stream has ended: a write finds out before the pending read does, and raises no gRPC error."""

    def __init__(self) -> None:
        self.greeted = False

    async def write(self, frame: peer_pb2.PeerFrame) -> None:
        if self.greeted:
            raise asyncio.InvalidStateError("RPC already finished.")

    async def read(self) -> peer_pb2.HelloReply:
        if self.greeted:
            await asyncio.Event().wait()
        self.greeted = True
        return peer_pb2.HelloReply()

    def cancel(self) -> None:
        pass


async def test_a_link_survives_a_stream_that_ends_under_a_write() -> None:
    """Links died for ever here, one in some ten restarts of a peer under load, and nobody was told."""
    sender = GrpcTransport(Identity(cluster_id=CLUSTER, node_id=IDS[0], client_address=""), {IDS[1]: "127.0.0.1:1"})
    recorder = Recorder()
    calls: list[EndedUnderAWrite] = []

    class Stub:
        def Stream(self) -> EndedUnderAWrite:  # noqa: N802
            calls.append(EndedUnderAWrite())
            return calls[-1]

    await start_with_stub(sender, recorder, Stub())
    async with asyncio.timeout(60):
        while len(calls) < 3:
            sender.send([reply(IDS[0], IDS[1], 1)])
            await asyncio.sleep(0.001)
    assert recorder.failures == []
    assert IDS[1] in recorder.unreachable
    await sender.close()


async def test_a_link_that_dies_of_a_bug_stops_the_node() -> None:
    sender = GrpcTransport(Identity(cluster_id=CLUSTER, node_id=IDS[0], client_address=""), {IDS[1]: "127.0.0.1:1"})
    recorder = Recorder()

    class Stub:
        def Stream(self) -> EndedUnderAWrite:  # noqa: N802
            raise ValueError("a bug")

    await start_with_stub(sender, recorder, Stub())
    await recorder.until(lambda found: [str(error) for error in found.failures] == ["a bug"])
    await sender.close()


class Answering:
    """Answers every greeting in the same way."""

    def __init__(self, reply: peer_pb2.HelloReply) -> None:
        self.reply = reply
        self.greetings = 0
        self.changed = asyncio.Event()

    def Stream(self) -> Answering:  # noqa: N802
        self.greetings += 1
        self.changed.set()
        return self

    async def write(self, frame: peer_pb2.PeerFrame) -> None:
        pass

    async def read(self) -> peer_pb2.HelloReply:
        return self.reply

    def cancel(self) -> None:
        pass

    async def until_greeted(self, times: int) -> None:
        async with asyncio.timeout(60):
            while self.greetings < times:
                self.changed.clear()
                await self.changed.wait()


OF_ANOTHER_CLUSTER = peer_pb2.HelloReply(verdict=peer_pb2.OTHER_CLUSTER, reason="of cluster 43. The way out")


@pytest.mark.parametrize(
    ("peers", "is_new", "stops"),
    [(2, True, False), (1, True, True), (1, False, False)],
    ids=["others-may-be-right", "no-majority-left", "a-node-that-works"],
)
async def test_only_a_new_node_among_strangers_stops(
    monkeypatch: pytest.MonkeyPatch, peers: int, is_new: bool, stops: bool
) -> None:
    monkeypatch.setattr(grpc_peer, "RETRY_S", 0.001)
    sender = GrpcTransport(
        Identity(cluster_id=CLUSTER, node_id=IDS[0], client_address=""),
        dict.fromkeys(IDS[1 : 1 + peers], "127.0.0.1:1"),
        is_new=lambda: is_new,
    )
    recorder = Recorder()
    stranger = Answering(OF_ANOTHER_CLUSTER)
    await start_with_stub(sender, recorder, stranger)
    await stranger.until_greeted(3)
    assert [str(error) for error in recorder.failures[:1]] == (["of cluster 43. The way out"] if stops else [])
    assert recorder.messages == []
    await sender.close()


async def test_who_is_refused_asks_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asked ten times a second for ever, and the healthy node logged every time."""
    slept: list[float] = []
    sleep = asyncio.sleep

    async def note(delay: float) -> None:
        slept.append(delay)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", note)
    sender = GrpcTransport(Identity(cluster_id=CLUSTER, node_id=IDS[0], client_address=""), {IDS[1]: "127.0.0.1:1"})
    stranger = Answering(OF_ANOTHER_CLUSTER)
    await start_with_stub(sender, Recorder(), stranger)
    await stranger.until_greeted(10)
    await sender.close()
    assert slept[:9] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]


async def test_a_disk_that_cannot_take_down_who_calls_stops_the_node() -> None:
    def fails(node: NodeId, incarnation: int) -> bool:
        raise StorageError("No space left on device")

    async with grpc_nodes() as nodes:
        transport, recorder = nodes.transports[IDS[1]], nodes.recorders[IDS[1]]
        assert isinstance(transport, GrpcTransport)
        transport.admits = fails
        await transport.start(recorder)
        await nodes.transports[IDS[0]].start(nodes.recorders[IDS[0]])
        await recorder.until(lambda found: bool(found.failures))
        assert isinstance(recorder.failures[0], StorageError)
        assert recorder.messages == []


async def test_a_disk_that_has_no_room_to_take_down_who_calls_refuses_him_for_now() -> None:
    refused = 0

    def fails_twice(node: NodeId, incarnation: int) -> bool:
        nonlocal refused
        refused += 1
        if refused <= 2:
            raise NoRoom("no space left on the device")
        return True

    async with grpc_nodes() as nodes:
        transport, recorder = nodes.transports[IDS[1]], nodes.recorders[IDS[1]]
        assert isinstance(transport, GrpcTransport)
        transport.admits = fails_twice
        await transport.start(recorder)
        sender = nodes.transports[IDS[0]]
        await sender.start(nodes.recorders[IDS[0]])
        while not recorder.messages:
            sender.send([reply(IDS[0], IDS[1], 1)])
            await asyncio.sleep(0.01)
        assert refused == 3
        assert recorder.failures == []


@pytest.mark.parametrize(
    ("changed", "complaint", "verdict"),
    [
        ({"cluster_id": 43}, "node 2 is of cluster 000000000000002b", peer_pb2.OTHER_CLUSTER),
        ({"to": 3}, "it looks for node 3; this is node 1", None),
        ({"from": 1}, "node 1 is not a peer of node 1", None),
        (
            {"protocol_version": 99},
            "node 2 runs raftkv (an early one), which speaks version 99",
            peer_pb2.OTHER_PROTOCOL,
        ),
        ({"incarnation": 8}, "node 2 was a member of this cluster with another disk", peer_pb2.OTHER_DISK),
    ],
)
def test_strangers_are_refused(
    changed: dict[str, int], complaint: str, verdict: peer_pb2.Verdict.ValueType | None
) -> None:
    transport = GrpcTransport(
        Identity(cluster_id=CLUSTER, node_id=IDS[0], client_address=""),
        {},
        admits=lambda node, incarnation: (node, incarnation) == (2, 7),
    )
    streams = PeerStreams(transport)
    greeting = {"cluster_id": CLUSTER, "from": 2, "to": 1, "protocol_version": PROTOCOL_VERSION, "incarnation": 7}
    assert streams.judge(peer_pb2.Hello(**greeting)) is None  # type: ignore[arg-type]
    refusal = streams.judge(peer_pb2.Hello(**{**greeting, **changed}))  # type: ignore[arg-type]
    assert refusal is not None
    assert refusal.reason.startswith(complaint)
    assert refusal.verdict == verdict
    assert verdict is None or "The way out" in refusal.reason
    restored = "If one of the two was restored from a backup, stop the old one." in refusal.reason
    assert restored == (verdict == peer_pb2.OTHER_CLUSTER)
