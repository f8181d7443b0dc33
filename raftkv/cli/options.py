"""The flags that every client command has, and how keys and values are written on the command line."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

DEFAULT_ENDPOINTS: Final = "127.0.0.1:7001"
DEFAULT_TIMEOUT_S: Final = 5.0


class Output(StrEnum):
    """How results look."""

    TABLE = "table"
    JSON = "json"


Endpoints = Annotated[
    str,
    typer.Option(
        "--endpoints",
        envvar="RAFTKV_ENDPOINTS",
        metavar="HOST:PORT,...",
        help="Some or all nodes: HOST:PORT,... or raftkv://HOST:PORT,...; one is enough.",
    ),
]
Format = Annotated[
    Output,
    typer.Option(
        "--output",
        "-o",
        help="table for people, json for programs: one object or array; bytes that are not UTF-8 are "
        '{"base64": "..."}. What goes wrong is {"error": {...}} on stderr then.',
    ),
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.001, max=86_400, metavar="SECONDS", help="For the whole command.")
]
OperationTimeout = Annotated[
    float,
    typer.Option("--timeout", min=0.001, max=86_400, metavar="SECONDS", help="For each operation of the store."),
]
Fence = Annotated[
    list[str] | None,
    typer.Option(
        "--fence",
        metavar="LOCK:TOKEN",
        help="Refuse the write (exit code 4) unless TOKEN holds LOCK; LOCK:TOKEN:max_seen: unless a newer one was "
        "granted. May be repeated.",
    ),
]
Ttl = Annotated[
    float,
    typer.Option("--ttl", metavar="SECONDS", help="How long it outlives this command if that is gone; 0.5 to a year."),
]
Revision = Annotated[int, typer.Option(min=0, help="As of this revision of the store; 0: now.")]
Hex = Annotated[
    bool, typer.Option("--hex", help="Keys and values are hexadecimal, on the command line and in tables; not in json.")
]


def to_bytes(text: str, *, hexadecimal: bool) -> bytes:
    """Return the bytes that an argument stands for. Raises typer.BadParameter."""
    if not hexadecimal:
        return os.fsencode(text)
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not hexadecimal") from None


def require_empty(directory: Path | None) -> None:
    """Refuse a directory, if one is given, that holds something. Raises typer.BadParameter."""
    if directory is not None and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise typer.BadParameter(f"{directory} is not an empty directory")


def read_stdin() -> bytes:
    """Return all of standard input."""
    return sys.stdin.buffer.read()
