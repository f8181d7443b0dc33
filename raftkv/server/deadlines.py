"""How much of a caller's time is not for waiting."""

from __future__ import annotations

from typing import Final

SHARE: Final = 0.1
MOST_S: Final = 0.1


def way_back_s(timeout_s: float) -> float:
    """Return how long before the end of `timeout_s` seconds an answer leaves at the latest.

    What is told at the deadline must still find the caller waiting, or he would know nothing.
    """
    return min(SHARE * timeout_s, MOST_S)
