"""What clients do in a run: one module each, loaded when it is asked for, as the client takes its time to load.

A new workload is a subclass of `raftkv.jepsen.workload.Workload` in a module of its own, and a line here.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from raftkv.jepsen.workload import Workload

HELP: Final[Mapping[str, str]] = {
    "register": "reads, writes, compare-and-swaps and deletes of single keys: linearizable",
    "set": "elements added one by one, and reads of them all: none is lost, none appears from nowhere",
    "append": "lists of several keys, read and appended to in transactions: serializable, in real time",
    "bank": "transfers between accounts in transactions: no read sees money made or lost",
    "lock": "a counter guarded by a lock, whose holders pause at times: fenced writes lose no update",
    "election": "leaders that act under their token, and observers: nobody acts after a later leader",
    "lease": "keys on leases of a second or three: gone in time, and never early",
    "watch": "watchers at different nodes, which stop and go on: all are told the same, in order",
    "sessions": "puts that the client repeats by itself: each is counted once",
    "quorum": "every write concern and read level: each answer is as good as it says",
    "probe": "one client that writes and reads without a break: how long is the store away?",
}
"""What each workload shows, in a line: that of its class."""

_CLASSES: Final[Mapping[str, tuple[str, str]]] = {
    "register": ("register", "Register"),
    "set": ("set_", "Set"),
    "append": ("append", "Append"),
    "bank": ("bank", "Bank"),
    "lock": ("lock", "Lock"),
    "election": ("election", "Election"),
    "lease": ("lease", "Lease"),
    "watch": ("watch", "Watch"),
    "sessions": ("sessions", "Sessions"),
    "quorum": ("quorum", "Quorums"),
    "probe": ("probe", "Probe"),
}


class _Workloads(Mapping[str, "type[Workload]"]):
    """Names cost nothing; the class behind one is imported when it is taken."""

    def __getitem__(self, name: str) -> type[Workload]:
        module, attribute = _CLASSES[name]
        found: type[Workload] = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(_CLASSES)

    def __len__(self) -> int:
        return len(_CLASSES)


WORKLOADS: Final[Mapping[str, type[Workload]]] = _Workloads()
