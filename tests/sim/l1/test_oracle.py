"""The oracle notices what it is there to notice: every property, by a history that breaks only it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftkv.errors import ErrorCode
from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import Batch, Command, Delete, Deleted, Group, Put, Rejected, Result, Written
from raftkv.kv.keys import version_prefix
from raftkv.kv.machine import AppliedEntry
from raftkv.kv.records import TOMBSTONE, encode_version
from raftkv.kv.writing import Change
from raftkv.raft import Entry, HardState, Index, NodeId, Ready, Role, Term
from raftkv.raft.messages import AppendResponse, VoteRequest, VoteResponse
from raftkv.storage.protocols import RecoveredLog
from raftkv.v1 import common_pb2
from tests.sim.l1.oracle import Oracle, Write

History = Callable[[Oracle], None]


def entry(index: int, term: int = 1, data: bytes = b"") -> Entry:
    return Entry(Term(term), Index(index), data=data)


def ready(*committed: Entry, role: Role = Role.FOLLOWER, term: int = 1) -> Ready:
    return Ready(
        messages=(),
        write=None,
        committed=committed,
        reads=(),
        reads_dropped=(),
        snapshots_needed=(),
        role=role,
        term=Term(term),
        leader=None,
    )


def apply(oracle: Oracle, index: int, command: Command, result: Result, *, session: int = 1, node: int = 1) -> None:
    payload = encode_batch(Batch(0, (Group(session, 0, (command,)),)))
    oracle.applied(node, AppliedEntry(index, 1, payload), ([result],), changes_of(oracle, command, result))


def changes_of(oracle: Oracle, command: Command, result: Result) -> list[Change]:
    """Return what a put or delete with this result does to one key."""
    before = oracle.state.keys.get(getattr(command, "key", b""))
    match command, result:
        case Put(_, key, value), Written(revision) if revision > oracle.revision:
            create, version = (before.create_revision, before.version) if before is not None else (revision, 0)
            row = encode_version(create, version + 1, 0, value)
        case Delete(_, key), Deleted(revision, 1):
            row = TOMBSTONE
        case _:
            return []
    return [Change(revision, version_prefix(key), row, None, 0)]


def early(oracle: Oracle) -> None:
    """The put of `v` in entry 1 is acknowledged by its leader alone."""
    receipt = common_pb2.WriteReceipt(term=1, index=1, durable_on=1, wanted=1)
    oracle.claims.wrote("put", 1, receipt, 0, b"v")


def refused_after_it_was_acknowledged(oracle: Oracle) -> None:
    command = Put(1, b"k", b"v")
    oracle.appended(1, HardState(Term(1)), [entry(1, data=encode_batch(Batch(0, (Group(1, 0, (command,)),))))])
    early(oracle)
    apply(oracle, 1, command, Rejected(ErrorCode.OVERLOADED, ""))


def acknowledged_after_it_was_refused(oracle: Oracle) -> None:
    command = Put(1, b"k", b"v")
    oracle.appended(1, HardState(Term(1)), [entry(1, data=encode_batch(Batch(0, (Group(1, 0, (command,)),))))])
    apply(oracle, 1, command, Rejected(ErrorCode.OVERLOADED, ""))
    early(oracle)


def two_leaders(oracle: Oracle) -> None:
    oracle.ready(1, ready(role=Role.LEADER))
    oracle.ready(2, ready(role=Role.LEADER))


def two_entries_of_one_name(oracle: Oracle) -> None:
    oracle.appended(1, HardState(Term(1)), [entry(1, data=b"a")])
    oracle.appended(2, HardState(Term(1)), [entry(1, data=b"b")])


def committed_on_one_disk(oracle: Oracle) -> None:
    oracle.appended(1, HardState(Term(1)), [entry(1)])
    oracle.ready(1, ready(entry(1)))


def committed_twice(oracle: Oracle) -> None:
    for node in (1, 2):
        oracle.appended(node, HardState(Term(1)), [entry(1)])
    oracle.ready(1, ready(entry(1)))
    for node in (2, 3):
        oracle.appended(node, HardState(Term(2)), [entry(1, term=2)])
    oracle.ready(3, ready(entry(1, term=2), term=2))


def acknowledged_before_it_is_stored(oracle: Oracle) -> None:
    oracle.sending(1, [AppendResponse(sender=NodeId(1), receiver=NodeId(2), term=Term(1), index=Index(1))])


def voted_before_it_is_stored(oracle: Oracle) -> None:
    oracle.appended(1, HardState(Term(1)), [])
    oracle.sending(1, [VoteResponse(sender=NodeId(1), receiver=NodeId(2), term=Term(1), granted=True)])


def candidate_before_it_is_stored(oracle: Oracle) -> None:
    message = VoteRequest(sender=NodeId(1), receiver=NodeId(2), term=Term(1), last_index=Index(0), last_term=Term(0))
    oracle.sending(1, [message])


def entry_lost(oracle: Oracle) -> None:
    oracle.appended(1, HardState(Term(1)), [entry(1), entry(2)])
    oracle.opened(1, RecoveredLog(hard_state=HardState(Term(1)), entries=(entry(1),)))


def vote_lost(oracle: Oracle) -> None:
    oracle.appended(1, HardState(Term(1), NodeId(2)), [])
    oracle.opened(1, RecoveredLog(hard_state=HardState(Term(1)), entries=()))


def other_entry_applied(oracle: Oracle) -> None:
    oracle.sends(Write(b"k", b"a", 1, 1))
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    apply(oracle, 1, Put(1, b"k", b"b"), Written(2), node=2)


def other_batch_at_hand(oracle: Oracle) -> None:
    batches = [Batch(0, (Group(1, 0, (Put(1, b"k", value),)),)) for value in (b"a", b"b")]
    oracle.sends(Write(b"k", b"a", 1, 1))
    oracle.applied(1, AppliedEntry(1, 1, encode_batch(batches[0]), batches[1]), ([Written(2)],))


def other_result(oracle: Oracle) -> None:
    oracle.sends(Write(b"k", b"a", 1, 1))
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    apply(oracle, 1, Put(1, b"k", b"a"), Rejected(ErrorCode.SESSION_EXPIRED, ""), node=2)


def other_hash(oracle: Oracle) -> None:
    oracle.hashed(1, 5, b"a")
    oracle.hashed(2, 5, b"b")


def put_twice(oracle: Oracle) -> None:
    oracle.sends(Write(b"k", b"a", 1, 1))
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    apply(oracle, 2, Put(1, b"k", b"a"), Written(3))


def deleted_twice(oracle: Oracle) -> None:
    for sequence, value in ((1, b"a"), (3, b"b")):
        oracle.sends(Write(b"k", value, 1, sequence))
    oracle.sends(Write(b"k", None, 1, 2))
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    apply(oracle, 2, Delete(2, b"k", b""), Deleted(3, 1))
    apply(oracle, 3, Put(3, b"k", b"b"), Written(4))
    apply(oracle, 4, Delete(2, b"k", b""), Deleted(5, 1))


def no_effect_was_a_lie(oracle: Oracle) -> None:
    write = Write(b"k", b"a", 1, 1)
    oracle.sends(write)
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    oracle.had_no_effect(write)


def no_effect_becomes_a_lie(oracle: Oracle) -> None:
    write = Write(b"k", b"a", 1, 1)
    oracle.sends(write)
    oracle.had_no_effect(write)
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))


def acknowledged_and_never_applied(oracle: Oracle) -> None:
    write = Write(b"k", b"a", 1, 1)
    oracle.sends(write)
    oracle.acknowledged(write, 2)


def written_into_the_past(oracle: Oracle) -> None:
    first, second = Write(b"k", b"a", 1, 1), Write(b"k", None, 1, 2)
    oracle.sends(first)
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    oracle.sends(second)
    oracle.acknowledged(second, 1)


def stale_read(oracle: Oracle) -> None:
    oracle.sends(Write(b"k", b"a", 1, 1))
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    oracle.read(b"k", None, 1, floor=2)


def wrong_read(oracle: Oracle) -> None:
    oracle.sends(Write(b"k", b"a", 1, 1))
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    oracle.read(b"k", (2, b"b"), 2, floor=0)


def wrong_scan(oracle: Oracle) -> None:
    oracle.sends(Write(b"k", b"a", 1, 1))
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    oracle.scanned({}, 2, floor=0)


def read_of_the_future(oracle: Oracle) -> None:
    oracle.read(b"k", None, 7, floor=0)


BAD: dict[History, str] = {
    refused_after_it_was_acknowledged: "early",
    acknowledged_after_it_was_refused: "early",
    two_leaders: "election safety",
    two_entries_of_one_name: "log matching",
    committed_on_one_disk: "commit",
    committed_twice: "commit",
    acknowledged_before_it_is_stored: "promise",
    voted_before_it_is_stored: "promise",
    candidate_before_it_is_stored: "promise",
    entry_lost: "durability",
    vote_lost: "durability",
    other_entry_applied: "commit",
    other_batch_at_hand: "batch",
    other_result: "determinism",
    other_hash: "determinism",
    put_twice: "exactly once",
    deleted_twice: "exactly once",
    no_effect_was_a_lie: "no effect",
    no_effect_becomes_a_lie: "no effect",
    acknowledged_and_never_applied: "acknowledged",
    written_into_the_past: "real time",
    stale_read: "real time",
    wrong_read: "read",
    wrong_scan: "read",
    read_of_the_future: "read",
}


@pytest.mark.parametrize("history", BAD, ids=lambda history: str(history.__name__))
def test_a_bad_history_is_noticed(history: History) -> None:
    reports: list[str] = []
    history(Oracle([1, 2, 3], reports.append))
    assert reports
    assert reports[0].startswith(f"{BAD[history]}: "), reports


def test_a_good_history_is_not_reported() -> None:
    reports: list[str] = []
    oracle = Oracle([1, 2, 3], reports.append)
    write, again, delete = Write(b"k", b"a", 1, 1), Write(b"k", b"b", 1, 2), Write(b"k", None, 1, 3)
    for node in (1, 2):
        oracle.appending(node, [entry(1)])
        oracle.appended(node, HardState(Term(1), NodeId(1)), [entry(1)])
    oracle.sending(2, [AppendResponse(sender=NodeId(2), receiver=NodeId(1), term=Term(1), index=Index(1))])
    oracle.ready(1, ready(entry(1), role=Role.LEADER))
    oracle.appending(2, [entry(1, term=2)])  # it reached the disk, and was never confirmed
    oracle.opened(2, RecoveredLog(hard_state=HardState(Term(2)), entries=(entry(1, term=2),)))
    oracle.sends(write)
    oracle.had_no_effect(write)
    oracle.sends(write)
    apply(oracle, 1, Put(1, b"k", b"a"), Written(2))
    apply(oracle, 2, Put(1, b"k", b"a"), Written(2))
    oracle.acknowledged(write, 2)
    oracle.read(b"k", (2, b"a"), 2, floor=2)
    oracle.sends(again)
    oracle.sends(delete)
    apply(oracle, 3, Delete(3, b"k", b""), Deleted(3, 1))
    apply(oracle, 4, Put(2, b"k", b"b"), Written(4))
    oracle.acknowledged(delete, 3, 1)
    oracle.left_open(again)
    oracle.scanned({}, 3, floor=2)
    oracle.scanned({b"k": (4, b"b")}, 4, floor=4)
    oracle.read(b"k", None, 1, floor=0)
    assert reports == []
