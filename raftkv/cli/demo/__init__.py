"""`raftkv demo`: a cluster of real processes that loses its leader, and proof that it lost nothing else.

story      the acts, in order
writers    the load, and a probe that measures the pause
ledger     what was acknowledged
compare    what was acknowledged against what the nodes hold
report     the summary, and whether the demo passed
"""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from raftkv.cli.exits import Exit, fail, say
from raftkv.cli.options import Format, Output, require_empty
from raftkv.cli.session import run_to_end


class Size(Enum):
    """How many nodes: one failure more is survived with each step."""

    THREE = "3"
    FIVE = "5"


def demo(
    *,
    nodes: Annotated[Size, typer.Option(help="Size of the cluster.")] = Size.THREE,
    seconds: Annotated[
        float,
        typer.Option(min=0.5, max=3600, metavar="SECONDS", help="How long to write, at least."),
    ] = 4.5,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster up afterwards, until Ctrl-C.")] = False,
    directory: Annotated[
        Path | None, typer.Option(help="An empty directory for data and logs, which stay; default: a temporary one.")
    ] = None,
    output: Format = Output.TABLE,
) -> None:
    """Start a cluster here, write to it, kill its leader, and check that no acknowledged write is lost.

    Progress goes to stderr, the summary to stdout. Exit code 0 only when another node took over, every acknowledged
    write is on every node, exactly once, and all nodes hold the same state.
    """
    from raftkv.cli.demo.story import Demo  # noqa: PLC0415
    from raftkv.cli.narrator import Narrator  # noqa: PLC0415 - a cluster takes long to load

    require_empty(directory)
    if keep and not sys.stderr.isatty():
        say("--keep is for terminals; the cluster goes when the demo ends")
        keep = False
    story = Demo(int(nodes.value), seconds=seconds, directory=directory, keep=keep, narrator=Narrator())
    report = run_to_end(story.run(as_json=output is Output.JSON))
    if report.problems:
        fail(f"the demo failed: {'; '.join(report.problems)}", Exit.ERROR)
