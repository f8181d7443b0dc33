"""`raftkv repair`: bring back a node whose data directory is damaged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raftkv.cli.options import DEFAULT_ENDPOINTS, Endpoints, Format, Output, Timeout

REPAIR_TIMEOUT_S = 30.0


def repair(
    *,
    data_dir: Annotated[Path, typer.Option(help="The data directory of the damaged node, which is stopped.")],
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    id: Annotated[  # noqa: A002
        int | None,
        typer.Option("--id", min=1, help="Whose directory it is, where it cannot say so itself: lost, or emptied."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it. Without it, only say what is wrong and what to do.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return only once the node runs again, is caught up and votes.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Begin anew from the peers although the directory looks healthy.")
    ] = False,
    output: Format = Output.TABLE,
    timeout: Timeout = REPAIR_TIMEOUT_S,
) -> None:
    """Bring back a node that refuses to start, from its own data if nothing is lost by that, else from its peers.

    From its peers it comes back with an empty directory under a new id, since it has forgotten votes and what it
    acknowledged. Start it as before, with the same flags: it catches up, and votes again once it has. What was damaged
    is set aside, never deleted. Interrupted, the same command goes on.

    Exit code 0: repaired, or it can be. 1: neither way is open; why not is said. 2: not a data directory, or in use.
    5: no leader answers.
    """
    from raftkv.cli.repair_node import run  # noqa: PLC0415 - what a node is made of takes long to load

    run(
        data_dir.absolute(),
        endpoints,
        node_id=id,
        yes=yes,
        wait=wait,
        replace=replace,
        as_json=output is Output.JSON,
        timeout=timeout,
    )
