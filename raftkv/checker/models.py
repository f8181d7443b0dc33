"""What objects do when one client at a time uses them. See `raftkv.checker.linearizability`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from raftkv.checker.history import Operation
from raftkv.checker.linearizability import IMPOSSIBLE, Call, State, Step


class Register:
    """One key, with `read`, `write`, `cas` [old, new] and `delete`. Its state is its value, None while it is absent."""

    @property
    def initial(self) -> State:
        return None

    def call(self, operation: Operation) -> Call | None:
        value, result = operation.value, operation.result
        match operation.f:
            case "read":
                return None if operation.unknown else Call(_holds(result), passive=True)
            case "write":
                return Call(_set(value), twin=("write", value))
            case "cas":
                old, new = value
                if operation.unknown:
                    return Call(lambda state: new if state == old else state, twin=("cas", old, new))
                if _told(operation):
                    return Call(lambda state: new if state == old else IMPOSSIBLE)
                return Call(lambda state: IMPOSSIBLE if state == old else state, passive=True)
            case "delete":
                if operation.unknown:
                    return Call(_set(None), twin=("write", None))
                if _told(operation):
                    return Call(lambda state: IMPOSSIBLE if state is None else None)
                return Call(_holds(None), passive=True)
        raise ValueError(f"a register knows no {operation.f!r}")

    def spoken_of(self, operations: Sequence[Operation]) -> Iterable[Operation]:
        held = {value for one in operations if one.ok for value in _held(one)}
        unknown = [one for one in operations if one.unknown and one.f != "read"]
        found: set[int] = set()
        while True:
            more = [number for number, one in enumerate(unknown) if number not in found and written(one) in held]
            if not more:
                return [unknown[number] for number in sorted(found)]
            found.update(more)
            held.update(unknown[number].value[0] for number in more if unknown[number].f == "cas")

    def background(self, kept: Sequence[Operation], removed: Sequence[Operation]) -> Iterable[Step]:
        noticed = {None, *(value for one in kept for value in mentioned(one))}
        others = {written(one) for one in removed if changes(one)}
        values = [value for value in others if value in noticed]
        # All values that nobody notices are as good as one.
        values += [value for value in others if value not in noticed][:1]
        return [_set(value) for value in values]


def changes(operation: Operation) -> bool:
    """Whether an operation on a register wrote, or may have."""
    if operation.f == "read" or not (operation.ok or operation.unknown):
        return False
    return operation.f == "write" or operation.unknown or _told(operation)


def written(operation: Operation) -> Any:
    """Return what an operation that changes a register leaves in it."""
    match operation.f:
        case "write":
            return operation.value
        case "cas":
            return operation.value[1]
        case _:
            return None


def _held(operation: Operation) -> Sequence[Any]:
    """Return the values that the register must have had for an operation to be answered as it was."""
    match operation.f:
        case "read":
            return [operation.result]
        case "cas" if operation.result:
            return [operation.value[0]]
        case "delete" if not operation.result:
            return [None]
    return []


def mentioned(operation: Operation) -> Sequence[Any]:
    """Return all values that an operation on a register tells of."""
    match operation.f:
        case "read":
            return [operation.result]
        case "cas":
            return list(operation.value)
        case "delete":
            return [None]
    return [operation.value]


def _told(operation: Operation) -> bool:
    if isinstance(operation.result, bool):
        return operation.result
    raise ValueError(f"a {operation.f} is answered true or false, not {operation.result!r}")


def _holds(value: Any) -> Step:
    return lambda state: state if state == value else IMPOSSIBLE


def _set(value: Any) -> Step:
    return lambda _: value


REGISTER: Final = Register()
