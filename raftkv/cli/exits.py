"""Exit codes and messages: data goes to stdout, everything said about it to stderr."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import IntEnum
from typing import Final, NoReturn

import typer
from typer.exceptions import TyperException

from raftkv.errors import (
    ConfigurationError,
    Conflict,
    ConnectionFailed,
    CorruptState,
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
    """Somebody else was first: the key is not as expected, the fence is stale, the lock is busy, lost, or in
    use as another kind of lock."""
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
    if isinstance(error, ConnectionFailed | NoLeader | DeadlineExceeded | TooStale | QuorumUnavailable | CorruptState):
        return Exit.UNREACHABLE
    return Exit.ERROR


_AS_JSON: ContextVar[bool] = ContextVar("_AS_JSON", default=False)


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether a command line has `-o json`. Not left to the parser: its errors too are to be told as asked for."""
    wanted = False
    for number, argument in enumerate(arguments):
        if argument == "--":
            break
        if argument in ("-o", "--output"):
            wanted = "json" in arguments[number + 1 : number + 2]
        elif argument.startswith(("-o", "--output=")):
            wanted = argument.removeprefix("--output=").removeprefix("-o").removeprefix("=") == "json"
    return wanted


@contextmanager
def errors_as(*, as_json: bool) -> Iterator[None]:
    """Within it, what ends a command is told as JSON, or as text."""
    token = _AS_JSON.set(as_json)
    try:
        yield
    finally:
        _AS_JSON.reset(token)


def say(message: str) -> None:
    """Write a message to stderr, in one line."""
    typer.echo(f"raftkv: {' '.join(message.split())}", err=True)


def complain(what: RaftKVError | str, name: str, *, writes: bool = True) -> None:
    """Say what ends the command, in one line: with `-o json` as {"error": {...}}.

    `name` stands for it in JSON where it is no RaftKVError. Without `writes` nothing can have happened.
    """
    message = what.message if isinstance(what, RaftKVError) else what
    if not _AS_JSON.get():
        say(message)
        return
    known = what if isinstance(what, RaftKVError) else None
    told = {
        "code": name if known is None or type(known) is RaftKVError else _code(known),
        "message": " ".join(message.split()),
        "retryable": known.retryable if known is not None else name == Exit.UNREACHABLE.name,
        "ambiguous": known is not None and writes and known.ambiguous,
    }
    typer.echo(json.dumps({"error": told}), err=True)


def _code(error: RaftKVError) -> str:
    """Return its name as JSON has it: KEY_EXISTS. Those that are on the wire are called the same there."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).upper()


def fail(what: RaftKVError | str, code: Exit, *, writes: bool = True) -> NoReturn:
    """Say what went wrong, as `complain` does, and exit."""
    complain(what, code.name, writes=writes)
    raise typer.Exit(code)


def usage_error(error: TyperException) -> int:
    """Say what is wrong with the command line, and where to read more. Return the exit code."""
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is out already
        return Exit.USAGE
    message = error.format_message().rstrip(".").replace("Value error, ", "")
    complain(message[:1].lower() + message[1:], Exit.USAGE.name)
    context = getattr(error, "ctx", None)
    if context is not None and not _AS_JSON.get():
        typer.echo(f"Try '{context.command_path} --help'.", err=True)
    return error.exit_code
