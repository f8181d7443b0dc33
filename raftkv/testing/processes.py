"""Child processes that do not outlive their parent, and ports for them to listen on."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Sequence

from raftkv.errors import RaftKVError

LOOPBACK = "127.0.0.1"

# Becomes the program, after asking the kernel to kill it when its parent dies.
_LAUNCHER = """
import ctypes, os, signal, sys
if sys.platform == "linux":
    if ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def bound_to_parent(command: Sequence[str]) -> list[str]:
    """Return a command that runs `command` (a path and its arguments) so that it dies with this process (Linux).

    The kernel takes the death of the *thread* that starts a process for the death of its parent: start it from one
    that lives as long.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


def free_port() -> int:
    """Return a loopback TCP port on which nothing listens, below the range from which the kernel takes client ports.

    A port of that range could be taken by any outgoing connection while its server is down, or be connected to itself
    by a client that keeps trying. The caller must still expect to lose the port to another process.
    """
    for _ in range(1000):
        port = random.randrange(15_000, 32_000)
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise RaftKVError("no free port found between 15000 and 32000")
