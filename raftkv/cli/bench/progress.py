"""A progress bar on a terminal, one line elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from raftkv.cli.exits import say

REFRESH_S: Final = 0.25


@contextmanager
def progress(what: str, total: int, done: Callable[[], int]) -> Iterator[None]:
    """Show how much is done while the block runs; four times a second, so that it costs the load nothing."""
    console = Console(stderr=True)
    if not total:
        yield
        return
    if not console.is_terminal:
        say(f"{what}: {total:,}")
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, auto_refresh=False) as bar:
        task = bar.add_task(what, total=total)
        loop = asyncio.get_running_loop()

        timer: asyncio.TimerHandle | None = None

        def refresh() -> None:
            nonlocal timer
            bar.update(task, completed=done(), refresh=True)
            timer = loop.call_later(REFRESH_S, refresh)

        refresh()
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
