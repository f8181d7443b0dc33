"""Exit codes and messages: data goes to stdout, everything said about it to stderr."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn

import typer

from raftkv.errors import ConfigurationError, ConnectionFailed, DeadlineExceeded, InvalidArgument, NoLeader, RaftKVError


class Exit(IntEnum):
    """What a script may rely on."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNREACHABLE = 5
    """No endpoint could be reached, or there is no leader: nothing has happened."""
    UNKNOWN_OUTCOME = 6
    """The time ran out; a write may have taken effect."""


def exit_code(error: RaftKVError) -> Exit:
    """Return the exit code that fits `error`."""
    if isinstance(error, ConfigurationError | InvalidArgument):
        return Exit.USAGE
    if error.ambiguous or isinstance(error, DeadlineExceeded):
        return Exit.UNKNOWN_OUTCOME
    if isinstance(error, ConnectionFailed | NoLeader):
        return Exit.UNREACHABLE
    return Exit.ERROR


def fail(message: str, code: Exit) -> NoReturn:
    """Say what went wrong, in one line, and exit."""
    typer.echo(f"raftkv: {message}", err=True)
    raise typer.Exit(code)
