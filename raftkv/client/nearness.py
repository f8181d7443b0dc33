"""Which endpoint answers soonest. Pure: who asks measures."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

_WEIGHT: Final = 0.3
"""Of a new measurement."""
_BETTER: Final = 0.8
"""Another endpoint must be so much nearer to be gone over to: what goes back and forth parts what one message could
carry."""


class Nearness:
    """Smoothed latencies by address."""

    __slots__ = ("_latency_s", "_nearest")

    def __init__(self) -> None:
        self._latency_s: dict[str, float] = {}
        self._nearest = ""

    def measured(self, address: str, seconds: float) -> None:
        """It took `seconds` from a question to the answer."""
        before = self._latency_s.get(address, seconds)
        self._latency_s[address] = before + _WEIGHT * (seconds - before)

    def latency_s(self, address: str) -> float | None:
        """Return the latency of an endpoint; None: not measured yet."""
        return self._latency_s.get(address)

    def forget(self, address: str) -> None:
        """It is gone; when it comes back, it may be near or far."""
        self._latency_s.pop(address, None)

    def nearest(self, addresses: Collection[str]) -> str:
        """Return the nearest of `addresses` (at least one); those not measured yet come last, in their order."""
        unknown = float("inf")
        best = min(addresses, key=lambda address: self._latency_s.get(address, unknown))
        held = self._latency_s.get(self._nearest, unknown)
        if self._nearest in addresses and self._latency_s.get(best, unknown) >= held * _BETTER:
            return self._nearest
        self._nearest = best
        return best
