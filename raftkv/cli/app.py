"""The command tree, and how a command ends: its exit code and its one line of error."""

from __future__ import annotations

import typer

from raftkv.cli import serve

app = typer.Typer(
    name="raftkv",
    help="A Raft-based replicated key-value store.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)


@app.callback()
def _root() -> None:
    pass


def run() -> None:
    """Run the command line and exit."""
    app()
