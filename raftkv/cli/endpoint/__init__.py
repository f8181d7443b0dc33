"""`raftkv endpoint`: what each member of the cluster knows, whether it works, and whether all hold the same state."""

from __future__ import annotations

import typer

from raftkv.cli.endpoint.checkpoint import checkpoint
from raftkv.cli.endpoint.hash import state_hash
from raftkv.cli.endpoint.health import health
from raftkv.cli.endpoint.status import status

app = typer.Typer(help="The nodes of the cluster; one endpoint is enough to see all.", no_args_is_help=True)
app.command("status")(status)
app.command("health")(health)
app.command("hash")(state_hash)
app.command("checkpoint")(checkpoint)
