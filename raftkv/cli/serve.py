"""`raftkv serve`: one node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raftkv.cli.settings_flags import given_settings

Config = Annotated[Path | None, typer.Option(metavar="FILE", help="TOML file with these settings by name.")]


def serve(context: typer.Context, *, config: Config = None) -> None:
    """Run a node until SIGTERM or SIGINT; it hands over leadership before it goes.

    A new node needs --member or --join; one that has run before knows its cluster and needs neither.

    Every setting can also come from the environment (RAFTKV_DATA_DIR, RAFTKV_MEMBER=1=h:p,2=h:p, ...) or from a TOML
    file; flags win over the environment, the environment over the file. `raftkv config check` shows what comes of it.
    """
    from raftkv.cli.node import run_node  # noqa: PLC0415 - what a node is made of takes long to load

    run_node(given_settings(context), config)
