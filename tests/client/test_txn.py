"""Transactions: from what is said to what is sent, and back; conditions of keys as typed conflicts."""

from __future__ import annotations

from typing import Any

import pytest

from raftkv.client import (
    AsyncClient,
    Condition,
    FenceMode,
    FencingToken,
    KeyValue,
    Order,
    PutResult,
    RangeResult,
    TxnResult,
    count,
    create_revision,
    delete,
    delete_prefix,
    delete_range,
    get,
    get_prefix,
    get_range,
    lease_of,
    mod_revision,
    put,
    value,
    version,
    when,
)
from raftkv.client.results import LeaseGrant
from raftkv.client.txn import to_request
from raftkv.errors import Conflict, InvalidArgument, KeyExists, RaftKVError, RevisionMismatch
from raftkv.v1 import kv_pb2
from tests.client.fake import FakeCluster

Compare = kv_pb2.Compare


def sent(condition: Condition) -> kv_pb2.Compare:
    (compare,) = to_request(when(condition)).operation.txn.branch.compares
    return compare


@pytest.mark.parametrize(
    ("condition", "compare"),
    [
        (value("a") == "1", Compare(key=b"a", target=Compare.VALUE, relation=Compare.EQUAL, value=b"1")),
        (value("a") != b"1", Compare(key=b"a", target=Compare.VALUE, relation=Compare.NOT_EQUAL, value=b"1")),
        (value("a") < "1", Compare(key=b"a", target=Compare.VALUE, relation=Compare.LESS, value=b"1")),
        (value("a") > "1", Compare(key=b"a", target=Compare.VALUE, relation=Compare.GREATER, value=b"1")),
        ("1" == value("a"), Compare(key=b"a", target=Compare.VALUE, relation=Compare.EQUAL, value=b"1")),  # noqa: SIM300
        (version("a") == 0, Compare(key=b"a", target=Compare.VERSION, relation=Compare.EQUAL)),
        (version("a") != 3, Compare(key=b"a", target=Compare.VERSION, relation=Compare.NOT_EQUAL, number=3)),
        (version("a") < 3, Compare(key=b"a", target=Compare.VERSION, relation=Compare.LESS, number=3)),
        (version("a") > 3, Compare(key=b"a", target=Compare.VERSION, relation=Compare.GREATER, number=3)),
        (version("a") <= 3, Compare(key=b"a", target=Compare.VERSION, relation=Compare.LESS, number=4)),
        (version("a") >= 3, Compare(key=b"a", target=Compare.VERSION, relation=Compare.GREATER, number=2)),
        (create_revision("a") == 3, Compare(key=b"a", target=Compare.CREATE_REVISION, number=3)),
        (mod_revision("a") == 3, Compare(key=b"a", target=Compare.MOD_REVISION, number=3)),
        (lease_of("a") == 3, Compare(key=b"a", target=Compare.LEASE, number=3)),
        (lease_of("a") == LeaseGrant(3, 1.0), Compare(key=b"a", target=Compare.LEASE, number=3)),
        (lease_of("a") != 0, Compare(key=b"a", target=Compare.LEASE, relation=Compare.NOT_EQUAL)),
        (version(prefix="a") == 1, Compare(key=b"a", range_end=b"b", target=Compare.VERSION, number=1)),
        (version(start="a", end="c") == 1, Compare(key=b"a", range_end=b"c", target=Compare.VERSION, number=1)),
        (version(start="a") == 1, Compare(key=b"a", range_end=b"\0", target=Compare.VERSION, number=1)),
        (version(prefix="") == 1, Compare(key=b"\0", range_end=b"\0", target=Compare.VERSION, number=1)),
    ],
)
def test_every_condition_is_sent_as_it_is_said(condition: Condition, compare: kv_pb2.Compare) -> None:
    assert sent(condition) == compare


@pytest.mark.parametrize(
    "nonsense",
    [
        lambda: value("a") == 1,
        lambda: version("a") == "1",
        lambda: version("a") == -1,
        lambda: version("a") == True,  # noqa: E712
        lambda: version("a") >= 0,
        lambda: version("a") <= 2**64 - 1,
        lambda: lease_of("a") == object(),
        value,
        lambda: value("a", prefix="b"),
        lambda: value(start="b", end="a"),
        lambda: bool(version("a") == 1),
        lambda: 1 < version("a") < 5,
        lambda: (version("a") == 1) and (version("b") == 1),
        lambda: when(True),  # type: ignore[arg-type]
        lambda: when().then("put"),  # type: ignore[arg-type]
        lambda: when().then(version("a") == 1),  # type: ignore[arg-type]
        lambda: when().otherwise(None),  # type: ignore[arg-type]
        lambda: put("a", 1),  # type: ignore[arg-type]
        lambda: put("a", "b", lease=-1),
        lambda: get("a", revision=-1),
        lambda: get_range("b", "a"),
        lambda: get_prefix("a", limit=-1),
    ],
)
def test_nonsense_is_refused_as_it_is_said(nonsense: Any) -> None:
    with pytest.raises(InvalidArgument):
        nonsense()


def test_values_have_no_other_order() -> None:
    with pytest.raises(TypeError):
        value("a") <= "1"  # type: ignore[operator] # noqa: B015


def test_every_operation_is_sent_as_it_is_said() -> None:
    branch = (
        when(version("a") == 0)
        .then(put("a", "1", lease=7, previous=True), delete("b", previous=True), delete_range("c", None))
        .then(delete_prefix("d"), when(version("e") > 0).then(put("e", "2")).otherwise(delete("e")))
        .otherwise(get("a"), get_range("a", "b", limit=3, revision=5, keys_only=True), get_prefix("a"), count("a"))
    )
    txn = to_request(branch, [FencingToken(b"x", 1), FencingToken(b"y", 2, FenceMode.MAX_SEEN)]).operation.txn
    assert [(one.lock, one.token, one.mode) for one in txn.fences] == [(b"x", 1, 0), (b"y", 2, 1)]
    operations = txn.branch.then
    assert operations[0].put == kv_pb2.PutRequest(key=b"a", value=b"1", lease=7, prev_kv=True)
    assert operations[1].delete == kv_pb2.DeleteRequest(key=b"b", prev_kv=True)
    assert operations[2].delete == kv_pb2.DeleteRequest(key=b"c", range_end=b"\0")
    assert operations[3].delete == kv_pb2.DeleteRequest(key=b"d", range_end=b"e")
    assert operations[4].branch.compares[0].key == b"e"
    assert operations[4].branch.then[0].put.value == b"2"
    assert operations[4].branch.otherwise[0].delete.key == b"e"
    reads = [one.range for one in txn.branch.otherwise]
    assert reads[0] == kv_pb2.RangeRequest(key=b"a")
    assert reads[1] == kv_pb2.RangeRequest(key=b"a", range_end=b"b", limit=3, revision=5, keys_only=True)
    assert reads[2] == kv_pb2.RangeRequest(key=b"a", range_end=b"b")
    assert reads[3] == kv_pb2.RangeRequest(key=b"a", range_end=b"b", count_only=True)


def test_limits_are_judged_before_anything_is_sent() -> None:
    to_request(when().then(*[get("a")] * 128))
    with pytest.raises(InvalidArgument, match="129 operations, at most 128"):
        to_request(when().then(*[get("a")] * 100).otherwise(*[get("a")] * 29))
    with pytest.raises(InvalidArgument, match="129 conditions"):
        to_request(when(*[version("a") == 0] * 129))
    nested = when()
    for _ in range(7):
        nested = when().then(nested)
    to_request(nested)
    with pytest.raises(InvalidArgument, match="9 nested"):
        to_request(when().then(nested))
    with pytest.raises(InvalidArgument, match="17 fences"):
        to_request(when(), [FencingToken(b"x", 1)] * 17)
    for fence in ("x", 7, b"x", [7], object()):
        with pytest.raises(InvalidArgument, match="FencingToken"):
            to_request(when(), fence)  # type: ignore[arg-type]


def test_what_only_reads_is_known() -> None:
    reads = when(version("a") == 0).then(get("a"), count()).otherwise(when().then(get_prefix("b")))
    assert not to_request(reads).writes
    assert to_request(reads, FencingToken(b"x", 1)).writes
    assert to_request(when().then(get("a")).otherwise(when().then(delete("b")))).writes
    assert to_request(when().then(put("a", "b"), get("a"))).writes


@pytest.mark.parametrize(
    "make",
    [
        lambda: FencingToken(b"", 1),
        lambda: FencingToken("x", 1),  # type: ignore[arg-type]
        lambda: FencingToken(b"x", 0),
        lambda: FencingToken(b"x", -1),
        lambda: FencingToken(b"x", 2**64),
        lambda: FencingToken(b"x", 1, 7),  # type: ignore[arg-type]
    ],
)
def test_a_token_that_is_none_is_refused(make: Any) -> None:
    with pytest.raises(InvalidArgument):
        make()


async def test_a_transaction_gives_what_its_operations_gave(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await client.put("a", "1")
        await client.put("b", "1")
        txn = client.txn().when(value("a") == "1", version("c") == 0).then(put("a", "2", previous=True), get("c"))
        full = (
            txn.then(get("a"), count(), get_prefix("a"), delete("b", previous=True))
            .then(when(version("a") == 9).then(get("x")).otherwise(put("c", "3"), count("c")))
            .otherwise(get("a"))
        )
        result = await full.commit()
        assert result.succeeded
        assert result.revision == 3
        written, nothing, read, number, page, deleted, nested = result.results
        assert isinstance(written, PutResult)
        assert written.revision == 3
        assert written.previous is not None
        assert written.previous.value == b"1"
        assert nothing is None
        assert isinstance(read, KeyValue)
        assert (read.value, read.mod_revision, read.version) == (b"2", 3, 2)
        assert number == 2
        assert isinstance(page, RangeResult)
        assert [pair.key for pair in page.pairs] == [b"a"]
        assert getattr(deleted, "deleted", None) == 1
        assert nested == TxnResult(3, False, (PutResult(3), 1))
        again = await full.commit()  # it may be committed again, as another one
        assert not again.succeeded
        assert again.revision == 3
        assert isinstance(again.results[0], KeyValue)
        # What was begun is not changed by what was made of it.
        assert (await txn.otherwise(count()).commit()).results == (2,)


async def test_a_transaction_that_only_reads_takes_no_sequence(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        await client.txn().when(version("a") == 0).then(get("a")).commit()
        assert single.store.applied == []
        await client.txn().then(get("a")).commit(fence=FencingToken(b"x", 1))
        assert len(single.store.applied) == 1


async def test_create_update_and_delete_meet_conflicts_with_types(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        created = await client.create("a", "1", lease=7)
        assert created == PutResult(1)
        with pytest.raises(KeyExists, match=r"key b'a' exists, since revision 1") as exists:
            await client.create("a", "2")
        assert (exists.value.pair.value, exists.value.pair.lease) == (b"1", 7)
        assert (await client.update("a", "2", if_revision=1)).revision == 2
        with pytest.raises(RevisionMismatch, match=r"is at revision 2, not at 1") as mismatch:
            await client.update("a", "3", if_revision=1)
        assert mismatch.value.expected == 1
        assert mismatch.value.pair is not None
        assert mismatch.value.pair.value == b"2"
        with pytest.raises(RevisionMismatch):
            await client.delete("a", if_revision=1)
        deleted = await client.delete("a", if_revision=2, previous=True)
        assert deleted.deleted == 1
        assert [pair.value for pair in deleted.previous] == [b"2"]
        with pytest.raises(RevisionMismatch, match="does not exist") as mismatch:
            await client.update("a", "4", if_revision=2)
        assert mismatch.value.pair is None
        for error in (exists.value, mismatch.value):
            assert isinstance(error, Conflict | RaftKVError)
            assert not error.ambiguous
            assert not error.retryable
        for revision in (0, -1, None, True, 1.5):
            with pytest.raises(InvalidArgument, match="if_revision"):
                await client.update("a", "5", if_revision=revision)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgument, match="if_revision"):
            await client.delete("a", if_revision=0)


async def test_puts_and_deletes_say_what_was_there(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        assert (await client.put("a", "1", previous=True)).previous is None
        previous = (await client.put("a", "2", previous=True)).previous
        assert previous is not None
        assert previous.value == b"1"
        assert (await client.put("a", "3")).previous is None
        assert [pair.value for pair in (await client.delete_prefix("a", previous=True)).previous] == [b"3"]
        fence = FencingToken(b"x", 5)
        await client.put("a", "4", fence=fence)
        await client.delete("a", fence=[fence])
        await client.create("a", "4", fence=fence)
        for operation in single[1].operations[-3:]:
            request = getattr(operation, str(operation.WhichOneof("operation")))
            assert [(one.lock, one.token) for one in request.fences] == [(b"x", 5)]


async def test_a_scan_goes_on_in_any_order(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        for number in (3, 1, 4, 5, 9, 2, 6):
            await client.put(f"k{number}", str(9 - number))
        keys = [pair.key async for pair in client.scan("k", page=2, order=Order.VALUE)]
        assert keys == [b"k9", b"k6", b"k5", b"k4", b"k3", b"k2", b"k1"]
        keys = [pair.key async for pair in client.scan("k", page=3, descending=True)]
        assert keys == [b"k9", b"k6", b"k5", b"k4", b"k3", b"k2", b"k1"]
        page = await client.prefix(
            "k", limit=2, min_mod_revision=1, max_mod_revision=9, min_create_revision=2, max_create_revision=3
        )
        await client.prefix("k", limit=2, cursor=page.cursor, revision=page.revision)
        first, second = [one.range for one in single[1].operations[-2:]]
        assert (first.min_mod_revision, first.max_mod_revision) == (1, 9)
        assert (first.min_create_revision, first.max_create_revision) == (2, 3)
        assert second.cursor == page.cursor
        assert second.revision == page.revision
        with pytest.raises(InvalidArgument, match="no pair can match"):
            await client.prefix("k", min_mod_revision=3, max_mod_revision=2)
        with pytest.raises(InvalidArgument, match="min_create_revision"):
            await client.prefix("k", min_create_revision=-1)
        with pytest.raises(InvalidArgument, match="order"):
            await client.prefix("k", order=9)  # type: ignore[arg-type]


async def test_compaction_needs_a_revision(single: FakeCluster) -> None:
    async with AsyncClient(single.addresses) as client:
        assert await client.compact(5) == 5
        for revision in (0, -1, 2**64, "5", 1.5):
            with pytest.raises(InvalidArgument, match="revision is"):
                await client.compact(revision)  # type: ignore[arg-type]
