"""`raftkv member`: who belongs to the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from raftkv.cli.options import DEFAULT_ENDPOINTS, Endpoints, Format, Output, Timeout
from raftkv.cli.output import print_json, print_table
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient, Member

CHANGE_TIMEOUT_S = 15.0
"""A change needs a majority of the old voters and one of the new ones; nodes may be slow to come."""

app = typer.Typer(help="Who belongs to the cluster.", no_args_is_help=True)

NodeIdArgument = Annotated[int, typer.Argument(metavar="ID", min=1, help="A node's id.")]
NodeIds = Annotated[list[int], typer.Argument(metavar="ID...", min=1, help="Nodes' ids: all in one step.")]


@app.command("list")
def list_members(
    *, endpoints: Endpoints = DEFAULT_ENDPOINTS, output: Format = Output.TABLE, timeout: Timeout = 5.0
) -> None:
    """Show the members, as the leader knows them."""
    _print(run_with_client(endpoints, timeout, AsyncClient.members), output)


@app.command("add")
def add(
    member_id: NodeIdArgument,
    peer_address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="Where its peers will reach it.")],
    *,
    witness: Annotated[
        bool, typer.Option("--witness", help="It votes at once, holds no data, and never leads.")
    ] = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = CHANGE_TIMEOUT_S,
) -> None:
    """Let a new node join, as a learner: it is sent all data and decides nothing until `member promote`.

    Then start it: raftkv serve --id ID --data-dir DIR --join HOST:PORT, with the client address of any member. Take an
    id that no node of this cluster has ever had.
    """

    async def change(client: AsyncClient) -> tuple[Member, ...]:
        return await client.add_member(member_id, peer_address, witness=witness)

    _print(run_with_client(endpoints, timeout, change, writes=True), output)


@app.command("promote")
def promote(
    member_ids: NodeIds,
    *,
    remove: Annotated[
        list[int] | None, typer.Option(metavar="ID", min=1, help="Remove this one in the same step; may be repeated.")
    ] = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = CHANGE_TIMEOUT_S,
) -> None:
    """Make learners voters, once they are caught up. With --remove they replace others."""

    async def change(client: AsyncClient) -> tuple[Member, ...]:
        return await client.promote_members(*member_ids, remove=remove or ())

    _print(run_with_client(endpoints, timeout, change, writes=True), output)


@app.command("remove")
def remove(
    member_ids: NodeIds,
    *,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = CHANGE_TIMEOUT_S,
) -> None:
    """Remove members, dead ones and the leader included. Stop their processes afterwards; their ids are spent."""

    async def change(client: AsyncClient) -> tuple[Member, ...]:
        return await client.remove_members(*member_ids)

    _print(run_with_client(endpoints, timeout, change, writes=True), output)


def _print(members: Sequence[Member], output: Output) -> None:
    if output is Output.JSON:
        print_json({"members": [_described(member) for member in members]})
        return
    print_table(
        ("ID", "KIND", "PEER ADDRESS", "CLIENT ADDRESS"),
        (
            (
                member.id,
                member.kind.name.lower() + (" (leaving)" if member.leaving else ""),
                member.peer_address,
                member.client_address or None,
            )
            for member in members
        ),
        right=("ID",),
    )


def _described(member: Member) -> dict[str, object]:
    return {
        "id": member.id,
        "kind": member.kind.name.lower(),
        "leaving": member.leaving,
        "peer_address": member.peer_address,
        "client_address": member.client_address or None,
    }
