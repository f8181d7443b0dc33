"""What reads were, on the wire: one receipt for all reads of a message that have the same, else one for each.

A message may hold thousands of reads, so the common receipt must cost them nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from raftkv.kv.records import Meta
from raftkv.quorum import Guarantee
from raftkv.v1 import common_pb2, kv_pb2


class Basis(NamedTuple):
    """Why a state may answer, and so what its answers are. Fields as in `raftkv.v1.ReadReceipt`."""

    guarantee: Guarantee
    configuration_index: int
    replicas: int = 1
    sees_writes_at: int = 0
    staleness_ms: int = 0


def put_down(response: kv_pb2.BatchResponse, basis: Basis, node: int, meta: Meta, operations: Iterable[int]) -> None:
    """Give those of `operations` that are answered in `response` their receipt: `node` has read the state of `meta`."""
    if not response.HasField("read"):
        _fill(response.read, basis, node, meta)  # what is built in place costs half
        return
    receipt = common_pb2.ReadReceipt()
    _fill(receipt, basis, node, meta)
    attach(response, receipt, operations)


def attach(response: kv_pb2.BatchResponse, receipt: common_pb2.ReadReceipt, operations: Iterable[int]) -> None:
    """`receipt` is that of those among `operations` that are answered in `response` and have none of their own.

    It becomes that of all reads in `response` without one of their own, unless that is another one already.
    """
    if not response.HasField("read"):
        response.read.CopyFrom(receipt)
    elif response.read != receipt:
        wanted = set(operations)
        for result in response.results:
            if result.id in wanted and not (result.HasField("read") or result.HasField("error")):
                result.read.CopyFrom(receipt)


def _fill(receipt: common_pb2.ReadReceipt, basis: Basis, node: int, meta: Meta) -> None:
    guarantee, configuration_index, replicas, sees_writes_at, staleness_ms = basis
    receipt.guarantee = common_pb2.Guarantee.ValueType(guarantee)
    receipt.served_by = node
    receipt.applied_term = meta.applied_term
    receipt.applied_index = meta.applied_index
    receipt.replicas = replicas
    receipt.configuration_index = configuration_index
    if sees_writes_at:
        receipt.sees_writes_at = sees_writes_at
    if staleness_ms:
        receipt.staleness_ms = staleness_ms


def receipt_of(response: kv_pb2.BatchResponse, result: kv_pb2.OperationResult) -> common_pb2.ReadReceipt:
    """Return what a read in `response` was."""
    return result.read if result.HasField("read") else response.read
