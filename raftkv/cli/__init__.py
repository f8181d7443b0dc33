"""The `raftkv` command. One module a command group; `main` is the entry point."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from raftkv.cli.app import run  # noqa: PLC0415 - importing the command tree is for those who run it

    run()
