"""`raftkv lease`: keys that live as long as somebody renews them."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import typer

from raftkv.cli.exits import Exit, fail, say
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Format,
    Hex,
    OperationTimeout,
    Output,
    Timeout,
)
from raftkv.cli.output import json_bytes, print_json, print_json_line, print_line, print_line_now, printable
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient
from raftkv.errors import ConnectionFailed, DeadlineExceeded, NoLeader, Overloaded

app = typer.Typer(help="Leases: keys go with the lease that they are attached to.", no_args_is_help=True)

RENEWALS_PER_TTL: Final = 3

Id = Annotated[int, typer.Argument(metavar="ID", min=1, help="The lease.", show_default=False)]


@app.command("grant")
def grant(
    ttl: Annotated[
        float, typer.Argument(metavar="TTL", help="Seconds that it lasts: 0.5 to 31536000.", show_default=False)
    ],
    *,
    lease: Annotated[int, typer.Option("--id", min=0, help="The id it shall have; 0: the store chooses.")] = 0,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Open a lease of TTL seconds. Nobody renews it by itself: see `lease keepalive`.

    id=$(raftkv lease grant 60); raftkv put workers/7 here --lease $id
    """
    done = run_with_client(endpoints, timeout, lambda client: client.grant_lease(ttl, lease=lease), writes=True)
    if output is Output.JSON:
        print_json({"id": done.id, "ttl": done.ttl})
    else:
        print_line(str(done.id))


@app.command("list")
def list_leases(
    *, endpoints: Endpoints = DEFAULT_ENDPOINTS, output: Format = Output.TABLE, timeout: Timeout = DEFAULT_TIMEOUT_S
) -> None:
    """Show the ids of all leases, those of clients and their locks included: raftkv lease list"""
    found = run_with_client(endpoints, timeout, AsyncClient.lease_ids)
    if output is Output.JSON:
        print_json({"leases": found})
        return
    for lease in found:
        print_line(str(lease))


@app.command("ttl")
def ttl(
    lease: Id,
    *,
    keys: Annotated[bool, typer.Option("--keys", help="Show the keys attached, too, one a line.")] = False,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Show for how long a lease still lasts: raftkv lease ttl 17 --keys. Exit code 3 when there is none."""
    found = run_with_client(endpoints, timeout, lambda client: client.lease_status(lease, keys=keys))
    if found is None:
        fail(f"lease {lease} not found", Exit.NOT_FOUND)
    if output is Output.JSON:
        attached = {"keys": [json_bytes(key) for key in found.keys]} if keys else {}
        print_json({"id": lease, "ttl": found.ttl, "remaining": found.remaining, **attached})
        return
    print_line(f"{found.remaining:g} s of {found.ttl:g} s left")
    for key in found.keys:
        print_line(printable(key, hexadecimal=hexadecimal))


@app.command("keepalive")
def keepalive(
    lease: Id,
    *,
    once: Annotated[bool, typer.Option("--once", help="Renew it now, and end.")] = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: OperationTimeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Renew a lease until Ctrl-C, and say so each time: raftkv lease keepalive 17. Exit code 3 once there is none.

    An interruption that the lease survives ends nothing.
    """

    async def renew(client: AsyncClient) -> None:
        left_s = await _renewed(client, lease, output)
        while not once:
            await asyncio.sleep(left_s / RENEWALS_PER_TTL)
            left_s = await _renewed(client, lease, output, patience_s=left_s * (1 - 1 / RENEWALS_PER_TTL))

    run_with_client(endpoints, timeout, renew, writes=True)


@app.command("revoke")
def revoke(
    lease: Id,
    *,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """End a lease, and delete its keys at one revision: raftkv lease revoke 17. Exit code 3 when there is none."""
    deleted = run_with_client(endpoints, timeout, lambda client: client.revoke_lease(lease), writes=True)
    if output is Output.JSON:
        print_json({"id": lease, "deleted": deleted})
    else:
        print_line(f"revoked, with {deleted} key{'' if deleted == 1 else 's'}")


async def _renewed(client: AsyncClient, lease: int, output: Output, patience_s: float = 0.0) -> float:
    """Renew it and return for how long it lasts. Tries again for `patience_s` while nobody can be asked."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        try:
            (left_s,) = await client.renew_leases(lease)
        except (ConnectionFailed, DeadlineExceeded, NoLeader, Overloaded) as error:
            if loop.time() >= deadline:
                raise
            say(f"{error.message}; trying again")
            await asyncio.sleep(min(1.0, patience_s / 10))
            continue
        if not left_s:
            fail(f"lease {lease} not found", Exit.NOT_FOUND)
        if output is Output.JSON:
            print_json_line({"id": lease, "ttl": left_s})
        else:
            print_line_now(f"renewed for {left_s:g} s")
        return left_s
