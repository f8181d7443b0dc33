"""How a read is to be answered, from its protobuf form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from raftkv.errors import InvalidArgument
from raftkv.quorum import LogEnd
from raftkv.v1 import kv_pb2

MAX_STALENESS_MS: Final = 2**32 - 1
"""What fits the wire."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a client has seen: `raftkv.v1.ReadToken`."""

    cluster_id: int
    term: int
    index: int
    committed: bool


class Asked(NamedTuple):
    """What is asked of a read that the node answers from its own state, or sees to itself."""

    level: kv_pb2.ReadLevel.ValueType
    at_least: Token | None = None
    after: LogEnd | None = None
    max_staleness_ms: int = 0
    replicas: int = 0


LOCAL: Final = Asked(kv_pb2.LOCAL)
HERE: Final = Asked(kv_pb2.LINEARIZABLE)

_LEVELS: Final = frozenset(kv_pb2.ReadLevel.values())
_WITH_TOKEN: Final = frozenset({kv_pb2.AT_LEAST, kv_pb2.BOUNDED, kv_pb2.QUORUM})


def decode_asked(request: kv_pb2.RangeRequest) -> Asked | None:
    """Return what is asked of a read; None: to be answered by the leader. Raises InvalidArgument."""
    level = request.level
    if level not in _LEVELS:
        raise InvalidArgument(f"read level {level} is unknown")
    at_least = _token(request) if request.HasField("at_least") else None
    after = LogEnd(request.after.term, request.after.index) if request.HasField("after") else None
    if at_least is not None and level not in _WITH_TOKEN:
        raise InvalidArgument("a token (at_least) goes with the levels AT_LEAST, BOUNDED and QUORUM")
    if after is not None and level != kv_pb2.AT_LEAST:
        raise InvalidArgument("a place in the log (after) goes with level AT_LEAST")
    if level == kv_pb2.LINEARIZABLE:
        return HERE if request.here else None
    if level == kv_pb2.LEASE:
        if request.here:
            raise InvalidArgument("only the leader reads by its lease: `here` goes with level LINEARIZABLE")
        return None
    if level == kv_pb2.LOCAL:
        return LOCAL
    if level == kv_pb2.AT_LEAST and at_least is None and after is None:
        raise InvalidArgument("level AT_LEAST needs the token of an earlier answer (at_least)")
    if level == kv_pb2.BOUNDED and not request.max_staleness_ms:
        raise InvalidArgument(f"level BOUNDED needs max_staleness_ms, 1 to {MAX_STALENESS_MS}")
    return Asked(
        level,
        at_least,
        after,
        request.max_staleness_ms if level == kv_pb2.BOUNDED else 0,
        request.replicas if level == kv_pb2.QUORUM else 0,
    )


def _token(request: kv_pb2.RangeRequest) -> Token:
    token = request.at_least
    return Token(token.cluster_id, token.term, token.index, token.committed)
