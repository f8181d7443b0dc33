"""Short ways to write histories down, and a machine that makes them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from raftkv.checker.history import Operation, Outcome

_KINDS = {"ok": Outcome.OK, "fail": Outcome.FAIL, "info": Outcome.INFO}


def op(
    began: int,
    ended: int,
    f: str,
    value: Any = None,
    result: Any = None,
    *,
    key: str = "x",
    revision: int = 0,
    outcome: str = "ok",
    process: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Operation:
    """Write an operation down."""
    return Operation(
        process=process, f=f, key=key, value=value, outcome=_KINDS[outcome], result=result, revision=revision,
        began=began, ended=ended, extra=extra or {},
    )  # fmt: skip


def w(began: int, ended: int, value: int, **more: Any) -> Operation:
    return op(began, ended, "write", value, **more)


def r(began: int, ended: int, result: int | None, **more: Any) -> Operation:
    return op(began, ended, "read", result=result, **more)


def cas(began: int, ended: int, old: int | None, new: int, result: bool | None = None, **more: Any) -> Operation:
    return op(began, ended, "cas", [old, new], result, **more)


def delete(began: int, ended: int, result: bool | None = None, **more: Any) -> Operation:
    return op(began, ended, "delete", None, result, **more)


def info(operation: Operation) -> Operation:
    """Return it as one whose outcome nobody knows."""
    return replace(operation, outcome=Outcome.INFO, result=None, revision=0, error="timeout")


def fail(operation: Operation) -> Operation:
    """Return it as one that provably had no effect."""
    return replace(operation, outcome=Outcome.FAIL, result=None, revision=0, error="refused")


def execution(
    rng: random.Random,
    *,
    operations: int,
    clients: int,
    values: int | None = None,
    unknown: float = 0.0,
    most_unknown: int | None = None,
    key: str = "x",
    draw: Callable[[random.Random], str] = lambda rng: rng.choices(("read", "write", "cas", "delete"), (5, 3, 3, 1))[0],
) -> list[Operation]:
    """Make a linearizable history of a register: each operation takes effect at one moment between its ends.

    `values`: how many there are; None: each write has its own. `unknown`: the share of writes whose outcome is untold.
    """
    clock, began, found, idle = 0, 0, [], [0] * clients
    state: int | None = None
    revision, mod = 1, 0
    fresh = iter(range(1, 10**9))
    lost = 0
    plan: list[tuple[int, int]] = []
    # Moments of effect are distinct; operations overlap because each begins before and ends after its own.
    for _ in range(operations):
        client = min(range(clients), key=lambda one: (idle[one], rng.random()))
        began = idle[client] + rng.randint(1, 3 * clients)
        ended = began + rng.randint(1, 6 * clients)
        idle[client] = ended
        plan.append((began, ended))
    moments = sorted((rng.uniform(began, ended), number) for number, (began, ended) in enumerate(plan))
    for _, number in moments:
        began, clock = plan[number]
        f = draw(rng)
        new = next(fresh) if values is None else rng.randrange(values)
        hides = f != "read" and rng.random() < unknown and (most_unknown is None or lost < most_unknown)
        lost += hides
        if hides and rng.random() < 0.5:  # and nothing came of it
            old = state if rng.random() < 0.7 else rng.randrange(max(new, 1))
            found.append(info(cas(began, clock, old, new) if f == "cas" else op(began, clock, f, new, key=key)))
            continue
        match f:
            case "read":
                one = r(began, clock, state, revision=mod)
            case "write":
                revision += 1
                state, mod = new, revision
                one = w(began, clock, new, revision=revision)
            case "cas":
                old = state if rng.random() < 0.7 else rng.randrange(max(new, 1))
                told = state == old
                if told:
                    revision += 1
                    state, mod = new, revision
                one = cas(began, clock, old, new, told, revision=revision if told else 0)
            case _:
                told = state is not None
                if told:
                    revision += 1
                    state, mod = None, 0
                one = delete(began, clock, told, revision=revision if told else 0)
        found.append(replace(info(one) if hides else one, key=key))
    found.sort(key=lambda one: one.began)
    return [replace(one, process=number) for number, one in enumerate(found)]


def shifted(operations: Iterable[Operation], by: int) -> list[Operation]:
    return [replace(one, began=one.began + by, ended=one.ended + by) for one in operations]
