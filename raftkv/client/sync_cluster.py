"""Calls about the cluster itself, for code without an event loop."""

from __future__ import annotations

from collections.abc import Iterable

from raftkv.client.results import EndpointFailure, Member, StateHash, Status
from raftkv.client.sync_core import SyncCore


class SyncClusterCalls(SyncCore):
    """The twin of ClusterCalls."""

    def status(self, endpoint: str | None = None, *, timeout: float | None = None) -> Status:
        """See AsyncClient.status."""
        return self._run(self._async.status(endpoint, timeout=timeout))

    def statuses(self, *, timeout: float | None = None) -> tuple[Status | EndpointFailure, ...]:
        """See AsyncClient.statuses."""
        return self._run(self._async.statuses(timeout=timeout))

    def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """See AsyncClient.members."""
        return self._run(self._async.members(timeout=timeout))

    def add_member(
        self, member_id: int, peer_address: str, *, witness: bool = False, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """See AsyncClient.add_member."""
        return self._run(self._async.add_member(member_id, peer_address, witness=witness, timeout=timeout))

    def promote_members(
        self, *member_ids: int, remove: Iterable[int] = (), timeout: float | None = None
    ) -> tuple[Member, ...]:
        """See AsyncClient.promote_members."""
        return self._run(self._async.promote_members(*member_ids, remove=remove, timeout=timeout))

    def replace_member(
        self, old_id: int, new_id: int, peer_address: str, *, witness: bool = False, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """See AsyncClient.replace_member."""
        return self._run(self._async.replace_member(old_id, new_id, peer_address, witness=witness, timeout=timeout))

    def remove_members(self, *member_ids: int, timeout: float | None = None) -> tuple[Member, ...]:
        """See AsyncClient.remove_members."""
        return self._run(self._async.remove_members(*member_ids, timeout=timeout))

    def state_hash(self, endpoint: str, *, timeout: float | None = None) -> StateHash:
        """See AsyncClient.state_hash."""
        return self._run(self._async.state_hash(endpoint, timeout=timeout))

    def transfer_leader(self, target: int = 0, *, timeout: float | None = None) -> None:
        """See AsyncClient.transfer_leader."""
        return self._run(self._async.transfer_leader(target, timeout=timeout))
