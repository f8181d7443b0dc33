"""`raftkv bench`: how fast a cluster is, and how soon it writes again without its leader.

operations   what is done: puts, gets, transactions, locks
load         does it: so many at a time, each one timed
watch        many watchers of what is put at a steady rate; deliveries: what each of them was told, and when
failover     kills the leader, many times
checkpoint   puts at a steady rate, while the leader makes checkpoints and while it does not
target       the cluster under test: somebody's, or one of our own
figures      percentiles, and the result
progress     a bar on a terminal
"""

from __future__ import annotations

import typer

from raftkv.cli.bench.commands import checkpoint, failover, get, lock, put, txn, watch

app = typer.Typer(help="Measure throughput, latency and failover.", no_args_is_help=True)
app.command("put")(put)
app.command("get")(get)
app.command("txn")(txn)
app.command("lock")(lock)
app.command("watch")(watch)
app.command("failover")(failover)
app.command("checkpoint")(checkpoint)
