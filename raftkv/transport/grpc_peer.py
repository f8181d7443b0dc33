"""The transport over gRPC: one long-lived stream per direction between each two nodes.

A node dials each of its peers and only sends on that stream; what the peers send comes in on streams that they dialled.
The first frame introduces the caller. A node that belongs to another cluster, means another node, or has another disk
than the one known under its id is refused there, before one of its messages is looked at. One that is no member, as far
as this node knows, is heard: members are learned from the log, and that comes over these very streams.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import structlog
from google.protobuf.message import DecodeError

from raftkv.errors import ConfigurationError, DataDirectoryMismatch, NoRoom, ShuttingDown, StorageError
from raftkv.raft import Message, NodeId
from raftkv.transport import checkpoints
from raftkv.transport.channel import CHANNEL_OPTIONS
from raftkv.transport.complaints import Complaints
from raftkv.transport.convert import MalformedMessage, from_proto, message_bytes, to_proto
from raftkv.transport.greetings import PROTOCOL_VERSION, Greeting, newest_of_all, no_common_version
from raftkv.transport.pace import Pace
from raftkv.transport.protocols import CheckpointNotSent, Incoming, Outgoing, Receiver, Transport
from raftkv.v1 import peer_pb2 as pb
from raftkv.v1.peer_pb2_grpc import PeerStub

if TYPE_CHECKING:
    from raftkv.transport.peer_tls import PeerTls
    from raftkv.v1.peer_pb2_grpc import PeerAsyncStub

QUEUE_BYTES = 32 << 20
"""Messages waiting for one peer; what comes on top is dropped and reported."""

FRAME_BYTES = 2 << 20
"""A frame is closed once it holds this much."""

HELLO_TIMEOUT_S = 2.0
RETRY_S = 0.1
REFUSED_RETRY_S = 5.0
"""A peer that refuses is asked again after RETRY_S, then twice as long each time, up to this."""

REMEMBERED_REFUSALS = 1000
"""Refusals that were logged and are not logged again; with more than that, all are forgotten."""

DRAIN_TIMEOUT_S = 1.0

log = structlog.get_logger("raftkv.transport")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this node is, to its peers."""

    cluster_id: int
    node_id: NodeId
    client_address: str
    """host:port under which clients reach this node."""
    peer_address: str = ""
    """host:port under which peers reach this node."""
    incarnation: int = 0
    """Names the disk behind the id (`raftkv.server.peer_book`)."""
    greeting: Greeting = field(default_factory=Greeting)
    """What it says of itself when a stream begins."""


class GrpcTransport(Transport):
    """The sending half, and the book of who is who. The receiving half is `PeerStreams`."""

    def __init__(
        self,
        identity: Identity,
        members: Mapping[NodeId, str],
        *,
        dial: Mapping[NodeId, str] | None = None,
        admits: Callable[[NodeId, int], bool] = lambda node, incarnation: True,
        was_removed: Callable[[NodeId], bool] = lambda node: False,
        is_new: Callable[[], bool] = lambda: False,
        checkpoint_bytes_per_s: float = checkpoints.BYTES_PER_S,
        tls: PeerTls | None = None,
        greeted: Callable[[Mapping[NodeId, Greeting]], None] = lambda greetings: None,
    ) -> None:
        """`members` are the peers to begin with, and where they are; `dial` overrides where a peer is dialled.

        `admits` says whether a peer's incarnation is the one known under its id; its StorageError stops the node,
        unless it is NoRoom: then the peer is not listened to for now. `was_removed` says whether a node is known to
        be a member no more: its certificate is as good as ever, and nothing that it says is listened to.
        `is_new` says whether this node holds nothing yet: then it can tell that it was started for another cluster
        (`refused_by`). Checkpoints leave no faster than at `checkpoint_bytes_per_s`, to all peers together (0: as fast
        as it goes). With `tls`, nobody is spoken to or heard who does not prove which node it is; without, plain text.
        `greeted` is told what the members say of themselves, whenever that has changed.
        """
        self.identity = identity
        self.tls = tls
        self.client_addresses: dict[NodeId, str] = {identity.node_id: identity.client_address}
        """Where clients reach each node, as far as it has been heard."""
        self.greetings: dict[NodeId, Greeting] = {}
        """What peers have said of themselves last; nothing of those that are neither members nor connected."""
        self._told: dict[NodeId, Greeting] = {}
        """What `greeted` was told last."""
        self.admits = admits
        self.was_removed = was_removed
        self._greeted = greeted
        self._is_new = is_new
        self._pace = Pace(checkpoint_bytes_per_s)
        self._strangers: set[NodeId] = set()
        """Members that said to be of another cluster."""
        self._dial = dial or {}
        self._links: dict[NodeId, _Link] = {}
        self._members: frozenset[NodeId] = frozenset()
        self._callers: set[NodeId] = set()
        """Peers whose streams to this node are open."""
        self._ending: set[asyncio.Task[None]] = set()
        self._receiver: Receiver | None = None
        self._refusals: set[tuple[str, str]] = set()
        """(host, reason) of those that were logged."""
        self._wanted = dict(members)

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self.reconfigure(self._wanted)

    def reconfigure(self, members: Mapping[NodeId, str]) -> None:
        self._wanted = dict(members)
        self._members = frozenset(members) - {self.identity.node_id}
        if self._receiver is None:
            return
        for peer in self._members:
            self._connect(peer, members[peer])
        # Who streams to this node is answered, whatever the members: by the configuration of an older snapshot that was
        # just installed, the leader that sent it may be none.
        for peer in [peer for peer in self._links if peer not in self._members | self._callers]:
            self._disconnect(peer)
        self._tell_greetings()

    def greeted_by(self, peer: NodeId, client_address: str, peer_address: str, greeting: Greeting) -> None:
        """A stream from `peer` begins. One that is no member yet, as far as is known here, must be answered too."""
        self.client_addresses[peer] = client_address
        self._callers.add(peer)
        self.greetings[peer] = greeting
        self._tell_greetings()
        if self._receiver is not None and peer not in self._links and peer_address:
            self._connect(peer, peer_address)

    def left_by(self, peer: NodeId) -> None:
        """The stream from `peer` has ended."""
        self._callers.discard(peer)
        self.report_lost(peer)
        if peer not in self._members and peer in self._links:
            self._disconnect(peer)
        self._tell_greetings()

    @property
    def protocol_version(self) -> int:
        """The newest version of the protocol that this node and all members that it has heard speak."""
        return newest_of_all(self.identity.greeting.versions, [one.versions for one in self._told.values()])

    def send(self, messages: Sequence[Message]) -> None:
        for message in messages:
            link = self._links.get(message.receiver)
            if link is not None:
                link.send(message)

    def connected(self, peer: NodeId) -> bool:
        """Whether the stream to `peer` is open, and the peer has welcomed this node on it."""
        link = self._links.get(peer)
        return link is not None and link.connected

    def stub(self, peer: NodeId) -> PeerAsyncStub | None:
        """Return a stub on the channel to `peer`, for calls beside the stream; None where there is no way to it."""
        link = self._links.get(peer)
        return None if link is None else link.stub

    async def send_checkpoint(self, peer: NodeId, checkpoint: Outgoing) -> None:
        stub = self.stub(peer)
        if stub is None:
            raise CheckpointNotSent(f"no way to node {peer} is known")
        await checkpoints.send(stub, self.identity, checkpoint, self._pace)

    def unproven(self, claimed: NodeId, context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
        """Return why the caller cannot be the node that it says it is; None: it can, as anybody without TLS."""
        return None if self.tls is None else self.tls.refusal(claimed, context)

    def no_peer(self, claimed: NodeId, context: grpc.aio.ServicerContext[Any, Any]) -> str | None:
        """Return why a call beside the streams is not to be answered: who calls is another one, or was removed."""
        return self.unproven(claimed, context) or (removed(claimed) if self.was_removed(claimed) else None)

    def log_refusal(self, context: grpc.aio.ServicerContext[Any, Any], reason: str) -> None:
        """Say once for each machine and reason that a caller was refused: whoever is tries again and again."""
        refusal = (context.peer().rpartition(":")[0], reason)
        if refusal in self._refusals:
            return
        if len(self._refusals) >= REMEMBERED_REFUSALS:
            self._refusals.clear()
        self._refusals.add(refusal)
        log.warning("refused a peer connection", peer=context.peer(), reason=reason)

    async def begin_checkpoint(self, manifest: bytes) -> Incoming:
        """Let the driver take a checkpoint in. Raises RaftKVError."""
        if self._receiver is None:
            raise ShuttingDown("the node does not run")
        return await self._receiver.begin_checkpoint(manifest)

    async def close(self) -> None:
        self._receiver = None
        for peer in list(self._links):
            self._disconnect(peer)
        while self._ending:
            await asyncio.wait(self._ending)

    def _tell_greetings(self) -> None:
        for peer in self.greetings.keys() - self._members - self._callers:
            del self.greetings[peer]
        # Whoever streams to this node and is no member may be one that it does not know yet, or that was removed.
        members = {peer: greeting for peer, greeting in self.greetings.items() if peer in self._members}
        if members != self._told:
            self._told = members
            self._greeted(members)

    def _connect(self, peer: NodeId, address: str) -> None:
        address = self._dial.get(peer, address)
        known = self._links.get(peer)
        if known is not None and known.address == address:
            return
        if known is not None:
            self._disconnect(peer)
        self._links[peer] = link = _Link(self, peer, address)
        link.start()

    def _disconnect(self, peer: NodeId) -> None:
        task = asyncio.create_task(self._links.pop(peer).close(drain=self._receiver is not None))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def deliver(self, messages: Sequence[Message]) -> None:
        """Hand incoming messages to the driver; before `start` and after `close` they are dropped."""
        if self._receiver is not None:
            self._receiver.on_messages(messages)

    def welcomed_by(self, peer: NodeId, client_address: str) -> None:
        """`peer` takes this node for one of its cluster."""
        self.client_addresses[peer] = client_address
        self._strangers.discard(peer)

    def refused_by(self, peer: NodeId, reason: str) -> None:
        """`peer` says that it is of another cluster.

        That is no reason to stop for a node that works: whoever answers at a peer's address must not be able to stop
        it. But a new one that finds so many strangers that the others are no majority can only have been started with
        the members of another cluster.
        """
        self._strangers.add(peer)
        size = len(self._members) + 1
        if self._is_new() and 2 * (size - len(self._strangers & self._members)) <= size:
            self.report_failure(ConfigurationError(reason))

    def report_unreachable(self, peer: NodeId) -> None:
        if self._receiver is not None:
            self._receiver.on_unreachable(peer)

    def report_lost(self, peer: NodeId) -> None:
        if self._receiver is not None:
            self._receiver.on_connection_lost(peer)

    def report_failure(self, error: BaseException) -> None:
        if self._receiver is not None:
            self._receiver.on_failure(error)


class _Link:
    """The stream to one peer: connects, sends what is queued, connects again."""

    def __init__(self, transport: GrpcTransport, peer: NodeId, address: str) -> None:
        self.connected = False
        self._transport = transport
        self._peer = peer
        self.address = address
        self._queue: deque[Message] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._tls_version = 0
        self._channel = self._dialled()
        self.stub = PeerStub(self._channel)
        self._task: asyncio.Task[None] | None = None
        self._complaints = Complaints(asyncio.get_running_loop().time)
        self._ending = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name=f"peer-link-{self._peer}")
        self._task.add_done_callback(self._ended)

    def send(self, message: Message) -> None:
        if not self.connected:
            return  # the core repeats itself; a backlog from before a reconnect would only be stale
        size = message_bytes(message)
        if self._queued_bytes + size > QUEUE_BYTES:
            log.warning("peer queue full, messages dropped", peer=self._peer, limit_bytes=QUEUE_BYTES)
            self._drop_queue()
            self._transport.report_unreachable(self._peer)
            return
        self._queue.append(message)
        self._queued_bytes += size
        self._wake.set()

    async def close(self, *, drain: bool) -> None:
        """End the link. With `drain`, what is queued leaves first, if that does not take long."""
        self._ending = True
        self._wake.set()
        if self._task is not None:
            if drain and self.connected:
                await asyncio.wait([self._task], timeout=DRAIN_TIMEOUT_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    def _dialled(self) -> grpc.aio.Channel:
        tls = self._transport.tls
        if tls is None:
            return grpc.aio.insecure_channel(self.address, options=CHANNEL_OPTIONS)
        self._tls_version = tls.version
        return tls.channel(self._peer, self.address)

    async def _show_newest_certificate(self) -> None:
        """Dial anew if the certificate was replaced. Nothing goes on on the old channel: its connection has ended."""
        tls = self._transport.tls
        if tls is None or not tls.changed_since(self._tls_version):
            return
        old, self._channel = self._channel, self._dialled()
        self.stub = PeerStub(self._channel)
        await old.close()

    async def _run(self) -> None:
        retry_s = RETRY_S
        while not self._ending:
            refused = False
            await self._show_newest_certificate()
            try:
                await self._stream()
                self._disconnected("the peer ended the stream", lost=True)
            except _Refused as error:
                refused = True
                self._disconnected(str(error))
            except grpc.aio.AioRpcError as error:
                refused = error.code() is grpc.StatusCode.FAILED_PRECONDITION
                lost = error.code() is grpc.StatusCode.UNAVAILABLE
                self._disconnected(f"{error.code().name}: {error.details()}", lost=lost)
            except TimeoutError:
                self._disconnected(f"no answer to the greeting within {HELLO_TIMEOUT_S} s")
            except asyncio.InvalidStateError:
                # What a write raises when the stream has ended and the pending read has not been told yet.
                self._disconnected("the stream ended under a write", lost=True)
            # The channel has its own back-off for connecting; this one is for streams that end at once.
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, REFUSED_RETRY_S) if refused else RETRY_S

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A link never ends by itself: a node that cannot reach a peer, and does not know, is worse than none."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self.connected = False
            self._transport.report_failure(error)

    async def _stream(self) -> None:
        greeting = self._transport.identity.greeting
        call = self.stub.Stream()
        try:
            async with asyncio.timeout(HELLO_TIMEOUT_S):
                await call.write(pb.PeerFrame(hello=hello_to(self._peer, self._transport.identity)))
                reply = await call.read()
            if not isinstance(reply, pb.HelloReply):
                return
            if reply.verdict == pb.OTHER_DISK:
                self._transport.report_failure(DataDirectoryMismatch(reply.reason))
            elif reply.verdict == pb.OTHER_CLUSTER:
                self._transport.refused_by(self._peer, reply.reason)
            if reply.verdict != pb.WELCOME:
                raise _Refused(reply.reason)
            version = reply.protocol_version or greeting.versions.newest  # an earlier release does not say
            if version not in greeting.versions:
                raise _Refused(
                    f"node {self._peer} answers in version {version} of the protocol; this node speaks "
                    f"{greeting.versions}"
                )
            self._transport.welcomed_by(self._peer, reply.client_address)
            log.info("connected to peer", peer=self._peer, address=self.address, protocol_version=version)
            self._complaints.over()
            self.connected = True
            await self._pump(call)
        finally:
            call.cancel()

    async def _pump(self, call: grpc.aio.StreamStreamCall[pb.PeerFrame, pb.HelloReply]) -> None:
        """Send until the stream ends. The peer says nothing after its greeting, so a read returns only then."""
        end = asyncio.ensure_future(call.read())
        end.add_done_callback(lambda _: self._wake.set())
        try:
            while not end.done():
                if self._queue:
                    await call.write(self._next_frame())
                elif self._ending:
                    return
                else:
                    self._wake.clear()
                    await self._wake.wait()
            end.result()
        finally:
            end.cancel()

    def _next_frame(self) -> pb.PeerFrame:
        messages = []
        size = 0
        while self._queue and size < FRAME_BYTES:
            message = self._queue.popleft()
            size += message_bytes(message)
            messages.append(to_proto(message))
        self._queued_bytes -= size
        return pb.PeerFrame(messages=messages)

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._queued_bytes = 0

    def _disconnected(self, reason: str, *, lost: bool = False) -> None:
        was_connected = self.connected
        self.connected = False
        self._drop_queue()
        if self._ending:
            return  # it was ended here: nothing is wrong with the peer
        if was_connected:
            self._transport.report_unreachable(self._peer)
        if lost:
            self._transport.report_lost(self._peer)
        if self._complaints.due(reason):
            log.warning(
                "no connection to peer",
                peer=self._peer,
                address=self.address,
                reason=reason,
                for_s=round(self._complaints.lasts_s, 1),
                next_line_in_s=round(self._complaints.next_in_s, 1),
            )


def hello_to(peer: NodeId, identity: Identity) -> pb.Hello:
    """Return what a node says to a peer when its stream begins."""
    greeting = identity.greeting
    hello = pb.Hello(
        cluster_id=identity.cluster_id,
        to=peer,
        protocol_version=greeting.versions.newest,
        oldest_protocol_version=greeting.versions.oldest,
        release=greeting.release,
        agreed_settings=greeting.settings,
        client_address=identity.client_address,
        peer_address=identity.peer_address,
        incarnation=identity.incarnation,
    )
    setattr(hello, "from", identity.node_id)
    return hello


class _Refused(Exception):
    """The peer has answered the greeting, and does not want to hear more. The message says why."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a caller is not to be listened to."""

    reason: str
    verdict: pb.Verdict.ValueType | None = None
    """What to answer, so that the caller can tell what to do about it; None: the stream ends with an error."""


class PeerStreams:
    """The receiving half: what `raftkv.v1.Peer.Stream` does."""

    def __init__(self, transport: GrpcTransport) -> None:
        self._transport = transport
        self._newest: dict[NodeId, AsyncIterator[pb.PeerFrame]] = {}
        """The stream that each peer opened last."""

    async def serve(
        self, requests: AsyncIterator[pb.PeerFrame], context: grpc.aio.ServicerContext[pb.PeerFrame, pb.HelloReply]
    ) -> AsyncIterator[pb.HelloReply]:
        """Greet, then take in messages until the caller ends the stream."""
        frames = _decoded(requests)
        identity = self._transport.identity
        who = "it"
        sender = None
        try:
            first = await anext(frames, None)
            if first is None or not first.HasField("hello"):
                await self.refuse(context, "the stream does not begin with a greeting")
                return
            unproven = self._transport.unproven(NodeId(getattr(first.hello, "from")), context)
            if unproven is not None:
                await self.refuse(context, unproven)
                return
            refusal = self.judge(first.hello)
            if refusal is not None:
                if refusal.verdict is None:
                    await self.refuse(context, refusal.reason)
                    return
                self._transport.log_refusal(context, refusal.reason)
                yield pb.HelloReply(verdict=refusal.verdict, reason=refusal.reason)
                return
            caller = NodeId(getattr(first.hello, "from"))
            who = f"node {caller}"
            sender = caller
            self._newest[sender] = frames
            greeting = Greeting.of(first.hello)
            version = identity.greeting.versions.newest_common(greeting.versions) or 0  # there is one: see `judge`
            self._transport.greeted_by(sender, first.hello.client_address, first.hello.peer_address, greeting)
            yield pb.HelloReply(client_address=identity.client_address, protocol_version=version)
            async for frame in frames:
                if self._transport.was_removed(sender):
                    await self.refuse(context, removed(sender))
                    return
                self._transport.deliver(
                    [from_proto(message, sender=sender, receiver=identity.node_id) for message in frame.messages]
                )
        except NoRoom as error:
            # Who the caller is could not be written down: it may come again, as it does.
            await self.refuse(context, f"this node's disk is full: {error.message}")
        except StorageError as error:
            # Who the caller is could not be written down. What this disk takes is not known any more.
            self._transport.report_failure(error)
            await self.refuse(context, "this node's disk has failed")
        except MalformedMessage as error:
            await self.refuse(context, f"{who} sent {error}")
        finally:
            # Unless it has opened another one: then it lives.
            if sender is not None and self._newest.get(sender) is frames:
                del self._newest[sender]
                self._transport.left_by(sender)

    def judge(self, hello: pb.Hello) -> Refusal | None:
        """Return why the caller is not to be listened to; None when it is."""
        identity = self._transport.identity
        sender = NodeId(getattr(hello, "from"))
        greeting, own = Greeting.of(hello), identity.greeting
        if own.versions.newest_common(greeting.versions) is None:
            return Refusal(no_common_version(sender, greeting, identity.node_id, own), pb.OTHER_PROTOCOL)
        if hello.cluster_id != identity.cluster_id:
            return Refusal(_other_cluster(sender, hello.cluster_id, identity), pb.OTHER_CLUSTER)
        if hello.to != identity.node_id:
            return Refusal(f"it looks for node {hello.to}; this is node {identity.node_id}")
        if sender in (0, identity.node_id):
            return Refusal(f"node {sender} is not a peer of node {identity.node_id}")
        if self._transport.was_removed(sender):
            return Refusal(removed(sender))
        if not self._transport.admits(sender, hello.incarnation):
            return Refusal(_other_disk(sender, identity.node_id), pb.OTHER_DISK)
        return None

    async def refuse(self, context: grpc.aio.ServicerContext[pb.PeerFrame, pb.HelloReply], reason: str) -> None:
        """Log and end the stream; nothing of it has reached the core."""
        self._transport.log_refusal(context, reason)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"refused: {reason}")


def removed(node: NodeId) -> str:
    """Say that nothing is heard from a node that was a member."""
    return (
        f"node {node} was removed from the cluster. The way out: stop it; the machine comes back under a new id "
        "(`raftkv member add`), with an empty data directory"
    )


def _other_cluster(node: NodeId, cluster_id: int, by: Identity) -> str:
    return (
        f"node {node} is of cluster {cluster_id:016x}, but node {by.node_id}, whose address it was given, is of "
        f"cluster {by.cluster_id:016x}: founding members need the same --member and --cluster-name. If one of the two "
        "was restored from a backup, stop the old one. The way out, if "
        f"node {node} is to enter the cluster of node {by.node_id}: run `raftkv member add` with a new id against that "
        f"(and `raftkv member remove {node}`, if it was a member before), and start the new id with an empty data "
        "directory and --join"
    )


def _other_disk(node: NodeId, by: NodeId) -> str:
    return (
        f"node {node} was a member of this cluster with another disk, says node {by}: this one has forgotten its votes "
        f"and all that it acknowledged. The way out: run `raftkv member remove {node}` against a node that is well, "
        "add a new id with `raftkv member add`, and start that one with an empty data directory and --join; or do all "
        f"of it in one step, with the node stopped: `raftkv repair --data-dir DATA_DIR --id {node} --replace "
        "--endpoints HOST:PORT --yes`, and start it as before"
    )


async def _decoded(requests: AsyncIterator[pb.PeerFrame]) -> AsyncIterator[pb.PeerFrame]:
    """Yield the frames of a stream. Raises MalformedMessage for bytes that are none."""
    try:
        async for frame in requests:
            yield frame
    except DecodeError as error:
        raise MalformedMessage("bytes that are no frame") from error


__all__ = ["PROTOCOL_VERSION", "GrpcTransport", "Identity", "PeerStreams"]
