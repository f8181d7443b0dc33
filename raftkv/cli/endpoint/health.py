"""`raftkv endpoint health`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Final

from raftkv.cli.endpoint.verdict import fail_unless_all
from raftkv.cli.options import DEFAULT_ENDPOINTS, DEFAULT_TIMEOUT_S, Endpoints, Format, Output, Timeout
from raftkv.cli.output import print_json, print_table
from raftkv.cli.session import run_with_client
from raftkv.cli.view import MAX_ASK_S, MemberView, look
from raftkv.client import AsyncClient
from raftkv.errors import RaftKVError

HEALTH_KEY: Final = "health"
"""What is read; it need not exist."""


@dataclass(frozen=True, slots=True)
class Health:
    """Whether a member can serve: it answers, and through it a linearizable read works."""

    id: int | None
    endpoint: str | None
    healthy: bool
    read_ms: float | None
    error: str | None


def health(
    *,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Make a linearizable read through each member. Exit code 1 when some fail, 5 when all do."""

    async def examine_all(client: AsyncClient) -> list[tuple[MemberView, Health]]:
        views = await look(client, timeout)
        return list(zip(views, await asyncio.gather(*(_examine(client, view, timeout) for view in views)), strict=True))

    examined = run_with_client(endpoints, timeout, examine_all)
    found = [one for _, one in examined]
    if output is Output.JSON:
        print_json({"healthy": all(one.healthy for one in found), "members": [asdict(one) for one in found]})
    else:
        print_table(
            ("ID", "ENDPOINT", "HEALTHY", "READ"),
            (
                (one.id, one.endpoint, "yes" if one.healthy else "no", one.read_ms and f"{one.read_ms} ms")
                for one in found
            ),
            right=("ID", "READ"),
        )
    fail_unless_all("healthy", [(view.name, one.error) for view, one in examined])


async def _examine(client: AsyncClient, view: MemberView, timeout: float) -> Health:
    if view.status is None or view.endpoint is None:
        return Health(view.id, view.endpoint, False, None, view.error)
    begin = time.perf_counter()
    try:
        await client.get(HEALTH_KEY, endpoint=view.endpoint, timeout=min(timeout, MAX_ASK_S))
    except RaftKVError as error:
        return Health(view.id, view.endpoint, False, None, error.message)
    return Health(view.id, view.endpoint, True, round((time.perf_counter() - begin) * 1000, 1), None)
