"""A command that is run on somebody's behalf: in a process group of its own, which ends with us.

The kernel kills it (not what it has started itself) when this process dies by whatever means, so that nobody works on
without the lock that it was started for. On a terminal it is in the foreground, unless our output is piped to somebody
who may need that: it may read, and Ctrl-C is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
"""As shells have it."""

POLL_S: Final = 0.02

# Becomes the command: after asking the kernel to kill it when its parent dies, and taking the terminal where it may.
# Python has SIGPIPE and SIGXFSZ ignored; the command is to find them as they usually are.
_LAUNCHER: Final = """
import ctypes, os, signal, sys
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
parent, foreground, path, *command = sys.argv[1:]
if sys.platform == "linux":
    if ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit("raftkv: prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(parent):
        sys.exit("raftkv: the parent is gone")
if foreground == "1":
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    os.tcsetpgrp(0, os.getpgrp())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
for name in ("SIGPIPE", "SIGXFSZ"):
    signal.signal(getattr(signal, name), signal.SIG_DFL)
try:
    os.execv(path, command)
except OSError as error:
    sys.stderr.write(f"raftkv: {path}: {error.strerror}\\n")
    sys.stderr.flush()
    os._exit(126)
"""


class Child:
    """A command that runs, or has run."""

    def __init__(self, process: subprocess.Popen[bytes], *, foreground: bool) -> None:
        """Made by `start`."""
        self._process = process
        self._foreground = foreground
        self.ended: asyncio.Task[int] = asyncio.get_running_loop().create_task(asyncio.to_thread(self._wait))
        """Its exit code, once it has ended: 128 and more for signals."""

    @classmethod
    def start(cls, command: Sequence[str], environment: Mapping[bytes, bytes], *, stdin: int | None = None) -> Child:
        """Start `command` with these additions to the environment. To be called in the main thread.

        `stdin`: a file descriptor that it reads; None: ours. Raises CommandError when there is no such command.
        """
        path = shutil.which(command[0])
        if path is None:
            found = os.sep in command[0] and Path(command[0]).exists()
            why, code = ("not executable", NOT_EXECUTABLE) if found else ("command not found", NOT_FOUND)
            raise CommandError(f"{command[0]}: {why}", code)
        foreground = stdin is None and _owns_terminal()
        launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), str(int(foreground)), path, *command]
        try:
            # vfork: nothing of this process, gRPC's threads least of all, runs in the child.
            process = subprocess.Popen(
                launcher, stdin=stdin, env={**os.environb, **environment}, process_group=0, restore_signals=False
            )
        except OSError as error:
            raise CommandError(f"{command[0]}: {error.strerror}", NOT_EXECUTABLE) from None
        return cls(process, foreground=foreground)

    def signal(self, number: int) -> None:
        """Send a signal to all of its group that is left."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def end(self, grace_s: float) -> int:
        """SIGTERM to its whole group, and SIGKILL to whoever is left after `grace_s`. Return the exit code.

        Cancelled, it kills at once.
        """
        try:
            if grace_s > 0:
                self.signal(signal.SIGTERM)
                self.signal(signal.SIGCONT)  # one that is stopped would not hear of it
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(grace_s):
                        await self._nobody_left()
        finally:
            self.signal(signal.SIGKILL)
        return await self.ended

    async def _nobody_left(self) -> None:
        await asyncio.shield(self.ended)
        while True:
            try:
                os.killpg(self._process.pid, 0)
            except ProcessLookupError:
                return
            except PermissionError:
                pass  # there is somebody, who has become another user
            await asyncio.sleep(POLL_S)

    def _wait(self) -> int:
        while True:
            _, status = os.waitpid(self._process.pid, os.WUNTRACED if self._foreground else 0)
            if not os.WIFSTOPPED(status):
                break
            if os.WSTOPSIG(status) == signal.SIGTSTP:
                # Ctrl-Z. Nobody would give the terminal back to the shell, and a lock is lost by sleeping on it.
                self.signal(signal.SIGCONT)
        code = self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._foreground:
            _take_terminal()
        return code if code >= 0 else 128 - code


class CommandError(Exception):
    """A command could not be started."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


def _owns_terminal() -> bool:
    """Whether we are in the foreground, and nobody else is: whoever reads a pipe of ours may want to read it, too."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp() and not any(stat.S_ISFIFO(os.fstat(number).st_mode) for number in (1, 2))
    except OSError:
        return False


def _take_terminal() -> None:
    """Be in the foreground again. Only the kernel's mask of this thread is touched: it is not the main one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        with contextlib.suppress(OSError):  # the terminal has gone
            os.tcsetpgrp(0, os.getpgrp())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
