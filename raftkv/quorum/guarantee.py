"""What a read may be called."""

from __future__ import annotations

from enum import IntEnum

from raftkv.quorum.concern import majority


class Guarantee(IntEnum):
    """What an answer really is, never more than is true; the numbers are those of `raftkv.v1.Guarantee`."""

    UNSPECIFIED = 0
    """A newer node says something that this client does not know: take it for nothing."""
    LINEARIZABLE = 1
    """Sees every write that was acknowledged at a majority or more before the read began."""
    STALE_PREFIX = 2
    """A state that the store had at some time, possibly long ago."""
    LEASE = 3
    """Linearizable, provided that no node's clock drifted by more than the nodes' --lease-drift-ppm."""
    AT_LEAST = 4
    """A state not older than what the client has seen before: its own writes, and what it read."""
    BOUNDED = 5
    """Sees every write that was acknowledged, at a majority or more, longer ago than the measured bound."""
    SEES_WRITES_AT_W_GE = 6
    """Sees every write that at least so many voters had when it was acknowledged, under the configuration of the
    answer or one before it. Two such reads may contradict each other."""


def of_quorum_read(replicas: int, voters: int) -> tuple[Guarantee, int]:
    """Return what a rinsed read of `replicas` of `voters` is, and at which W it sees writes: W + R > N, W a majority.

    From a majority on it is linearizable over everything committed; below, only *regular*, and only for writes that
    waited for N - R + 1 voters (notes of Paxos Quorum Reads, HotStorage 2019; proof in docs/guarantees.md).
    No read sees for certain what was acknowledged below a majority, whatever W + R: such a write can be lost, and one
    that is given up by a voter that is asked can come back through one that is not.
    """
    sees = max(voters - replicas + 1, majority(voters))
    return (Guarantee.LINEARIZABLE if replicas >= majority(voters) else Guarantee.SEES_WRITES_AT_W_GE), sees


def in_words(guarantee: Guarantee, *, sees_writes_at: int = 0, staleness_ms: int = 0) -> str:
    """Return what an answer is, for people."""
    match guarantee:
        case Guarantee.LINEARIZABLE:
            return "linearizable"
        case Guarantee.LEASE:
            return "linearizable while clocks keep the configured drift"
        case Guarantee.AT_LEAST:
            return "not older than what this client has seen"
        case Guarantee.BOUNDED:
            return f"sees every write acknowledged at a majority more than {staleness_ms} ms before"
        case Guarantee.SEES_WRITES_AT_W_GE:
            return f"sees every write acknowledged at W >= {sees_writes_at}"
        case Guarantee.STALE_PREFIX:
            return "a state of the past, possibly stale"
        case Guarantee.UNSPECIFIED:
            return "no guarantee that this client knows"
