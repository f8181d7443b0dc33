"""Reading keys: the newest version at a revision, of one key or of a range.

A range over a million keys must not hold up the loop that sends heartbeats, so a scan runs in steps of bounded work and
keeps its place in between. Work is counted in rows; a row counts once more for every 4 KiB of its value
(`row_cost`), because reading copies it. Deleted keys on the way cost work too, and so do versions that are too new or
too old, though never more than one of each a key: a seek skips the rest.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from raftkv.errors import FutureRevision, InvalidArgument
from raftkv.invariant import invariant
from raftkv.kv import packing
from raftkv.kv.commands import KeyValue
from raftkv.kv.keys import MAX_PREFIX_BYTES, OLDEST, range_bounds, revision_of, user_key, version_prefix, version_suffix
from raftkv.kv.limits import PAGE_BYTES, PAGE_PAIRS, range_fault
from raftkv.kv.records import Meta, decode_version
from raftkv.kv.store import Reader
from raftkv.kv.versions import WHOLE_ROW_BYTES, LiveHead, compacted, newest_row, pair_of, row_of


class Order(IntEnum):
    """What a page is sorted by; the numbers are those of `raftkv.v1.RangeRequest.Order`. Ties: by key."""

    KEY = 0
    VERSION = 1
    CREATE_REVISION = 2
    MOD_REVISION = 3
    VALUE = 4


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
    order: int = Order.KEY
    """Other orders than ascending by key read the whole range for each page, and hold no more than the page."""
    descending: bool = False
    min_mod_revision: int = 0
    """Only pairs with revisions within these bounds, both included; 0: no bound."""
    max_mod_revision: int = 0
    min_create_revision: int = 0
    max_create_revision: int = 0
    cursor: bytes = b""
    """`RangeResult.cursor` of the page before, with everything else as it was then; its revision goes on as well."""


def query_fault(query: RangeQuery) -> str | None:
    """Say which limit a range breaks, or what makes no sense about it, or None."""
    fault = range_fault(query.key, query.range_end)
    if fault is not None or query[6:] == _PLAIN:
        return fault
    if query.order not in _ORDERS:
        return f"order {query.order} is unknown"
    if 0 < query.max_mod_revision < query.min_mod_revision:
        return f"min_mod_revision {query.min_mod_revision} lies above max_mod_revision {query.max_mod_revision}"
    if 0 < query.max_create_revision < query.min_create_revision:
        return (
            f"min_create_revision {query.min_create_revision} lies above max_create_revision "
            f"{query.max_create_revision}"
        )
    if query.cursor and query.count_only:
        return "cursor makes no sense with count_only: a count has no pages"
    return None


_ORDERS = frozenset(map(int, Order))
_PLAIN = RangeQuery(b"")[6:]


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
    cursor: bytes = b""
    """Where the next page begins; empty unless `more`."""


def row_cost(row: bytes) -> int:
    """Return the work of reading a row: 1, and 1 more for every 4 KiB."""
    return size_cost(len(row))


def size_cost(size: int) -> int:
    """Return the work of a row of `size` bytes."""
    return 1 + (size >> 12)


def resolve_revision(meta: Meta, revision: int) -> int:
    """Return the revision to read at (0: the store's). Raises FutureRevision, Compacted."""
    if revision == 0:
        return meta.revision
    if revision > meta.revision:
        raise FutureRevision(f"revision {revision} is in the future: the store is at {meta.revision}")
    if revision < meta.compacted_revision:
        raise compacted(revision, meta.compacted_revision)
    return revision


def get(reader: Reader, key: bytes, at: int | None = None) -> KeyValue | None:
    """Return the pair at `key`, now or at revision `at`. Any bytes are a key; what cannot be stored is not there."""
    prefix = version_prefix(key)
    if len(prefix) > MAX_PREFIX_BYTES:
        return None
    found = newest_row(reader, prefix, at)
    if found is None:
        return None
    pair = pair_of(key, revision_of(found[0]), found[1])
    return pair if pair.version else None  # a tombstone has none


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


class LiveHeads:
    """As `LiveKeys`, of now, for who is going to delete them: large values are not read, although they count as work
    as if they were."""

    __slots__ = ("_reader", "_rows", "_settled", "_stop", "done", "work")

    def __init__(self, reader: Reader, start: bytes, stop: bytes) -> None:
        self.work = 0
        self.done = False
        self._reader = reader
        self._stop = stop
        self._rows = reader.heads(start, stop, WHOLE_ROW_BYTES)
        self._settled = b""

    def next(self) -> tuple[bytes, LiveHead] | None:
        """Return (prefix, newest version) of the next key that exists."""
        while self.work > 0:
            found = next(self._rows, None)
            if found is None:
                self.done = True
                return None
            stored_key, beginning, size = found
            self.work -= size_cost(size)
            prefix = stored_key[:-8]
            if prefix == self._settled:
                self._rows = self._reader.heads(prefix + OLDEST, self._stop, WHOLE_ROW_BYTES)
            else:
                self._settled = prefix
                if decode_version(beginning)[1]:
                    return prefix, LiveHead(revision_of(stored_key), row_of(beginning, size))
        return None


class RangeScan:
    """One page of a range, read in steps over one snapshot. Use `View.scan` to begin one."""

    __slots__ = ("_at", "_count", "_filtered", "_keys", "_page", "_query", "done")

    def __init__(self, reader: Reader, meta: Meta, query: RangeQuery) -> None:
        """Raises FutureRevision, Compacted, InvalidArgument. `meta` is that of the same snapshot as `reader`."""
        cursor = _decode_cursor(query) if query.cursor else None
        revision = query.revision or (cursor.revision if cursor is not None else 0)
        self._at = resolve_revision(meta, revision)
        at = None if self._at == meta.revision else self._at
        start, stop = range_bounds(query.key, query.range_end)
        last = None
        if cursor is not None:
            last = get(reader, cursor.key, at)
            if last is None:
                raise InvalidArgument(f"the cursor is of another range: its key is not there at revision {self._at}")
            if query.order == Order.KEY:
                # The others lie on one side of it, and need not be read again.
                beside = version_prefix(cursor.key)
                start, stop = (start, min(stop, beside)) if query.descending else (max(start, beside + OLDEST), stop)
        self._keys = LiveKeys(reader, start, stop, at)
        self._query = query
        self._count = 0
        self._filtered = any(query[8:12])
        most_pairs = min(query.limit or PAGE_PAIRS, PAGE_PAIRS)
        self._page: _FirstPage | _BestPage
        if query.order == Order.KEY and not query.descending:
            self._page = _FirstPage(most_pairs)
        else:
            self._page = _BestPage(most_pairs, Order(query.order), last, descending=query.descending)
        self.done = False

    def step(self, max_rows: int) -> bool:
        """Read on, for at most about `max_rows` (see `row_cost`; at least 1); return True when the page is complete.

        A thousand rows take two or three milliseconds.
        """
        keys = self._keys
        keys.work = max_rows
        while not self.done and (found := keys.next()) is not None:
            if self._filtered and not self._fits(*found):
                continue
            if self._query.count_only:
                self._count += 1
            else:
                self.done = self._page.take(_pair(*found), keys_only=self._query.keys_only)
        self.done = self.done or keys.done
        return self.done

    def work_left(self) -> int:
        """Return how much of the last step's `max_rows` was not needed."""
        return max(self._keys.work, 0)

    def result(self) -> RangeResult:
        """Return the page. Only once `step` has returned True."""
        invariant(self.done, "the result of a range that is still being read")
        if self._query.count_only:
            return RangeResult((), False, self._count, self._at)
        pairs, more = self._page.pairs(), self._page.more
        cursor = _encode_cursor(self._query, self._at, pairs[-1].key) if more else b""
        return RangeResult(pairs, more, len(pairs), self._at, cursor)

    def _fits(self, stored_key: bytes, row: bytes) -> bool:
        query = self._query
        modified, created = revision_of(stored_key), decode_version(row)[0]
        return (
            query.min_mod_revision <= modified
            and (modified <= query.max_mod_revision or not query.max_mod_revision)
            and query.min_create_revision <= created
            and (created <= query.max_create_revision or not query.max_create_revision)
        )


class _FirstPage:
    """The first pairs of those that come, in the order of their keys."""

    __slots__ = ("_bytes", "_most", "_pairs", "more")

    def __init__(self, most_pairs: int) -> None:
        self.more = False
        self._most = most_pairs
        self._pairs: list[KeyValue] = []
        self._bytes = 0

    def take(self, pair: KeyValue, *, keys_only: bool) -> bool:
        """Take the next pair; return True when the page is full and there is more."""
        if keys_only:
            pair = pair._replace(value=b"")
        size = len(pair.key) + len(pair.value)
        # One more key than fits is read, so that `more` is true only when there is more.
        if self._pairs and (len(self._pairs) == self._most or self._bytes + size > PAGE_BYTES):
            self.more = True
            return True
        self._bytes += size
        self._pairs.append(pair)
        return False

    def pairs(self) -> tuple[KeyValue, ...]:
        return tuple(self._pairs)


class _BestPage:
    """The first pairs in another order, of all that come: a page is kept, and what comes behind it is dropped."""

    __slots__ = ("_bytes", "_descending", "_dropped", "_kept", "_last", "_most", "_order", "more")

    def __init__(self, most_pairs: int, order: Order, last: KeyValue | None, *, descending: bool) -> None:
        """`last`: the last pair of the page before."""
        self.more = False
        self._most = most_pairs
        self._order = order
        self._descending = descending
        self._last = None if last is None else self._rank(last)
        self._dropped: tuple[bytes | int, bytes] | None = None
        """The first of those that had to go. What lies behind it waits for the next page, even where it would fit:
        the cursor skips all that lies before the last pair of this one."""
        self._kept: list[tuple[bytes | int, bytes, KeyValue]] = []
        self._bytes = 0

    def take(self, pair: KeyValue, *, keys_only: bool) -> bool:
        """Take a pair. Returns False: only the end of the range completes the page."""
        rank, key = self._rank(pair)
        # Ranks are all numbers or all bytes.
        if self._last is not None and not self._lies_behind(rank, key, self._last):
            return False
        if self._dropped is not None and self._lies_behind(rank, key, self._dropped):
            return False
        if keys_only:
            pair = pair._replace(value=b"")
            if self._order is Order.VALUE:
                self._bytes += _size(rank)  # the value is kept as the rank
        insort(self._kept, (rank, key, pair))
        self._bytes += len(key) + len(pair.value)
        while len(self._kept) > self._most or (len(self._kept) > 1 and self._bytes > PAGE_BYTES):
            rank, key, dropped = self._kept.pop(0 if self._descending else -1)
            self._bytes -= len(key) + len(dropped.value)
            if keys_only and self._order is Order.VALUE:
                self._bytes -= _size(rank)
            self._dropped = rank, key
            self.more = True
        return False

    def pairs(self) -> tuple[KeyValue, ...]:
        kept = reversed(self._kept) if self._descending else self._kept
        return tuple([pair for _, _, pair in kept])

    def _lies_behind(self, rank: Any, key: bytes, other: tuple[Any, bytes]) -> bool:
        return (rank, key) < other if self._descending else (rank, key) > other

    def _rank(self, pair: KeyValue) -> tuple[bytes | int, bytes]:
        match self._order:
            case Order.KEY:
                return b"", pair.key
            case Order.VERSION:
                return pair.version, pair.key
            case Order.CREATE_REVISION:
                return pair.create_revision, pair.key
            case Order.MOD_REVISION:
                return pair.mod_revision, pair.key
            case Order.VALUE:
                return pair.value, pair.key


class _Cursor(NamedTuple):
    order: int
    descending: bool
    revision: int
    key: bytes


def _encode_cursor(query: RangeQuery, revision: int, key: bytes) -> bytes:
    cursor: bytes = msgpack.packb(_Cursor(query.order, query.descending, revision, key))
    return cursor


def _decode_cursor(query: RangeQuery) -> _Cursor:
    try:
        order, descending, revision, key = packing.fields(packing.unpack(query.cursor), 4, "cursor")
        cursor = _Cursor(order, descending, packing.number(revision, "revision"), packing.raw(key, "key"))
    except ValueError as error:
        raise InvalidArgument(f"the cursor is none that a page was answered with: {error}") from error
    if (cursor.order, cursor.descending) != (query.order, query.descending):
        raise InvalidArgument("the cursor is of a range in another order")
    if query.revision and query.revision != cursor.revision:
        raise InvalidArgument(f"the cursor is of a range at revision {cursor.revision}, not {query.revision}")
    return cursor


def _size(rank: bytes | int) -> int:
    return len(rank) if isinstance(rank, bytes) else 0


def _pair(stored_key: bytes, row: bytes) -> KeyValue:
    return pair_of(user_key(stored_key[:-8]), revision_of(stored_key), row)
