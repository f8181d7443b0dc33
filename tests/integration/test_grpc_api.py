"""The API as a client in any language meets it: raw gRPC, single calls and the pipeline, on any node."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from raftkv.kv.limits import MAX_KEY_BYTES, MAX_REQUEST_BYTES, MAX_VALUE_BYTES
from raftkv.server.services.kv import MAX_OPERATIONS_PER_BATCH, MEMBER_ID_METADATA
from raftkv.testing.cluster import LocalCluster, NodeProcess
from raftkv.v1 import cluster_pb2, common_pb2, kv_pb2, peer_pb2
from tests.integration.stubs import Stubs, detail_of, stubs
from tests.integration.waiting import PATIENCE_S

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

ON_BOTH = pytest.mark.parametrize("leads", [True, False], ids=["leader", "follower"], indirect=True)


@pytest.fixture
def leads(request: pytest.FixtureRequest) -> bool:
    """Whether the node that is asked is the leader. Where a test does not say, it is not."""
    return bool(getattr(request, "param", False))


@pytest_asyncio.fixture(loop_scope="package")
async def leader(cluster: LocalCluster) -> NodeProcess:
    return cluster.node(await cluster.leader())


@pytest_asyncio.fixture(loop_scope="package")
async def follower(cluster: LocalCluster, leader: NodeProcess) -> NodeProcess:
    return next(node for node in cluster.nodes if node is not leader)


@pytest_asyncio.fixture(loop_scope="package")
async def asked(leads: bool, leader: NodeProcess, follower: NodeProcess) -> AsyncIterator[Stubs]:
    async with stubs((leader if leads else follower).client_address) as asked:
        yield asked


def put(key: bytes, value: bytes) -> kv_pb2.Operation:
    return kv_pb2.Operation(put=kv_pb2.PutRequest(key=key, value=value))


async def pipelined(asked: Stubs, batch: kv_pb2.BatchRequest) -> kv_pb2.BatchResponse:
    call = asked.kv.Pipeline(timeout=PATIENCE_S)
    await call.write(batch)
    await call.done_writing()
    answer = await call.read()
    assert isinstance(answer, kv_pb2.BatchResponse)
    assert await call.read() is grpc.aio.EOF
    return answer


# --- requests that work -----------------------------------------------------------------------------------------------


@ON_BOTH
async def test_single_calls_work_on_any_node(asked: Stubs, leader: NodeProcess, prefix: str, leads: bool) -> None:
    """A follower forwards, and says so: the head of the answer is the leader's."""
    key = f"{prefix}key".encode()
    written = await asked.kv.Put(kv_pb2.PutRequest(key=key, value=b"1"), timeout=PATIENCE_S)
    assert written.header.member_id == written.header.leader_id == leader.id
    assert written.header.leader_address == leader.client_address
    assert written.revision == written.header.revision > 0

    read = await asked.kv.Range(kv_pb2.RangeRequest(key=key), timeout=PATIENCE_S)
    (pair,) = read.kvs
    assert (pair.key, pair.value, pair.version) == (key, b"1", 1)
    assert (pair.create_revision, pair.mod_revision) == (written.revision, written.revision)
    assert read.receipt.guarantee == common_pb2.GUARANTEE_LINEARIZABLE
    assert read.header.member_id == leader.id

    local = await asked.kv.Range(kv_pb2.RangeRequest(key=key, level=kv_pb2.LOCAL), timeout=PATIENCE_S)
    assert local.receipt.guarantee == common_pb2.GUARANTEE_STALE_PREFIX
    assert (local.header.member_id == leader.id) == leads

    deleted = await asked.kv.Delete(kv_pb2.DeleteRequest(key=key), timeout=PATIENCE_S)
    assert (deleted.deleted, deleted.revision) == (1, written.revision + 1)
    assert not (await asked.kv.Range(kv_pb2.RangeRequest(key=key), timeout=PATIENCE_S)).kvs


@ON_BOTH
async def test_reads_at_every_level_have_a_receipt(asked: Stubs, prefix: str) -> None:
    key = f"{prefix}key".encode()
    await asked.kv.Put(kv_pb2.PutRequest(key=key, value=b"1"), timeout=PATIENCE_S)
    end = await asked.kv.LogEnd(kv_pb2.LogEndRequest(), timeout=PATIENCE_S)
    assert len(end.voters) == 3
    assert 0 < end.applied_index <= end.last_index
    seen = common_pb2.ReadToken(
        cluster_id=end.header.cluster_id, term=end.applied_term, index=end.applied_index, committed=True
    )
    after = kv_pb2.Position(term=end.last_term, index=end.last_index)
    reads: list[tuple[kv_pb2.RangeRequest, common_pb2.Guarantee.ValueType]] = [
        (kv_pb2.RangeRequest(), common_pb2.GUARANTEE_LINEARIZABLE),
        (kv_pb2.RangeRequest(here=True), common_pb2.GUARANTEE_LINEARIZABLE),
        (kv_pb2.RangeRequest(level=kv_pb2.LOCAL), common_pb2.GUARANTEE_STALE_PREFIX),
        (kv_pb2.RangeRequest(level=kv_pb2.AT_LEAST, at_least=seen), common_pb2.GUARANTEE_AT_LEAST),
        (kv_pb2.RangeRequest(level=kv_pb2.AT_LEAST, after=after), common_pb2.GUARANTEE_AT_LEAST),
        (kv_pb2.RangeRequest(level=kv_pb2.BOUNDED, max_staleness_ms=60_000), common_pb2.GUARANTEE_BOUNDED),
        (kv_pb2.RangeRequest(level=kv_pb2.QUORUM), common_pb2.GUARANTEE_LINEARIZABLE),
        (kv_pb2.RangeRequest(level=kv_pb2.QUORUM, replicas=1), common_pb2.GUARANTEE_SEES_WRITES_AT_W_GE),
    ]
    for request, guarantee in reads:
        request.key = key
        answer = await asked.kv.Range(request, timeout=PATIENCE_S)
        assert answer.receipt.guarantee == guarantee
        assert answer.receipt.applied_index > 0
        if guarantee == common_pb2.GUARANTEE_LINEARIZABLE:
            assert answer.kvs[0].value == b"1"


async def test_the_end_of_a_log_is_told_to_nobody_of_another_cluster(asked: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.kv.LogEnd(kv_pb2.LogEndRequest(cluster_id=1), timeout=PATIENCE_S)
    detail = detail_of(refused.value)
    assert detail is not None
    assert detail.code == common_pb2.CLUSTER_MISMATCH


@ON_BOTH
async def test_a_repeated_call_of_a_session_is_applied_once(asked: Stubs, prefix: str) -> None:
    session = await asked.kv.RegisterSession(kv_pb2.RegisterSessionRequest(), timeout=PATIENCE_S)
    stamp = common_pb2.WriteStamp(session=session.session, sequence=1)
    request = kv_pb2.PutRequest(key=f"{prefix}key".encode(), value=b"once", stamp=stamp)
    revisions = {(await asked.kv.Put(request, timeout=PATIENCE_S)).revision for _ in range(5)}
    assert len(revisions) == 1
    read = await asked.kv.Range(kv_pb2.RangeRequest(key=request.key), timeout=PATIENCE_S)
    assert read.kvs[0].version == 1


@ON_BOTH
async def test_a_pipeline_answers_every_operation_of_a_batch(asked: Stubs, leader: NodeProcess, prefix: str) -> None:
    key = f"{prefix}key".encode()
    operations = [put(key, b"1"), kv_pb2.Operation(range=kv_pb2.RangeRequest(key=key, level=kv_pb2.LOCAL))]
    operations += [kv_pb2.Operation(delete=kv_pb2.DeleteRequest(key=f"{prefix}nothing".encode())), kv_pb2.Operation()]
    for number, operation in enumerate(operations, start=1):
        operation.id = number
    answer = await pipelined(asked, kv_pb2.BatchRequest(operations=operations))
    results = {result.id: result.WhichOneof("result") for result in answer.results}
    assert results == {1: "put", 2: "range", 3: "delete", 4: "error"}
    assert answer.header.leader_id == leader.id


async def test_a_pipeline_says_at_once_which_node_it_leads_to(asked: Stubs, follower: NodeProcess) -> None:
    call = asked.kv.Pipeline(timeout=PATIENCE_S)
    metadata = dict(await call.initial_metadata())
    assert metadata[MEMBER_ID_METADATA] == str(follower.id)
    call.cancel()


# --- requests that break a limit --------------------------------------------------------------------------------------

TOO_MUCH = {
    "empty-key": (put(b"", b"v"), "key is empty"),
    "long-key": (put(b"k" * (MAX_KEY_BYTES + 1), b"v"), f"at most {MAX_KEY_BYTES}"),
    "key-of-zeros": (put(bytes(MAX_KEY_BYTES), b"v"), f"at most {MAX_KEY_BYTES}"),
    "large-value": (put(b"k", bytes(MAX_VALUE_BYTES + 1)), f"at most {MAX_VALUE_BYTES}"),
    "large-request": (put(b"k", bytes(MAX_REQUEST_BYTES)), f"at most {MAX_REQUEST_BYTES}"),
    "read-of-no-key": (kv_pb2.Operation(range=kv_pb2.RangeRequest()), "key is empty"),
    "delete-of-no-key": (kv_pb2.Operation(delete=kv_pb2.DeleteRequest()), "key is empty"),
    "backward-range": (kv_pb2.Operation(range=kv_pb2.RangeRequest(key=b"b", range_end=b"a")), "before key"),
    "unknown-level": (kv_pb2.Operation(range=kv_pb2.RangeRequest(key=b"k", level=9)), "level 9"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize(("operation", "limit"), TOO_MUCH.values(), ids=TOO_MUCH)
async def test_a_single_call_that_breaks_a_limit(asked: Stubs, operation: kv_pb2.Operation, limit: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await single(asked, operation)
    detail = detail_of(refused.value)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert detail is not None
    assert (detail.code, detail.retryable, detail.ambiguous) == (common_pb2.INVALID_ARGUMENT, False, False)
    assert limit in detail.message
    assert refused.value.details() == detail.message


@pytest.mark.parametrize(("operation", "limit"), TOO_MUCH.values(), ids=TOO_MUCH)
async def test_a_pipelined_operation_that_breaks_a_limit(asked: Stubs, operation: kv_pb2.Operation, limit: str) -> None:
    """It fails alone: the next batch of the stream is answered, and so is its neighbour, unless both are too large."""
    bad = kv_pb2.Operation()
    bad.CopyFrom(operation)
    bad.id, good = 1, put(b"neighbour", b"v")
    good.id = 2
    answer = await pipelined(asked, kv_pb2.BatchRequest(operations=[bad, good]))
    results = {result.id: result for result in answer.results}
    assert results[1].error.code == common_pb2.INVALID_ARGUMENT
    assert limit in results[1].error.message
    together_too_large = bad.ByteSize() > MAX_REQUEST_BYTES
    assert results[2].WhichOneof("result") == ("error" if together_too_large else "put")


async def single(asked: Stubs, operation: kv_pb2.Operation) -> None:
    match operation.WhichOneof("operation"):
        case "put":
            await asked.kv.Put(operation.put, timeout=PATIENCE_S)
        case "range":
            await asked.kv.Range(operation.range, timeout=PATIENCE_S)
        case "delete":
            await asked.kv.Delete(operation.delete, timeout=PATIENCE_S)
        case other:
            raise AssertionError(other)


async def test_a_batch_of_too_many_operations(asked: Stubs) -> None:
    operations = [kv_pb2.Operation(id=number) for number in range(1, MAX_OPERATIONS_PER_BATCH + 2)]
    answer = await pipelined(asked, kv_pb2.BatchRequest(operations=operations))
    assert len(answer.results) == len(operations)
    assert {result.error.code for result in answer.results} == {common_pb2.INVALID_ARGUMENT}
    assert f"at most {MAX_OPERATIONS_PER_BATCH}" in answer.results[0].error.message


async def test_a_pipeline_with_bytes_that_are_no_batch(asked: Stubs, follower: NodeProcess, prefix: str) -> None:
    """What came before is answered; then the stream is refused, with a reason."""
    mark = len(follower.log())
    method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = asked.channel.stream_stream("/raftkv.v1.KV/Pipeline")
    call = method(timeout=PATIENCE_S)
    first = put(f"{prefix}key".encode(), b"v")
    first.id = 1
    await call.write(kv_pb2.BatchRequest(operations=[first]).SerializeToString())
    await call.write(b"\xff" * 30)
    answer = await call.read()
    assert isinstance(answer, bytes)
    assert kv_pb2.BatchResponse.FromString(answer).results[0].WhichOneof("result") == "put"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call.read()
    expect(refused.value, grpc.StatusCode.INVALID_ARGUMENT, common_pb2.INVALID_ARGUMENT)
    assert "Traceback" not in follower.log()[mark:]


async def test_what_just_fits_is_taken(asked: Stubs) -> None:
    key = b"k" * MAX_KEY_BYTES
    await asked.kv.Put(kv_pb2.PutRequest(key=key, value=bytes(MAX_VALUE_BYTES)), timeout=PATIENCE_S)
    read = await asked.kv.Range(kv_pb2.RangeRequest(key=key), timeout=PATIENCE_S)
    assert len(read.kvs[0].value) == MAX_VALUE_BYTES
    await asked.kv.Delete(kv_pb2.DeleteRequest(key=key), timeout=PATIENCE_S)


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_other_errors_carry_their_details_too(asked: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.kv.Range(kv_pb2.RangeRequest(key=b"k", revision=2**62), timeout=PATIENCE_S)
    expect(refused.value, grpc.StatusCode.OUT_OF_RANGE, common_pb2.FUTURE_REVISION)

    unnumbered = kv_pb2.PutRequest(key=b"k", value=b"v", stamp=common_pb2.WriteStamp(session=1))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.kv.Put(unnumbered, timeout=PATIENCE_S)
    expect(refused.value, grpc.StatusCode.INVALID_ARGUMENT, common_pb2.INVALID_ARGUMENT)

    unknown = kv_pb2.PutRequest(key=b"k", value=b"v", stamp=common_pb2.WriteStamp(session=2**60, sequence=1))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.kv.Put(unknown, timeout=PATIENCE_S)
    expect(refused.value, grpc.StatusCode.FAILED_PRECONDITION, common_pb2.SESSION_EXPIRED)

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.cluster.TransferLeader(cluster_pb2.TransferLeaderRequest(target=77), timeout=PATIENCE_S)
    expect(refused.value, grpc.StatusCode.FAILED_PRECONDITION, common_pb2.FAILED_PRECONDITION)


def expect(error: grpc.aio.AioRpcError, status: grpc.StatusCode, code: common_pb2.ErrorCode.ValueType) -> None:
    detail = detail_of(error)
    assert detail is not None
    assert (error.code(), detail.code) == (status, code)
    assert (detail.retryable, detail.ambiguous) == (False, False)
    assert detail.message == error.details()


async def test_without_a_majority_writes_are_told_what_is_known(cluster: LocalCluster, leader: NodeProcess) -> None:
    """First, proposed by a leader that is about to step down: open. Then, where no leader is known: no effect."""
    others = [node for node in cluster.nodes if node is not leader]
    async with stubs(leader.client_address) as asked:
        await asked.kv.Range(kv_pb2.RangeRequest(key=b"k"), timeout=PATIENCE_S)
        for node in others:
            node.pause()
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked.kv.Put(kv_pb2.PutRequest(key=b"k", value=b"open"), timeout=1.0)
        assert refused.value.code() in {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNKNOWN}
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await asked.kv.Put(kv_pb2.PutRequest(key=b"k", value=b"no effect"), timeout=PATIENCE_S)
        detail = detail_of(refused.value)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert detail is not None
        assert (detail.code, detail.retryable, detail.ambiguous) == (common_pb2.NO_LEADER, True, False)

        assert await health(asked, "raftkv.v1.KV") == health_pb2.HealthCheckResponse.NOT_SERVING
        for node in others:
            node.resume()
        await cluster.leader()
        read = await asked.kv.Range(kv_pb2.RangeRequest(key=b"k"), timeout=PATIENCE_S)
        assert not read.kvs or read.kvs[0].value != b"no effect"


# --- beside the API ---------------------------------------------------------------------------------------------------


async def health(asked: Stubs, service: str) -> int:
    check: grpc.aio.UnaryUnaryMultiCallable[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
    check = asked.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return (await check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_S)).status


@ON_BOTH
async def test_health(asked: Stubs) -> None:
    for service in ("", "raftkv.v1.KV", "raftkv.v1.Lease", "raftkv.v1.Lock", "raftkv.v1.Cluster"):
        assert await health(asked, service) == health_pb2.HealthCheckResponse.SERVING, service
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await health(asked, "nonsense")
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection(asked: Stubs) -> None:
    async def reflected(request: reflection_pb2.ServerReflectionRequest) -> reflection_pb2.ServerReflectionResponse:
        reflect: grpc.aio.StreamStreamMultiCallable[
            reflection_pb2.ServerReflectionRequest, reflection_pb2.ServerReflectionResponse
        ] = asked.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        call = reflect(timeout=PATIENCE_S)
        await call.write(request)
        answer = await call.read()
        call.cancel()
        assert isinstance(answer, reflection_pb2.ServerReflectionResponse)
        return answer

    listed = await reflected(reflection_pb2.ServerReflectionRequest(list_services=""))
    services = {service.name for service in listed.list_services_response.service}
    assert {"raftkv.v1.KV", "raftkv.v1.Lease", "raftkv.v1.Lock", "raftkv.v1.Cluster"} <= services
    assert "grpc.health.v1.Health" in services
    assert "raftkv.v1.Peer" not in services, "peers are not spoken to at the clients' address"
    described = await reflected(reflection_pb2.ServerReflectionRequest(file_containing_symbol="raftkv.v1.KV"))
    assert described.file_descriptor_response.file_descriptor_proto


async def test_peers_are_not_served_to_clients(asked: Stubs) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asked.peer.Forward(peer_pb2.ForwardRequest(), timeout=PATIENCE_S)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
