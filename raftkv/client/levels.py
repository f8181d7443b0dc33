"""What a read may ask for, and where it is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from raftkv.client.receipts import ReadToken
from raftkv.client.results import ReadLevel
from raftkv.errors import InvalidArgument

MAX_STALENESS_S: Final = (2**32 - 1) / 1000
MAX_REPLICAS: Final = 2**32 - 1
"""What fits the wire; the cluster knows how many voters there are."""


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A read of the asked node's own state, once that has what `token` names: no leader is needed.

    `token` None: what this client has seen so far, its own writes included. Raises InvalidArgument for anything else.

    Example::

        written = await client.put("color", "red")
        await client.get("color", level=AtLeast(written.receipt.token))
        await client.get("color", level=AtLeast())
    """

    token: ReadToken | None = None

    def __post_init__(self) -> None:
        if self.token is not None and not isinstance(self.token, ReadToken):
            raise InvalidArgument(f"token is {self.token!r}, not a ReadToken (ReadToken.parse makes one of a text)")


@dataclass(frozen=True, slots=True)
class Bounded:
    """A read of the asked node's own state, if that misses nothing acknowledged longer than `max_staleness` ago.

    In seconds, 0.001 or more; the answer tells the bound that was measured. Raises InvalidArgument out of range.

    Example::

        found = await client.read("color", level=Bounded(0.5))
        print(found.pair, found.receipt.staleness)
    """

    max_staleness: float

    def __post_init__(self) -> None:
        bound = self.max_staleness
        if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0.001 <= bound <= MAX_STALENESS_S:
            raise InvalidArgument(f"max_staleness is {bound!r}, not seconds from 0.001 to {MAX_STALENESS_S:g}")

    @property
    def milliseconds(self) -> int:
        """What the wire carries: rounded down, never laxer than was asked for."""
        return max(1, math.floor(self.max_staleness * 1000 + 1e-6))


@dataclass(frozen=True, slots=True)
class Quorum:
    """A read that asks `replicas` voters how far their logs reach, and no leader.

    `replicas` None: a majority. From a majority on it is linearizable; fewer see the writes that N + 1 - R voters had
    when they were acknowledged, and the answer says so. `coordinator`: "node", the one that is asked, or "client": this
    client asks the voters itself, at their client addresses. Raises InvalidArgument.

    Example::

        found = await client.read("color", level=Quorum(2))
        print(found.pair, found.receipt.words)
    """

    replicas: int | None = None
    coordinator: Literal["node", "client"] = "node"

    def __post_init__(self) -> None:
        asked = self.replicas
        if asked is not None and (
            isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= MAX_REPLICAS
        ):
            raise InvalidArgument(
                f"replicas is {asked!r}, not a number from 1 to the number of voters, or None for a majority"
            )
        if self.coordinator not in ("node", "client"):
            raise InvalidArgument(f'coordinator is {self.coordinator!r}, neither "node" nor "client"')


Level = ReadLevel | AtLeast | Bounded | Quorum
"""What `level=` of a read takes."""

Concern = Literal["leader", "majority", "all"] | int | None
"""What `concern=` of a write takes: how many voters must have it on disk before it is acknowledged.

"leader" or 1: the leader alone; "majority"; "all"; or a number of voters. None: as the cluster is set up
(`raftkv serve --write-concern`), a majority unless told otherwise.
"""

Fallback = Literal["stale"] | None
"""What `fallback=` of a read takes: whether a weaker answer, labelled as what it is, is better than none."""


class ReadFrom(Enum):
    """Where a client sends its reads."""

    LEADER = "leader"
    """To the leader while there is one, which answers most reads fastest."""
    NEAREST = "nearest"
    """To the endpoint that answers soonest. It asks the leader how far its own state must have come where the level
    demands that. Spreads the load of many clients; LEASE goes to the leader all the same."""


def check_level(level: object) -> None:
    """Raise InvalidArgument for what is no level."""
    if not isinstance(level, ReadLevel | AtLeast | Bounded | Quorum):
        raise InvalidArgument(
            f"level is {level!r}, not one of ReadLevel (LINEARIZABLE, LOCAL, LEASE), AtLeast(token), "
            "Bounded(max_staleness) or Quorum(replicas)"
        )


def check_fallback(fallback: object) -> None:
    """Raise InvalidArgument for what is no fallback."""
    if fallback not in (None, "stale"):
        raise InvalidArgument(f'fallback is {fallback!r}, neither "stale" nor None')
