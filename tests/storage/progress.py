"""Somebody who listens to how a start goes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from raftkv.storage.progress import Interrupted


@dataclass
class Told:
    """A `Progress` that keeps what it was told, and ends the start in the phase `ending`."""

    ending: str = ""
    phases: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What is done of how much, by name and in the order of the phases."""
    _phase: str = ""

    @contextmanager
    def phase(self, what: str, total: int, unit: str = "bytes") -> Iterator[Told]:
        assert not self._phase, "phases follow each other"
        self._phase = what
        self.phases[what] = (0, total)
        yield self
        self._phase = ""

    def advance(self, amount: int) -> None:
        if self._phase == self.ending:
            raise Interrupted
        done, total = self.phases[self._phase]
        self.phases[self._phase] = (done + amount, total)
