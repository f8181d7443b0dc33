"""The smallest OrderedStore: a dict and a sorted list, replaced as a whole at commit. It checks its callers."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from contextlib import contextmanager

from raftkv.invariant import invariant
from raftkv.kv.store import MAX_KEY_BYTES


class DictView:
    def __init__(self, rows: dict[bytes, bytes], order: list[bytes]) -> None:
        self.rows = rows
        self.order = order
        self.reads = 0
        """Rows handed out by `first`, `scan` and their kin."""
        self.read_bytes = 0
        """Size of the values handed out."""

    def get(self, key: bytes) -> bytes | None:
        _check(key)
        value = self.rows.get(key)
        return None if value is None else self._handed_out(value)

    def first(self, start: bytes, stop: bytes | None) -> tuple[bytes, bytes] | None:
        return next(self.scan(start, stop), None)

    def head(self, start: bytes, stop: bytes | None, most: int) -> tuple[bytes, bytes, int] | None:
        return next(self.heads(start, stop, most), None)

    def scan(self, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        for key in self._keys(start, stop):
            value = self._handed_out(self.rows[key])
            yield key, value

    def heads(self, start: bytes, stop: bytes | None, most: int) -> Iterator[tuple[bytes, bytes, int]]:
        for key in self._keys(start, stop):
            value = self.rows[key]
            yield key, self._handed_out(value[:most]), len(value)

    def _handed_out(self, value: bytes) -> bytes:
        self.read_bytes += len(value)
        return value

    def _keys(self, start: bytes, stop: bytes | None) -> Iterator[bytes]:
        _check(start)
        if stop is not None:
            _check(stop)
        before = len(self.order)
        for position in range(bisect_left(self.order, start), len(self.order)):
            invariant(len(self.order) == before, "the view was written while it was scanned")
            key = self.order[position]
            if stop is not None and key >= stop:
                return
            self.reads += 1
            yield key


class DictWriter(DictView):
    def put(self, key: bytes, value: bytes) -> None:
        _check(key)
        if key not in self.rows:
            insort(self.order, key)
        self.rows[key] = value

    def delete(self, key: bytes) -> None:
        _check(key)
        if self.rows.pop(key, None) is not None:
            del self.order[bisect_left(self.order, key)]


class DictStore:
    def __init__(self, rows: dict[bytes, bytes] | None = None) -> None:
        self.rows = dict(rows or {})
        self.order = sorted(self.rows)

    @contextmanager
    def read(self) -> Iterator[DictView]:
        yield DictView(self.rows, self.order)

    @contextmanager
    def write(self) -> Iterator[DictWriter]:
        writer = DictWriter(dict(self.rows), list(self.order))
        yield writer
        self.rows, self.order = writer.rows, writer.order


class Crash(Exception):
    pass


class CrashingStore(DictStore):
    """Raises Crash instead of making the write numbered `crash_at`; `torn`: what was written before it stays."""

    def __init__(self, rows: dict[bytes, bytes], crash_at: int, *, torn: bool = False) -> None:
        super().__init__(rows)
        self.crash_at = crash_at
        self.torn = torn

    @contextmanager
    def write(self) -> Iterator[DictWriter]:
        with super().write() as writer:
            crashing = _CrashingWriter(writer.rows, writer.order, self)
            try:
                yield crashing
            except Crash:
                if self.torn:
                    self.rows, self.order = writer.rows, writer.order
                raise


class _CrashingWriter(DictWriter):
    def __init__(self, rows: dict[bytes, bytes], order: list[bytes], store: CrashingStore) -> None:
        super().__init__(rows, order)
        self.store = store

    def put(self, key: bytes, value: bytes) -> None:
        self._count()
        super().put(key, value)

    def delete(self, key: bytes) -> None:
        self._count()
        super().delete(key)

    def _count(self) -> None:
        if self.store.crash_at == 0:
            raise Crash
        self.store.crash_at -= 1


def _check(key: bytes) -> None:
    invariant(1 <= len(key) <= MAX_KEY_BYTES, f"a stored key of {len(key)} bytes")
