"""How much the state may take, and what is refused once it does.

The leader judges, before it proposes: what every node applies must not depend on how full one node's disk is. Only
what makes the state grow for good is refused. What frees space goes on, and so does whoever needs to hold on to what
they have (sessions, renewals of leases). So the store may grow a little past its quota: a delete is a version too,
until compaction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftkv.errors import SpaceExceeded
from raftkv.kv.commands import Acquire, Branch, Command, GrantLease, Proclaim, Put, Txn, TxnPut
from raftkv.server.alarms import Alarms
from raftkv.v1 import cluster_pb2 as pb

LOOK_S: Final = 0.01
"""The store is looked at no more often than this."""

CLEAR_SHARE: Final = 20
"""The alarm ends when a twentieth of the quota is free again: writers should not be let in and out by the page."""


class Quota:
    """Whether the store has room, as this node sees its own."""

    def __init__(self, limit_bytes: int, used_bytes: Callable[[], int], now_s: Callable[[], float]) -> None:
        """`limit_bytes` 0: no quota. `used_bytes` says what the state takes now, `now_s` gives seconds of any clock."""
        self.limit_bytes = limit_bytes
        self._used_bytes = used_bytes
        self._now_s = now_s
        self._next_look_s = float("-inf")
        self._exceeded = False

    @property
    def exceeded(self) -> bool:
        """Whether the alarm is on."""
        if not self.limit_bytes:
            return False
        now_s = self._now_s()
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + LOOK_S
            clears_at = self.limit_bytes - self.limit_bytes // CLEAR_SHARE
            self._exceeded = self._used_bytes() >= (clears_at if self._exceeded else self.limit_bytes)
        return self._exceeded

    def report(self, alarms: Alarms) -> None:
        """Raise or end the alarm."""
        if self.exceeded:
            alarms.set(pb.NO_SPACE, self.refusal().message)
        else:
            alarms.clear(pb.NO_SPACE)

    def refusal(self) -> SpaceExceeded:
        """Return the error for what would make the store grow."""
        return SpaceExceeded(
            f"the store has reached its quota: {self._used_bytes()} of {self.limit_bytes} bytes; writes go on once "
            f"{self.limit_bytes // CLEAR_SHARE} bytes are free again. The way out: delete keys and compact, or start "
            "the nodes with a larger --quota-bytes"
        )


def grows(command: Command) -> bool:
    """Whether a command may make the state grow for good."""
    if isinstance(command, Txn):
        return _puts(command.branch)
    return isinstance(command, Put | GrantLease | Acquire | Proclaim)


def _puts(branch: Branch) -> bool:
    return any(
        isinstance(operation, TxnPut) or (isinstance(operation, Branch) and _puts(operation))
        for side in (branch.then, branch.otherwise)
        for operation in side
    )
