"""Results on stdout: tables for people, one JSON object or array for programs."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE: Final = 10_000
"""Columns where no terminal sets a limit, so that nothing is wrapped or cut."""


def print_json(value: object) -> None:
    """Write one JSON value: in one line for programs, indented on a terminal."""
    sys.stdout.write(json.dumps(value, indent=2 if sys.stdout.isatty() else None) + "\n")


def print_json_line(value: object) -> None:
    """Write one of many JSON values, in one line, and let whoever reads have it at once."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def json_bytes(data: bytes) -> str | dict[str, str]:
    """Return bytes as JSON shows them: as text where they are UTF-8, else as {"base64": ...}."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": b64encode(data).decode()}


def printable(data: bytes, *, hexadecimal: bool = False) -> str:
    """Return bytes as a table shows them: what is not printable text is escaped, so that no value moves the cursor."""
    if hexadecimal:
        return data.hex()
    text = data.decode(errors="backslashreplace")
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def print_line(text: str) -> None:
    """Write one line of a result."""
    sys.stdout.write(text + "\n")


def print_line_now(text: str) -> None:
    """Write one line, and let whoever reads have it at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_bytes(data: bytes) -> None:
    """Write bytes as they are; on a terminal the prompt gets a line of its own."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    if sys.stdout.isatty() and not data.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = (), cut: str | None = None
) -> None:
    """Write a table. `right` names the columns that are aligned right, `cut` the one that is cut to fit a terminal.

    A cell that is None shows as "-".
    """
    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal and cut else _WIDE, highlight=False, emoji=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("-" if cell is None else str(cell)) for cell in row))
    with console.capture() as capture:
        console.print(table)
    sys.stdout.writelines(line.rstrip() + "\n" for line in capture.get().splitlines())


def size_text(size_bytes: int) -> str:
    """Return a size for people, small ones too."""
    return megabytes(size_bytes) if size_bytes >= 1_000_000 else f"{size_bytes / 1e3:.1f} kB"


def megabytes(size_bytes: int) -> str:
    """Return a size for people."""
    return f"{size_bytes / 1e6:.1f} MB"
