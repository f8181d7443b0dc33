"""Cancels the task inside an `async with` from outside, and tells this cancellation from any other."""

from __future__ import annotations

import asyncio

from raftkv.errors import InvalidArgument


class BodyGuard:
    """Watches over one task from its making to `close`. As `asyncio.timeout` does it, but for another reason."""

    __slots__ = ("_cancelling", "_fired", "_open", "_task")

    def __init__(self) -> None:
        task = asyncio.current_task()
        if task is None:
            raise InvalidArgument("`async with` needs a task whose body can be cancelled")
        self._task = task
        self._cancelling = task.cancelling()
        self._fired = False
        self._open = True

    def fire(self) -> None:
        """Cancel the task, once. Without effect after `close`. To be called by the loop, never by the task itself."""
        if self._open and not self._fired:
            self._fired = True
            self._task.cancel()

    def close(self) -> bool:
        """The body has ended. Return whether it was cancelled by this guard and by nobody else."""
        self._open = False
        return self._fired and self._task.uncancel() <= self._cancelling
