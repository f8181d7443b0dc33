"""How queued operations become one message."""

from __future__ import annotations

from collections import deque
from typing import Final

from raftkv.client.calls import Call, Kind
from raftkv.v1 import kv_pb2

MAX_BATCH_OPERATIONS: Final = 128
"""With all operations in one message, client and node take turns; with some messages on their way, both are busy."""
MAX_BATCH_BYTES: Final = 1 << 20

_MAX_TIMEOUT_MS: Final = 2**31 - 1


def is_urgent(call: Call) -> bool:
    """Whether an operation is to go before all others: the renewal of leases, or a question for a sign of life."""
    return call.kind is Kind.PROBE or call.operation.HasField("lease_keep_alive")


def cut_batch(queue: deque[Call], acknowledged_below: int, now: float) -> tuple[kv_pb2.BatchRequest, list[Call]]:
    """Take the next message off `queue`; both are empty when nobody waits for what is queued any more.

    At most 128 operations and about 1 MiB, but at least one operation. The writes of one message are of one session.
    It allows the server the time that its most patient caller has left. Urgent operations share a message with nothing
    else: a message is answered as a whole, and the node lets one of renewals alone go in front of all other writes.
    """
    request = kv_pb2.BatchRequest(acknowledged_below=acknowledged_below)
    append = request.operations.append
    calls: list[Call] = []
    session = 0
    size_bytes = 0
    deadline = now
    urgent: Kind | None = None
    while queue and len(calls) < MAX_BATCH_OPERATIONS:
        call = queue[0]
        if call.future.done():
            queue.popleft()
            continue
        if not calls:
            urgent = call.kind if is_urgent(call) else None
        elif urgent is not None and not (call.kind is urgent and is_urgent(call)):
            break  # they are first in the queue (`Pipeline.submit`), so the other way round cannot be
        if calls and size_bytes + call.size_bytes > MAX_BATCH_BYTES:
            break
        if call.session != session and call.session:
            if session:
                break
            session = call.session
        queue.popleft()
        append(call.operation)
        calls.append(call)
        size_bytes += call.size_bytes
        deadline = max(deadline, call.deadline)
    if calls:
        request.session = session
        request.timeout_ms = min(int((deadline - now) * 1000) + 1, _MAX_TIMEOUT_MS)
    return request, calls
