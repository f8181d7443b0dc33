"""`raftkv elect`: be the leader of something, or see who is."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from raftkv.cli.exits import Exit, fail, say
from raftkv.cli.hold import DEFAULT_TTL_S, Grace, Holding, NoWait, Wait, run_holding
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Format,
    OperationTimeout,
    Output,
    Ttl,
)
from raftkv.cli.output import json_bytes, print_json, print_json_line, print_line, print_line_now, printable
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient, AsyncHeld, Leader


def elect(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the election.", show_default=False)],
    value: Annotated[
        str | None, typer.Argument(metavar="VALUE", help="What observers see when it leads.", show_default=False)
    ] = None,
    *,
    leader: Annotated[bool, typer.Option("--leader", help="Only show who leads now; exit code 3: nobody.")] = False,
    observe: Annotated[bool, typer.Option("--observe", help="Only show who leads, at every change.")] = False,
    ttl: Ttl = DEFAULT_TTL_S,
    wait: Wait = None,
    no_wait: NoWait = False,
    grace: Grace = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: OperationTimeout = DEFAULT_TIMEOUT_S,
) -> int:
    """Campaign under VALUE, and run COMMAND as the leader: raftkv elect scheduler host-7:8000 -- ./scheduler

    Everything that `raftkv lock --help` says about COMMAND, its environment, its end and exit codes holds here.

    Without COMMAND the fencing token is printed when it is elected; it leads until Ctrl-C or SIGTERM.
    """
    name_bytes = os.fsencode(name)
    if leader or observe:
        if leader and observe:
            fail("--leader and --observe exclude each other", Exit.USAGE)
        if value is not None or context.args:
            fail("--leader and --observe take no VALUE and no command: they do not campaign", Exit.USAGE)
        if leader:
            return run_with_client(endpoints, timeout, lambda client: _print_leader(client, name_bytes, output))
        return run_with_client(endpoints, timeout, lambda client: _print_changes(client, name_bytes, output, timeout))
    if value is None:
        raise typer.BadParameter("a candidate needs a VALUE to show, as host:port", param_hint="'VALUE'")
    value_bytes = os.fsencode(value)

    def announce(held: AsyncHeld) -> None:
        if context.args:
            say(f"elected, token {held.token}")
        elif output is Output.JSON:
            shown = {"election": json_bytes(name_bytes), "value": json_bytes(value_bytes)}
            print_json_line({**shown, "token": held.token, "lease": held.lease_id})
        else:
            print_line_now(f"elected, token {held.token}")

    holding = Holding(
        what=f"election {printable(name_bytes)!r}",
        command=context.args,
        endpoints=endpoints,
        timeout=timeout,
        wait=wait,
        no_wait=no_wait,
        ttl=ttl,
        grace=grace,
    )
    return run_holding(holding, lambda client: client.election(name_bytes, value_bytes, ttl=ttl).lock, announce)


async def _print_leader(client: AsyncClient, name: bytes, output: Output) -> int:
    found = await client.election(name).leader()
    if output is Output.JSON:
        print_json(_described(found))
    elif found is not None:
        print_line(printable(found.value))
    if found is None:
        fail(f"nobody leads {printable(name)!r}", Exit.NOT_FOUND)
    return Exit.OK


async def _print_changes(client: AsyncClient, name: bytes, output: Output, timeout: float) -> int:
    # A script is told that nobody answers; once it has been told something it waits.
    async for found in client.election(name).observe(timeout=timeout):
        if output is Output.JSON:
            print_json_line(_described(found))
        elif found is None:
            print_line_now("nobody")
        else:
            print_line_now(f"{printable(found.value)} (token {found.token})")
    return Exit.OK


def _described(leader: Leader | None) -> dict[str, object] | None:
    if leader is None:
        return None
    return {
        "value": json_bytes(leader.value),
        "token": leader.token,
        "lease": leader.lease,
        "revision": leader.revision,
    }
