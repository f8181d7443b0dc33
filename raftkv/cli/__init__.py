"""The `raftkv` command. One module a command group; `main` is the entry point.

    app        the command tree; how a command ends
    exits      exit codes and the one line of error
    options    the flags that every client command has
    output     tables for people, JSON for programs
    session    runs a coroutine with a client; Ctrl-C
    serve, kv, ls, txn, watch, lease, lock, elect, endpoint, leader, member, quorum, demo, bench   the commands
    hold, child                 a lock that is held for a command, and that command
    txn_document, fences        transactions and fencing tokens as they are written

What takes long to load (a node, a cluster, the load generators) is imported when a command that needs it runs.
"""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line and exit."""
    # Both before anything imports grpc. Its core writes to stderr what we report ourselves, in a line for people; and
    # its fork handlers, which have nothing to do before an exec, complain whenever a node process is started.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        from raftkv.cli.app import run  # noqa: PLC0415 - grpc must see the environment as set above
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(run())
