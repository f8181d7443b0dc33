"""A bar on the terminal while a node starts and that takes long."""

from __future__ import annotations

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from raftkv.server.start_progress import Display


class StartBar:
    """The `Display` on a terminal. Drawn by whoever tells it something: no thread of its own."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def show(self, what: str, done: int, total: int, unit: str) -> None:
        """See `Display.show`."""
        if self._bar is None:
            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"))
            self._bar = Progress(
                *(*columns, TimeElapsedColumn(), TimeRemainingColumn()),
                console=self._console,
                transient=True,
                auto_refresh=False,
            )
            self._task = self._bar.add_task(what, total=total, amount="")
            self._bar.start()
        self._bar.update(self._task, completed=done, amount=_amount(done, total, unit), refresh=True)

    def clear(self) -> None:
        """See `Display.clear`."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def start_display() -> Display | None:
    """Return what to draw a start on: a bar, where stderr is a terminal."""
    console = Console(stderr=True)
    return StartBar(console) if console.is_terminal else None


def _amount(done: int, total: int, unit: str) -> str:
    if unit == "bytes":
        return f"{decimal(done)} of {decimal(total)}"
    return f"{done:,} of {total:,} {unit}"
