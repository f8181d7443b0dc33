"""Progress that a person can follow, on stderr: lines with the time, and on a terminal a live last line."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text


class Narrator:
    """Tells what happens."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
        self._begin = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._begin

    @property
    def is_terminal(self) -> bool:
        return self._console.is_terminal

    def say(self, text: str, style: str = "") -> None:
        """Write a line."""
        self._console.print(Text.assemble((f"{self.elapsed_s:6.1f}s  ", "dim"), (text, style)))

    def show(self, text: str) -> None:
        """Write a line that people may copy."""
        self._console.print(Text(text, "bold"))

    @contextmanager
    def live(self, text: Callable[[], str]) -> Iterator[None]:
        """Show `text()` while the block runs, and keep it up to date; on a terminal only."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(_Live(text), spinner="dots"):
            yield


class _Live:
    def __init__(self, text: Callable[[], str]) -> None:
        self._text = text

    def __rich__(self) -> Text:
        return Text(self._text(), style="dim")
