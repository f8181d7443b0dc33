"""Operations in few words, whatever their values weigh: a set that was read may have ten thousand elements."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from raftkv.checker.history import Operation

SHORT: Final = 120
"""Characters of an operation where many are shown."""
LABEL: Final = 72
LONG: Final = 600
"""Where it is evidence."""


def brief(value: Any, limit: int) -> str:
    """Return `value` as JSON of about `limit` characters at most; of a long list the beginning and the end."""
    if type(value) is int:  # most are
        return str(value)
    if isinstance(value, str):
        return _cut(json.dumps(value[: limit + 1], ensure_ascii=False), limit)
    if isinstance(value, list | tuple):
        return "[" + _listed(value, limit) + "]"
    if isinstance(value, Mapping):
        inner = ", ".join(f"{name}: {brief(one, limit)}" for name, one in list(value.items())[:limit])
        return _cut("{" + inner + "}", limit)
    return json.dumps(value)


def asked(one: Operation, limit: int = SHORT) -> str:
    """Return what it was asked with: `r1 12`."""
    value = "" if one.value is None else _value(one.f, one.value, limit)
    return f"{one.key} {value}" if one.key and value else one.key or value


def told(one: Operation, limit: int = SHORT) -> str:
    """Return what came of it: `[1, 2] @41`, or the error."""
    if one.error:
        return _cut(one.error, limit)
    result = "" if one.result is None and not (one.ok and one.f == "read") else _value(one.f, one.result, limit)
    at = f"@{one.revision}" if one.revision else ""
    return f"{result} {at}" if result and at else result or at


def evidence(one: Operation) -> str:
    """Return all of it in a line of text, times in seconds since the run began."""
    answer = told(one)
    return (
        f"[{one.began / 1e9:.6f} {one.ended / 1e9:.6f}] p{one.process} {one.f} {asked(one)}".rstrip()
        + f" {one.outcome}"
        + (f" -> {answer}" if answer else "")
    )


def label(one: Operation) -> str:
    """Return all of it in one short line, for a bar in a diagram."""
    if not one.ok:
        return _cut(f"{one.f} {asked(one, LABEL)}", LABEL) + (" (unknown)" if one.unknown else " (failed)")
    if one.f == "txn":
        return _cut(told(one, LABEL), LABEL)  # the answer repeats what was asked
    answer = told(one, LABEL)
    return _cut(f"{one.f} {asked(one, LABEL)}".rstrip() + (f" → {answer}" if answer else ""), LABEL)


def _value(f: str, value: Any, limit: int) -> str:
    """Write the steps of a transaction as people do: `r a1 [1, 2], append a1 3`."""
    if f != "txn" or not isinstance(value, list) or not all(isinstance(step, list) and step for step in value):
        return brief(value, limit)
    steps = [
        " ".join(one if isinstance(one, str) else brief(one, limit) for one in step if one is not None)
        for step in value
    ]
    return _cut(", ".join(steps), limit)


def _listed(values: Sequence[Any], limit: int) -> str:
    """Return the elements, or the first and the last of them, and how many are between."""
    head, fits = _fitting(values, limit)
    if fits:
        return ", ".join(head)
    head, _ = _fitting(values, limit // 2)
    tail, _ = _fitting(values[: len(head) - 1 : -1], limit // 2)
    between = len(values) - len(head) - len(tail)
    return ", ".join([*head, f"… {between} more …", *reversed(tail)] if between else [*head, *reversed(tail)])


def _fitting(values: Sequence[Any], limit: int) -> tuple[list[str], bool]:
    """Return the first elements, as many as fit into `limit` characters, and whether these are all."""
    found: list[str] = []
    length = 0
    for one in values:
        text = brief(one, limit)
        length += len(text) + 2
        if length > limit + 2 and found:
            return found, False
        found.append(text)
    return found, True


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
