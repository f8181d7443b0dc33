"""Messages survive the wire; what no node sends is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft import Configuration, Entry, EntryKind, Index, Message, NodeId, Snapshot, Term
from raftkv.raft.membership import encode_configuration
from raftkv.raft.messages import (
    AppendRequest,
    AppendResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    InstallSnapshot,
    PreVoteRequest,
    PreVoteResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from raftkv.transport.convert import MalformedMessage, from_proto, to_proto
from raftkv.v1 import peer_pb2 as pb

A, B = NodeId(1), NodeId(2)
numbers = st.integers(0, 2**64 - 1)
indexes = numbers.map(Index)
terms = numbers.map(Term)


@st.composite
def configurations(draw: st.DrawFn) -> Configuration:
    ids = [NodeId(node) for node in draw(st.lists(st.integers(1, 2**64 - 1), min_size=4, max_size=9, unique=True))]
    voters, outgoing, learners = frozenset(ids[:2]), frozenset(ids[1:3]), frozenset(ids[3:])
    witnesses = frozenset(draw(st.sets(st.sampled_from(ids[1:3]))))
    addresses = tuple((node, draw(st.text(max_size=5))) for node in sorted(ids))
    return Configuration(
        voters, draw(st.sampled_from([outgoing, frozenset()])) | witnesses, learners, witnesses, addresses
    )


@st.composite
def snapshots(draw: st.DrawFn) -> InstallSnapshot:
    index, *in_order = draw(st.integers(1, 2**64 - 1)), *sorted(draw(st.tuples(*[st.integers(1, 2**64 - 1)] * 2)))
    snapshot = Snapshot(Index(index), Term(in_order[0]), draw(configurations()))
    return InstallSnapshot(sender=A, receiver=B, term=Term(in_order[1]), snapshot=snapshot, bare=draw(st.booleans()))


@st.composite
def appends(draw: st.DrawFn) -> AppendRequest:
    previous = draw(st.integers(0, 2**62))
    in_order = sorted(draw(st.lists(st.integers(0, 2**62), min_size=2, max_size=6)))
    entries = []
    for offset, term in enumerate(in_order[1:-1], start=1):
        kind = draw(st.sampled_from(EntryKind))
        is_configuration = kind is EntryKind.CONFIGURATION
        data = encode_configuration(draw(configurations())) if is_configuration else draw(st.binary(max_size=20))
        entries.append(Entry(Term(term), Index(previous + offset), kind, data))
    return AppendRequest(
        sender=A,
        receiver=B,
        term=Term(in_order[-1]),
        previous_index=Index(previous),
        previous_term=Term(in_order[0]),
        commit=draw(indexes),
        entries=tuple(entries),
    )


def build(kind: type[Message], **fields: st.SearchStrategy[object]) -> st.SearchStrategy[Message]:
    return st.builds(kind, sender=st.just(A), receiver=st.just(B), term=terms, **fields)


messages = st.one_of(
    appends(),
    build(AppendResponse, rejected=st.booleans(), index=indexes, hint_index=indexes, hint_term=terms),
    build(HeartbeatRequest, commit=indexes, read_sequence=numbers),
    build(
        HeartbeatResponse,
        read_sequence=numbers,
        priority=st.integers(0, 2**32 - 1),
        lease_ms=st.integers(0, 2**32 - 1),
        hindered=st.booleans(),
        full=st.booleans(),
    ),
    build(PreVoteRequest, last_index=indexes, last_term=terms),
    build(PreVoteResponse, granted=st.booleans()),
    build(VoteRequest, last_index=indexes, last_term=terms, leadership_transfer=st.booleans()),
    build(VoteResponse, granted=st.booleans()),
    build(TimeoutNow),
    snapshots(),
)


@given(messages)
def test_round_trip(message: Message) -> None:
    wire = pb.RaftMessage.FromString(to_proto(message).SerializeToString())
    assert from_proto(wire, sender=A, receiver=B) == message


@pytest.mark.parametrize(
    ("wire", "complaint"),
    [
        (pb.RaftMessage(term=1), "without a known body"),
        (pb.RaftMessage(term=1, append_request=pb.AppendRequest(entries=[pb.Entry(term=1, index=2)])), "follow"),
        (
            pb.RaftMessage(term=1, append_request=pb.AppendRequest(entries=[pb.Entry(term=2, index=1)])),
            "outside 0..1",
        ),
        (
            pb.RaftMessage(term=1, append_request=pb.AppendRequest(entries=[pb.Entry(term=1, index=1, kind=2)])),
            "entry 1",
        ),
        (
            pb.RaftMessage(
                term=1,
                install_snapshot=pb.InstallSnapshot(snapshot=pb.SnapshotPoint(index=1, term=1, configuration=b"{}")),
            ),
            "a configuration that cannot be read",
        ),
        (pb.RaftMessage(term=1, install_snapshot=pb.InstallSnapshot()), "a snapshot of entry 0"),
        (
            pb.RaftMessage(
                term=5, append_request=pb.AppendRequest(previous_term=4, entries=[pb.Entry(term=3, index=1)])
            ),
            "outside 4..5",
        ),
        (
            pb.RaftMessage(term=1, append_request=pb.AppendRequest(entries=[pb.Entry(term=1, index=1, kind=77)])),
            "unknown kind 77",
        ),
    ],
)
def test_what_no_node_sends_is_refused(wire: pb.RaftMessage, complaint: str) -> None:
    with pytest.raises(MalformedMessage, match=complaint):
        from_proto(wire, sender=A, receiver=B)
