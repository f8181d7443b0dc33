"""What a long start says, and how it is ended."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
from rich.console import Console

from raftkv.cli.start_bar import StartBar
from raftkv.server.start_progress import REPEAT_S, StartProgress
from raftkv.storage.progress import Interrupted


@dataclass
class Watch:
    """A clock that stands still."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Drawn:
    """What was shown."""

    shown: list[tuple[str, int, int, str]] = field(default_factory=list)
    cleared: int = 0

    def show(self, what: str, done: int, total: int, unit: str) -> None:
        self.shown.append((what, done, total, unit))

    def clear(self) -> None:
        self.cleared += 1


def work(progress: StartProgress, watch: Watch, seconds: list[float], total: int = 400) -> list[Any]:
    """Do a phase in steps of 100 bytes that take so long; return the lines that were logged."""
    with structlog.testing.capture_logs() as lines, progress.phase("reading the log", total) as phase:
        for step in seconds:
            watch.now += step
            phase.advance(100)
    return lines


def test_a_fast_phase_says_nothing() -> None:
    watch, drawn = Watch(), Drawn()
    assert work(StartProgress(now_s=watch), watch, [0.2] * 4) == []
    assert work(StartProgress(drawn, watch), watch, [0.2] * 4) == []
    assert drawn.shown == []


def test_a_phase_of_more_than_a_second_gets_one_line() -> None:
    watch = Watch()
    (line,) = work(StartProgress(now_s=watch), watch, [0.5] * 4)
    assert line["event"] == "reading the log: done"
    assert {name: line[name] for name in ("bytes", "of", "seconds", "bytes_per_s")} == {
        "bytes": 400, "of": 400, "seconds": 2.0, "bytes_per_s": 200,
    }  # fmt: skip


def test_a_very_long_phase_says_how_far_it_is() -> None:
    watch = Watch()
    lines = work(StartProgress(now_s=watch), watch, [REPEAT_S, 1.0, REPEAT_S, 1.0])
    assert [line["event"] for line in lines] == [
        "reading the log: 25 %",
        "reading the log: 75 %",
        "reading the log: done",
    ]


def test_on_a_terminal_it_is_drawn_instead() -> None:
    watch, drawn = Watch(), Drawn()
    lines = work(StartProgress(drawn, watch), watch, [1.5, 0.05, 0.05, REPEAT_S])
    assert [line["event"] for line in lines] == ["reading the log: done"]
    assert [done for _, done, _, _ in drawn.shown] == [100, 300, 400]
    assert drawn.cleared == 1


def test_nothing_stays_on_the_terminal_when_a_start_fails() -> None:
    watch, drawn = Watch(), Drawn()
    with pytest.raises(KeyError), StartProgress(drawn, watch).phase("x", 1):
        raise KeyError
    assert drawn.cleared == 1


def test_an_interrupted_start_ends_at_the_next_step_and_begins_no_phase() -> None:
    progress = StartProgress()
    with progress.phase("x", 2) as phase:
        phase.advance(1)
        progress.interrupt()
        with pytest.raises(Interrupted):
            phase.advance(1)
    with pytest.raises(Interrupted), progress.phase("y", 1):
        pytest.fail("began")


def test_the_bar_shows_phase_and_size_and_goes_away() -> None:
    screen = io.StringIO()
    bar = StartBar(Console(file=screen, force_terminal=True, width=100))
    bar.clear()
    assert screen.getvalue() == ""
    bar.show("reading the log", 3_000_000, 6_000_000, "bytes")
    assert "reading the log" in screen.getvalue()
    assert "3.0 MB of 6.0 MB" in screen.getvalue()
    bar.clear()
    bar.show("comparing", 1_000, 2_000, "rows")
    assert "1,000 of 2,000 rows" in screen.getvalue()
    bar.clear()
