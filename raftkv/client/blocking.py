"""From asynchronous to blocking: how the synchronous twins run what their originals do."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Coroutine, Generator
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from raftkv.errors import ConnectionFailed

T = TypeVar("T")

_END: Final = object()


class Run(Protocol):
    """Runs a coroutine on the client's event loop, and waits for it. Whatever interrupts the wait cancels it."""

    def __call__(self, work: Coroutine[Any, Any, T], /) -> T:
        """Return what `work` returns."""


def stepped(run: Run, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    """Yield what an asynchronous generator yields, a step of its at a time; end it when this one ends."""

    async def following() -> T | object:
        return await anext(items, _END)

    try:
        while (item := run(following())) is not _END:
            yield item  # type: ignore[misc]
    finally:
        with suppress(ConnectionFailed):  # the interpreter is at its end, and everything is closed
            run(items.aclose())
