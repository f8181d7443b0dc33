"""How far a start has come, told by whatever takes long in it: reading the log, copying a checkpoint, replaying.

    with progress.phase("reading the log", total=size) as phase:
        ...
        phase.advance(some_bytes)

Who listens may log it, draw it, or end the start: `advance` raises `Interrupted` then. So call it at least every few
milliseconds of work, only where the disk may be left as it is (as a crash may leave it there anyway).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

STEP_BYTES: Final = 1 << 20
"""A step that is worth telling."""


class Interrupted(Exception):
    """The node is to stop before it serves. No error: nothing handles it on its way up, and every block is left."""


class Phase(Protocol):
    """One of the things that a start does."""

    def advance(self, amount: int) -> None:
        """So much more is done, in the phase's unit. Cheap. Raises Interrupted."""
        ...


class Progress(Protocol):
    """Whoever listens. Phases follow each other; none lies in another one."""

    def phase(self, what: str, total: int, unit: str = "bytes") -> AbstractContextManager[Phase]:
        """Begin something; it ends with the block. `what` continues "the node is ..."; `total` is in `unit`."""
        ...


class _Unheard:
    def advance(self, amount: int) -> None:
        pass

    def phase(self, what: str, total: int, unit: str = "bytes") -> AbstractContextManager[Phase]:
        return nullcontext(self)


UNHEARD: Final[Progress] = _Unheard()
"""Nobody listens."""
