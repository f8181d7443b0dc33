"""Answers from the local state, as it is: whether it may answer is decided elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from raftkv.errors import Overloaded, RaftKVError
from raftkv.kv.commands import Txn
from raftkv.kv.ranges import RangeQuery
from raftkv.kv.view import View
from raftkv.server import read_receipts, wire, wire_locks
from raftkv.server.answered import Answered
from raftkv.server.node import Node
from raftkv.server.queries import LeaseListQuery, LeaseQuery, LockQuery, Query
from raftkv.server.read_receipts import Basis
from raftkv.v1 import kv_pb2

SCAN_ROWS: Final = 500
"""Rows of a range that are read in one go, a millisecond or so: then everybody else gets a turn."""

PAIR_OVERHEAD_BYTES: Final = 64
"""What a pair takes in an answer beside its key and value, roughly."""

Reads = Sequence[tuple[int, Query]]
"""(operation id, query)."""

BasisOf = Callable[[], Basis]
"""Why the state that has just been opened may answer. Raises RaftKVError when it may not any more."""


class StateReader:
    """Reads the state of one node."""

    def __init__(self, node: Node, *, max_scans: int, max_answer_bytes: int) -> None:
        """`max_scans`, `max_answer_bytes`: see RequestLimits."""
        self._node = node
        self._scans = asyncio.Semaphore(max_scans)
        self._max_answer_bytes = max_answer_bytes

    async def read(
        self, response: kv_pb2.BatchResponse, answered: Answered, reads: Reads, basis: Basis | BasisOf
    ) -> None:
        """Answer `reads` in `response`, with a receipt, and note them in `answered`.

        Raises what `basis` raises, if it is to be asked, and CorruptState; then nothing is answered.
        """
        async with contextlib.AsyncExitStack() as stack:
            if any(not _is_get(query) for _, query in reads):
                await stack.enter_async_context(self._scans)
            self._node.require_sound()
            view = stack.enter_context(self._node.machine.view())
            why = basis if isinstance(basis, Basis) else basis()
            try:
                await self._read(response, answered, reads, view)
            finally:
                node = self._node.raft.node_id
                read_receipts.put_down(response, why, node, view.meta, (operation_id for operation_id, _ in reads))

    async def _read(self, response: kv_pb2.BatchResponse, answered: Answered, reads: Reads, view: View) -> None:
        size = 0
        for operation_id, query in reads:
            if size > self._max_answer_bytes:
                wire.add_error(
                    response,
                    operation_id,
                    Overloaded(f"the answers of the batch exceed {self._max_answer_bytes} bytes: ask again"),
                )
                answered.add(operation_id)
                answered.failed = True
                continue
            try:
                if not isinstance(query, RangeQuery):
                    await asyncio.sleep(0)  # before it: what is answered is marked so without a break
                    size += self._answer(response, view, operation_id, query)
                elif _is_get(query):
                    pair = view.get(query.key, query.revision)
                    wire.add_get(response, operation_id, pair, query.revision or view.meta.revision)
                    size += PAIR_OVERHEAD_BYTES + (len(pair.value) if pair is not None else 0)
                else:
                    size += await self._scan(response, view, operation_id, query)
            except RaftKVError as error:
                wire.add_error(response, operation_id, error)
                answered.failed = True
            answered.add(operation_id)

    async def _scan(self, response: kv_pb2.BatchResponse, view: View, operation_id: int, query: RangeQuery) -> int:
        scan = view.scan(query)
        while not scan.step(SCAN_ROWS):  # noqa: ASYNC110 - gives way to others, waits for nothing
            await asyncio.sleep(0)
        result = scan.result()
        wire.add_range(response, operation_id, result)
        return sum(PAIR_OVERHEAD_BYTES + len(pair.key) + len(pair.value) for pair in result.pairs)

    def _answer(
        self,
        response: kv_pb2.BatchResponse,
        view: View,
        operation_id: int,
        query: Txn | LeaseQuery | LeaseListQuery | LockQuery,
    ) -> int:
        """Answer what is bounded by itself; return the size of the answer."""
        if isinstance(query, Txn):
            wire.add_result(response, query, view.txn(query))
            return response.results[-1].ByteSize()
        answer = wire_locks.answer(view, query, max(self._node.cluster_time_ms(), view.meta.time_ms))
        answer.id = operation_id
        response.results.append(answer)
        return answer.ByteSize()


_PLAIN: Final = RangeQuery(b"key")[4:]


def _is_get(query: Query) -> bool:
    """Return whether a query is for one pair as it is, or its absence."""
    return isinstance(query, RangeQuery) and not query.range_end and query[4:] == _PLAIN
