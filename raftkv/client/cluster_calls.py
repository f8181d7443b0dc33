"""Calls about the cluster itself: what its nodes know, who its members are, who leads."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeVar

from raftkv.client import wire
from raftkv.client.backoff import backoff_s
from raftkv.client.core import ClientCore
from raftkv.client.results import EndpointFailure, Member, StateHash, Status
from raftkv.client.unary import answer_of
from raftkv.client.urls import parse_endpoint
from raftkv.errors import ConfigurationError, ConnectionFailed, InvalidArgument, RaftKVError
from raftkv.v1 import cluster_pb2

if TYPE_CHECKING:
    from raftkv.v1.cluster_pb2_grpc import ClusterAsyncStub

T = TypeVar("T")

MAX_STATUSES_TIMEOUT_S: Final = 2.0


class ClusterCalls(ClientCore):
    """Status, members, leadership."""

    async def status(self, endpoint: str | None = None, *, timeout: float | None = None) -> Status:
        """Return what a node knows of itself and of the cluster; without `endpoint`, any that can be reached.

        Works without a leader. Raises ConnectionFailed, DeadlineExceeded.

        Example::

            status = await client.status()
            print(status.leader_id, status.revision, status.alarms)
        """
        dispatcher = self._open()
        deadline = dispatcher.loop.time() + self._seconds(timeout)
        address = await dispatcher.wait_ready(deadline) if endpoint is None else parse_endpoint(endpoint)
        rpc = dispatcher.connections.get(address).cluster.Status(
            cluster_pb2.StatusRequest(), timeout=max(deadline - dispatcher.loop.time(), 0.0)
        )
        return wire.to_status(address, await self._answer_at(address, rpc))

    async def statuses(self, *, timeout: float | None = None) -> tuple[Status | EndpointFailure, ...]:
        """Ask every configured endpoint, and every further member that they name, for its status.

        Those that cannot be reached are in the answer as EndpointFailure; nothing is raised for them. Waits at most 2 s
        for each unless `timeout` says otherwise.

        Example::

            for one in await client.statuses():
                print(one.endpoint, one.error if isinstance(one, EndpointFailure) else one.role)
        """
        seconds = min(self._timeout, MAX_STATUSES_TIMEOUT_S) if timeout is None else timeout
        asked = self._endpoints
        first = await asyncio.gather(*(self._status_or_failure(one, seconds) for one in asked))
        answered = {one.member_id for one in first if isinstance(one, Status)}
        others = {
            member.id: member.client_address
            for one in first
            if isinstance(one, Status)
            for member in one.members
            if self._dial_learned
            and member.client_address
            and member.id not in answered
            and member.client_address.lower() not in asked
        }
        second = await asyncio.gather(*(self._status_or_failure(one, seconds) for one in others.values()))
        return (*first, *second)

    async def members(self, *, timeout: float | None = None) -> tuple[Member, ...]:
        """Return the members of the cluster as its leader knows them, or whoever answers. Errors as `status`.

        Example::

            print([member.id for member in await client.members()])
        """
        status = await self.status(timeout=timeout)
        if status.leader_id in (0, status.member_id) or not status.leader_address or not self._dial_learned:
            return status.members
        try:
            return (await self.status(status.leader_address, timeout=timeout)).members
        except RaftKVError:
            return status.members

    async def add_member(
        self, member_id: int, peer_address: str, *, witness: bool = False, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Let a node join as a learner, or as a witness, which votes at once. Return the members.

        Start it afterwards, with an empty data directory and `--join`. An id is never used again for another disk.

        Raises FailedPrecondition, without effect, when it is or was a member or another change is under way.
        ConnectionFailed, LeaderChanged and DeadlineExceeded are ambiguous unless they say otherwise: look at `members`.

        Example::

            await client.add_member(4, "10.0.0.4:7101")
        """
        wire.check_u64("member_id", member_id)
        try:
            address = parse_endpoint(peer_address)
        except ConfigurationError:
            raise InvalidArgument(
                f"peer_address is {peer_address!r}, not the HOST:PORT at which the node will listen for its peers"
            ) from None
        new = cluster_pb2.NewMember(id=member_id, peer_address=address, witness=witness)
        return await self._change_members(cluster_pb2.ChangeMembersRequest(add=[new]), timeout)

    async def promote_members(
        self, *member_ids: int, remove: Iterable[int] = (), timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Make learners voters, and `remove` others in the same step. Return the members.

        Raises FailedPrecondition, without effect, when one lags too far behind; else as `add_member`.

        Example::

            try:
                await client.promote_members(4)
            except FailedPrecondition as error:
                print("not yet:", error)
        """
        removed = tuple(remove)
        for member_id in (*member_ids, *removed):
            wire.check_u64("member_id", member_id)
        return await self._change_members(cluster_pb2.ChangeMembersRequest(promote=member_ids, remove=removed), timeout)

    async def replace_member(
        self, old_id: int, new_id: int, peer_address: str, *, witness: bool = False, timeout: float | None = None
    ) -> tuple[Member, ...]:
        """Let a node join as a learner, or a witness, and remove another one in the same step. Return the members.

        The new one may have the old one's address. `raftkv repair` does it for a node whose disk is lost. Errors as
        `add_member`.

        Example::

            try:
                await client.replace_member(7, 8, "10.0.0.7:7101")
            except FailedPrecondition as error:
                print("nothing was changed:", error)
        """
        wire.check_u64("old_id", old_id)
        wire.check_u64("new_id", new_id)
        new = cluster_pb2.NewMember(id=new_id, peer_address=parse_endpoint(peer_address), witness=witness)
        return await self._change_members(cluster_pb2.ChangeMembersRequest(add=[new], remove=[old_id]), timeout)

    async def remove_members(self, *member_ids: int, timeout: float | None = None) -> tuple[Member, ...]:
        """Remove members of whatever kind, the leader included, all in one step. Return the members. As `add_member`.

        What they hold is not deleted, and their ids must not be used again.

        Example::

            await client.remove_members(4)
        """
        for member_id in member_ids:
            wire.check_u64("member_id", member_id)
        return await self._change_members(cluster_pb2.ChangeMembersRequest(remove=member_ids), timeout)

    async def state_hash(self, endpoint: str, *, timeout: float | None = None) -> StateHash:
        """Return the hash of one node's state. Raises ConnectionFailed, DeadlineExceeded.

        Example::

            hashes = [await client.state_hash(endpoint) for endpoint in client.endpoints]
            print({one.applied_index: one.hash.hex() for one in hashes})
        """
        address = parse_endpoint(endpoint)
        rpc = (
            self._open()
            .connections.get(address)
            .cluster.StateHash(cluster_pb2.StateHashRequest(), timeout=self._seconds(timeout))
        )
        return wire.to_state_hash(address, await self._answer_at(address, rpc))

    async def transfer_leader(self, target: int = 0, *, timeout: float | None = None) -> None:
        """Hand leadership to the member `target`; 0: the most caught-up follower.

        Retried only when the request had no effect for sure. Raises FailedPrecondition, without effect, when `target`
        is not fit to lead; ConnectionFailed and DeadlineExceeded are ambiguous unless they say otherwise.

        Example::

            await client.transfer_leader()
        """
        wire.check_u64("target", target)
        request = cluster_pb2.TransferLeaderRequest(target=target)
        await self._on_cluster(lambda cluster, left_s: cluster.TransferLeader(request, timeout=left_s), timeout)

    async def _change_members(
        self, request: cluster_pb2.ChangeMembersRequest, timeout: float | None
    ) -> tuple[Member, ...]:
        answer = await self._on_cluster(lambda cluster, left_s: cluster.ChangeMembers(request, timeout=left_s), timeout)
        return wire.to_members(answer.members)

    async def _on_cluster(self, call: Callable[[ClusterAsyncStub, float], Awaitable[T]], timeout: float | None) -> T:
        """Call one node's Cluster service; again, elsewhere, as long as it had no effect for sure."""
        dispatcher = self._open()
        deadline = dispatcher.loop.time() + self._seconds(timeout)
        attempts = 0
        while True:
            address = await dispatcher.wait_ready(deadline)
            left_s = max(deadline - dispatcher.loop.time(), 0.0)
            try:
                return await answer_of(address, call(dispatcher.connections.get(address).cluster, left_s))
            except RaftKVError as error:
                attempts += 1
                pause_s = backoff_s(attempts, dispatcher.random)
                if error.ambiguous or not error.retryable or pause_s >= left_s:
                    raise
                await asyncio.sleep(pause_s)

    async def _answer_at(self, address: str, rpc: Awaitable[T]) -> T:
        try:
            return await answer_of(address, rpc)
        except ConnectionFailed as error:
            raise ConnectionFailed(
                await self._open().reasons.told(address, error.message), ambiguous=error.ambiguous
            ) from None

    async def _status_or_failure(self, endpoint: str, timeout: float) -> Status | EndpointFailure:
        try:
            return await self.status(endpoint, timeout=timeout)
        except RaftKVError as error:
            return EndpointFailure(endpoint=endpoint, error=error)
