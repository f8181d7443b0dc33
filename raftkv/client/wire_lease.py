"""Messages of leases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from raftkv.client.results import LeaseGrant, LeaseStatus
from raftkv.client.tenure import ttl_ms
from raftkv.client.wire import check_u64
from raftkv.errors import InvalidArgument
from raftkv.v1 import kv_pb2, lease_pb2

MAX_RENEWED: Final = 1_000
"""Most leases that one operation renews."""

SIZE: Final = 64
"""About how many bytes an operation on one lease takes in a message; never too few."""


class Granted(Protocol):
    """A lease as the client hands it out."""

    @property
    def id(self) -> int: ...


LeaseLike = Granted | int | None
"""What `lease=` takes: a lease, its id, or None."""


def lease_id(lease: LeaseLike) -> int:
    """Return the id of a lease; 0 for None. Raises InvalidArgument for what is no lease."""
    if lease is None:
        return 0
    number = lease if isinstance(lease, int) else getattr(lease, "id", None)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 2**64:
        raise InvalidArgument(f"lease is {lease!r}, not a lease or its id")
    return number


def some_lease_id(lease: LeaseLike) -> int:
    """Return the id of a lease. Raises InvalidArgument for None, too."""
    if lease is None:
        raise InvalidArgument("lease is None, not a lease or its id")
    return lease_id(lease)


def grant_operation(ttl: float, lease: int = 0) -> kv_pb2.Operation:
    """Return a grant, without its id. `ttl` in seconds; `lease` 0: the store chooses. Raises InvalidArgument."""
    check_u64("lease", lease)
    return kv_pb2.Operation(lease_grant=lease_pb2.LeaseGrantRequest(id=lease, ttl_ms=ttl_ms(ttl)))


def keep_alive_operation(leases: Sequence[int]) -> kv_pb2.Operation:
    """Return a renewal, without its id."""
    return kv_pb2.Operation(lease_keep_alive=lease_pb2.LeaseKeepAliveRequest(ids=leases))


def keep_alive_size(leases: int) -> int:
    """Return about how many bytes the renewal of so many leases takes; never too few."""
    return SIZE + 10 * leases


def revoke_operation(lease: int) -> kv_pb2.Operation:
    """Return a revocation, without its id."""
    return kv_pb2.Operation(lease_revoke=lease_pb2.LeaseRevokeRequest(id=lease))


def time_to_live_operation(lease: int, *, keys: bool) -> kv_pb2.Operation:
    """Return a question about a lease, without its id."""
    return kv_pb2.Operation(lease_time_to_live=lease_pb2.LeaseTimeToLiveRequest(id=lease, keys=keys))


def list_operation(after: int) -> kv_pb2.Operation:
    """Return a question about which leases there are, without its id."""
    return kv_pb2.Operation(lease_list=lease_pb2.LeaseListRequest(after=after))


def to_grant(answer: lease_pb2.LeaseGrantResponse) -> LeaseGrant:
    """Decode the answer to a grant."""
    return LeaseGrant(answer.id, answer.ttl_ms / 1000)


def to_status(lease: int, answer: lease_pb2.LeaseTimeToLiveResponse) -> LeaseStatus | None:
    """Decode what the store knows of a lease; None: there is none."""
    if not answer.granted_ttl_ms:
        return None
    return LeaseStatus(lease, answer.granted_ttl_ms / 1000, answer.ttl_ms / 1000, tuple(answer.keys))
