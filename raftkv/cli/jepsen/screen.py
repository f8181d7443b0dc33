"""How a run goes, for whoever watches: a live line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from typing import Final

import uvloop

from raftkv.checker.history import Outcome
from raftkv.cli.jepsen.summary import EXIT_CODES, print_summary
from raftkv.cli.narrator import Narrator
from raftkv.cli.session import cancelled_by_signals
from raftkv.jepsen.results import Results
from raftkv.jepsen.runner import Options, Run

LINE_EVERY_S: Final = 10.0
RATE_OVER_S: Final = 2.0
SAMPLE_S: Final = 0.25


class Screen:
    """Tells how a run goes."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._seen: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])

    def text(self) -> str:
        """Return how things are, in a line."""
        run, counts = self._run, self._counts()
        leader = run.observer.current if run.observer is not None else None
        led = f"node {leader[0]} leads term {leader[1]}" if leader is not None else "no leader seen"
        fault = run.schedule.now if run.schedule is not None else ""
        return (
            f"{run.phase}   {self._rate():,.0f} ops/s   {counts[Outcome.OK]:,} ok, {counts[Outcome.FAIL]:,} failed, "
            f"{counts[Outcome.INFO]:,} unknown   {led}   {fault or 'no fault'}"
        )

    def sample(self) -> None:
        """Note how many operations there are, for the rate."""
        now = time.monotonic()
        self._seen.append((now, self._counts().total()))
        while len(self._seen) > 1 and now - self._seen[0][0] > RATE_OVER_S:
            self._seen.popleft()

    def _rate(self) -> float:
        (began, before), (ended, after) = self._seen[0], self._seen[-1]
        return (after - before) / (ended - began) if ended > began else 0.0

    def _counts(self) -> Counter[Outcome]:
        return sum(self._run.recorder.counts.values(), Counter())


def run_and_show(options: Options, *, as_json: bool) -> int:
    """Run it, and tell how it goes and ends. Return the exit code. Raises RaftKVError."""
    narrator = Narrator()
    run = Run(options, narrator.say)
    screen = Screen(run)
    narrator.say(f"{options.nodes} nodes, seed {options.seed}, in {options.directory}")

    async def watched() -> Results:
        ticker = asyncio.create_task(_tick(screen, narrator))
        try:
            return await run.run()
        finally:
            ticker.cancel()

    with narrator.live(screen.text):
        results = uvloop.run(cancelled_by_signals(watched()))
    print_summary(results, options.directory, as_json=as_json)
    return EXIT_CODES[results.judgement]


async def _tick(screen: Screen, narrator: Narrator) -> None:
    due = time.monotonic() + LINE_EVERY_S
    while True:
        await asyncio.sleep(SAMPLE_S)
        screen.sample()
        if not narrator.is_terminal and time.monotonic() > due:
            due += LINE_EVERY_S
            narrator.say(screen.text())
