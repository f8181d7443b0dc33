"""One client of a run: it takes turns at the rate that was asked for, and everything it does is remembered."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from raftkv.checker.history import Operation, Outcome
from raftkv.client import AsyncClient
from raftkv.errors import RaftKVError
from raftkv.jepsen.recorder import Recorder


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call was answered, as the history has it: see `raftkv.checker.history.Operation`."""

    result: Any = None
    revision: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


class Pace:
    """Lets the turns of a workload's workers begin at a steady rate, until the time is over."""

    def __init__(self, rate: float, over: asyncio.Event) -> None:
        """`rate`: turns per second, all workers of a workload together."""
        self.over = over
        self._interval_s = 1.0 / rate
        self._next_s = 0.0

    async def turn(self) -> bool:
        """Wait for the next turn; False once the time is over. Turns that nobody took are not made up for."""
        if self.over.is_set():
            return False
        now = asyncio.get_running_loop().time()
        self._next_s = max(self._next_s + self._interval_s, now)
        return await self.rest(self._next_s - now)

    async def rest(self, seconds: float) -> bool:
        """Wait so long; False as soon as the time is over."""
        if seconds > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self.over.wait()
        return not self.over.is_set()


class Worker:
    """A client, a source of chance, and a process of the history."""

    def __init__(
        self,
        number: int,
        workload: str,
        *,
        client: AsyncClient,
        recorder: Recorder,
        pace: Pace,
        rng: random.Random,
    ) -> None:
        self.number = number
        """From 0; unique in its workload."""
        self.client = client
        """Its own. Its calls give up after the run's --op-timeout."""
        self.rng = rng
        self.recorder = recorder
        self.process = recorder.new_process()
        self._workload = workload
        self._pace = pace

    async def turn(self) -> bool:
        """Wait until the next operation is due; False: the run is over, return."""
        return await self._pace.turn()

    async def rest(self, seconds: float) -> bool:
        """Do nothing for so long, as a paused client would; False: the run is over."""
        return await self._pace.rest(seconds)

    async def do(
        self,
        f: str,
        call: Callable[[], Awaitable[Answer]],
        *,
        key: str = "",
        value: Any = None,
        extra: Mapping[str, Any] | None = None,
        read: bool = False,
    ) -> Answer | None:
        """Make one call and record it. Return the answer; None where there was none, whatever the reason.

        An error that is `ambiguous` makes it INFO, any other error of raftkv FAIL. What only reads (`read`) has no
        effect, so it never is INFO. `extra` says more of what was asked. Other exceptions are mistakes of the suite.
        """
        asked = Operation(
            workload=self._workload,
            process=self.process,
            f=f,
            key=key,
            value=value,
            outcome=Outcome.FAIL if read else Outcome.INFO,
            began=self.recorder.now(),
            ended=0,
            error="cancelled",
            extra=extra or {},
        )
        ended = asked
        try:
            answer = await call()
        except RaftKVError as failure:
            outcome = Outcome.INFO if failure.ambiguous and not read else Outcome.FAIL
            ended = replace(asked, outcome=outcome, error=f"{type(failure).__name__}: {failure.message}")
            return None
        else:
            told = {**asked.extra, **answer.extra}
            ended = replace(
                asked, outcome=Outcome.OK, error="", result=answer.result, revision=answer.revision, extra=told
            )
            return answer
        finally:
            self.recorder.record(replace(ended, ended=self.recorder.now()))
            if ended.unknown:
                self.process = self.recorder.new_process()
