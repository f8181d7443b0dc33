"""How far a backup or a restore has come: a bar on a terminal, nothing elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

REFRESH_PER_S: Final = 4


class Shown(Protocol):
    """Told of a phase, how many bytes of it are done, and of how many."""

    def __call__(self, phase: str, done: int, total: int, /) -> None: ...


@contextmanager
def bar() -> Iterator[Shown]:
    """Show the progress of phases, in bytes, on stderr while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda phase, done, total: None
        return
    amount = (DownloadColumn(), TransferSpeedColumn())
    columns = (TextColumn("{task.description}"), BarColumn(), *amount, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, refresh_per_second=REFRESH_PER_S) as progress:
        tasks: dict[str, TaskID] = {}

        def show(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                idle = next((name for name, task in tasks.items() if not progress.tasks[task].completed), None)
                # One that had nothing done was only the wait for this one.
                tasks[phase] = progress.add_task(phase) if idle is None else tasks.pop(idle)
                progress.update(tasks[phase], description=phase)
            progress.update(tasks[phase], completed=done, total=total)

        yield show
