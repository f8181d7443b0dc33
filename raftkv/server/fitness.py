"""What speaks against this node leading, by whoever knows of it; the gravest counts."""

from __future__ import annotations

from collections.abc import Callable

from raftkv.raft import Fitness

_GRAVITY = (Fitness.FIT, Fitness.HINDERED, Fitness.BARRED)


class Objections:
    """Those of one node. Each has the name of its reason, under which it is changed and withdrawn."""

    def __init__(self, tell: Callable[[Fitness], None]) -> None:
        """`tell` is called with what all of them together come to, whenever that changes."""
        self._tell = tell
        self._raised: dict[str, Fitness] = {}
        self._told = Fitness.FIT

    def set(self, reason: str, fitness: Fitness) -> None:
        """Say what one reason comes to now; FIT: nothing."""
        self._raised[reason] = fitness
        gravest = max(self._raised.values(), key=_GRAVITY.index)
        if gravest is not self._told:
            self._told = gravest
            self._tell(gravest)

    def __str__(self) -> str:
        return ", ".join(reason for reason, fitness in sorted(self._raised.items()) if fitness is not Fitness.FIT)
