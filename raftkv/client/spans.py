"""Which keys a request covers, as the wire says it: [key, range_end), with one zero byte for "no upper bound"."""

from __future__ import annotations

from typing import Final, NamedTuple

from raftkv.client.results import KeyValue, RangeResult
from raftkv.errors import InvalidArgument, RaftKVError

FIRST_KEY: Final = b"\0"
NO_UPPER_BOUND: Final = b"\0"


class Span(NamedTuple):
    """Keys from `key` on, up to but without `range_end` (empty: the one key; one zero byte: no upper bound)."""

    key: bytes
    range_end: bytes = b""


_new_tuple: Final = tuple.__new__


def to_bytes(text: bytes | str) -> bytes:
    """Return a key or value as bytes; a str is encoded as UTF-8. Raises InvalidArgument for other types."""
    if isinstance(text, bytes):
        return text
    if isinstance(text, str):
        return text.encode()
    raise InvalidArgument(f"keys and values are bytes or str, not {type(text).__name__}")


def one_key(key: bytes | str) -> Span:
    """Return the span of one key."""
    return Span(to_bytes(key))


def between(start: bytes | str, end: bytes | str | None) -> Span:
    """Return the span [start, end); `end` None: every key from `start` on. An empty `start` is the first key.

    Raises InvalidArgument when no key can lie in it: on the wire such bounds may mean something else, up to the
    whole store, so they are never sent.
    """
    key = to_bytes(start) or FIRST_KEY
    if end is None:
        return Span(key, NO_UPPER_BOUND)
    range_end = to_bytes(end)
    if range_end <= key:
        raise InvalidArgument(f"the range is empty: its end {range_end!r} does not lie after its start {key!r}")
    return Span(key, range_end)


def under(prefix: bytes | str) -> Span:
    """Return the span of all keys that begin with `prefix`; an empty prefix is every key."""
    key = to_bytes(prefix)
    # The first key behind them: the prefix with its last byte that can be raised, raised.
    stem = key.rstrip(b"\xff")
    range_end = stem[:-1] + bytes((stem[-1] + 1,)) if stem else NO_UPPER_BOUND
    return Span(key or FIRST_KEY, range_end)


def selected(
    key: bytes | str | None,
    *,
    prefix: bytes | str | None = None,
    start: bytes | str | None = None,
    end: bytes | str | None = None,
) -> Span:
    """Return the span of a key, of all keys under a `prefix`, or of [start, end): one of the three.

    `end` None or not given: every key from `start` on. `start` not given: from the first key on. Raises InvalidArgument
    for none of them, or more than one.
    """
    if key is not None and prefix is None and start is None and end is None:
        return _new_tuple(Span, (to_bytes(key), b""))  # most of them; as Span(...), at half its cost
    ranged = start is not None or end is not None
    if (key is not None) + (prefix is not None) + ranged != 1:
        raise InvalidArgument("say which keys: one key, or prefix=, or start= and end=")
    if prefix is not None:
        return under(prefix)
    return between(b"" if start is None else start, end)


class Pages:
    """Walks the keys under a prefix page by page at one revision.

    Ask for `size` pairs of [`start`, `end`) at `revision` from `cursor` on, `take` the page, until `done`.
    """

    __slots__ = ("cursor", "done", "end", "revision", "size", "start")

    def __init__(self, prefix: bytes | str, size: int, revision: int) -> None:
        """`size`: pairs in a page, at least 1. `revision` 0: the newest when the first page is read."""
        if size < 1:
            raise InvalidArgument(f"page is {size}, not at least 1")
        span = under(prefix)
        self.start = span.key
        self.end = None if span.range_end == NO_UPPER_BOUND else span.range_end
        self.size = size
        self.revision = revision
        """From the second page on that of the first, so that all pages show one moment."""
        self.cursor = b""
        self.done = False

    def take(self, page: RangeResult) -> tuple[KeyValue, ...]:
        """Account for a page and return its pairs. A page may be empty and not the last one: filters leave what they
        do.

        Raises RaftKVError when there is more, and the answer does not say where: that would end the walk too early.
        """
        if page.more and page.cursor in (b"", self.cursor):
            raise RaftKVError("the node says that there is more in the range, and not where")
        self.revision = page.revision
        self.cursor = page.cursor
        self.done = not page.more
        return page.pairs
