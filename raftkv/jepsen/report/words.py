"""Operations in few words, whatever their values weigh: a set that was read may have ten thousand elements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from raftkv.checker.history import Operation

SHORT: Final = 120
"""Characters of an operation where many are shown."""
LONG: Final = 600
"""Where it is evidence."""


def brief(value: Any, limit: int) -> str:
    """Return `value` as JSON of about `limit` characters at most; of a long list the beginning and the end."""
    if isinstance(value, str):
        return _cut(json.dumps(value[: limit + 1], ensure_ascii=False), limit)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{name}: {brief(one, limit)}" for name, one in list(value.items())[: limit // 4 + 1])
        return _cut("{" + inner + "}", limit)
    if isinstance(value, (list, tuple)):
        # Four characters hold an element and its comma at best: what cannot be shown is not even written.
        most = max(limit // 4, 2)
        whole = [brief(one, limit) for one in value[:most]]
        if len(value) <= most and sum(map(len, whole)) + 2 * len(whole) <= limit:
            return "[" + ", ".join(whole) + "]"
        head = whole[: _fitting(whole, limit // 2)]
        last = [brief(one, limit) for one in reversed(value[max(len(head), len(value) - most) :])]
        tail = last[: _fitting(last, limit // 2)][::-1]
        left_out = len(value) - len(head) - len(tail)
        return _cut("[" + ", ".join([*head, f"… {left_out} more …", *tail]) + "]", limit + 20)
    return _cut(json.dumps(value), limit)


def asked(one: Operation, limit: int = SHORT) -> str:
    """Return what it was asked with: `r1 12`."""
    return " ".join(part for part in (one.key, "" if one.value is None else brief(one.value, limit)) if part)


def told(one: Operation, limit: int = SHORT) -> str:
    """Return what came of it: `[1, 2] @41`, or the error."""
    if one.error:
        return _cut(one.error, limit)
    result = "" if one.result is None and not (one.ok and one.f == "read") else brief(one.result, limit)
    return " ".join(part for part in (result, f"@{one.revision}" if one.revision else "") if part)


def _fitting(parts: list[str], limit: int) -> int:
    """Return how many of `parts` fit into `limit` characters; one at least, if there is any."""
    length = 0
    for count, part in enumerate(parts):
        length += len(part) + 2
        if length > limit:
            return max(count, 1)
    return len(parts)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
