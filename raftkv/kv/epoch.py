"""Fencing epochs: how the numbers that a store gives out go on in a cluster that was restored from a backup.

The old cluster may have given more of them after the backup, and goes on if nobody stops it. So the restored one begins
far above: at an epoch, the seconds of the clock since the beginning of 2020, in the upper bits. What is numbered:

 - fencing tokens, which must never go back: whoever fences elsewhere would let an old holder through;
 - sessions, or a client of the old cluster would be answered with what another one's writes did;
 - leases that the store numbers itself, or one client would renew another one's.
"""

from __future__ import annotations

from typing import Final

from raftkv.kv.records import Meta

EPOCH_BITS: Final = 31
"""A new epoch begins at its number times two to this power. The numbers run on through the epochs after it: an epoch is
a second of the clock, and nobody gives so many numbers in a second."""
LEASE_GAP_BITS: Final = 40
"""Clients may choose ids of leases, and the store goes on from the highest one, which says nothing of epochs."""
MAX_EPOCH: Final = 2**33 - 1
"""Numbers have 64 bits. By the second this is reached in 2292."""
DAY_S: Final = 86_400
HOUR_S: Final = 3_600


def epoch_of(meta: Meta) -> int:
    """Return the epoch that the numbers of a state have come to; 0: it was never restored."""
    return max(meta.last_token, meta.last_session) >> EPOCH_BITS


def next_epoch(meta: Meta, seconds: int) -> int:
    """Return the epoch of a restore that is made so many seconds after the beginning of 2020.

    It is higher than that of the backup whatever the clock says. By the clock it is also higher than what any cluster
    that was restored before has come to.
    """
    return min(max(epoch_of(meta) + 1, seconds), MAX_EPOCH)


def epochs_at(meta: Meta, seconds: int) -> range:
    """Return the epochs that may be asked for at that time: of machines that are restored one after the other.

    One far below the clock could be that of a cluster that was restored later; one far above would be in the way of
    the restores to come.
    """
    least = epoch_of(meta) + 1
    return range(max(least, seconds - DAY_S), min(max(least, seconds) + HOUR_S, MAX_EPOCH) + 1)


def in_epoch(meta: Meta, epoch: int) -> Meta:
    """Return the META row of a state that goes on in `epoch`, which is higher than that of `meta`."""
    first = epoch << EPOCH_BITS
    return meta._replace(
        last_session=max(meta.last_session, first),
        last_lease=max(meta.last_lease + (1 << LEASE_GAP_BITS), first),
        last_token=max(meta.last_token, first),
    )
