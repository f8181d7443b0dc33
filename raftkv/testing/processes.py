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
    with reserve_port() as reservation:
        return port_of(reservation)


def reserve_port() -> socket.socket:
    """Return a socket that holds such a port: until it is closed, nobody else is given that one by this function.

    A server may listen on the port all the same (Linux).
    """
    for _ in range(1000):
        candidate = socket.socket()
        try:
            candidate.bind((LOOPBACK, random.randrange(15_000, 32_000)))
        except OSError:
            candidate.close()
            continue
        # Both sockets must allow it, and neither may be listening, for another one to bind the port: so servers, which
        # allow it, can, and the line above, which comes before this one, cannot.
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return candidate
    raise RaftKVError("no free port found between 15000 and 32000")


def port_of(bound: socket.socket) -> int:
    """Return the port to which a socket is bound."""
    port: int = bound.getsockname()[1]
    return port
