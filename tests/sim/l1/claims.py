"""What answers claim of themselves (receipts), compared with what the simulator knows.

A receipt must not say more than is true, whatever happened meanwhile:

    receipt         names an entry of the log: the one with the write, the one that was applied last; and a state that
                    existed
    durable_on      so many voters' disks had the write when the node said so
    committed       what is said to be committed stays; what is not may be lost, and then WRITE_LOST is said of it, and
                    of nothing else
    early           what was acknowledged before it was committed takes effect when its entry is applied
    linearizable    shows everything that anybody had applied before it began
    sees writes at  shows every write that so many voters were said to have before it began
    at least        shows what its token names
    bounded         shows everything that anybody had applied longer ago than it says, by virtual time
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from raftkv.quorum import Guarantee
from raftkv.raft import Configuration
from raftkv.v1 import common_pb2, kv_pb2

CLUSTER_ID = 7


@dataclass(frozen=True, slots=True)
class Token:
    """A place in the log that a client was told of."""

    term: int
    index: int
    committed: bool


@dataclass(frozen=True, slots=True)
class Floor:
    """What there was when a read began."""

    at: float
    applied: int
    """The newest entry that anybody had applied."""
    acknowledged: Mapping[tuple[int, int], int]
    """By copies and configuration: the newest entry that clients were told has them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asked of a read."""

    level: kv_pb2.ReadLevel.ValueType
    replicas: int = 0
    bound_ms: int = 0
    here: bool = False
    token: Token | None = None

    def __str__(self) -> str:
        if self.level == kv_pb2.QUORUM:
            return f"QUORUM({self.replicas})"
        return "HERE" if self.here else kv_pb2.ReadLevel.Name(self.level)


class Log(Protocol):
    """What is known of the log."""

    def term_at(self, index: int) -> int | None:
        """Return the term of a committed entry."""
        ...

    def holds(self, index: int, term: int, content: bytes) -> bool:
        """Return whether an entry that was on a disk has this in it."""
        ...

    def took_effect(self, index: int, content: bytes) -> bool:
        """Return whether a put of this value, or a delete of this key, was done by a committed entry."""
        ...

    def holders(self, index: int, term: int) -> set[int]:
        """Return on whose disks an entry is or was."""
        ...

    def configurations(self, index: int) -> Iterable[Configuration]:
        """Return the configurations that are in force from an index on, in whatever log.

        A node that has compacted its log knows only since when at least.
        """
        ...

    def configuration_before(self, index: int) -> int:
        """Return where the newest configuration stands that is committed and not after an index."""
        ...


GUARANTEES = {
    kv_pb2.LOCAL: {Guarantee.STALE_PREFIX},
    kv_pb2.LINEARIZABLE: {Guarantee.LINEARIZABLE},
    kv_pb2.LEASE: {Guarantee.LEASE, Guarantee.LINEARIZABLE},
    kv_pb2.AT_LEAST: {Guarantee.AT_LEAST},
    kv_pb2.BOUNDED: {Guarantee.BOUNDED},
    kv_pb2.QUORUM: {Guarantee.LINEARIZABLE, Guarantee.SEES_WRITES_AT_W_GE},
}


class Claims:
    """See the module's docstring."""

    def __init__(self, log: Log, report: Callable[[str], None], now: Callable[[], float], drift: float) -> None:
        self._log = log
        self._report = report
        self._now = now
        self._drift = drift
        self._applied_at: list[float] = []
        """When the first node applied each entry, from the first one on."""
        self._revision_after: dict[int, int] = {0: 1}
        self._acknowledged: dict[tuple[int, int], int] = {}
        self._early: dict[tuple[int, int], list[tuple[str, bytes]]] = {}
        """Of entries (index, term) that nobody has applied: what was acknowledged as part of them, and its content."""
        self._lost: set[tuple[int, int]] = set()
        """(index, term) of writes that a client was told are lost."""

    # --- what happens -------------------------------------------------------------------------------------------------

    def applied(self, index: int, term: int, revision: int) -> None:
        """The first node has applied an entry."""
        self._applied_at.append(self._now())
        self._revision_after[index] = revision
        if (index, term) in self._lost:
            self._report(f"committed: entry {index} of term {term} was said to be lost, and is applied")
        for what, content in self._early.pop((index, term), ()):
            self._require_effect(what, index, content)

    def answered(self, node: int, response: kv_pb2.BatchResponse) -> None:
        """A node has made an answer; what it says of disks must be true at this moment."""
        for receipt in [response.wrote, *(result.wrote for result in response.results)]:
            if not receipt.durable_on:
                continue
            holders = self._log.holders(receipt.index, receipt.term)
            if not any(
                all(
                    len(holders & keepers) >= min(receipt.durable_on, len(keepers))
                    for keepers in (voters - one.witnesses for voters in (one.voters, one.outgoing) if voters)
                )
                for one in self._log.configurations(receipt.configuration_index)
            ):
                self._report(
                    f"durable_on: node {node} says that {receipt.durable_on} voters have entry {receipt.index} of term "
                    f"{receipt.term}; on disk it is at {sorted(holders)}"
                )

    def floor(self) -> Floor:
        """Return what a read that begins now has to show."""
        return Floor(self._now(), len(self._applied_at), self._acknowledged.copy())

    # --- what clients are told ----------------------------------------------------------------------------------------

    def wrote(self, what: str, concern: int, receipt: common_pb2.WriteReceipt, revision: int, content: bytes) -> Token:
        """A client was told how a write was acknowledged; `revision`: 0 unless it is committed."""
        term, index = receipt.term, receipt.index
        if receipt.committed:
            if self._log.term_at(index) != term:
                self._report(f"committed: {what} is said to be entry {index} of {term}: {self._log.term_at(index)}")
            elif revision > self._revision_after[index]:
                self._report(f"receipt: {what} has revision {revision}, entry {index} ends at another")
            if receipt.durable_on:
                copies = receipt.durable_on, receipt.configuration_index
                self._acknowledged[copies] = max(self._acknowledged.get(copies, 0), index)
        else:
            if concern <= 0 or receipt.durable_on < receipt.wanted or revision:
                self._report(f"receipt: {what} asked for {concern}, and is acknowledged early: {receipt}")
            if not self._log.holds(index, term, content):
                self._report(f"receipt: {what} is said to be in entry {index} of term {term}, which has it not")
            if self._log.term_at(index) == term:
                self._require_effect(what, index, content)
            else:
                self._early.setdefault((index, term), []).append((what, content))
        if concern > 0 and receipt.wanted != concern:
            self._report(f"receipt: {what} asked for {concern}, the answer is to {receipt.wanted}")
        return Token(term, index, receipt.committed)

    def _require_effect(self, what: str, index: int, content: bytes) -> None:
        if not self._log.took_effect(index, content):
            self._report(f"early: {what} was acknowledged, and refused where entry {index} was applied")

    def lost(self, token: Token) -> None:
        """A client was told that the write which its token names is lost."""
        if token.committed or self._log.term_at(token.index) == token.term:
            self._report(f"committed: the write of {token} is said to be lost")
        self._lost.add((token.index, token.term))

    def out_of_range(self, token: Token, reason: str) -> None:
        """A client was told that nothing can be said of its token."""
        if token.committed or "compacted" not in reason:
            self._report(f"token: {token} is refused: {reason}")

    def read(self, asked: Asked, receipt: common_pb2.ReadReceipt, revision: int, floor: Floor) -> None:
        """A client was answered a read of what is there now, with a state of `revision`."""
        index = receipt.applied_index
        what = f"{asked} at node {receipt.served_by} shows entry {index}"
        if index and self._log.term_at(index) != receipt.applied_term:
            self._report(f"receipt: {what} of term {receipt.applied_term}, the log has {self._log.term_at(index)}")
            return
        if revision != self._revision_after[index]:
            self._report(f"receipt: {what} and revision {revision}: after it there is {self._revision_after[index]}")
        if Guarantee(receipt.guarantee) not in GUARANTEES[asked.level]:
            self._report(f"receipt: {what} is answered with guarantee {receipt.guarantee}")
        if receipt.replicas < asked.replicas:
            self._report(f"receipt: {what} and has asked {receipt.replicas}")
        if asked.token is not None and (index < asked.token.index or not self._has(asked.token)):
            self._report(f"at least: {what}, and its token is {asked.token}")
        match receipt.guarantee:
            case Guarantee.LINEARIZABLE | Guarantee.LEASE if index < floor.applied:
                self._report(f"linearizable: {what}, entry {floor.applied} was applied before it began")
            case Guarantee.SEES_WRITES_AT_W_GE:
                self._sees(what, receipt, floor)
            case Guarantee.BOUNDED:
                if receipt.staleness_ms > asked.bound_ms:
                    self._report(f"bounded: {what}, {receipt.staleness_ms} ms old, {asked.bound_ms} were allowed")
                age_s = receipt.staleness_ms / 1000 / (1 - self._drift)
                least = bisect_left(self._applied_at, floor.at - age_s)
                if index < least:
                    self._report(f"bounded: {what}, entry {least} was applied more than {age_s} s before")

    def _sees(self, what: str, receipt: common_pb2.ReadReceipt, floor: Floor) -> None:
        counted = self._log.configuration_before(receipt.configuration_index)
        for (copies, configuration), index in floor.acknowledged.items():
            if (
                copies >= receipt.sees_writes_at
                and self._log.configuration_before(configuration) <= counted
                and index > receipt.applied_index
            ):
                self._report(
                    f"sees writes at: {what} and sees W >= {receipt.sees_writes_at}, {copies} had entry {index} before"
                )

    def _has(self, token: Token) -> bool:
        return self._log.term_at(token.index) == token.term
