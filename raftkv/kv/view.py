"""Reading one snapshot of the state machine."""

from __future__ import annotations

from collections.abc import Callable

from raftkv.kv import line, txn
from raftkv.kv.commands import KeyValue, Rejected, Txn, TxnDone
from raftkv.kv.hashing import StateHasher
from raftkv.kv.history import Cursor, Stretch, Want, read_history
from raftkv.kv.keys import version_suffix
from raftkv.kv.lease import LeaseInfo, lease_ids, lease_info
from raftkv.kv.line import LockState
from raftkv.kv.ranges import RangeQuery, RangeResult, RangeScan, get, resolve_revision
from raftkv.kv.records import read_meta
from raftkv.kv.store import Reader

_ALL_AT_ONCE = 1 << 16


class View:
    """One consistent snapshot, as of one applied index. Cheap to open, cheaper to share: many gets, one view.

    It may stay open over turns of the event loop (that is how a long range is read), but it pins the pages that it
    sees: close it as soon as the page is read.
    """

    __slots__ = ("_reader", "meta")

    def __init__(self, reader: Reader) -> None:
        """Raises CorruptRow."""
        self._reader = reader
        self.meta = read_meta(reader)
        """Applied index and term, revision and cluster time of the snapshot."""

    def get(self, key: bytes, revision: int = 0) -> KeyValue | None:
        """Return the pair at `key`, now (0) or at a revision. Raises FutureRevision, Compacted."""
        if revision == 0:
            return get(self._reader, key)
        return get(self._reader, key, resolve_revision(self.meta, revision))

    def scan(self, query: RangeQuery) -> RangeScan:
        """Begin to read a page: call `step` on the result until it returns True, giving way to others in between.

        Raises FutureRevision, Compacted.
        """
        return RangeScan(self._reader, self.meta, query)

    def range(self, query: RangeQuery) -> RangeResult:
        """Read a page at one go, however long it takes: for single keys, tools and tests. Else `scan`.

        Raises FutureRevision, Compacted.
        """
        scan = RangeScan(self._reader, self.meta, query)
        while not scan.step(_ALL_AT_ONCE):
            pass
        return scan.result()

    def txn(self, command: Txn) -> TxnDone | Rejected:
        """Run a transaction that `txn.is_read_only`."""
        return txn.read(self._reader, self.meta.revision, self.meta.compacted_revision, command)

    def history(self, start: Cursor, stop: int, wants: Callable[[int, bytes], Want], max_work: int) -> Stretch:
        """Read what happened from `start` on, before revision `stop` (see `history`). Raises Compacted."""
        return read_history(self._reader, start, stop, wants, max_work)

    def version(self, prefix: bytes, revision: int) -> bytes | None:
        """Return the row that a revision made of a key or a place; None: it has been compacted away."""
        return self._reader.get(prefix + version_suffix(revision))

    def lease(self, lease: int, *, with_keys: bool = False) -> LeaseInfo | None:
        """Return what is known of a lease; None: there is none."""
        return lease_info(self._reader, lease, with_keys=with_keys)

    def leases(self, after: int, limit: int) -> tuple[tuple[int, ...], bool]:
        """Return (at most `limit` ids of leases above `after`, in order; whether there are more)."""
        return lease_ids(self._reader, after, limit)

    def line(self, lock: bytes, limit: int) -> LockState:
        """Return who stands in line for a lock, at most `limit` contenders."""
        return line.query(self._reader, lock, limit)

    def hasher(self) -> StateHasher:
        """Begin to hash the whole state of the snapshot."""
        return StateHasher(self._reader)
