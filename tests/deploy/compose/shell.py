"""Commands that end, in bounded time, and say what they did."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_BEGIN = time.monotonic()


class NotPossible(Exception):
    """This machine cannot run the test; the message says why, and what would help."""


class CommandFailed(Exception):
    """A command failed, or did not end in time; the message has the end of what it said."""


def say(text: str) -> None:
    """Write a line of progress."""
    sys.stdout.write(f"[{time.monotonic() - _BEGIN:6.1f} s] {text}\n")
    sys.stdout.flush()


def run(
    command: Sequence[str | Path],
    timeout_s: float,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    check: bool = True,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return what it said: errors are part of its output."""
    shown = " ".join(str(part) for part in command)
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace") if isinstance(error.stdout, bytes) else ""
        raise CommandFailed(f"{shown}: not done after {timeout_s:.0f} s\n{_end(said)}") from None
    if check and done.returncode != 0:
        raise CommandFailed(f"{shown}: exit code {done.returncode}\n{_end(done.stdout)}")
    return done


def _end(said: str, lines: int = 30) -> str:
    return "\n".join(f"    {line}" for line in said.strip().splitlines()[-lines:])
