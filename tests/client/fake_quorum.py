"""The scripted cluster's log, and reads that a node answers from its own state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from raftkv.errors import ErrorCode, InvalidArgument
from raftkv.quorum import DEFAULT, MAJORITY, LogEnd, Membership, is_rinsed, majority, needed, required_replicas
from raftkv.v1 import common_pb2, kv_pb2

if TYPE_CHECKING:
    from tests.client.fake import FakeNode

CLUSTER_ID = 7


@dataclass
class State:
    """What a node has applied."""

    pairs: dict[bytes, kv_pb2.KeyValue]
    revision: int
    index: int


class FakeLog:
    """Which term wrote which index."""

    def __init__(self) -> None:
        self.terms: list[int] = [0]
        self.applied = 0

    @property
    def end(self) -> LogEnd:
        return LogEnd(self.terms[-1], len(self.terms) - 1)

    def append(self, term: int) -> int:
        self.terms.append(term)
        return len(self.terms) - 1

    def lose(self, term: int) -> None:
        """The leader of `term` has put other entries in the place of what was not committed."""
        self.terms[self.applied + 1 :] = [term for _ in self.terms[self.applied + 1 :]]
        self.applied = len(self.terms) - 1


def wrote(node: FakeNode, concern: int, *, early: bool = False) -> common_pb2.WriteReceipt:
    log, voters = node.cluster.store.log, len(node.cluster.nodes)
    index = log.end.last_index if early else log.applied
    wanted = needed(concern, voters=voters, keepers=voters).voters
    reachable = sum(not one.silent for one in node.cluster.nodes.values())
    return common_pb2.WriteReceipt(
        term=log.terms[index],
        index=index,
        committed=not early,
        durable_on=wanted if early else min(max(wanted, majority(voters)), reachable),
        wanted=wanted,
    )


def refuse_concern(operation: kv_pb2.Operation, voters: int) -> str | None:
    """Return why a write's concern is not possible, as a node says it."""
    kind = operation.WhichOneof("operation")
    request = getattr(operation, str(kind))
    concern = getattr(request, "write_concern", DEFAULT)
    if concern == DEFAULT:
        return None
    try:
        early = needed(concern, voters=voters, keepers=voters).early
    except InvalidArgument as error:
        return error.message
    blind = (kind == "put" and not (request.lease or request.prev_kv or request.fences)) or (
        kind == "delete" and not (request.prev_kv or request.fences)
    )
    if early and not blind:
        return f"write concern {concern} is below a majority: {majority(voters)} to {voters} voters, or majority, all"
    return None


def is_early(operation: kv_pb2.Operation, voters: int) -> bool:
    kind = operation.WhichOneof("operation")
    if kind not in ("put", "delete"):
        return False
    concern = getattr(operation, kind).write_concern or MAJORITY
    return needed(concern, voters=voters, keepers=voters).early


class Unable(Exception):
    """The node refuses a read."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def own_read(node: FakeNode, request: kv_pb2.RangeRequest) -> tuple[State, common_pb2.ReadReceipt]:
    """Return the state that answers a read of a weaker level, and what it is. Raises Unable."""
    state = node.own_state()
    log = node.cluster.store.log
    receipt = common_pb2.ReadReceipt(
        served_by=node.id, applied_term=log.terms[state.index], applied_index=state.index, replicas=1
    )
    if node.witness:
        raise Unable(ErrorCode.FAILED_PRECONDITION, f"node {node.id} is a witness: it holds no data")
    if request.HasField("at_least"):
        token = request.at_least
        if token.cluster_id != CLUSTER_ID:
            raise Unable(
                ErrorCode.CLUSTER_MISMATCH, f"the token is of cluster {token.cluster_id}, this is {CLUSTER_ID}"
            )
        if token.index > log.end.last_index:
            raise Unable(ErrorCode.TOKEN_OUT_OF_RANGE, f"index {token.index} is not among 0 to {log.end.last_index}")
        if token.index > state.index:
            raise Unable(ErrorCode.TOO_STALE, f"node {node.id} has applied {state.index}, not {token.index}")
        if log.terms[token.index] != token.term:
            raise Unable(ErrorCode.WRITE_LOST, f"the write at {token.term}-{token.index} is lost")
    match request.level:
        case kv_pb2.ReadLevel.LOCAL:
            receipt.guarantee = common_pb2.GUARANTEE_STALE_PREFIX
        case kv_pb2.ReadLevel.AT_LEAST:
            receipt.guarantee = common_pb2.GUARANTEE_AT_LEAST
            after = request.after
            if request.HasField("after") and not is_rinsed(
                LogEnd(after.term, after.index), receipt.applied_term, receipt.applied_index
            ):
                raise Unable(ErrorCode.TOO_STALE, f"node {node.id} has applied {state.index}, not {after.index}")
        case kv_pb2.ReadLevel.BOUNDED:
            if node.staleness_ms is None or node.staleness_ms > request.max_staleness_ms:
                raise Unable(ErrorCode.TOO_STALE, f"node {node.id} knows of nothing newer than {node.staleness_ms} ms")
            receipt.guarantee, receipt.staleness_ms = common_pb2.GUARANTEE_BOUNDED, node.staleness_ms
        case kv_pb2.ReadLevel.QUORUM:
            voters = node.cluster.membership.voters
            try:
                asked = required_replicas(request.replicas, len(voters))
            except InvalidArgument as error:
                raise Unable(ErrorCode.INVALID_ARGUMENT, error.message) from None
            up = [one for one in voters if not node.cluster[one].silent]
            if len(up) < asked:
                raise Unable(ErrorCode.QUORUM_UNAVAILABLE, f"{len(up)} of {asked} voters answered")
            receipt.guarantee, receipt.replicas = common_pb2.GUARANTEE_LINEARIZABLE, asked
            if asked < majority(len(voters)):
                receipt.guarantee = common_pb2.GUARANTEE_SEES_WRITES_AT_W_GE
            receipt.sees_writes_at = len(voters) - asked + 1
        case _:  # LINEARIZABLE, here
            receipt.guarantee = common_pb2.GUARANTEE_LINEARIZABLE
            receipt.replicas = majority(len(node.cluster.membership.voters))
    return state, receipt


def log_end(node: FakeNode) -> kv_pb2.LogEndResponse:
    membership: Membership = node.membership or node.cluster.membership
    state, log = node.own_state(), node.cluster.store.log
    end = node.log_end or log.end
    header = node.header()
    header.cluster_id = node.cluster_id
    return kv_pb2.LogEndResponse(
        header=header,
        last_term=end.last_term,
        last_index=end.last_index,
        applied_term=log.terms[state.index],
        applied_index=state.index,
        configuration_index=membership.configuration_index,
        voters=sorted(membership.voters),
        witnesses=sorted(membership.witnesses),
        joint=membership.joint,
    )
