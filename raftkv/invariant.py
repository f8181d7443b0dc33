"""Always-on checks of what must never be false."""

from __future__ import annotations


class InvariantViolation(AssertionError):
    """A safety property does not hold: a bug in raftkv, or memory that lies.

    The node that finds one stops at once. Nothing may catch this and go on.
    """


def invariant(holds: bool, message: str, *values: object) -> None:
    """Raise InvariantViolation unless `holds`. Unlike `assert`, it stays on under `python -O`.

    `message` is a `str.format` template for `values`: these checks run for every message, so the text is only made when
    one fails.
    """
    if not holds:
        raise InvariantViolation(message.format(*values))
