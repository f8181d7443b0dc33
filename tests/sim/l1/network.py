"""The network between nodes, and between clients and nodes: connections, as gRPC gives them, over links that can fail.

What TCP and gRPC promise is kept: bytes on one connection arrive in order and are lost only with the connection, which
both ends learn of, sooner or later. A link that is cut holds back what is under way. If it heals soon, everything
arrives late; otherwise keepalive gives the connection up. All messages pass through their wire form.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, cast
from zlib import crc32

import grpc

from raftkv.errors import DataDirectoryMismatch, RaftKVError, StorageError
from raftkv.raft import Message, NodeId
from raftkv.raft.messages import AppendRequest
from raftkv.transport.channel import KEEPALIVE_MS
from raftkv.transport.convert import from_proto, message_bytes, to_proto
from raftkv.transport.grpc_peer import HELLO_TIMEOUT_S, RETRY_S, Identity, PeerStreams, hello_to
from raftkv.transport.protocols import CheckpointNotSent, Incoming, Outgoing, Receiver, Transport
from raftkv.v1 import peer_pb2
from tests.sim.l1.loop import Process, VirtualTimeLoop
from tests.sim.l1.trace import Trace

KEEPALIVE_S = 2 * KEEPALIVE_MS / 1000
"""How long a black hole keeps its connections: a ping, and the time for its answer."""

CHECKPOINT_PIECE = b"C"
"""First byte of a call that carries a piece of a checkpoint; all others are requests."""
MIN_PIECE_BYTES = 2000
MAX_PIECES = 20
"""A checkpoint travels in at most so many pieces, or it would take longer than a run."""
PIECE_TIMEOUT_S = 1.0

Pair = tuple[int, int]
Handler = Callable[[bytes], Awaitable[bytes]]


class Server(Process):
    """A process that takes messages and calls. The network knows of a node no more than this."""

    def __init__(self, name: str, number: int) -> None:
        super().__init__(name)
        self.number = number
        self.transport: SimTransport | None = None
        """None: it does not listen yet."""

    async def serve(self, request: bytes, caller: int) -> bytes:
        """Answer a call."""
        raise NotImplementedError


class Machines(Protocol):
    """Who is where."""

    def server(self, number: int) -> Server | None:
        """Return the process that listens on that machine, if any."""
        ...

    def powered(self, number: int) -> bool:
        """Whether the machine runs, so that its kernel refuses what no process takes."""
        ...

    def violation(self, text: str) -> None: ...


@dataclass(slots=True)
class _Link:
    """One direction between two machines."""

    blocked: int = 0
    """How many faults hold it back."""
    slow: float = 1.0
    last_arrival: float = 0.0
    held: list[Callable[[], object]] | None = None


class Connection:
    """The stream from one node's transport to a peer's server."""

    __slots__ = ("bytes_under_way", "lost", "owner", "peer", "server", "told")

    def __init__(self, owner: SimTransport, peer: int, server: Server) -> None:
        """The server has been greeted; whether it takes the owner in, it says in its answer."""
        self.owner = owner
        self.peer = peer
        self.server = server
        self.lost = False
        """Nothing arrives any more."""
        self.told = False
        """And its owner knows."""
        self.bytes_under_way = 0


class _Call:
    """A unary call under way."""

    __slots__ = ("answer", "caller", "server", "target", "task")

    def __init__(self, caller: int, target: int, answer: asyncio.Future[bytes]) -> None:
        self.caller = caller
        self.target = target
        self.answer = answer
        self.server: Server | None = None
        self.task: asyncio.Task[bytes] | None = None


class Network:
    """See the module's docstring."""

    def __init__(self, loop: VirtualTimeLoop, random: Random, trace: Trace, machines: Machines) -> None:
        self.loop = loop
        self.trace = trace
        self.machines = machines
        self.base_latency_s = random.choice([0.0001, 0.0005, 0.002])
        self.jitter_s = random.choice([0.0, 0.001, 0.01])
        self.queue_bytes = random.choice([4_000, 1 << 20, 1 << 20])
        self.counts: Counter[str] = Counter()
        """held, lost, dropped, delivered: messages and calls, by what became of them."""
        self.context = contextvars.Context()
        self._random = random
        self._links: dict[Pair, _Link] = {}
        self._connections: dict[Pair, Connection] = {}
        self._calls: dict[_Call, None] = {}

    # --- faults -------------------------------------------------------------------------------------------------------

    def block(self, pairs: Sequence[Pair]) -> None:
        """Hold back everything in these directions. Connections break when keepalive notices."""
        for pair in pairs:
            link = self._link(*pair)
            link.blocked += 1
            if link.blocked == 1:
                link.held = []
                self.loop.call_later(KEEPALIVE_S, self._keepalive, pair, link.held, context=self.context)

    def unblock(self, pairs: Sequence[Pair]) -> None:
        """Undo one `block` of the same pairs: what was held back and whose connection is still there arrives now."""
        for pair in pairs:
            link = self._link(*pair)
            link.blocked -= 1
            if link.blocked == 0:
                held, link.held = link.held or [], None
                for arrive in held:
                    self._travel(*pair, arrive)

    def slow(self, pairs: Sequence[Pair], factor: float) -> None:
        """Stretch (or, with the inverse, restore) the latency of these directions."""
        for pair in pairs:
            self._link(*pair).slow *= factor

    def reset(self, a: int, b: int) -> None:
        """Break every connection between two machines; both ends are told."""
        for pair in ((a, b), (b, a)):
            connection = self._connections.get(pair)
            if connection is not None and not connection.lost:
                self.counts["reset"] += 1
                self._lose(connection)
                self._tell(connection)
        for call in [call for call in self._calls if {call.caller, call.target} == {a, b}]:
            self.counts["reset"] += 1
            self._fail(call, grpc.StatusCode.UNAVAILABLE, "connection reset")

    def died(self, server: Server, *, power: bool) -> None:
        """A process has ended. Its kernel closes its connections, unless the whole machine has gone."""
        number = server.number
        for pair, connection in list(self._connections.items()):
            if connection.owner.process is server:
                self._lose(connection)
                connection.told = True
                del self._connections[pair]
                self._notice(number, pair[1], lambda ended=connection: self._tell_server(ended), power)  # type: ignore[misc]
            elif connection.server is server and not connection.lost:
                self._lose(connection)
                self._notice(number, pair[0], lambda lost=connection: self._tell(lost), power)  # type: ignore[misc]
        for call in list(self._calls):
            if call.server is server:
                self._notice(
                    number,
                    call.caller,
                    lambda failed=call: self._fail(failed, grpc.StatusCode.UNAVAILABLE, "peer gone"),  # type: ignore[misc]
                    power,
                )

    def _notice(self, number: int, other: int, tell: Callable[[], object], power: bool) -> None:
        """Have `other` learn that the process on machine `number` has ended."""
        if power:
            self.loop.call_later(KEEPALIVE_S, tell, context=self.context)
        else:
            self._travel(number, other, tell)

    def _keepalive(self, pair: Pair, held: list[Callable[[], object]]) -> None:
        if self._link(*pair).held is held:  # blocked ever since
            self.reset(*pair)

    # --- links --------------------------------------------------------------------------------------------------------

    def _link(self, a: int, b: int) -> _Link:
        return self._links.setdefault((a, b), _Link())

    def _travel(self, a: int, b: int, arrive: Callable[[], object]) -> None:
        """Call `arrive` when something sent from `a` to `b` now gets there: in order, and not through a cut link."""
        link = self._link(a, b)
        latency_s = (self.base_latency_s + self._random.random() * self.jitter_s) * link.slow
        link.last_arrival = max(self.loop.time() + latency_s, link.last_arrival + 1e-9)
        self.loop.call_at(link.last_arrival, self._arrive, link, arrive, context=self.context)

    def _arrive(self, link: _Link, arrive: Callable[[], object]) -> None:
        if link.held is not None:
            self.counts["held"] += 1
            link.held.append(arrive)
        else:
            arrive()

    # --- peers' streams -----------------------------------------------------------------------------------------------

    @property
    def cut(self) -> bool:
        """Whether something is held back anywhere."""
        return any(link.blocked for link in self._links.values())

    def connect(self, transport: SimTransport, peer: int, hello: bytes) -> None:
        """Connect a node to a peer; its transport hears of the end of the attempt, unless it gets lost."""
        source = transport.number

        def greet() -> None:
            server = self.machines.server(peer)
            if server is not None and server.transport is not None:
                # In the server's own time: one that is paused does not greet.
                self.loop.call_soon(welcome, server, context=server.context)
            elif self.machines.powered(peer):
                refuse = lambda: self.loop.call_soon(transport.refused, peer, context=transport.process.context)  # noqa: E731
                self._travel(peer, source, refuse)

        def welcome(server: Server) -> None:
            if server.transport is None:
                return  # it has stopped listening since
            connection = Connection(transport, peer, server)
            reply = server.transport.greeted(connection, hello)
            if reply is None:
                abort = lambda: self.loop.call_soon(transport.aborted, peer, context=transport.process.context)  # noqa: E731
                self._travel(peer, source, abort)
            else:
                self._travel(peer, source, lambda: transport.welcomed(connection, reply))

        self._travel(source, peer, greet)

    def connected(self, connection: Connection) -> None:
        self._connections[connection.owner.number, connection.peer] = connection

    def close(self, connection: Connection) -> None:
        """Its owner ends a connection: what is under way arrives, and then the server learns of it."""
        connection.told = True
        self._forget(connection)

        def end() -> None:
            if not connection.lost:
                self._lose(connection)
                self._tell_server(connection)

        self._travel(connection.owner.number, connection.peer, end)

    def _forget(self, connection: Connection) -> None:
        pair = connection.owner.number, connection.peer
        if self._connections.get(pair) is connection:
            del self._connections[pair]

    def send(self, connection: Connection, messages: Sequence[Message]) -> bool:
        """Put a frame on its way. Return False when there is no room for it."""
        size = sum(map(message_bytes, messages))
        if connection.bytes_under_way and connection.bytes_under_way + size > self.queue_bytes:
            self.counts["dropped"] += len(messages)
            return False
        connection.bytes_under_way += size
        frame = peer_pb2.PeerFrame(messages=[to_proto(message) for message in messages]).SerializeToString()

        def arrive() -> None:
            connection.bytes_under_way -= size
            if connection.lost:
                self.counts["lost"] += len(messages)
            else:
                self.loop.call_soon(take, context=connection.server.context)

        def take() -> None:
            transport = connection.server.transport
            if not connection.lost and transport is not None:
                self.counts["delivered"] += len(messages)
                transport.take(connection.owner.number, frame)

        self._travel(connection.owner.number, connection.peer, arrive)
        return True

    def _lose(self, connection: Connection) -> None:
        connection.lost = True

    def _tell(self, connection: Connection) -> None:
        if not connection.told:
            connection.told = True
            self._forget(connection)
            process = connection.owner.process
            self.loop.call_soon(connection.owner.lost, connection, context=process.context)
            self._tell_server(connection)

    def _tell_server(self, connection: Connection) -> None:
        """The end of a stream that comes in is a hint as well."""
        server = connection.server
        if server.transport is not None:
            self.loop.call_soon(server.transport.left_by, connection, context=server.context)

    # --- calls --------------------------------------------------------------------------------------------------------

    async def call(self, caller: int, target: int, request: bytes, timeout_s: float) -> bytes:
        """Make a unary call. Raises grpc.aio.AioRpcError."""
        call = _Call(caller, target, self.loop.create_future())
        self._calls[call] = None
        self._travel(caller, target, lambda: self._request(call, request))
        try:
            async with asyncio.timeout(timeout_s):
                return await call.answer
        except TimeoutError:
            raise _rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded") from None
        finally:
            self._calls.pop(call, None)
            if call.answer.cancelled():
                self._travel(caller, target, lambda: self._cancel(call))

    def _request(self, call: _Call, request: bytes) -> None:
        if call.answer.done():
            return
        server = self.machines.server(call.target)
        if server is None or server.transport is None:
            if self.machines.powered(call.target):
                refuse = lambda: self._fail(call, grpc.StatusCode.UNAVAILABLE, "connection refused")  # noqa: E731
                self._travel(call.target, call.caller, refuse)
            return
        call.server = server
        call.task = self.loop.create_task(_serve(server, request, call.caller), context=server.context.copy())
        call.task.add_done_callback(lambda task: self._answer(call, task), context=self.context)

    def _answer(self, call: _Call, task: asyncio.Task[bytes]) -> None:
        if task.cancelled() or (call.server is not None and call.server.dead):
            return
        answer = task.result()
        self._travel(call.target, call.caller, lambda: self._resolve(call, answer))

    def _resolve(self, call: _Call, answer: bytes) -> None:
        if not call.answer.done():
            call.answer.set_result(answer)

    def _fail(self, call: _Call, code: grpc.StatusCode, details: str) -> None:
        self._calls.pop(call, None)
        self._cancel(call)
        if not call.answer.done():
            call.answer.set_exception(_rpc_error(code, details))

    def _cancel(self, call: _Call) -> None:
        if call.task is not None and not call.task.done():
            self.counts["cancelled"] += 1
            call.task.cancel()


class SimTransport(Transport):
    """One node's end of the network: what `GrpcTransport` and `PeerStreams` are in production, by the same rules."""

    def __init__(
        self,
        network: Network,
        process: Server,
        identity: Identity,
        members: Mapping[NodeId, str],
        *,
        admits: Callable[[NodeId, int], bool],
        was_removed: Callable[[NodeId], bool],
        watch: Callable[[Sequence[Message]], None],
    ) -> None:
        self.process = process
        self.number = process.number
        self.identity = identity
        self._network = network
        self._wanted = dict(members)
        self.admits = admits
        self.was_removed = was_removed
        self._watch = watch
        self._streams = PeerStreams(cast(Any, self))
        """For its judgement of greetings."""
        self._receiver: Receiver | None = None
        self._members: frozenset[int] = frozenset()
        self._links: set[int] = set()
        """Whom it dials: the members, and who has greeted it."""
        self._connections: dict[int, Connection] = {}
        self._attempts: dict[int, asyncio.TimerHandle] = {}
        self._newest: dict[int, Connection] = {}
        """The stream that each peer opened last."""
        self._incoming: dict[int, Incoming] = {}

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.process.transport = self
        self.reconfigure(self._wanted)

    def reconfigure(self, members: Mapping[NodeId, str]) -> None:
        self._wanted = dict(members)
        self._members = frozenset(members) - {self.number}
        if self._receiver is None:
            return
        for member in sorted(self._members):
            self._dial(member)
        for stranger in sorted(self._links - self._members - self._newest.keys()):
            self._disconnect(stranger)

    def _dial(self, peer: int) -> None:
        if peer not in self._links:
            self._links.add(peer)
            self._attempt(peer)

    def _disconnect(self, peer: int) -> None:
        self._links.discard(peer)
        timer = self._attempts.pop(peer, None)
        if timer is not None:
            timer.cancel()
        connection = self._connections.pop(peer, None)
        if connection is not None:
            self._network.close(connection)

    def send(self, messages: Sequence[Message]) -> None:
        self._watch(messages)
        by_receiver: dict[NodeId, list[Message]] = {}
        for message in messages:
            by_receiver.setdefault(message.receiver, []).append(message)
        for receiver, frame in by_receiver.items():
            connection = self._connections.get(receiver)
            if connection is None:
                self._network.counts["dropped"] += len(frame)
            elif not self._network.send(connection, frame) and self._receiver is not None:
                self._receiver.on_unreachable(receiver)

    async def send_checkpoint(self, peer: NodeId, checkpoint: Outgoing) -> None:
        """See `Transport.send_checkpoint`. A piece is a call: the real one is a stream that waits for each answer."""
        if peer not in self._links:
            raise CheckpointNotSent(f"no way to node {peer} is known")
        progress = await self._send_piece(peer, manifest=checkpoint.encoded_manifest())
        piece_bytes = max(MIN_PIECE_BYTES, checkpoint.size_bytes() // MAX_PIECES + 1)
        while progress.offset < checkpoint.size_bytes():
            piece = await checkpoint.read_chunk(progress.offset, piece_bytes)
            progress = await self._send_piece(peer, offset=piece.offset, data=piece.data, crc=piece.crc)
        if not (await self._send_piece(peer)).done:
            raise CheckpointNotSent("the peer does not say that it holds the checkpoint")
        self._network.counts["checkpoints sent"] += 1

    async def _send_piece(self, peer: int, **fields: Any) -> peer_pb2.CheckpointProgress:
        request = CHECKPOINT_PIECE + peer_pb2.CheckpointPiece(**fields).SerializeToString()
        try:
            answer = await self._network.call(self.number, peer, request, PIECE_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise CheckpointNotSent(f"{error.code().name}: {error.details()}") from error
        if not answer:
            raise CheckpointNotSent("the peer refuses it")
        return peer_pb2.CheckpointProgress.FromString(answer[1:])

    async def take_piece(self, sender: int, request: bytes) -> bytes:
        """Answer a piece of a checkpoint; b"" refuses it."""
        piece = peer_pb2.CheckpointPiece.FromString(request)
        progress = peer_pb2.CheckpointProgress()
        try:
            if piece.manifest and self._receiver is not None:
                self._incoming[sender] = await self._receiver.begin_checkpoint(piece.manifest)
            incoming = self._incoming.get(sender)
            if incoming is None:
                return b""
            if piece.manifest:
                progress.offset = incoming.offset
            elif piece.data:
                progress.offset = await incoming.write_chunk(piece.offset, piece.data, piece.crc)
            else:
                await incoming.finish()
                progress.done = True
        except RaftKVError as error:
            self._network.trace.note(self.process.name, f"refuses a checkpoint of n{sender}: {error.message}")
            self._incoming.pop(sender, None)
            return b""
        return CHECKPOINT_PIECE + progress.SerializeToString()

    async def close(self) -> None:
        self.cut_off()

    def cut_off(self) -> None:
        """Neither send nor take anything more."""
        self._receiver = None
        self.process.transport = None
        self._connections.clear()
        self._links.clear()
        self._newest.clear()
        for timer in self._attempts.values():
            timer.cancel()
        self._attempts.clear()

    # --- what the network says ----------------------------------------------------------------------------------------

    def take(self, sender: int, frame: bytes) -> None:
        """A frame has come."""
        if self._receiver is None or self.was_removed(NodeId(sender)):
            return
        messages = [
            from_proto(message, sender=NodeId(sender), receiver=NodeId(self.number))
            for message in peer_pb2.PeerFrame.FromString(frame).messages
        ]
        trace = self._network.trace
        for message in messages:
            trace.note(f"n{self.number}", f"<- n{sender} {describe(message)}")
        self._receiver.on_messages(messages)

    def greeted(self, connection: Connection, greeting: bytes) -> peer_pb2.HelloReply | None:
        """A peer opens a stream; None: it is ended without an answer. See `PeerStreams.serve`."""
        hello = peer_pb2.Hello.FromString(greeting)
        peer = NodeId(getattr(hello, "from"))
        try:
            refusal = self._streams.judge(hello)
        except StorageError as error:
            self._network.trace.note(self.process.name, f"cannot take in n{peer}: {error.message}")
            assert self._receiver is not None
            self._receiver.on_failure(error)
            return None
        if refusal is not None and refusal.verdict == peer_pb2.OTHER_DISK:
            self._network.trace.note(self.process.name, f"refuses n{peer}: it has another disk")
            self._network.counts["other disks refused"] += 1
            return peer_pb2.HelloReply(verdict=refusal.verdict, reason=refusal.reason)
        if refusal is not None and self.was_removed(peer):
            self._network.trace.note(self.process.name, f"refuses n{peer}: it was removed")
            return None
        if refusal is not None:
            self._network.machines.violation(f"transport: node {self.number} refuses node {peer}: {refusal.reason}")
            return None
        self._newest[peer] = connection
        if hello.peer_address:
            self._dial(peer)  # also one that is no member yet, as far as is known here, must be answered
        return peer_pb2.HelloReply(client_address=self.identity.client_address)

    def welcomed(self, connection: Connection, reply: peer_pb2.HelloReply) -> None:
        """A peer has answered the greeting."""
        peer = connection.peer
        if peer not in self._attempts or self._receiver is None:
            self._network.close(connection)
            return
        if connection.server.dead:
            return  # one that died since leaves the attempt to its time limit
        self._attempts.pop(peer).cancel()
        if reply.verdict == peer_pb2.OTHER_DISK:
            error = DataDirectoryMismatch(reply.reason)
            self._network.loop.call_soon(self._receiver.on_failure, error, context=self.process.context)
            return
        self._connections[peer] = connection
        self._network.connected(connection)

    def refused(self, peer: int) -> None:
        """Nobody listens there."""
        if peer in self._attempts and self._receiver is not None:
            self._receiver.on_connection_lost(NodeId(peer))
        self._unanswered(peer)

    def aborted(self, peer: int) -> None:
        """The peer has ended the stream instead of answering."""
        self._unanswered(peer)

    def _unanswered(self, peer: int) -> None:
        timer = self._attempts.pop(peer, None)
        if timer is not None:
            timer.cancel()
            self._again(peer)

    def left_by(self, connection: Connection) -> None:
        """A stream that came in has ended."""
        peer = connection.owner.number
        if self._newest.get(peer) is not connection:
            return  # it has opened another one: it lives
        del self._newest[peer]
        if self._receiver is not None:
            self._receiver.on_connection_lost(NodeId(peer))
        if peer not in self._members:
            self._disconnect(peer)

    def lost(self, connection: Connection) -> None:
        """A connection has broken."""
        if self._connections.get(connection.peer) is not connection:
            return
        del self._connections[connection.peer]
        if self._receiver is not None:
            self._receiver.on_unreachable(NodeId(connection.peer))
            self._receiver.on_connection_lost(NodeId(connection.peer))
            self._again(connection.peer)

    def _attempt(self, peer: int) -> None:
        idle = peer not in self._connections and peer not in self._attempts
        if self._receiver is not None and peer in self._links and idle:
            loop, context = self._network.loop, self.process.context
            self._attempts[peer] = loop.call_later(HELLO_TIMEOUT_S, self._unanswered, peer, context=context)
            self._network.connect(self, peer, hello_to(NodeId(peer), self.identity).SerializeToString())

    def _again(self, peer: int) -> None:
        self._network.loop.call_later(RETRY_S, self._attempt, peer, context=self.process.context)


async def _serve(server: Server, request: bytes, caller: int) -> bytes:
    return await server.serve(request, caller)


def _rpc_error(code: grpc.StatusCode, details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)


def describe(message: Message) -> str:
    """Return a message in a few words: its kind and what it says."""
    fields = [
        f"{name}={getattr(message, name)}"
        for name in message.__dataclass_fields__
        if name not in ("sender", "receiver", "entries")
    ]
    if isinstance(message, AppendRequest) and message.entries:
        data = crc32(b"".join(entry.data for entry in message.entries))
        fields.append(f"entries={len(message.entries)}:{data:08x}")
    return f"{type(message).__name__} {' '.join(fields)}"
