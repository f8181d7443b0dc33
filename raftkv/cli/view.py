"""The cluster as seen through some of its endpoints: one row for each member, reachable or not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from raftkv.client import AsyncClient, EndpointFailure, Role, Status

MAX_ASK_S: Final = 2.0
"""How long one node's answer is waited for: a node that is down must not hide the others."""

ASK_AGAIN_S: Final = 0.5
POLL_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class MemberView:
    """What is known of one member, or of an endpoint that did not say which member it is."""

    id: int | None
    endpoint: str | None
    """None: no node that answered knows where clients reach it."""
    status: Status | None
    error: str | None
    other_cluster: int = 0
    """The cluster that the node at `endpoint` belongs to, when it is another one than the others'."""

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.endpoint) if self.id is None else f"node {self.id}"


async def look(client: AsyncClient, timeout: float) -> list[MemberView]:
    """Ask every member that any endpoint names. In the order of ids; strangers come last."""
    answers = await _ask_all(client, min(timeout, MAX_ASK_S))
    answered = [one for one in answers if isinstance(one, Status)]
    # Ids mean something within one cluster: that of most nodes, of the first one where as many are of another.
    cluster_id = next((one for one, _ in Counter(one.cluster_id for one in answered).most_common(1)), 0)
    statuses = {one.member_id: one for one in reversed(answered) if one.cluster_id == cluster_id}
    failures = {one.endpoint: one.error.message for one in answers if isinstance(one, EndpointFailure)}
    addresses = _client_addresses(list(statuses.values()))
    views: list[MemberView] = []
    for member in sorted(addresses | dict.fromkeys(statuses, "")):
        status = statuses.get(member)
        if status is not None:
            views.append(MemberView(member, status.endpoint, status, None))
            continue
        address = addresses[member]
        error = failures.pop(address, "not asked") if address else "no node that answered has heard from it"
        views.append(MemberView(member, address or None, None, error))
    views += [_stranger(one, cluster_id) for one in answered if one.cluster_id != cluster_id]
    return views + [MemberView(None, endpoint, None, error) for endpoint, error in failures.items()]


def _stranger(status: Status, cluster_id: int) -> MemberView:
    error = (
        f"{status.endpoint} is node {status.member_id} of another cluster, {status.cluster_id:016x}, not of "
        f"{cluster_id:016x}: name endpoints of one cluster"
    )
    return MemberView(None, status.endpoint, None, error, status.cluster_id)


async def _ask_all(client: AsyncClient, patience_s: float) -> Sequence[Status | EndpointFailure]:
    """Ask until all have answered, or for half a second: a busy node may let a first connection time out."""
    loop = asyncio.get_running_loop()
    last_start = loop.time() + min(patience_s, ASK_AGAIN_S)
    while True:
        answers = await client.statuses(timeout=patience_s)
        if loop.time() >= last_start or not any(isinstance(one, EndpointFailure) for one in answers):
            return answers
        await asyncio.sleep(POLL_S)


def leader_of(views: Sequence[MemberView]) -> Status | None:
    """Return the status of the leader of the highest term, if it answered."""
    leaders = [view.status for view in views if view.status is not None and view.status.role is Role.LEADER]
    return max(leaders, key=lambda status: status.term, default=None)


def _client_addresses(statuses: Sequence[Status]) -> dict[int, str]:
    found: dict[int, str] = {}
    for status in statuses:
        for member in status.members:
            found[member.id] = found.get(member.id) or member.client_address.lower()
    return found
