"""Placeholder until the real one is merged."""

from __future__ import annotations

from typing import Any

from raftkv.kv.store import Reader, Writer


class Counters:
    def __init__(self, last_lease: int, last_token: int) -> None:
        self.last_lease = last_lease
        self.last_token = last_token


class LeaseTable:
    def __init__(self, reader: Reader) -> None:
        self.leases: set[int] = set()

    def __len__(self) -> int:
        return 0

    def alive(self, lease: int, now_ms: int) -> bool:
        return lease in self.leases

    def room(self, lease: int, keys: int) -> bool:
        return True

    def next_deadline_ms(self) -> int | None:
        return None

    def attach(self, writer: Writer, lease: int, prefix: bytes) -> None:
        pass

    def detach(self, writer: Writer, lease: int, prefix: bytes) -> None:
        pass


def _missing(*_: object) -> Any:
    raise NotImplementedError


grant = keep_alive = revoke = expire = _missing
