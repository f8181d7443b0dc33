"""Whoever calls at a peer port and is no peer, or talks nonsense, is refused and logged, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from raftkv.client import AsyncClient, Status
from raftkv.testing.cluster import LocalCluster, NodeProcess
from raftkv.testing.processes import free_port
from raftkv.transport.grpc_peer import PROTOCOL_VERSION
from raftkv.v1 import cluster_pb2, common_pb2, kv_pb2, peer_pb2
from tests.cli.processes import finished
from tests.integration.stubs import Stubs, detail_of, stubs
from tests.integration.waiting import PATIENCE_S, POLL_S, until

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

FUTURE_TERM = 1_000_000


@pytest_asyncio.fixture(loop_scope="package")
async def target(cluster: LocalCluster) -> NodeProcess:
    """A follower: a message in the name of its leader would have the most to say to it."""
    leader = await cluster.leader()
    return next(node for node in cluster.nodes if node.id != leader)


@pytest_asyncio.fixture(loop_scope="package")
async def peer(target: NodeProcess) -> AsyncIterator[Stubs]:
    async with stubs(target.peer_address) as peer:
        yield peer


@pytest_asyncio.fixture(loop_scope="package", autouse=True)
async def nothing_changes(cluster: LocalCluster, client: AsyncClient, target: NodeProcess) -> AsyncIterator[None]:
    """Around every test here: each node is as it was, and still takes writes."""
    await client.put("before", "the strangers came")
    state = await cluster.converged()
    before = [facts(await client.status(node.client_address)) for node in cluster.nodes]
    yield
    # A stream that ends in the leader's name is a hint that it is gone; the next heartbeat undoes that.
    async with asyncio.timeout(PATIENCE_S):
        while [facts(await client.status(node.client_address)) for node in cluster.nodes] != before:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
    assert await cluster.converged() == state
    assert target.running
    await client.put("after", "the strangers left")


def facts(status: Status) -> tuple[object, ...]:
    """What must not change while nobody writes: all but the sizes and the timing of heartbeats."""
    return (
        status.role,
        status.term,
        status.leader_id,
        status.leader_address,
        status.commit_index,
        status.applied_index,
        status.last_index,
        status.durable_index,
        status.revision,
        status.members,
    )


async def greeting(
    cluster: LocalCluster,
    target: NodeProcess,
    *,
    cluster_id: int | None = None,
    sender: int | None = None,
    to: int | None = None,
    version: int = PROTOCOL_VERSION,
) -> peer_pb2.PeerFrame:
    """The first frame of the leader's, but for what the caller wants to be wrong."""
    leader = await cluster.leader()
    async with AsyncClient([target.client_address]) as client:
        real_id = (await client.status(target.client_address)).cluster_id
    hello = peer_pb2.Hello(
        cluster_id=real_id if cluster_id is None else cluster_id,
        to=target.id if to is None else to,
        protocol_version=version,
        client_address="1.2.3.4:5" if sender is not None else cluster.node(leader).client_address,
        incarnation=incarnation_of(cluster.node(leader)),
    )
    setattr(hello, "from", leader if sender is None else sender)
    return peer_pb2.PeerFrame(hello=hello)


def incarnation_of(node: NodeProcess) -> int:
    """The random name of a node's disk, which nobody else can know."""
    return int(json.loads((node.data_dir / "peers.json").read_text())["incarnation"])


async def refusal(peer: Stubs, target: NodeProcess, frames: Iterable[peer_pb2.PeerFrame | bytes]) -> str:
    """Send frames; return with what words the stream was refused, which must be those of the node's log too."""
    mark = len(target.log())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await _converse(peer, frames)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    reason = (refused.value.details() or "").removeprefix("refused: ")
    assert reason
    await until("the refusal is logged", lambda: reason in target.log()[mark:])
    assert "refused a peer connection" in target.log()[mark:]
    assert "Traceback" not in target.log()[mark:]
    return reason


async def _converse(peer: Stubs, frames: Iterable[peer_pb2.PeerFrame | bytes]) -> None:
    method: grpc.aio.StreamStreamMultiCallable[peer_pb2.PeerFrame | bytes, bytes] = peer.channel.stream_stream(
        "/raftkv.v1.Peer/Stream", request_serializer=_bytes
    )
    call = method(timeout=PATIENCE_S)
    for frame in frames:
        await call.write(frame)
    while await call.read() is not grpc.aio.EOF:
        pass


def _bytes(frame: peer_pb2.PeerFrame | bytes) -> bytes:
    return frame if isinstance(frame, bytes) else frame.SerializeToString()


async def test_a_node_of_another_cluster(cluster: LocalCluster, target: NodeProcess, peer: Stubs) -> None:
    """It is told so with the way out, as often as it asks; the log says it once."""
    mark = len(target.log())
    for _ in range(3):
        call = peer.peer.Stream(timeout=PATIENCE_S)
        await call.write(await greeting(cluster, target, cluster_id=1))
        reply = await call.read()
        assert isinstance(reply, peer_pb2.HelloReply)
        assert reply.verdict == peer_pb2.OTHER_CLUSTER
        assert "raftkv member add" in reply.reason
        assert await call.read() is grpc.aio.EOF
    await until("the refusal is logged", lambda: "is of cluster 0000000000000001" in target.log()[mark:])
    assert target.log()[mark:].count("refused a peer connection") == 1


async def test_a_node_that_was_started_with_another_clusters_members(cluster: LocalCluster, tmp_path: Path) -> None:
    """It stops, and says what to do; before, it ran on for ever and said nothing of use."""
    own, clients = free_port(), free_port()
    members = [f"{node.id}={node.peer_address}" for node in cluster.nodes[:2]] + [f"9=127.0.0.1:{own}"]
    flags = [part for member in members for part in ("--member", member)]
    result = await asyncio.to_thread(
        finished,
        tmp_path,
        *("serve", "--id", "9", "--data-dir", str(tmp_path / "data"), "--listen", f"127.0.0.1:{clients}", *flags),
    )
    assert result.returncode == 2
    said = result.stderr.splitlines()[-1]
    assert "node 9 is of cluster" in said
    assert "The way out" in said
    assert "--join" in said


async def test_a_node_that_looks_for_another_one(cluster: LocalCluster, target: NodeProcess, peer: Stubs) -> None:
    assert "looks for node 77" in await refusal(peer, target, [await greeting(cluster, target, to=77)])


async def test_a_node_that_claims_the_id_of_another_disk(
    cluster: LocalCluster, target: NodeProcess, peer: Stubs
) -> None:
    """It is told so in the answer to its greeting, so that it can stop; not one of its messages counts."""
    mark = len(target.log())
    frame = await greeting(cluster, target)
    frame.hello.incarnation += 1
    call = peer.peer.Stream(timeout=PATIENCE_S)
    await call.write(frame)
    reply = await call.read()
    assert isinstance(reply, peer_pb2.HelloReply)
    assert reply.verdict == peer_pb2.OTHER_DISK
    assert f"raftkv member remove {await cluster.leader()}" in reply.reason
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the stream may have ended by now
        await call.write(appended(FUTURE_TERM, []))
    await until("the refusal is logged", lambda: "with another disk" in target.log()[mark:])


async def test_a_node_that_claims_to_be_this_one(cluster: LocalCluster, target: NodeProcess, peer: Stubs) -> None:
    mirrored = await greeting(cluster, target, sender=target.id)
    assert "is not a peer" in await refusal(peer, target, [mirrored])


async def test_a_node_that_speaks_another_version(cluster: LocalCluster, target: NodeProcess, peer: Stubs) -> None:
    """It is told which releases do not go together, and the way out; not one of its messages counts."""
    mark = len(target.log())
    call = peer.peer.Stream(timeout=PATIENCE_S)
    await call.write(await greeting(cluster, target, version=99))
    reply = await call.read()
    assert isinstance(reply, peer_pb2.HelloReply)
    assert reply.verdict == peer_pb2.OTHER_PROTOCOL
    assert "speaks version 99 of the protocol" in reply.reason
    assert "The way out" in reply.reason
    with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the stream may have ended by now
        await call.write(appended(FUTURE_TERM, []))
    await until("the refusal is logged", lambda: "speaks version 99" in target.log()[mark:])


async def test_messages_before_a_greeting(target: NodeProcess, peer: Stubs) -> None:
    assert "does not begin with a greeting" in await refusal(peer, target, [appended(FUTURE_TERM, [])])


async def test_a_first_frame_that_is_none(target: NodeProcess, peer: Stubs) -> None:
    assert "bytes that are no frame" in await refusal(peer, target, [b"\xff" * 30])


async def test_a_later_frame_that_is_none(cluster: LocalCluster, target: NodeProcess, peer: Stubs) -> None:
    reason = await refusal(peer, target, [await greeting(cluster, target), b"\xff" * 30])
    assert f"node {await cluster.leader()} sent bytes that are no frame" in reason


ENTRY = {"term": FUTURE_TERM, "index": 1, "kind": 0, "data": b"x"}


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ([ENTRY | {"index": 3}], "entry"),
        ([ENTRY, ENTRY], "entry"),
        ([ENTRY | {"term": FUTURE_TERM + 1}], "outside"),
        ([ENTRY | {"kind": 99}], "unknown kind 99"),
    ],
    ids=["gap", "repeated", "term-above-the-message's", "kind"],
)
async def test_malformed_entries(
    cluster: LocalCluster,
    target: NodeProcess,
    peer: Stubs,
    entries: list[dict[str, object]],
    problem: str,
) -> None:
    """Not one message of such a frame counts: the first, well-formed one would have raised the term."""
    harmless = peer_pb2.RaftMessage(term=FUTURE_TERM, heartbeat_response=peer_pb2.HeartbeatResponse())
    frame = appended(FUTURE_TERM, entries)
    frame.messages.insert(0, harmless)
    assert problem in await refusal(peer, target, [await greeting(cluster, target), frame])


async def test_a_message_without_a_body(cluster: LocalCluster, target: NodeProcess, peer: Stubs) -> None:
    frame = peer_pb2.PeerFrame(messages=[peer_pb2.RaftMessage(term=FUTURE_TERM)])
    assert "sent" in await refusal(peer, target, [await greeting(cluster, target), frame])


def appended(term: int, entries: list[dict[str, object]]) -> peer_pb2.PeerFrame:
    request = peer_pb2.AppendRequest(entries=[peer_pb2.Entry(**entry) for entry in entries])  # type: ignore[arg-type]
    return peer_pb2.PeerFrame(messages=[peer_pb2.RaftMessage(term=term, append_request=request)])


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64], ids=["http1", "noise"])
async def test_bytes_that_are_not_even_http2(target: NodeProcess, noise: bytes) -> None:
    """gRPC ends such a connection before raftkv hears of it."""
    host, _, port = target.peer_address.rpartition(":")
    for _ in range(5):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(noise)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await reader.read()
        except ConnectionError:
            pass
        writer.close()


async def test_requests_forwarded_by_strangers(cluster: LocalCluster, peer: Stubs) -> None:
    batch = kv_pb2.BatchRequest(operations=[kv_pb2.Operation(id=1, put=kv_pb2.PutRequest(key=b"k", value=b"stranger"))])
    leader = cluster.node(await cluster.leader())
    async with stubs(leader.peer_address) as leading:
        for one in (peer, leading):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await one.peer.Forward(peer_pb2.ForwardRequest(cluster_id=1, batch=batch), timeout=PATIENCE_S)
            assert mismatch(refused.value)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await one.peer.ForwardTransferLeader(
                    peer_pb2.ForwardTransferLeaderRequest(cluster_id=1, request=cluster_pb2.TransferLeaderRequest()),
                    timeout=PATIENCE_S,
                )
            assert mismatch(refused.value)


def mismatch(error: grpc.aio.AioRpcError) -> bool:
    detail = detail_of(error)
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    return detail is not None and detail.code == common_pb2.CLUSTER_MISMATCH and not detail.ambiguous


async def test_what_was_forwarded_is_not_forwarded_again(
    cluster: LocalCluster, client: AsyncClient, target: NodeProcess, peer: Stubs
) -> None:
    """So no request can circle. The answer says where the leader is."""
    leader = cluster.node(await cluster.leader())
    batch = kv_pb2.BatchRequest(operations=[kv_pb2.Operation(id=7, put=kv_pb2.PutRequest(key=b"k", value=b"circle"))])
    request = peer_pb2.ForwardRequest(cluster_id=(await client.status(target.client_address)).cluster_id, batch=batch)
    setattr(request, "from", leader.id)
    answer = await peer.peer.Forward(request, timeout=PATIENCE_S)
    (result,) = answer.results
    assert (result.id, result.error.code) == (7, common_pb2.NOT_LEADER)
    assert (result.error.retryable, result.error.ambiguous) == (True, False)
    assert (result.error.leader_id, result.error.leader_address) == (leader.id, leader.client_address)
