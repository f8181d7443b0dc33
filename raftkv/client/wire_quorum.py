"""Between messages and values: levels of reads, concerns of writes, receipts and tokens."""

from __future__ import annotations

from typing import Final

from raftkv.client.levels import AtLeast, Bounded, Level, Quorum, check_level
from raftkv.client.receipts import UNTOLD_READ, ReadReceipt, ReadToken, WriteReceipt
from raftkv.client.results import ReadLevel
from raftkv.quorum import Guarantee
from raftkv.v1 import common_pb2, kv_pb2

_GUARANTEES: Final = {int(guarantee): guarantee for guarantee in Guarantee}


def fill_level(request: kv_pb2.RangeRequest, level: Level, token: ReadToken | None, *, here: bool = False) -> None:
    """Write a level into a read, over any that is there. Raises InvalidArgument for what is none.

    `token`: what the state must have reached. `here`: LINEARIZABLE is to be answered by the node asked. With a token,
    LINEARIZABLE and LEASE become just that: only a state that has come to a write tells whether it is there, or lost.
    """
    check_level(level)
    for name in ("at_least", "max_staleness_ms", "replicas"):
        request.ClearField(name)
    leads = level is ReadLevel.LINEARIZABLE or level is ReadLevel.LEASE
    request.here = leads and (token is not None or (here and level is ReadLevel.LINEARIZABLE))
    match level:
        case ReadLevel.LINEARIZABLE:
            request.level = kv_pb2.ReadLevel.LINEARIZABLE
        case ReadLevel.LEASE:
            request.level = kv_pb2.ReadLevel.LEASE if token is None else kv_pb2.ReadLevel.LINEARIZABLE
        case AtLeast() | ReadLevel.LOCAL:
            # Who has seen nothing has seen nothing later than any state.
            request.level = kv_pb2.ReadLevel.LOCAL if token is None else kv_pb2.ReadLevel.AT_LEAST
        case Bounded():
            request.level = kv_pb2.ReadLevel.BOUNDED
            request.max_staleness_ms = level.milliseconds
        case Quorum():
            request.level = kv_pb2.ReadLevel.QUORUM
            request.replicas = level.replicas or 0
    if token is not None:
        request.at_least.CopyFrom(to_token(token))


def to_token(token: ReadToken) -> common_pb2.ReadToken:
    """Encode a token."""
    return common_pb2.ReadToken(
        cluster_id=token.cluster_id, term=token.term, index=token.index, committed=token.committed
    )


def to_write_receipt(receipt: common_pb2.WriteReceipt, cluster_id: int) -> WriteReceipt:
    """Decode how a write was acknowledged."""
    return WriteReceipt(
        cluster_id,
        receipt.term,
        receipt.index,
        receipt.committed,
        receipt.durable_on,
        receipt.wanted,
        receipt.configuration_index,
    )


def to_read_receipt(receipt: common_pb2.ReadReceipt, cluster_id: int) -> ReadReceipt:
    """Decode what a read was."""
    return ReadReceipt(
        _GUARANTEES.get(receipt.guarantee, Guarantee.UNSPECIFIED),
        cluster_id,
        receipt.served_by,
        receipt.applied_term,
        receipt.applied_index,
        receipt.replicas,
        receipt.sees_writes_at,
        receipt.staleness_ms / 1000,
        receipt.configuration_index,
    )


def receipt_of(answer: kv_pb2.RangeResponse) -> ReadReceipt:
    """Decode what a read was that was asked for by a single call."""
    if not answer.HasField("receipt"):
        return UNTOLD_READ
    return to_read_receipt(answer.receipt, answer.header.cluster_id)
