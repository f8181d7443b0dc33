"""Which leases there are, when each ends, and how much is attached to it.

A lease ends at its deadline: cluster time when it was granted or renewed last, plus its ttl, plus one millisecond (see
`_deadline`). **From its deadline on it is dead for every command**, as if it were gone, although its rows, its keys and
its places in lines stay until the next `Expire` (or a grant of the same id) removes them. Cluster time never goes back,
so no dead lease ever comes to life.

The table is kept in memory and in the tables LEASES, LEASE_KEYS and UNFINISHED. **Invariant: the memory is what loading
the rows would give.** Every change is made to both, inside the machine's write transaction; when that fails the table
is not to be used again (machine.StateMachine sees to it).
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush, heapreplace

from raftkv.invariant import invariant
from raftkv.kv.keys import (
    LEASE_KEYS,
    LEASES,
    LOCKS,
    TABLES_END,
    UNFINISHED,
    attached_prefix,
    attachment_key,
    is_place,
    lease_key,
    lock_of_unfinished,
    number_of,
    unfinished_key,
)
from raftkv.kv.limits import MAX_LEASE_KEYS, PLACE_WEIGHT
from raftkv.kv.records import CorruptRow, LeaseHead, decode_lease_head, encode_lease_head
from raftkv.kv.store import Reader, Writer

_MAX_U64 = 2**64 - 1
_SPARE_ITEMS = 1_000


class Counters:
    """The numbers of `records.Meta` that leases and locks count up, and what the entry under way has granted."""

    __slots__ = ("ended", "granted_bytes", "grants", "last_lease", "last_token")

    def __init__(self, last_lease: int, last_token: int) -> None:
        self.last_lease = last_lease
        self.last_token = last_token
        self.begin_entry()

    def begin_entry(self) -> None:
        """An entry is applied in one go, so what it may grant is bounded for all its commands together.

        `ended`: the weight of the leases that it has ended (`LeaseTable.weight`).
        """
        self.ended = 0
        self.grants = 0
        self.granted_bytes = 0


class _Lease:
    __slots__ = ("deadline_ms", "ttl_ms", "weight")

    def __init__(self, ttl_ms: int, deadline_ms: int) -> None:
        self.ttl_ms = ttl_ms
        self.deadline_ms = deadline_ms
        self.weight = 0
        """Of what is attached to it: see `_weight`."""


class LeaseTable:
    """All leases, dead ones included until they are ended."""

    __slots__ = ("_by_deadline", "_leases", "_unfinished")

    def __init__(self, reader: Reader) -> None:
        """Load the table. Raises CorruptRow."""
        self._leases: dict[int, _Lease] = {}
        for stored_key, row in reader.scan(LEASES, LEASE_KEYS):
            head = decode_lease_head(row)
            self._leases[number_of(stored_key)] = _Lease(head.ttl_ms, head.deadline_ms)
        for stored_key, _ in reader.scan(LEASE_KEYS, LOCKS):
            lease = self._leases.get(number_of(stored_key))
            if lease is None:
                raise CorruptRow(f"key row {stored_key.hex()} of a lease that does not exist")
            lease.weight += _weight(attached_prefix(stored_key))
        self._unfinished = {lock_of_unfinished(stored_key) for stored_key, _ in reader.scan(UNFINISHED, TABLES_END)}
        """Locks on which the next Expire goes on with granting."""
        self._by_deadline: list[tuple[int, int]] = []
        """A heap of (deadline when pushed, id). Each lease has an item of its deadline or of an earlier one: renewing
        only moves a deadline on. There may be more items, left from leases that ended, also from one of the same id.

        So renewing costs nothing here; who looks for what is due brings the items it meets up to date.
        """
        self._queue_all()

    def __len__(self) -> int:
        return len(self._leases)

    def __contains__(self, lease: int) -> bool:
        """Whether there is such a lease, dead or alive."""
        return lease in self._leases

    def alive(self, lease: int, now_ms: int) -> bool:
        """Whether there is such a lease and its deadline lies ahead."""
        found = self._leases.get(lease)
        return found is not None and now_ms < found.deadline_ms

    def room(self, lease: int, weight: int = 1) -> bool:
        """Whether so many more keys, or a place of PLACE_WEIGHT, can be attached to a lease, which must exist."""
        return self._leases[lease].weight + weight <= MAX_LEASE_KEYS

    def weight(self, lease: int) -> int:
        """How much is attached to a lease, which must exist, in keys; a place counts as PLACE_WEIGHT."""
        return self._leases[lease].weight

    def grant(self, writer: Writer, lease: int, ttl_ms: int, now_ms: int) -> None:
        """Open a lease under an id that no lease has."""
        invariant(lease not in self._leases, "lease {} is granted twice", lease)
        head = LeaseHead(ttl_ms, _deadline(now_ms, ttl_ms))
        self._leases[lease] = _Lease(*head)
        heappush(self._by_deadline, (head.deadline_ms, lease))
        writer.put(lease_key(lease), encode_lease_head(head))

    def renew(self, writer: Writer, lease: int, now_ms: int) -> int:
        """Move the deadline of a lease on; return its ttl, or 0: there is none, or it is dead."""
        found = self._leases.get(lease)
        if found is None or now_ms >= found.deadline_ms:
            return 0
        found.deadline_ms = _deadline(now_ms, found.ttl_ms)
        writer.put(lease_key(lease), encode_lease_head(LeaseHead(found.ttl_ms, found.deadline_ms)))
        return found.ttl_ms

    def end(self, writer: Writer, lease: int) -> None:
        """Forget a lease whose keys are gone."""
        ended = self._leases.pop(lease)
        invariant(ended.weight == 0, "lease {} ends with keys, of weight {}", lease, ended.weight)
        writer.delete(lease_key(lease))
        # Its item stays in the heap, where it may be years from being met.
        if len(self._by_deadline) > 2 * len(self._leases) + _SPARE_ITEMS:
            self._queue_all()

    def attach(self, writer: Writer, lease: int, prefix: bytes) -> None:
        """Attach a key or a place. `Writing` calls this, at commit."""
        self._leases[lease].weight += _weight(prefix)
        writer.put(attachment_key(lease, prefix), b"")

    def detach(self, writer: Writer, lease: int, prefix: bytes) -> None:
        """Take back `attach`."""
        self._leases[lease].weight -= _weight(prefix)
        writer.delete(attachment_key(lease, prefix))

    def due(self, now_ms: int) -> int:
        """Return the dead lease with the oldest deadline (ties: the lowest id), or 0: all are alive."""
        deadline_ms = self._earliest()
        return 0 if deadline_ms is None or now_ms < deadline_ms else self._by_deadline[0][1]

    def next_deadline_ms(self) -> int | None:
        """Return the cluster time from which on an `Expire` has something to do, or None: there are no leases.

        0 (at once) while grants are left over (`line`): whoever proposes by this number finishes them too.
        """
        return 0 if self._unfinished else self._earliest()

    def leave_unfinished(self, writer: Writer, lock: bytes) -> None:
        """Remember that more of a lock's line is to be granted."""
        if lock not in self._unfinished:
            self._unfinished.add(lock)
            writer.put(unfinished_key(lock), b"")

    def finish(self, writer: Writer, lock: bytes) -> None:
        """Take back `leave_unfinished`, if it was called."""
        if lock in self._unfinished:
            self._unfinished.remove(lock)
            writer.delete(unfinished_key(lock))

    def unfinished(self) -> list[bytes]:
        """Return the locks of which more is to be granted, in order."""
        return sorted(self._unfinished)

    def _earliest(self) -> int | None:
        """Return the earliest deadline, whose lease is then the first item of the heap; None: no leases."""
        heap = self._by_deadline
        while heap:
            pushed_ms, lease_id = heap[0]
            lease = self._leases.get(lease_id)
            if lease is None:
                heappop(heap)
            elif lease.deadline_ms == pushed_ms:
                return pushed_ms
            else:
                heapreplace(heap, (lease.deadline_ms, lease_id))
        invariant(not self._leases, "every lease is in the heap of deadlines")
        return None

    def _queue_all(self) -> None:
        self._by_deadline = [(lease.deadline_ms, lease_id) for lease_id, lease in self._leases.items()]
        heapify(self._by_deadline)


def _weight(prefix: bytes) -> int:
    return PLACE_WEIGHT if is_place(prefix) else 1


def _deadline(now_ms: int, ttl_ms: int) -> int:
    """Return the first stamp of cluster time that proves a lease to have lasted for its ttl.

    Stamps are cut off to whole milliseconds: an entry stamped 10 may have been made at 10.9 ms, and one stamped 1,010
    at 1,010.0 ms, which is 999.1 ms later. Two stamps prove one millisecond less than lies between them. So a lease,
    which must never end early, ends one stamp later.
    """
    # Cluster time is what leaders stamp: a mad stamp must not stop a node, and the row holds 64 bits.
    return min(now_ms + ttl_ms + 1, _MAX_U64)
