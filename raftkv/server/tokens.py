"""Tokens of what a client has seen, judged by what a node knows of the log."""

from __future__ import annotations

from raftkv.errors import ClusterMismatch, RaftKVError, TokenOutOfRange, WriteLost
from raftkv.raft import Index
from raftkv.server.node import Node
from raftkv.server.wire_read import Token


class Tokens:
    """What a node can say of them."""

    def __init__(self, node: Node, cluster_id: int) -> None:
        self._node = node
        self._cluster_id = cluster_id

    def check(self, token: Token) -> None:
        """Raise ClusterMismatch unless a token is of this cluster."""
        if token.cluster_id != self._cluster_id:
            raise ClusterMismatch(
                f"the read's token is of cluster {token.cluster_id:016x}, and this is cluster {self._cluster_id:016x}"
            )

    def reached(self, token: Token) -> bool:
        """Return whether the state has what `token` names; False: not yet, as far as is known here.

        Raises WriteLost where it never will, and TokenOutOfRange where nothing of this cluster can be meant.
        """
        raft, machine = self._node.raft, self._node.machine
        if machine.applied_index >= token.index:
            term = raft.log.term(Index(token.index))
            if term == token.term or (term is None and token.committed):
                return True
            raise self._unknown(token) if term is None else self._lost(token)
        if machine.applied_term > token.term:
            raise self._lost(token)  # terms never decrease along a log: no such entry can follow
        if self._node.is_leader and raft.term_is_committed and token.index > raft.log.last_index:
            # What a majority has of this leader's term shuts out every longer log of an earlier one, and nobody else
            # has written in its own.
            if token.term == raft.term:
                raise self._future(token)
            if token.term < raft.term:
                raise self._lost(token)
        return False

    def _lost(self, token: Token) -> RaftKVError:
        if token.committed and token.index > self._last:
            return self._future(token)
        if token.committed:
            return TokenOutOfRange(
                f"the read's token says that entry {token.index} of term {token.term} is committed, and another one "
                f"stands in its place: it is of another history of the cluster (was it restored?). Entries here: 0 to "
                f"{self._last}"
            )
        return WriteLost(
            f"the write that the read's token names (entry {token.index}, term {token.term}) is lost: it was "
            "acknowledged by fewer than a majority, and another leader's log took its place"
        )

    def _unknown(self, token: Token) -> RaftKVError:
        first = self._node.raft.log.first_index
        return TokenOutOfRange(
            f"the read's token names entry {token.index} (term {token.term}), which was not committed when it was "
            f"given; the log is compacted, and nothing can be told any more of entries before {first}"
        )

    def _future(self, token: Token) -> RaftKVError:
        return TokenOutOfRange(
            f"the read's token names entry {token.index} of term {token.term}, which nobody has written: "
            f"entries 0 to {self._last}"
        )

    @property
    def _last(self) -> int:
        return self._node.raft.log.last_index
