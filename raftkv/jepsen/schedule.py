"""When which fault is on: rest, begin, prove, hold, prove, end; again and again, drawn by the seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from raftkv.checker.verdict import Problem
from raftkv.errors import RaftKVError
from raftkv.jepsen.nemesis import Nemesis
from raftkv.jepsen.recorder import Recorder

REST_S: Final = (1.5, 3.0)
"""Between two faults: long enough for a leader to be elected and for clients to come back."""
END_TIMEOUT_S: Final = 90.0


class Schedule:
    """All nemeses of a run, on together. What they do is remarked in the history."""

    def __init__(
        self, nemeses: Sequence[Nemesis], rng: random.Random, recorder: Recorder, say: Callable[[str], object]
    ) -> None:
        self._nemeses = nemeses
        self._rng = rng
        self._recorder = recorder
        self._say = say
        self.begun: Counter[str] = Counter()
        self.proven: Counter[str] = Counter()
        """Faults that a probe saw, when they had begun and before they were ended."""
        self.problems: list[Problem] = []
        """Of the cluster: faults that it did not get over when they had been made good."""
        self.now: str = ""
        """The faults that are on."""
        self._number = 0

    async def run(self, seconds: float) -> None:
        """Let faults come and go for so long; none is left on."""
        loop = asyncio.get_running_loop()
        over = loop.time() + seconds
        low = max((one.hold_s[0] for one in self._nemeses), default=0.0)
        high = max((one.hold_s[1] for one in self._nemeses), default=0.0)
        try:
            while True:
                rest_s = self._rng.uniform(*REST_S)
                hold_s = min(self._rng.uniform(low, high), over - loop.time() - 2 * rest_s)
                if not self._nemeses or (hold_s < low and self._number):
                    break
                await asyncio.sleep(rest_s)
                await self._one_fault(max(hold_s, low))
                if self.problems:
                    return
        except asyncio.CancelledError:
            for one in self._nemeses:
                one.abandon()  # the cluster goes: it need not get well again
            raise
        await asyncio.sleep(max(0.0, over - loop.time()))

    async def _one_fault(self, hold_s: float) -> None:
        on: list[tuple[Nemesis, int]] = []
        for one in self._nemeses:
            self._number += 1
            if await self._begin(one, self._number):
                on.append((one, self._number))
        await asyncio.sleep(hold_s)
        for one, number in on:
            if await self._is_proven(one, number, "kept"):
                self.proven[one.name] += 1
            await self._over(one, number)
        self.now = ""

    async def _begin(self, nemesis: Nemesis, number: int) -> bool:
        began = self._recorder.now()  # some faults are over before `begin` is
        try:
            text = await nemesis.begin()
        except RaftKVError as error:
            self._remark("unproven", nemesis, number, f"could not begin: {error.message}")
            await self._end(nemesis)
            return False
        self.begun[nemesis.name] += 1
        self._remark("begin", nemesis, number, text, began)
        self.now = f"{self.now}; {text}" if self.now else text
        self._say(f"{nemesis.name}: {text}")
        if await self._is_proven(nemesis, number, "proven"):
            return True
        await self._over(nemesis, number)
        return False

    async def _over(self, nemesis: Nemesis, number: int) -> None:
        await self._end(nemesis)
        self._remark("end", nemesis, number, "")

    async def _is_proven(self, nemesis: Nemesis, number: int, f: str) -> bool:
        try:
            await nemesis.prove()
        except RaftKVError as error:
            self._remark("unproven", nemesis, number, error.message)
            self._say(f"{nemesis.name}: not proven: {error.message}")
            return False
        self._remark(f, nemesis, number, "")
        return True

    async def _end(self, nemesis: Nemesis) -> None:
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await nemesis.end()
        except TimeoutError:
            self._not_over(nemesis, f"not within {END_TIMEOUT_S:g} s")
        except RaftKVError as error:
            self._not_over(nemesis, error.message)

    def _not_over(self, nemesis: Nemesis, why: str) -> None:
        text = f"when {nemesis.name} was ended, the cluster did not get over it: {why}"
        self._say(text)
        self.problems.append(Problem(name="did not come back", text=text))

    def _remark(self, f: str, nemesis: Nemesis, number: int, text: str, time_ns: int | None = None) -> None:
        value = {"nemesis": nemesis.name, "number": number, "text": text}
        self._recorder.remark("nemesis", f, value, time_ns)
