"""Delta debugging (Zeller and Hildebrandt): the shortest part of a failing run's tape that still fails."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence


def kind_of(violation: str) -> str:
    """Return what two violations of the same property have in common: all but the numbers of nodes and terms."""
    found = re.match(r"(\w+): ([A-Z]\d+\b|[^0-9:]*)", violation)
    return found.group() if found else violation


def shrink(length: int, still_fails: Callable[[Sequence[int]], bool], seconds: float) -> list[int]:
    """Return the items, of `length`, that are left when no chunk can be dropped, or when the time is up."""
    end = time.monotonic() + seconds
    kept = list(range(length))
    chunks = 2
    while len(kept) > 1:
        size = -(-len(kept) // chunks)
        for start in range(0, len(kept), size):
            if time.monotonic() > end:
                return kept
            fewer = kept[:start] + kept[start + size :]
            if still_fails(fewer):
                kept = fewer
                chunks = max(chunks - 1, 2)
                break
        else:
            if size == 1:
                break
            chunks = min(2 * chunks, len(kept))
    return kept
