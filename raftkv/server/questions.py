"""One question at a time: who asks while it is under way shares the next one.

For answers that say nothing of what came after their question was asked: to join the one under way would be too late.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import grpc

from raftkv.errors import RaftKVError

T = TypeVar("T")


class Question(Generic[T]):
    """What is asked again and again, by many at a time."""

    def __init__(self, ask: Callable[[], Awaitable[T]], name: str) -> None:
        """`ask` may raise RaftKVError and AioRpcError, which all who share the answer get."""
        self._ask = ask
        self._name = name
        self._next: asyncio.Future[T] | None = None
        self._asking: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether it has been asked, and not answered yet."""
        return self._asking is not None

    def next(self) -> asyncio.Future[T]:
        """Return the answer to a question that is asked from now on; many may share the future, so shield it."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
            self._next.add_done_callback(may_go_unheard)
        if self._asking is None:
            self._asking = asyncio.create_task(self._run(), name=f"raftkv-{self._name}")
        return self._next

    async def _run(self) -> None:
        try:
            while self._next is not None:
                waiting, self._next = self._next, None
                try:
                    answer = await self._ask()
                except (RaftKVError, grpc.aio.AioRpcError) as error:
                    waiting.set_exception(error)
                else:
                    waiting.set_result(answer)
        finally:
            self._asking = None


def may_go_unheard(future: asyncio.Future[T]) -> None:
    """Nobody may wait for it any more, and asyncio need not complain of that."""
    if not future.cancelled():
        future.exception()
