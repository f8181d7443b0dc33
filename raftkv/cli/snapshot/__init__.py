"""`raftkv snapshot`: backups of a running cluster, and new clusters made from them."""

from __future__ import annotations

import typer

from raftkv.cli.snapshot import restore, save, verify

app = typer.Typer(
    help="Back up a running cluster into a file, check such a file, make a new cluster from it.", no_args_is_help=True
)
app.command("save")(save.save)
app.command("verify")(verify.verify)
app.command("inspect")(verify.inspect)
app.command("restore")(restore.restore)
