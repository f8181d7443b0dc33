"""What clients did to one register, in the words of the checker; values are text there, and times whole nanoseconds."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from raftkv.checker import registers
from raftkv.checker.history import Operation, Outcome


def write(began: float, ended: float, revision: int, value: bytes) -> Operation:
    """Return a write that was acknowledged. Times are in seconds."""
    return _operation("write", began, ended, revision=revision, value=value.decode())


def read(began: float, ended: float, revision: int, value: bytes) -> Operation:
    """Return a read that was answered. `revision` is the mod_revision that it saw, 0 for no value."""
    return _operation("read", began, ended, revision=revision, result=value.decode() if revision else None)


def violations(operations: Sequence[Operation], unknown: Collection[bytes] = ()) -> list[str]:
    """Say what contradicts linearizability. `unknown`: values of writes whose outcome nobody was told."""
    lost = [
        _operation("write", 0, 0, value=value.decode(), outcome=Outcome.INFO, error="its outcome is unknown")
        for value in unknown
    ]
    verdict = registers.check([*operations, *lost])
    return [str(problem) for problem in verdict.problems] or ([] if verdict.valid else [verdict.why])


def seconds(moment: float) -> int:
    """Return a moment of time.monotonic() as histories have it."""
    return round(moment * 1e9)


def _operation(f: str, began: float, ended: float, **told: object) -> Operation:
    return Operation(process=0, f=f, key="the register", began=seconds(began), ended=seconds(ended), **told)  # type: ignore[arg-type]
