"""`raftkv endpoint hash`."""

from __future__ import annotations

from raftkv.cli.endpoint.verdict import fail_unless_all_answered
from raftkv.cli.exits import Exit, fail, say
from raftkv.cli.options import DEFAULT_ENDPOINTS, DEFAULT_TIMEOUT_S, Endpoints, Format, Output, Timeout
from raftkv.cli.output import print_json, print_table
from raftkv.cli.session import run_with_client
from raftkv.cli.states import hashes_at_one_index, states_equal
from raftkv.cli.view import MemberView, look
from raftkv.client import AsyncClient, StateHash


def state_hash(
    *,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Compare a hash of every member's whole state.

    Hashes are comparable at an equal applied index; for that it waits a moment, but not while a cluster is busy. Exit
    code 1 when members differ at the same index (they have diverged) or do not answer, 5 when none does.
    """

    async def compare(client: AsyncClient) -> tuple[list[MemberView], list[StateHash]]:
        views = await look(client, timeout)
        reachable = [
            view.endpoint
            for view in views
            if view.status is not None and view.endpoint is not None and not view.status.is_witness
        ]
        return views, await hashes_at_one_index(client, reachable, patience_s=min(timeout, 1.0))

    views, hashes = run_with_client(endpoints, timeout, compare)
    by_member = {one.member_id: one for one in hashes}
    found = [(view, by_member.get(view.id) if view.id is not None else None) for view in views]
    equal = states_equal(hashes)
    if output is Output.JSON:
        print_json({"equal": equal, "members": [_described(view, one) for view, one in found]})
    else:
        print_table(
            ("ID", "ENDPOINT", "APPLIED", "TERM", "HASH"),
            (_row(view, one) for view, one in found),
            right=("ID", "APPLIED", "TERM"),
        )
    if equal is False:
        fail("the members have DIVERGED: different states at the same applied index", Exit.ERROR)
    if equal is None and hashes:
        say("not comparable now: the members are not at the same applied index; try again when it is calmer")
    fail_unless_all_answered(views)


def _row(view: MemberView, found: StateHash | None) -> tuple[object, ...]:
    if found is None:
        why = "witness: holds no data" if view.status is not None and view.status.is_witness else "unreachable"
        if view.other_cluster:
            why = f"other cluster {view.other_cluster:016x}"
        return (view.id, view.endpoint, None, None, why)
    return (view.id, view.endpoint, found.applied_index, found.applied_term, found.hash.hex())


def _described(view: MemberView, found: StateHash | None) -> dict[str, object]:
    return {
        "id": view.id,
        "endpoint": view.endpoint,
        "applied_index": found.applied_index if found else None,
        "applied_term": found.applied_term if found else None,
        "hash": found.hash.hex() if found else None,
        "error": view.error,
    }
