"""`raftkv leader`: who leads."""

from __future__ import annotations

from typing import Annotated

import typer

from raftkv.cli.options import DEFAULT_ENDPOINTS, DEFAULT_TIMEOUT_S, Endpoints, Format, Output, Timeout
from raftkv.cli.output import print_json, print_line
from raftkv.cli.session import run_with_client
from raftkv.cli.view import MAX_ASK_S, leader_of, look
from raftkv.client import AsyncClient, EndpointFailure, Role
from raftkv.errors import ConnectionFailed

app = typer.Typer(help="Who leads.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("transfer")
def transfer(
    target: Annotated[
        int, typer.Argument(metavar="ID", min=0, help="The member that is to lead; 0: the most caught-up follower.")
    ] = 0,
    *,
    if_leading: Annotated[
        bool,
        typer.Option("--if-leading", help="Do nothing unless the node at the first endpoint leads: before it stops."),
    ] = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Hand leadership to another member. Writes pause for a few milliseconds; none is lost."""

    async def hand_over(client: AsyncClient) -> dict[str, int | None]:
        before = leader_of(await look(client, timeout))
        if not if_leading or await _first_endpoint_leads(client, timeout):
            await client.transfer_leader(target)
        after = leader_of(await look(client, timeout))
        return {
            "leader_before": before.member_id if before else None,
            "leader_after": after.member_id if after else None,
            "term": after.term if after else None,
        }

    done = run_with_client(endpoints, timeout, hand_over, writes=True)
    if output is Output.JSON:
        print_json(done)
    elif done["leader_after"] == done["leader_before"]:
        print_line(f"node {done['leader_after']} leads, as before (term {done['term']})")
    else:
        print_line(f"node {done['leader_after']} leads now, after node {done['leader_before']} (term {done['term']})")


async def _first_endpoint_leads(client: AsyncClient, timeout: float) -> bool:
    """Raises ConnectionFailed: it does not say."""
    asked = (await client.statuses(timeout=min(timeout, MAX_ASK_S)))[0]
    if isinstance(asked, EndpointFailure):
        raise ConnectionFailed(f"{asked.endpoint} does not say whether it leads: {asked.error.message}")
    return asked.role is Role.LEADER
