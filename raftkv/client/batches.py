"""How queued operations become one message.

A message is answered as a whole, so what may wait for something of its own keeps what it shares a message with from its
caller. Operations are queued in lanes, and a message is of one lane:

    COMMON               linearizable reads, writes that a majority is enough for, and all that is asked along with them
    PROBES, RENEWALS     go before all others: a node lets a message of renewals alone go in front of all other writes
    reads of a level     each level for itself, by number of replicas or by its bound; with a token that
                         the client was given, or whose fate is open, apart from those with its own
    writes of a concern  each for itself: some are answered before they are committed, some wait for what is down

The lanes take turns.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from raftkv.client.calls import COMMON, Call
from raftkv.quorum import DEFAULT, MAJORITY
from raftkv.v1 import kv_pb2

MAX_BATCH_OPERATIONS: Final = 128
"""With all operations in one message, client and node take turns; with some messages on their way, both are busy."""
MAX_BATCH_BYTES: Final = 1 << 20

PROBES: Final = 1
RENEWALS: Final = 2
_READS: Final = 3
_WRITES: Final = 4

_MAX_TIMEOUT_MS: Final = 2**31 - 1


def lane_of_read(request: kv_pb2.RangeRequest, *, foreign: bool = False) -> int:
    """Return the lane of a read. `foreign`: its token is not of what this client has seen committed."""
    level = request.level
    if level == kv_pb2.ReadLevel.LINEARIZABLE and not request.here:
        return COMMON
    more = request.max_staleness_ms if level == kv_pb2.ReadLevel.BOUNDED else request.replicas
    return _READS + (foreign << 4) + (level << 8) + (more << 16)


def lane_of_write(concern: int) -> int:
    """Return the lane of a write by what it says of its concern on the wire."""
    return COMMON if concern in (DEFAULT, MAJORITY) else _WRITES + (abs(concern) << 8) + ((concern < 0) << 4)


class Queue:
    """Operations that wait to be written to one stream."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines: dict[int, deque[Call]] = {}  # by lane, in the order of their turns; none is empty

    def __bool__(self) -> bool:
        return bool(self._lines)

    def push(self, call: Call) -> None:
        """Put an operation at the end of its lane."""
        line = self._lines.get(call.lane)
        if line is None:
            self._lines[call.lane] = deque((call,))
        else:
            line.append(call)

    def has_urgent(self) -> bool:
        """Whether the next message is one that goes before all others."""
        return PROBES in self._lines or RENEWALS in self._lines

    def take_all(self) -> list[Call]:
        """Return everything in it, and empty it."""
        calls = [call for line in self._lines.values() for call in line]
        self._lines.clear()
        return calls

    def cut(self, acknowledged_below: int, now: float) -> tuple[kv_pb2.BatchRequest, list[Call]]:
        """Take the next message, of the lane whose turn it is; there is something in the queue.

        No calls: nobody waits any more for what was there. At most 128 operations and about 1 MiB, but at least one
        operation. The writes of one message are of one session. It allows the server the time that its most patient
        caller has left.
        """
        lines = self._lines
        if PROBES in lines:
            lane = PROBES
        elif RENEWALS in lines:
            lane = RENEWALS
        else:
            lane = next(iter(lines))
        line = lines.pop(lane)
        request = kv_pb2.BatchRequest(acknowledged_below=acknowledged_below)
        append = request.operations.append
        calls: list[Call] = []
        session = 0
        size_bytes = 0
        deadline = now
        while line and len(calls) < MAX_BATCH_OPERATIONS:
            call = line[0]
            if call.future.done():
                line.popleft()
                continue
            if calls and size_bytes + call.size_bytes > MAX_BATCH_BYTES:
                break
            if call.session != session and call.session:
                if session:
                    break
                session = call.session
            line.popleft()
            append(call.operation)
            calls.append(call)
            size_bytes += call.size_bytes
            deadline = max(deadline, call.deadline)
        if line:
            lines[lane] = line  # behind the others
        if calls:
            request.session = session
            request.timeout_ms = min(int((deadline - now) * 1000) + 1, _MAX_TIMEOUT_MS)
        return request, calls
