"""Reading keys: the newest version at a revision, of one key or of a range.

A range over a million keys must not hold up the loop that sends heartbeats, so a scan runs in steps of bounded work and
keeps its place in between. Work is counted in rows; a row counts once more for every 4 KiB of its value
(`row_cost`), because reading copies it. Deleted keys on the way cost work too, and so do versions that are too new or
too old, though never more than one of each a key: a seek skips the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from raftkv.errors import Compacted, FutureRevision
from raftkv.invariant import invariant
from raftkv.kv.keys import MAX_PREFIX_BYTES, OLDEST, range_bounds, revision_of, user_key, version_prefix, version_suffix
from raftkv.kv.limits import PAGE_BYTES, PAGE_PAIRS
from raftkv.kv.records import VERSION_BYTES, Meta, decode_version
from raftkv.kv.store import Reader


class KeyValue(NamedTuple):
    """One version of a key."""

    key: bytes
    create_revision: int
    mod_revision: int
    version: int
    """Number of writes since the key was created: 1 at creation."""
    lease: int
    value: bytes
    """Empty where the request was keys_only."""


class RangeQuery(NamedTuple):
    """What to read: one key (`range_end` empty), [key, range_end), or all from key on (`range_end` one zero byte)."""

    key: bytes
    range_end: bytes = b""
    limit: int = 0
    """At most this many pairs; 0: no limit but those of a page (limits.PAGE_PAIRS, PAGE_BYTES). Not for count_only."""
    revision: int = 0
    """Read the store as it was at this revision; 0: now."""
    keys_only: bool = False
    count_only: bool = False


@dataclass(frozen=True, slots=True)
class RangeResult:
    """A page of a range."""

    pairs: tuple[KeyValue, ...]
    more: bool
    """More keys lie in the range: go on from the last key followed by a zero byte, at `revision`."""
    count: int
    """Number of keys in the whole range where the query was count_only, else the number of pairs in this page."""
    revision: int
    """The store revision that the page shows."""


def row_cost(row: bytes) -> int:
    """Return the work of reading a row: 1, and 1 more for every 4 KiB."""
    return 1 + (len(row) >> 12)


def resolve_revision(meta: Meta, revision: int) -> int:
    """Return the revision to read at (0: the store's). Raises FutureRevision, Compacted."""
    if revision == 0:
        return meta.revision
    if revision > meta.revision:
        raise FutureRevision(f"revision {revision} is in the future: the store is at {meta.revision}")
    if revision < meta.compacted_revision:
        raise Compacted(f"revision {revision} is compacted: history begins at {meta.compacted_revision}")
    return revision


def get(reader: Reader, key: bytes, at: int | None = None) -> KeyValue | None:
    """Return the pair at `key`, now or at revision `at`. Any bytes are a key; what cannot be stored is not there."""
    prefix = version_prefix(key)
    if len(prefix) > MAX_PREFIX_BYTES:
        return None
    found = reader.first(prefix if at is None else prefix + version_suffix(at), prefix + OLDEST)
    if found is None:
        return None
    stored_key, row = found
    create_revision, version, lease = decode_version(row)
    if version == 0:
        return None
    return KeyValue(key, create_revision, revision_of(stored_key), version, lease, row[VERSION_BYTES:])


class LiveKeys:
    """The keys between two bounds that exist at a revision, in order, each with the row of its version there.

    Set `work`, then call `next` until it returns None: either `done`, or out of work and ready for more.
    """

    __slots__ = ("_at", "_reader", "_rows", "_settled", "_stop", "done", "work")

    def __init__(self, reader: Reader, start: bytes, stop: bytes, at: int | None = None) -> None:
        """Begin at stored key `start`, up to `stop`. `at` None: the newest versions."""
        self.work = 0
        self.done = False
        self._reader = reader
        self._stop = stop
        self._at = b"" if at is None else version_suffix(at)
        self._rows = reader.scan(start, stop)
        self._settled = b""

    def next(self) -> tuple[bytes, bytes] | None:
        """Return (stored key, row) of the version that the next key has at the revision."""
        while self.work > 0:
            found = next(self._rows, None)
            if found is None:
                self.done = True
                return None
            stored_key, row = found
            self.work -= row_cost(row)
            prefix = stored_key[:-8]
            # Rows of a key come newest first: those before `_at` are too new, those after the first that fits too old.
            # A seek costs no more than stepping over a row does, so no history is long enough to be walked.
            if prefix == self._settled:
                self._rows = self._reader.scan(prefix + OLDEST, self._stop)
            elif stored_key[-8:] < self._at:
                self._rows = self._reader.scan(prefix + self._at, self._stop)
            else:
                self._settled = prefix
                if decode_version(row)[1]:
                    return found
        return None


class RangeScan:
    """One page of a range, read in steps over one snapshot. Use `View.scan` to begin one."""

    __slots__ = ("_at", "_count", "_keys", "_more", "_most_pairs", "_page_bytes", "_pairs", "_query", "done")

    def __init__(self, reader: Reader, meta: Meta, query: RangeQuery) -> None:
        """Raises FutureRevision, Compacted. `meta` is that of the same snapshot as `reader`."""
        self._at = resolve_revision(meta, query.revision)
        start, stop = range_bounds(query.key, query.range_end)
        self._keys = LiveKeys(reader, start, stop, None if self._at == meta.revision else self._at)
        self._query = query
        self._most_pairs = min(query.limit or PAGE_PAIRS, PAGE_PAIRS)
        self._pairs: list[KeyValue] = []
        self._page_bytes = 0
        self._count = 0
        self._more = False
        self.done = False

    def step(self, max_rows: int) -> bool:
        """Read on, for at most about `max_rows` (see `row_cost`; at least 1); return True when the page is complete.

        A thousand rows take two or three milliseconds.
        """
        keys = self._keys
        keys.work = max_rows
        while not self.done and (found := keys.next()) is not None:
            if self._query.count_only:
                self._count += 1
            else:
                self._take(*found)
        self.done = self.done or keys.done
        return self.done

    def result(self) -> RangeResult:
        """Return the page. Only once `step` has returned True."""
        invariant(self.done, "the result of a range that is still being read")
        pairs = tuple(self._pairs)
        return RangeResult(pairs, self._more, self._count if self._query.count_only else len(pairs), self._at)

    def _take(self, stored_key: bytes, row: bytes) -> None:
        key = user_key(stored_key[:-8])
        value = b"" if self._query.keys_only else row[VERSION_BYTES:]
        size = len(key) + len(value)
        pairs = self._pairs
        # One more key than fits is read, so that `more` is true only when there is more.
        if pairs and (len(pairs) == self._most_pairs or self._page_bytes + size > PAGE_BYTES):
            self._more = True
            self.done = True
            return
        self._page_bytes += size
        create_revision, version, lease = decode_version(row)
        pairs.append(KeyValue(key, create_revision, revision_of(stored_key), version, lease, value))
