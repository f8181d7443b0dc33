"""The ordered store that the state machine keeps everything in: what kv asks of storage.

Implemented by `raftkv.storage.lmdb_store` and its in-memory twin; one contract suite runs against both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

MAX_KEY_BYTES = 511
"""Longest key of an ordered store (a limit of LMDB's default build)."""


class Reader(Protocol):
    """One consistent view. Keys are compared as unsigned bytes; they are 1..MAX_KEY_BYTES long."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value at `key`, or None."""
        ...

    def first(self, start: bytes, stop: bytes | None) -> tuple[bytes, bytes] | None:
        """Return the first pair with start <= key < stop (None: no upper bound), or None."""
        ...

    def head(self, start: bytes, stop: bytes | None, most: int) -> tuple[bytes, bytes, int] | None:
        """As `first`, but of the value at most its first `most` bytes, and its length: a writer reads no more of it."""
        ...

    def scan(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the pairs with start <= key < stop in order of their keys. The view must not be written meanwhile."""
        ...

    def heads(self, start: bytes, stop: bytes | None, most: int) -> Iterator[tuple[bytes, bytes, int]]:
        """As `scan`, but what `head` returns of each pair."""
        ...


class Writer(Reader, Protocol):
    """A view that sees its own writes."""

    def put(self, key: bytes, value: bytes) -> None: ...

    def delete(self, key: bytes) -> None:
        """Remove `key` if it is there."""
        ...


class OrderedStore(Protocol):
    """An ordered map of bytes to bytes with snapshots and atomic writes."""

    def read(self) -> AbstractContextManager[Reader]:
        """Open a snapshot: it does not change, whatever is written while it is open."""
        ...

    def write(self) -> AbstractContextManager[Writer]:
        """Open the one writer. Leaving the block commits atomically; an exception discards everything."""
        ...
