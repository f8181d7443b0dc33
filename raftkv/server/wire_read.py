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
_OF_THE_LEADER: Final = frozenset({kv_pb2.LINEARIZABLE, kv_pb2.LEASE})
_WITH_TOKEN: Final = frozenset({kv_pb2.AT_LEAST, kv_pb2.BOUNDED, kv_pb2.QUORUM})
"""And LINEARIZABLE, with `here`."""


def decode_asked(request: kv_pb2.RangeRequest) -> Asked | None:
    """Return what is asked of a read; None: to be answered by the leader. Raises InvalidArgument."""
    level = request.level
    if level not in _LEVELS:
        raise InvalidArgument(f"read level {level} is unknown")
    at_least = _token(request) if request.HasField("at_least") else None
    after = LogEnd(request.after.term, request.after.index) if request.HasField("after") else None
    linearizable_here = level == kv_pb2.LINEARIZABLE and request.here
    if at_least is not None and not (level in _WITH_TOKEN or linearizable_here):
        raise InvalidArgument(
            "a token (at_least) goes with the levels AT_LEAST, BOUNDED and QUORUM, and with LINEARIZABLE and `here`"
        )
    if after is not None and level != kv_pb2.AT_LEAST:
        raise InvalidArgument("a place in the log (after) goes with level AT_LEAST")
    if request.here and level == kv_pb2.LEASE:
        raise InvalidArgument("only the leader reads by its lease: `here` goes with level LINEARIZABLE")
    if request.here and level != kv_pb2.LINEARIZABLE:
        raise InvalidArgument("`here` goes with level LINEARIZABLE: at this one the node asked answers anyway")
    if request.replicas and level != kv_pb2.QUORUM:
        raise InvalidArgument("a number of voters to ask (replicas) goes with level QUORUM")
    if request.max_staleness_ms and level != kv_pb2.BOUNDED:
        raise InvalidArgument("a bound of staleness (max_staleness_ms) goes with level BOUNDED")
    if linearizable_here:
        return HERE if at_least is None else Asked(level, at_least)
    if level in _OF_THE_LEADER:
        return None
    if level == kv_pb2.LOCAL:
        return LOCAL
    if level == kv_pb2.AT_LEAST and at_least is None and after is None:
        raise InvalidArgument("level AT_LEAST needs the token of an earlier answer (at_least)")
    if level == kv_pb2.BOUNDED and not request.max_staleness_ms:
        raise InvalidArgument(f"level BOUNDED needs max_staleness_ms, 1 to {MAX_STALENESS_MS}")
    return Asked(level, at_least, after, request.max_staleness_ms, request.replicas)


def _token(request: kv_pb2.RangeRequest) -> Token:
    token = request.at_least
    return Token(token.cluster_id, token.term, token.index, token.committed)
