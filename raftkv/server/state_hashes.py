"""The hashes of a node's state at the entries where somebody compares them (kv: CheckState).

Where such an entry has been applied, a snapshot of the state is opened, before anything else is applied; it is hashed
in another thread, in steps so small that the event loop gets the interpreter whenever it wants it. One state at a time,
the newest: its snapshot keeps pages of the store from reuse.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from raftkv.kv.commands import StateChecked
from raftkv.kv.hashing import StateHasher
from raftkv.kv.machine import GroupResults, StateMachine
from raftkv.storage.worker import Runner

STEP_ROWS: Final = 500
"""Rows that are hashed in one go: half a millisecond or so."""

KEPT: Final = 4
"""How many hashes are remembered, the newest ones: who asks asks soon."""


@dataclass(frozen=True, slots=True)
class StateHash:
    """Of the state after an entry."""

    index: int
    term: int
    hash: bytes


def asks_for_hash(results: GroupResults) -> bool:
    """Whether an entry with these results was one at which states are compared. Asked of every entry."""
    return bool(results) and bool(last := results[-1]) and type(last[-1]) is StateChecked


class StateHashes:
    """Those of one node. All methods are to be called on its loop."""

    def __init__(
        self,
        machine: Callable[[], StateMachine],
        runner: Runner,
        begin_task: Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]],
    ) -> None:
        """`machine` is asked anew each time. `runner` does the hashing; `begin_task` as in `checkpoints`."""
        self._machine = machine
        self._runner = runner
        self._begin_task = begin_task
        self._known: dict[int, StateHash] = {}
        self._hashing: asyncio.Task[None] | None = None
        self._index = 0
        """What is being hashed, or was hashed last."""
        self._changed: asyncio.Future[None] | None = None

    def applied(self, index: int) -> None:
        """The state stands at entry `index` at this moment, and its hash will be asked for."""
        machine = self._machine()
        if machine.applied_index != index:
            return  # it was applied together with others, and nobody will know the hash there
        if self._hashing is not None:
            self._hashing.cancel()
        with ExitStack() as stack:
            hasher = stack.enter_context(machine.view()).hasher()
            self._index = index
            view = stack.pop_all()
            self._hashing = self._begin_task("hash-state", self._hash(hasher, view))
            self._hashing.add_done_callback(lambda _: view.close())  # where it was cancelled before it began
        self.changed()

    def forget(self) -> None:
        """Another state takes the place of this one: what was known of this one says nothing of that."""
        if self._hashing is not None:
            self._hashing.cancel()
        self._known.clear()
        self.changed()

    def changed(self) -> None:
        """The state has come to where it was asked for, or has leapt over it."""
        changed, self._changed = self._changed, None
        if changed is not None and not changed.done():
            changed.set_result(None)

    def known(self, index: int) -> StateHash | None:
        """Return the hash at an entry; None: not known, yet or ever."""
        return self._known.get(index)

    async def at(self, index: int, until: float) -> StateHash | None:
        """Return the hash at an entry once it is computed; None: not known, or not by `until` (event loop time)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while (known := self._known.get(index)) is None:
                    hashing = self._hashing is not None and self._index == index
                    if self._machine().applied_index >= index and not hashing:
                        return None
                    if self._changed is None:
                        self._changed = asyncio.get_running_loop().create_future()
                    await asyncio.shield(self._changed)
                return known
        return None

    async def _hash(self, hasher: StateHasher, view: ExitStack) -> None:
        task = asyncio.current_task()
        try:
            with view:
                while not await self._step(hasher):
                    pass
            self._known[hasher.applied_index] = StateHash(hasher.applied_index, hasher.applied_term, hasher.digest())
            for index in sorted(self._known)[:-KEPT]:
                del self._known[index]
        finally:
            if self._hashing is task:
                self._hashing = None
            self.changed()

    async def _step(self, hasher: StateHasher) -> bool:
        job = self._runner.run(partial(hasher.step, STEP_ROWS))
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            # Nobody may close a snapshot while a thread reads it: it takes no longer than a step.
            while not job.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([job])
            raise
