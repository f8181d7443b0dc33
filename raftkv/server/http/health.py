"""Whether a node is alive, and whether it is ready.

Alive is a local question: a node that lacks a leader or a majority is alive, and killing it would make things worse.
Ready means that it can serve linearizable reads: it has what a leader has just confirmed, by a read index. All who ask
within `CONFIRMED_S` share one confirmation, so that probes cost the cluster next to nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from raftkv.errors import RaftKVError
from raftkv.server.node import Node

CONFIRM_S: Final = 0.8
"""How long a confirmation may take, in seconds: less than a probe of Kubernetes waits unless it is told otherwise."""
CONFIRMED_S: Final = 1.0
"""A confirmation that was begun less than so many seconds ago is good enough."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    name: str
    problem: str = ""
    """Empty: it is well."""


def passed(checks: list[Check]) -> bool:
    """Whether all is well."""
    return not any(check.problem for check in checks)


class Confirmation:
    """The last time that this node was found to have what the leader has."""

    def __init__(self, confirm: Callable[[float], Awaitable[None]]) -> None:
        """`confirm` returns when it has, within so many seconds, and raises RaftKVError or TimeoutError otherwise."""
        self._confirm = confirm
        self._good_until = float("-inf")
        self._under_way: asyncio.Task[str] | None = None

    async def problem(self) -> str:
        """Return what speaks against it; empty: nothing."""
        if asyncio.get_running_loop().time() < self._good_until:
            return ""
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._ask())
        # Whoever asks may go away; others wait for the same answer.
        return await asyncio.shield(self._under_way)

    def cancel(self) -> None:
        """Ask no more."""
        if self._under_way is not None:
            self._under_way.cancel()

    async def _ask(self) -> str:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(CONFIRM_S):
                await self._confirm(CONFIRM_S)
        except TimeoutError:
            return f"not confirmed within {CONFIRM_S:g} s"
        except RaftKVError as error:
            return error.message
        self._good_until = began + CONFIRMED_S
        return ""


class Health:
    """One node's. Alive from the beginning; ready from `begin` to `stopping`."""

    def __init__(self) -> None:
        self._node: Node | None = None
        self._confirmation: Confirmation | None = None
        self._stopping = False

    def begin(self, node: Node, confirm: Callable[[float], Awaitable[None]]) -> None:
        """The node takes requests from now on. `confirm`: see `Confirmation`."""
        self._node = node
        self._confirmation = Confirmation(confirm)

    def stopping(self) -> None:
        """The node is about to stop: not ready from now on."""
        self._stopping = True
        if self._confirmation is not None:
            self._confirmation.cancel()

    def live(self) -> list[Check]:
        """Say whether this process does its work, whatever the others do. That it is asked and answers is half of it:
        the event loop turns.
        """
        return [Check("loop"), Check("disk", self._failure())]

    async def ready(self) -> list[Check]:
        """Say whether the node can serve linearizable reads."""
        node, confirmation = self._node, self._confirmation
        if node is None or confirmation is None or self._idle():
            return [Check("running", self._idle()), Check("disk", self._failure())]
        leader = node.leader
        corruption = node.corruption
        removed = "it was removed from the cluster" if node.was_removed else ""
        checks = [
            Check("running"),
            Check("disk", self._failure()),
            Check("state", corruption.message if corruption is not None else ""),
            Check("member", removed),
            Check("leader", "" if leader is not None else "no leader is known: an election, or no majority"),
        ]
        if not passed(checks):
            return [*checks, Check("read-index", "not asked for: see above")]
        checks.append(Check("read-index", await confirmation.problem()))
        checks[0] = Check("running", self._idle())  # it may have begun to stop meanwhile
        return checks

    def _idle(self) -> str:
        """Say why the node takes no requests; empty: it does."""
        if self._stopping:
            return "the node is stopping"
        return "" if self._node is not None else "the node starts, and has not recovered yet"

    def _failure(self) -> str:
        if self._node is None or not self._node.failure.done():
            return ""
        return f"the node has failed: {self._node.failure.exception()}"
