"""Linearizability of a register by its definition: try every order. Shares no code with the checker."""

from __future__ import annotations

from collections.abc import Sequence

from raftkv.checker.history import Operation, Outcome


def linearizable_by_trying(operations: Sequence[Operation]) -> bool:
    """Whether some order of all that is OK, and of some of what is unknown, respects time and explains each answer."""
    return _possible([one for one in operations if one.outcome is not Outcome.FAIL], None)


def _possible(left: list[Operation], state: int | None) -> bool:
    if all(one.outcome is Outcome.INFO for one in left):
        return True
    for number, one in enumerate(left):
        others = left[:number] + left[number + 1 :]
        # It can come first unless another one was over, with an answer, before it began.
        if any(other.outcome is Outcome.OK and other.ended < one.began for other in others):
            continue
        fits, after = _applied(one, state)
        if fits and _possible(others, after):
            return True
    return False


def _applied(one: Operation, state: int | None) -> tuple[bool, int | None]:
    """Whether the register could answer so, and what it holds then."""
    after, answer = state, None
    if one.f == "read":
        answer = state
    elif one.f == "write":
        after = one.value
    elif one.f == "cas":
        old, new = one.value
        answer = state == old
        after = new if answer else state
    elif one.f == "delete":
        answer = state is not None
        after = None
    return one.outcome is Outcome.INFO or answer == one.result, after
