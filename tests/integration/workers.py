"""Tasks that work while a test does something to their cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self


class Workers:
    """Use it as an asynchronous context manager: the tasks run inside it, and go on until `stopping` is set at its end.

    An error that one of them met is raised by `raise_errors`, or at the end.
    """

    def __init__(self) -> None:
        self.stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        """Return what each task does. It looks at `stopping` now and then."""
        raise NotImplementedError

    def raise_errors(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(job) for job in self.jobs()]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let what is under way end. The client's timeout bounds the wait."""
        self.stopping = True
        if error is not None:
            for task in self._tasks:
                task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        if error is None:
            for result in ended:
                if isinstance(result, BaseException):
                    raise result
