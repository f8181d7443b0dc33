"""Nodes prove which node they are, both ways: addresses prove nothing, nor does a certificate in another name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog

from raftkv.raft import NodeId
from raftkv.testing.processes import free_port
from raftkv.tls.authority import Issued
from raftkv.tls.names import peer_name
from raftkv.tls.rotation import RotatingCertificate
from raftkv.transport import checkpoints
from raftkv.transport.channel import CHANNEL_OPTIONS, SERVER_OPTIONS
from raftkv.transport.grpc_peer import PROTOCOL_VERSION, GrpcTransport, Identity
from raftkv.transport.pace import Pace
from raftkv.transport.peer_tls import PeerTls
from raftkv.transport.protocols import CheckpointNotSent
from raftkv.v1 import peer_pb2, peer_pb2_grpc
from tests.pki import CLUSTER_NAME, Pki
from tests.transport.test_contract import CLUSTER, OutgoingBytes, Recorder, Streams, reply

ONE, TWO = NodeId(1), NodeId(2)


class Peer:
    """One end: a transport with its server, and the certificate files that it was given."""

    def __init__(self, node: NodeId, certificate: RotatingCertificate | None, directory: Path) -> None:
        self.node, self.certificate, self.directory = node, certificate, directory
        self.address = f"127.0.0.1:{free_port()}"
        self.recorder = Recorder()
        self.recorder.accepts = b"manifest"
        self.transport: GrpcTransport | None = None
        self.server: grpc.aio.Server | None = None

    async def start(self, members: dict[NodeId, str]) -> None:
        self.transport = GrpcTransport(
            Identity(cluster_id=CLUSTER, node_id=self.node, client_address="", peer_address=self.address),
            members,
            tls=None if self.certificate is None else PeerTls(self.certificate, CLUSTER_NAME),
        )
        await self.serve()
        await self.transport.start(self.recorder)

    async def serve(self) -> None:
        assert self.transport is not None
        self.server = grpc.aio.server(options=list(SERVER_OPTIONS))
        if self.certificate is None:
            self.server.add_insecure_port(self.address)
        else:
            self.server.add_secure_port(self.address, self.certificate.server_credentials(client_auth=True))
        peer_pb2_grpc.add_PeerServicer_to_server(Streams(self.transport), self.server)  # type: ignore[abstract]
        await self.server.start()

    async def stop_serving(self) -> None:
        assert self.server is not None
        await self.server.stop(None)

    async def stop(self) -> None:
        await self.stop_serving()
        assert self.transport is not None
        await self.transport.close()

    def link(self, peer: NodeId) -> Any:
        assert self.transport is not None
        return self.transport._links[peer]


Pair = Callable[..., Awaitable[tuple[Peer, Peer]]]


@pytest.fixture
async def pair(pki: Pki, tmp_path: Path) -> AsyncIterator[Pair]:
    """Nodes 1 and 2; what each shows may be told, and is not judged: whoever attacks has no such scruples."""
    async with contextlib.AsyncExitStack() as stack:

        async def make(first: Issued | None = pki.nodes[1], second: Issued | None = pki.nodes[2]) -> tuple[Peer, Peer]:
            peers = []
            for node, issued in ((ONE, first), (TWO, second)):
                directory = tmp_path / str(node)
                directory.mkdir()
                certificate = issued and RotatingCertificate(pki.for_peers(issued, directory, node=None))
                peers.append(Peer(node, certificate or None, directory))
            members = {peer.node: peer.address for peer in peers}
            for peer in peers:
                await peer.start(members)
                stack.push_async_callback(peer.stop)
            return peers[0], peers[1]

        yield make


async def connected(*peers: Peer) -> None:
    """Wait until every link works: a message gets through each way."""
    async with asyncio.timeout(20):
        while any(not peer.recorder.messages for peer in peers):
            for peer in peers:
                assert peer.transport is not None
                other = TWO if peer.node == ONE else ONE
                peer.transport.send([reply(peer.node, other, 0)])
            await asyncio.sleep(0.01)


async def complaint(logs: list[Any], words: str) -> str:
    """Wait for a line of log whose reason has these words."""
    async with asyncio.timeout(20):
        while True:
            for entry in logs:
                if words in str(entry.get("reason", "")):
                    return str(entry["reason"])
            await asyncio.sleep(0.01)


async def test_nodes_with_their_own_certificates_talk(pair: Pair) -> None:
    one, two = await pair()
    await connected(one, two)
    assert one.transport is not None
    await one.transport.send_checkpoint(TWO, OutgoingBytes(b"0123456789"))
    assert two.recorder.incoming is not None
    assert two.recorder.incoming.finished


async def test_a_stream_ends_when_the_node_that_speaks_on_it_was_removed(pair: Pair) -> None:
    one, two = await pair()
    await connected(one, two)
    assert one.transport is not None
    assert two.transport is not None
    with structlog.testing.capture_logs() as logs:
        two.transport.was_removed = lambda node: node == ONE
        await asyncio.sleep(0)
        two.recorder.messages.clear()
        said = asyncio.create_task(complaint(logs, "node 1 was removed from the cluster"))
        while not said.done():
            one.transport.send([reply(ONE, TWO, 0)])
            await asyncio.sleep(0.01)
        await said
    assert not two.recorder.messages
    with pytest.raises(CheckpointNotSent, match="node 1 was removed from the cluster"):
        await one.transport.send_checkpoint(TWO, OutgoingBytes(b"0123456789"))


@pytest.mark.parametrize("issued", ["service", "other node", "foreign"])
async def test_nobody_hears_a_caller_that_is_not_the_node_it_says_it_is(pair: Pair, pki: Pki, issued: str) -> None:
    """A certificate of the right authority is not enough: clients have one too. One of another node is not either."""
    shown = {"service": pki.service, "other node": pki.issue_node(3), "foreign": pki.foreign_node}[issued]
    one, two = await pair(shown)
    with structlog.testing.capture_logs() as logs:
        if issued == "foreign":
            await complaint(logs, "UNAVAILABLE")  # it does not get past the handshake
        else:
            reason = await complaint(logs, "its certificate is not in the name node-1.peer.raftkv")
            assert ("node-3.peer.raftkv" if issued == "other node" else "service.example") in reason
        assert one.transport is not None
        with pytest.raises(CheckpointNotSent):
            await one.transport.send_checkpoint(TWO, OutgoingBytes(b"0123456789"))
    assert not one.link(TWO).connected
    assert two.recorder.messages == []
    assert two.recorder.incoming is None
    assert TWO not in one.transport.client_addresses


@pytest.mark.parametrize(
    ("issued", "claimed", "taken"),
    [("node 3", 3, True), ("node 3", 1, False), ("node 3", 0, False), ("client", 1, False), ("client", 0, False)],
)
async def test_every_call_proves_who_makes_it(pair: Pair, pki: Pki, issued: str, claimed: int, taken: bool) -> None:
    """Node 3, with a good certificate, says that it is node 1; a client, with a good one too, that it is some node."""
    _, two = await pair()
    shown = pki.nodes[3] if issued == "node 3" else pki.client
    options = [*CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", peer_name(TWO, CLUSTER_NAME))]
    credentials = grpc.ssl_channel_credentials(pki.ca.read_bytes(), shown.key_pem, shown.cert_pem)
    refused = "its certificate is not in the name"
    async with grpc.aio.secure_channel(two.address, credentials, options=options) as channel:
        stub: Any = peer_pb2_grpc.PeerStub(channel)
        hello = peer_pb2.Hello(cluster_id=CLUSTER, to=TWO, protocol_version=PROTOCOL_VERSION)
        setattr(hello, "from", claimed)
        call = stub.Stream()
        await call.write(peer_pb2.PeerFrame(hello=hello))
        sender = Identity(cluster_id=CLUSTER, node_id=NodeId(claimed), client_address="")
        if taken:
            assert (await call.read()).verdict == peer_pb2.WELCOME
            await checkpoints.send(stub, sender, OutgoingBytes(b"0123456789"), Pace(0))
        else:
            with pytest.raises(grpc.aio.AioRpcError, match=refused):
                await call.read()
            with pytest.raises(CheckpointNotSent, match=refused):
                await checkpoints.send(stub, sender, OutgoingBytes(b"0123456789"), Pace(0))
            assert two.recorder.incoming is None
        call.cancel()


async def test_nobody_talks_to_a_node_that_is_not_the_one_meant(pair: Pair, pki: Pki) -> None:
    """Whoever answers at a peer's address must be that peer: node 3 there is as bad as a client."""
    with structlog.testing.capture_logs() as logs:
        one, two = await pair(second=pki.nodes[3])
        await complaint(logs, "Hostname Verification Check failed")
    assert not one.link(TWO).connected
    assert two.recorder.messages == []


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
async def test_plain_text_and_tls_do_not_meet(pair: Pair, pki: Pki, first: bool, second: bool) -> None:
    with structlog.testing.capture_logs() as logs:
        one, two = await pair(pki.nodes[1] if first else None, pki.nodes[2] if second else None)
        await complaint(logs, "UNAVAILABLE")
    assert not one.link(TWO).connected
    assert not two.link(ONE).connected


async def test_a_new_certificate_is_shown_from_the_next_connection_on_and_ends_none(pair: Pair, pki: Pki) -> None:
    one, two = await pair()
    await connected(one, two)
    link, stub = one.link(TWO), one.link(TWO).stub
    pki.put(pki.other_of_1, one.directory)
    assert one.certificate is not None
    assert one.certificate.current().cert_pem == pki.other_of_1.cert_pem
    two.recorder.messages.clear()
    await connected(one, two)
    assert link.connected
    assert link.stub is stub, "the connection stays as long as it works"
    assert one.recorder.lost == two.recorder.lost == []
    await two.stop_serving()
    await one.recorder.until(lambda recorder: TWO in recorder.lost)
    await two.serve()
    two.recorder.messages.clear()
    one.recorder.messages.clear()
    await connected(one, two)
    assert link.stub is not stub, "the new connection shows the new certificate"
