"""The `raftkv` command. One module a command group; `main` is the entry point."""

from __future__ import annotations

import os


def main() -> None:
    """Run the command line."""
    # gRPC's core writes to stderr what we report ourselves, in a line for people.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from raftkv.cli.app import run  # noqa: PLC0415 - importing the command tree is for those who run it

    run()
