"""What a node answers from its state, without a proposal."""

from __future__ import annotations

from typing import NamedTuple

from raftkv.kv.commands import Txn
from raftkv.kv.ranges import RangeQuery


class LeaseQuery(NamedTuple):
    """How long does a lease last?"""

    lease: int
    with_keys: bool
    """Which keys are attached to it?"""


class LeaseListQuery(NamedTuple):
    """Which leases are there?"""

    after: int
    """Behind this one; 0: from the first."""


class LockQuery(NamedTuple):
    """Who stands in line for a lock?"""

    lock: bytes
    limit: int


Query = RangeQuery | Txn | LeaseQuery | LeaseListQuery | LockQuery
"""A `Txn` that writes nothing and has no fences is a query."""
