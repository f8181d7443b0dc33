"""What a client has seen of the log: the tokens that its reads carry. Pure.

The *committed* place is the highest index that any answer named: all committed entries are on one log, so the index
alone orders them. *Open* places are those of the client's writes that fewer than a majority had when they were
acknowledged: the newest one of each term, which stands for those before it, as one leader wrote that term's log in
order. A later term's says nothing of them: it may be lost and they not, or the other way round, or neither, or all. An
open place is settled by what is heard later of the committed log:

    of the same term, at its index or above    it is committed
    of a later term, at its index or below     it is lost: terms never fall along a log, so no log has both
    of a later term, above its index           nobody can tell: a read that carries it asks a node
    of an earlier term, below its index        the same
    of an earlier term, at its index or above  it is lost
"""

from __future__ import annotations

from dataclasses import replace

from raftkv.client.receipts import ReadReceipt, ReadToken
from raftkv.errors import ClusterMismatch, WriteLost
from raftkv.quorum import Guarantee


class Seen:
    """The places of one client."""

    __slots__ = ("_open", "cluster_id", "index", "term")

    def __init__(self) -> None:
        self.cluster_id = 0
        """The first cluster that was heard of; what others say is not taken in."""
        self.term = 0
        self.index = 0
        """With `term`: the highest committed place; 0: none."""
        self._open: dict[int, ReadToken] = {}
        """By term, few: there is a new one only where leaders change while nobody reads."""

    def heard(self, cluster_id: int, term: int, index: int, *, committed: bool) -> None:
        """An answer, or another client, names a place; index 0: none."""
        if not index:
            return
        if not self.cluster_id:
            self.cluster_id = cluster_id
        elif cluster_id != self.cluster_id:
            return
        if committed:
            if index > self.index:
                self.term, self.index = term, index
            # An older answer may be the one that settles it.
            if self._open and term in self._open and index >= self._open[term].index:
                del self._open[term]
        elif (term not in self._open or index > self._open[term].index) and (term != self.term or index > self.index):
            self._open[term] = ReadToken(cluster_id, term, index, committed=False)

    def take_over(self, token: ReadToken) -> None:
        """Another client has seen this. Raises ClusterMismatch for a token of another cluster."""
        self.check(token)
        self.heard(token.cluster_id, token.term, token.index, committed=token.committed)

    def check(self, token: ReadToken) -> None:
        """Raise ClusterMismatch for a token of another cluster than this client talks to, as far as it knows."""
        if self.cluster_id not in (0, token.cluster_id):
            raise ClusterMismatch(
                f"token {token} is of cluster {token.cluster_id:016x}; this client talks to {self.cluster_id:016x}"
            )

    def labelled(self, receipt: ReadReceipt, given: ReadToken | None = None) -> ReadReceipt:
        """Return the receipt of a LOCAL read, called AT_LEAST where that is certain.

        It is, where the state is not older than anything seen so far, nor than the token that was `given`.
        """
        places = [one for one in (self.committed, given) if one is not None]
        if (
            receipt.guarantee is Guarantee.STALE_PREFIX
            and places
            and all(_holds(receipt, one) for one in places)
            and not self.is_open
        ):
            return replace(receipt, guarantee=Guarantee.AT_LEAST)
        return receipt

    @property
    def is_open(self) -> bool:
        """Whether the fate of some write is not known yet."""
        return bool(self._open)

    @property
    def committed(self) -> ReadToken | None:
        """The highest committed place; None: there is none yet."""
        return ReadToken(self.cluster_id, self.term, self.index) if self.index else None

    @property
    def newest(self) -> ReadToken | None:
        """The place that is farthest on, committed or not."""
        open_one = self._open[max(self._open)] if self._open else None
        return open_one if open_one is not None and open_one.index > self.index else self.committed

    def to_carry(self) -> tuple[ReadToken, ...]:
        """Return what the next read carries: the open places while there are any, so that their fate comes to light.

        One after the other, the earliest term first; else the committed one, or nothing.
        Raises WriteLost, once for each, when it is clear already that an open write is lost.
        """
        if not self._open:
            committed = self.committed
            return () if committed is None else (committed,)
        for term in sorted(self._open):
            open_one = self._open[term]
            if self._excludes(open_one):
                del self._open[term]
                raise WriteLost(
                    f"the write at {open_one} was acknowledged by fewer than a majority, and is lost: "
                    f"index {self.index} is committed in term {self.term}"
                )
        return tuple(self._open[term] for term in sorted(self._open))

    def _excludes(self, open_one: ReadToken) -> bool:
        """Whether no log has both the committed place and the open one."""
        if self.term > open_one.term:
            return self.index <= open_one.index
        return self.index >= open_one.index and self.term < open_one.term

    def settle(self, token: ReadToken) -> bool:
        """A node has told the fate of an open place: forget it. False: it was not, or no longer, one."""
        if token.committed or token != self._open.get(token.term):
            return False
        del self._open[token.term]
        return True


def _holds(receipt: ReadReceipt, token: ReadToken) -> bool:
    """Whether a state is certain to have what a token names."""
    return (
        token.committed
        and receipt.cluster_id == token.cluster_id
        and receipt.applied_index >= token.index
        and receipt.applied_term >= token.term  # a token of another history, as of a cluster that was restored
    )
