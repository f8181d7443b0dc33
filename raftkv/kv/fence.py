"""Placeholder until the real one is merged."""

from __future__ import annotations

from raftkv.kv.commands import Fence, Rejected
from raftkv.kv.lease import LeaseTable
from raftkv.kv.store import Reader


def check(reader: Reader, leases: LeaseTable, fence: Fence, now_ms: int) -> Rejected | None:
    raise NotImplementedError
