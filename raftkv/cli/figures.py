"""Figures out of samples."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(ordered: Sequence[float], percent: float) -> float | None:
    """Return the smallest sample that `percent` % of all do not exceed; None of none. `ordered`: ascending."""
    if not ordered:
        return None
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def milliseconds(seconds: float | None) -> float | None:
    """Return seconds as milliseconds to two decimal places."""
    return None if seconds is None else round(seconds * 1000, 2)
