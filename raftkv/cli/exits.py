"""Exit codes and messages: data goes to stdout, everything said about it to stderr."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NoReturn

import typer
from typer.exceptions import TyperException

from raftkv.errors import (
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    LeaseExists,
    LeaseNotFound,
    LockBusy,
    LockLost,
    NoLeader,
    QuorumUnavailable,
    RaftKVError,
    StaleFence,
    TooStale,
)


class Exit(IntEnum):
    """What a script may rely on."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    """Somebody else was first: the key is not as expected, the fence is stale, the lock is busy, or lost."""
    UNREACHABLE = 5
    """No endpoint answered in time, there is no leader, or no state that is as fresh as was asked for: nothing has
    happened."""
    UNKNOWN_OUTCOME = 6
    """The time ran out; a write may have taken effect."""


INTERRUPTED: Final = 130
"""Ctrl-C, as shells say it."""


def exit_code(error: RaftKVError, *, writes: bool) -> Exit:
    """Return the exit code that fits `error`. Without `writes` nothing can have happened."""
    if isinstance(error, ConfigurationError | InvalidArgument):
        return Exit.USAGE
    if isinstance(error, Conflict | StaleFence | LockBusy | LockLost | LeaseExists):
        return Exit.CONFLICT
    if isinstance(error, LeaseNotFound):
        return Exit.NOT_FOUND
    if writes and error.ambiguous:
        return Exit.UNKNOWN_OUTCOME
    if isinstance(error, ConnectionFailed | NoLeader | DeadlineExceeded | TooStale | QuorumUnavailable):
        return Exit.UNREACHABLE
    return Exit.ERROR


def say(message: str) -> None:
    """Write a message to stderr, in one line."""
    typer.echo(f"raftkv: {' '.join(message.split())}", err=True)


def fail(message: str, code: Exit) -> NoReturn:
    """Say what went wrong, in one line, and exit."""
    say(message)
    raise typer.Exit(code)


def usage_error(error: TyperException) -> int:
    """Say what is wrong with the command line, and where to read more. Return the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is out already
        return Exit.USAGE
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    say(message[:1].lower() + message[1:])
    context = getattr(error, "ctx", None)
    if context is not None:
        typer.echo(f"Try '{context.command_path} --help'.", err=True)
    return error.exit_code
