from __future__ import annotations

import pytest

from raftkv.errors import ErrorCode
from raftkv.kv.commands import Command, Deleted, KeyValue, Put, Rejected, Written
from raftkv.kv.limits import MAX_DELETED_KEYS
from raftkv.kv.ranges import RangeQuery

from .host import Host, delete, put

EVERYTHING = RangeQuery(b"\0", b"\0")


def test_the_first_write_makes_revision_2_as_in_etcd() -> None:
    host = Host()
    assert host.machine.revision == 1
    assert host.do(put(b"k")) == [Written(2)]
    assert host.machine.revision == 2


def test_a_key_keeps_its_create_revision_and_counts_its_versions() -> None:
    host = Host()
    host.do(put(b"other"), put(b"k", b"1"), put(b"k", b"2"), put(b"other"), put(b"k", b"3"))
    assert host.get(b"k") == KeyValue(b"k", create_revision=3, mod_revision=6, version=3, lease=0, value=b"3")


def test_a_delete_ends_a_life_of_the_key() -> None:
    host = Host()
    host.do(put(b"k", b"1"), put(b"k", b"2"))
    assert host.do(delete(b"k")) == [Deleted(4, 1)]
    assert host.get(b"k") is None
    host.do(put(b"k", b"3"))
    assert host.get(b"k") == KeyValue(b"k", create_revision=5, mod_revision=5, version=1, lease=0, value=b"3")
    assert [pair and pair.value for pair in (host.get(b"k", at) for at in (1, 2, 3, 4, 5))] == [
        None,
        b"1",
        b"2",
        None,
        b"3",
    ]


def test_a_delete_that_finds_nothing_makes_no_revision() -> None:
    host = Host()
    host.do(put(b"k"), delete(b"k"))
    assert host.do(delete(b"k"), delete(b"a", b"z"), delete(b"never")) == [Deleted(3, 0)] * 3
    assert host.machine.revision == 3


def test_a_range_is_deleted_in_one_revision() -> None:
    host = Host()
    host.do(put(b"a"), put(b"b"), put(b"b"), put(b"c"), put(b"d"), delete(b"c"))
    assert host.do(delete(b"a", b"d")) == [Deleted(8, 2)]
    assert [pair.key for pair in host.range(EVERYTHING).pairs] == [b"d"]
    assert host.do(delete(b"\0", b"\0")) == [Deleted(9, 1)]
    assert host.range(EVERYTHING).pairs == ()


def test_a_batch_sees_its_own_writes() -> None:
    host = Host()
    assert host.do(put(b"k"), delete(b"k"), delete(b"k"), put(b"k")) == [
        Written(2),
        Deleted(3, 1),
        Deleted(3, 0),
        Written(4),
    ]


def test_a_delete_of_more_keys_than_allowed_changes_nothing() -> None:
    host = Host()
    host.do(*(put(b"%05d" % number) for number in range(MAX_DELETED_KEYS + 1)))
    before = host.machine.revision
    (rejected,) = host.do(delete(b"\0", b"\0"))
    assert isinstance(rejected, Rejected)
    assert rejected.code is ErrorCode.LIMIT_EXCEEDED
    assert "more than 5000 keys" in rejected.message
    assert "delete it in parts" in rejected.message
    assert host.machine.revision == before
    assert host.range(RangeQuery(b"\0", b"\0", count_only=True)).count == MAX_DELETED_KEYS + 1
    assert host.do(delete(b"\0", b"%05d" % MAX_DELETED_KEYS)) == [Deleted(before + 1, MAX_DELETED_KEYS)]


def test_a_delete_that_reads_too_much_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.kv.mvcc.MAX_DELETE_WORK", 20)
    host = Host()
    host.do(put(b"a", b"v" * 100_000), put(b"b"))
    (rejected,) = host.do(delete(b"a", b"z"))
    assert isinstance(rejected, Rejected)
    assert rejected.code is ErrorCode.LIMIT_EXCEEDED
    assert "more than 20 steps" in rejected.message
    assert host.do(delete(b"b", b"z"), delete(b"a")) == [Deleted(4, 1), Deleted(5, 1)]


@pytest.mark.parametrize(
    "command",
    [put(b""), put(b"k" * 501), put(b"\0" * 251), put(b"k", b"v" * (2**20 + 1)), delete(b""), delete(b"b", b"a")],
)
def test_a_command_that_slipped_past_the_server_is_judged_not_raised(command: Command) -> None:
    host = Host()
    (rejected,) = host.do(command)
    assert isinstance(rejected, Rejected)
    assert rejected.code is ErrorCode.INVALID_ARGUMENT
    assert host.machine.revision == 1
    assert host.machine.applied_index == 1


def test_the_longest_key_is_stored_read_and_deleted() -> None:
    host = Host()
    for key in (b"k" * 500, b"\0" * 250):
        assert isinstance(host.do(Put(0, key, b"v"))[0], Written)
        assert host.get(key) is not None
        assert host.get(key + b"\0") is None
        page = host.range(RangeQuery(key, b"\0"))
        assert page.pairs[0].key == key
        assert key not in [pair.key for pair in host.range(RangeQuery(key + b"\0", b"\0")).pairs]
        deleted = host.do(delete(key, key + b"\0"))[0]
        assert isinstance(deleted, Deleted)
        assert deleted.deleted == 1
