"""One grant of a lock, as both clients see it."""

from __future__ import annotations

from collections.abc import Callable

from raftkv.client.keeper import KeptLease
from raftkv.errors import LockLost


class Grant:
    """A token, the lease that it lives on, and whether it was given back.

    Any thread may ask what remains and why it is lost; the rest is for the event loop.
    """

    __slots__ = ("_callbacks", "kept", "name", "released", "token")

    def __init__(self, name: bytes, token: int, kept: KeptLease) -> None:
        self.name = name
        self.token = token
        self.kept = kept
        self.released = False
        self._callbacks: list[int] = []

    def on_loss(self, callback: Callable[[], object]) -> None:
        """Call `callback` in a turn of the loop after it is lost, unless it is given back before."""
        self._callbacks.append(self.kept.on_end(callback))

    def give_back(self) -> KeptLease:
        """It is not held from now on, and its lease is somebody else's: return it."""
        self.released = True
        for number in self._callbacks:
            self.kept.forget(number)
        return self.kept

    def remaining(self) -> float:
        """Return for how many seconds it may still be relied on, if the lease is not renewed meanwhile; 0: not any
        more."""
        return 0.0 if self.released else self.kept.remaining()

    def lost(self) -> LockLost:
        """Return what to raise when it must not be relied on any more."""
        why = "it was given back" if self.released else self.kept.reason()
        return LockLost(f"lock {self.name!r}, token {self.token}, is not held any more: {why}")
