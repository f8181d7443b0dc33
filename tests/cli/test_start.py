"""A node that is told to stop before it serves."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from raftkv.cli import node
from raftkv.storage.progress import Progress


@contextmanager
def signals_kept() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, serve: Any) -> list[str]:
    """Run a node with `serve` in place of what serves. Return what it logs."""
    monkeypatch.setattr(node, "serve", serve)
    monkeypatch.setattr(node, "configure_logging", lambda *_, **__: None)
    with signals_kept(), structlog.testing.capture_logs() as lines:
        node.run_node({"id": 1, "data_dir": tmp_path, "member": ["1=127.0.0.1:7101"]}, None)
    return [line["event"] for line in lines]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_start_that_keeps_the_event_loop_waiting(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    steps = 0

    async def serve(settings: object, stop: asyncio.Event, *, progress: Progress, **_: object) -> None:
        nonlocal steps
        with progress.phase("reading the log", 10) as phase:
            for _step in range(10):
                steps += 1
                phase.advance(1)
                if steps == 3:
                    os.kill(os.getpid(), number)

    assert run(monkeypatch, tmp_path, serve) == ["stopped before it served"]
    assert steps == 4


def test_a_start_that_waits_for_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unwound = False

    async def serve(settings: object, stop: asyncio.Event, **_: object) -> None:
        nonlocal unwound
        try:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            unwound = True

    assert run(monkeypatch, tmp_path, serve) == ["stopped before it served"]
    assert unwound


def test_once_it_serves_it_ends_by_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    handed_over = False

    async def serve(settings: object, stop: asyncio.Event, *, started: Any, **_: object) -> None:
        nonlocal handed_over
        started()
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()
        await asyncio.sleep(0)
        handed_over = True

    assert run(monkeypatch, tmp_path, serve) == []
    assert handed_over


def test_a_variable_that_is_no_setting_is_warned_of_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def serve(settings: object, stop: asyncio.Event, **_: object) -> None:
        pass

    monkeypatch.setattr(node, "serve", serve)
    monkeypatch.setattr(node, "configure_logging", lambda *_, **__: None)
    monkeypatch.setenv("RAFTKV_ELECTON_MS", "300")
    monkeypatch.setenv("RAFTKV_COLOUR", "red")
    monkeypatch.setenv("RAFTKV_ENDPOINTS", "h:1")
    with signals_kept(), structlog.testing.capture_logs() as lines:
        node.run_node({"id": 1, "data_dir": tmp_path, "member": ["1=127.0.0.1:7101"]}, None)
    (line,) = lines
    assert line["log_level"] == "warning"
    assert "RAFTKV_ELECTON_MS is no setting of a node; did you mean RAFTKV_ELECTION_MS?" in line["reason"]
    assert "RAFTKV_COLOUR" in line["reason"]
    assert "RAFTKV_ENDPOINTS" not in line["reason"]
