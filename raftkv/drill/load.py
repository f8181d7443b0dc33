"""The load: writers of keys that are each written once, and a reader of what was acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from types import TracebackType
from typing import Final, Self

from raftkv.client import AsyncClient
from raftkv.drill.measure.record import Outcome, Read, Record, Write
from raftkv.errors import RaftKVError

PREFIX: Final = b"raftkv-drill/"
"""Every key of every drill begins so."""


def key_of(run: str, writer: int, number: int) -> bytes:
    """Return the key of one write; those of a writer sort by number."""
    return b"%s%s/%d/%010d" % (PREFIX, run.encode(), writer, number)


def value_of(writer: int, number: int) -> bytes:
    """Return its value, which no other write has."""
    return b"%d-%d" % (writer, number)


END_S: Final = 12.0
"""How long what is in flight at an early end is waited for: longer than the client takes to give a call up."""


class Load:
    """Runs while the block does; what is in flight at its end is waited for, where an error ends it by `end`."""

    def __init__(
        self,
        run: str,
        record: Record,
        clock: Callable[[], float],
        writers: Sequence[AsyncClient],
        reader: AsyncClient,
        *,
        rate: float,
    ) -> None:
        """`rate`: writes a second, of all writers together. Each has a client, hence a session, of its own."""
        self._run = run
        self._record = record
        self._clock = clock
        self._writers = writers
        self._reader = reader
        self._pace_s = len(writers) / rate
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._newest: tuple[int, int] | None = None
        """Writer and number of the write that was acknowledged last."""

    async def __aenter__(self) -> Self:
        self._tasks = [
            asyncio.create_task(self._paced(self._write_with(writer, client), writer))
            for writer, client in enumerate(self._writers)
        ]
        self._tasks.append(asyncio.create_task(self._paced(self._read, 0)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Writing goes on until now; the end is when it stops, not when the last answer came.
        self._record.ended = self._clock()
        self._stopping.set()
        if error is None:
            await asyncio.wait(self._tasks)
            self.raise_errors()

    async def end(self) -> None:
        """Wait for what is in flight. A write whose call is cancelled may be applied all the same, at any time."""
        self._stopping.set()
        try:
            await asyncio.wait(self._tasks, timeout=END_S)
        finally:
            for task in self._tasks:
                task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def raise_errors(self) -> None:
        """Raise what ended a task of the load, which nothing should."""
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _paced(self, step: Callable[[int], Awaitable[None]], place: int) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + self._pace_s * place / len(self._writers)
        for number in count():
            # Late is late: what was missed while the store did not answer is not made up for.
            due = max(due, loop.time())
            if await self._stopped(due - loop.time()):
                return
            await step(number)
            due += self._pace_s

    async def _stopped(self, seconds: float) -> bool:
        """Wait for so long, or until the end."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return False
        return True

    def _write_with(self, writer: int, client: AsyncClient) -> Callable[[int], Awaitable[None]]:
        async def write(number: int) -> None:
            began = self._clock()
            outcome, term, text = Outcome.OK, 0, ""
            try:
                done = await client.put(key_of(self._run, writer, number), value_of(writer, number))
            except RaftKVError as error:
                outcome = Outcome.UNKNOWN if error.ambiguous else Outcome.FAILED
                text = error.message
            else:
                term = done.receipt.term
                self._newest = writer, number
            self._record.writes.append(
                Write(
                    writer=writer,
                    number=number,
                    began=began,
                    ended=self._clock(),
                    outcome=outcome,
                    term=term,
                    error=text,
                )
            )

        return write

    async def _read(self, _number: int) -> None:
        if self._newest is None:
            return
        writer, number = self._newest
        began = self._clock()
        outcome, missed, text = Outcome.OK, False, ""
        try:
            pair = await self._reader.get(key_of(self._run, writer, number))
        except RaftKVError as error:
            outcome, text = Outcome.FAILED, error.message
        else:
            missed = pair is None or pair.value != value_of(writer, number)
        self._record.reads.append(Read(began=began, ended=self._clock(), outcome=outcome, missed=missed, error=text))
