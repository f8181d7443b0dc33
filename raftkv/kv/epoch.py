"""Fencing epochs: how the numbers that a store gives out go on in a cluster that was restored from a backup.

The old cluster may have given more of them after the backup, and goes on if nobody stops it. So the restored one begins
far above: an epoch, higher than any before, in the upper bits of the number given last. What is numbered:

 - fencing tokens, which must never go back: whoever fences elsewhere would let an old holder through;
 - sessions, or a client of the old cluster would be answered with what another one's writes did;
 - leases that the store numbers itself, or one client would renew another one's.
"""

from __future__ import annotations

from typing import Final

from raftkv.kv.records import Meta

EPOCH_BITS: Final = 40
"""So many numbers can be given in one epoch, to the power of two."""
MAX_EPOCH: Final = 2**24 - 1
"""Numbers have 64 bits. By the minute this is reached in 2051; epochs then count on by one."""


def epoch_of(meta: Meta) -> int:
    """Return the epoch of a state; 0: it was never restored."""
    return meta.last_token >> EPOCH_BITS


def next_epoch(meta: Meta, minutes: int) -> int:
    """Return the epoch of a restore that is made so many minutes after the beginning of 2020.

    It is higher than the last one whatever the clock says; by the clock, two restores of one backup differ too.
    """
    return max(epoch_of(meta) + 1, min(minutes, MAX_EPOCH))


def in_epoch(meta: Meta, epoch: int) -> Meta:
    """Return the META row of a state that goes on in `epoch`, which is higher than that of `meta`."""
    first = epoch << EPOCH_BITS
    return meta._replace(
        last_session=max(meta.last_session, first),
        # Clients may choose ids of leases, and the store goes on from the highest one: that says nothing of epochs.
        last_lease=max(meta.last_lease + (1 << EPOCH_BITS), first),
        last_token=max(meta.last_token, first),
    )
