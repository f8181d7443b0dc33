"""Core messages to their protobuf form and back. The sender and receiver are those of the stream's Hello."""

from __future__ import annotations

from typing import assert_never

from raftkv.raft.membership import decode_configuration, encode_configuration
from raftkv.raft.messages import (
    AppendRequest,
    AppendResponse,
    HeartbeatRequest,
    HeartbeatResponse,
    InstallSnapshot,
    Message,
    PreVoteRequest,
    PreVoteResponse,
    TimeoutNow,
    VoteRequest,
    VoteResponse,
)
from raftkv.raft.snapshot import Snapshot
from raftkv.raft.types import Entry, EntryKind, Index, NodeId, Term
from raftkv.v1 import peer_pb2 as pb


class MalformedMessage(ValueError):
    """A peer sent what no raftkv node sends."""


def message_bytes(message: Message) -> int:
    """Return roughly what `message` takes on the wire; queues are bounded by it."""
    if isinstance(message, AppendRequest):
        return 64 + sum(len(entry.data) + 24 for entry in message.entries)
    return 64


def to_proto(message: Message) -> pb.RaftMessage:
    """Return the wire form of `message`."""
    term = message.term
    match message:
        case AppendRequest():
            return pb.RaftMessage(
                term=term,
                append_request=pb.AppendRequest(
                    previous_index=message.previous_index,
                    previous_term=message.previous_term,
                    commit=message.commit,
                    entries=[
                        pb.Entry(term=entry.term, index=entry.index, kind=entry.kind, data=entry.data)
                        for entry in message.entries
                    ],
                ),
            )
        case AppendResponse():
            return pb.RaftMessage(
                term=term,
                append_response=pb.AppendResponse(
                    rejected=message.rejected,
                    index=message.index,
                    hint_index=message.hint_index,
                    hint_term=message.hint_term,
                ),
            )
        case HeartbeatRequest():
            return pb.RaftMessage(
                term=term,
                heartbeat_request=pb.HeartbeatRequest(commit=message.commit, read_sequence=message.read_sequence),
            )
        case HeartbeatResponse():
            return pb.RaftMessage(
                term=term,
                heartbeat_response=pb.HeartbeatResponse(
                    read_sequence=message.read_sequence,
                    priority=message.priority,
                    lease_ms=message.lease_ms,
                    hindered=message.hindered,
                    full=message.full,
                ),
            )
        case PreVoteRequest():
            return pb.RaftMessage(
                term=term, pre_vote_request=pb.VoteRequest(last_index=message.last_index, last_term=message.last_term)
            )
        case PreVoteResponse():
            return pb.RaftMessage(term=term, pre_vote_response=pb.VoteResponse(granted=message.granted))
        case VoteRequest():
            return pb.RaftMessage(
                term=term,
                vote_request=pb.VoteRequest(
                    last_index=message.last_index,
                    last_term=message.last_term,
                    leadership_transfer=message.leadership_transfer,
                ),
            )
        case VoteResponse():
            return pb.RaftMessage(term=term, vote_response=pb.VoteResponse(granted=message.granted))
        case InstallSnapshot():
            return pb.RaftMessage(
                term=term,
                install_snapshot=pb.InstallSnapshot(snapshot=snapshot_to_proto(message.snapshot), bare=message.bare),
            )
        case TimeoutNow():
            return pb.RaftMessage(term=term, timeout_now=pb.TimeoutNow())
        case _:
            assert_never(message)


def from_proto(message: pb.RaftMessage, *, sender: NodeId, receiver: NodeId) -> Message:
    """Return the core's form of `message`. Raises MalformedMessage for what is not one."""
    term = Term(message.term)
    match message.WhichOneof("body"):
        case "append_request":
            append = message.append_request
            return AppendRequest(
                sender=sender,
                receiver=receiver,
                term=term,
                previous_index=Index(append.previous_index),
                previous_term=Term(append.previous_term),
                commit=Index(append.commit),
                entries=_entries(append, term),
            )
        case "append_response":
            answer = message.append_response
            return AppendResponse(
                sender=sender,
                receiver=receiver,
                term=term,
                rejected=answer.rejected,
                index=Index(answer.index),
                hint_index=Index(answer.hint_index),
                hint_term=Term(answer.hint_term),
            )
        case "heartbeat_request":
            heartbeat = message.heartbeat_request
            return HeartbeatRequest(
                sender=sender,
                receiver=receiver,
                term=term,
                commit=Index(heartbeat.commit),
                read_sequence=heartbeat.read_sequence,
            )
        case "heartbeat_response":
            return HeartbeatResponse(
                sender=sender,
                receiver=receiver,
                term=term,
                read_sequence=message.heartbeat_response.read_sequence,
                priority=message.heartbeat_response.priority,
                lease_ms=message.heartbeat_response.lease_ms,
                hindered=message.heartbeat_response.hindered,
                full=message.heartbeat_response.full,
            )
        case "pre_vote_request":
            ask = message.pre_vote_request
            return PreVoteRequest(
                sender=sender,
                receiver=receiver,
                term=term,
                last_index=Index(ask.last_index),
                last_term=Term(ask.last_term),
            )
        case "pre_vote_response":
            return PreVoteResponse(
                sender=sender, receiver=receiver, term=term, granted=message.pre_vote_response.granted
            )
        case "vote_request":
            ask = message.vote_request
            return VoteRequest(
                sender=sender,
                receiver=receiver,
                term=term,
                last_index=Index(ask.last_index),
                last_term=Term(ask.last_term),
                leadership_transfer=ask.leadership_transfer,
            )
        case "vote_response":
            return VoteResponse(sender=sender, receiver=receiver, term=term, granted=message.vote_response.granted)
        case "install_snapshot":
            return InstallSnapshot(
                sender=sender,
                receiver=receiver,
                term=term,
                snapshot=snapshot_from_proto(message.install_snapshot.snapshot, term),
                bare=message.install_snapshot.bare,
            )
        case "timeout_now":
            return TimeoutNow(sender=sender, receiver=receiver, term=term)
        case _:
            raise MalformedMessage("a message without a known body")


def snapshot_to_proto(snapshot: Snapshot) -> pb.SnapshotPoint:
    """Return the wire form of `snapshot`."""
    return pb.SnapshotPoint(
        index=snapshot.index, term=snapshot.term, configuration=encode_configuration(snapshot.configuration)
    )


def snapshot_from_proto(point: pb.SnapshotPoint, term: Term) -> Snapshot:
    """Return the core's form of `point`, sent in `term`. Raises MalformedMessage."""
    if not (point.index > 0 and 0 < point.term <= term):
        raise MalformedMessage(f"a snapshot of entry {point.index} of term {point.term}, in term {term}")
    try:
        return Snapshot(Index(point.index), Term(point.term), decode_configuration(point.configuration))
    except ValueError as error:
        raise MalformedMessage(f"a snapshot with a configuration that cannot be read: {error}") from error


def _entries(append: pb.AppendRequest, term: Term) -> tuple[Entry, ...]:
    entries = []
    previous_term = append.previous_term
    for offset, entry in enumerate(append.entries, start=1):
        if entry.index != append.previous_index + offset:
            raise MalformedMessage(f"entry {entry.index} does not follow entry {append.previous_index + offset - 1}")
        if not previous_term <= entry.term <= term:
            raise MalformedMessage(f"entry {entry.index} has term {entry.term}, outside {previous_term}..{term}")
        previous_term = entry.term
        try:
            kind = EntryKind(entry.kind)
        except ValueError as error:
            raise MalformedMessage(f"entry {entry.index} is of unknown kind {entry.kind}") from error
        if kind is EntryKind.CONFIGURATION:
            try:
                decode_configuration(entry.data)
            except ValueError as error:
                raise MalformedMessage(f"entry {entry.index}: {error}") from error
        entries.append(Entry(Term(entry.term), Index(entry.index), kind, entry.data))
    return tuple(entries)
