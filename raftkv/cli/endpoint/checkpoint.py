"""`raftkv endpoint checkpoint`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Final

import typer

from raftkv.cli.endpoint.verdict import fail_unless_all
from raftkv.cli.exits import Exit, fail
from raftkv.cli.options import DEFAULT_ENDPOINTS, Endpoints, Format, Output, Timeout
from raftkv.cli.output import megabytes, print_json, print_table
from raftkv.cli.session import run_with_client
from raftkv.cli.view import MAX_ASK_S, MemberView, look
from raftkv.client import AsyncClient, CheckpointStatus
from raftkv.errors import RaftKVError

CHECKPOINT_TIMEOUT_S: Final = 300.0
"""A state of gigabytes is copied and read once."""


@dataclass(frozen=True, slots=True)
class _Made:
    view: MemberView
    checkpoint: CheckpointStatus | None
    error: str | None


def checkpoint(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID...]", help="The members that make one; all without any.")
    ] = None,
    *,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = CHECKPOINT_TIMEOUT_S,
) -> None:
    """Have members make a checkpoint of their state now, one after the other, and compact their logs.

    The nodes serve meanwhile. Exit code 1 when some made none, 5 when none did.
    """

    async def make(client: AsyncClient) -> list[_Made]:
        views = await look(client, min(timeout, MAX_ASK_S))
        unknown = set(ids or ()) - {view.id for view in views}
        if unknown:
            fail(f"not members, as far as the nodes that answered know: {sorted(unknown)}", Exit.USAGE)
        return [await _ask(client, view, timeout) for view in views if not ids or view.id in ids]

    made = run_with_client(endpoints, timeout, make)
    if output is Output.JSON:
        print_json({"members": [_described(one) for one in made]})
    else:
        print_table(
            ("ID", "ENDPOINT", "CHECKPOINT", "SIZE"),
            (
                (
                    one.view.id,
                    one.view.endpoint,
                    one.checkpoint.index if one.checkpoint else None,
                    megabytes(one.checkpoint.size_bytes) if one.checkpoint else None,
                )
                for one in made
            ),
            right=("ID", "CHECKPOINT", "SIZE"),
        )
    fail_unless_all("done", [(one.view.name, one.error) for one in made])


async def _ask(client: AsyncClient, view: MemberView, timeout: float) -> _Made:
    if view.status is None or view.endpoint is None:
        return _Made(view, None, view.error)
    try:
        return _Made(view, await client.checkpoint(view.endpoint, timeout=timeout), None)
    except RaftKVError as error:
        return _Made(view, None, error.message)


def _described(made: _Made) -> dict[str, object]:
    return {
        "id": made.view.id,
        "endpoint": made.view.endpoint,
        "checkpoint": asdict(made.checkpoint) if made.checkpoint else None,
        "error": made.error,
    }
