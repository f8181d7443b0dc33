"""Ctrl-C: exit code 130, no stack trace, no process, no file."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.processes import interruptible, processes_naming, started

pytestmark = pytest.mark.processes


@pytest.mark.parametrize(
    ("command", "moment", "number", "code"),
    [
        ("demo", "starting", signal.SIGINT, 130),
        ("demo", "begin to write", signal.SIGINT, 130),
        ("demo", "SIGKILL to the leader", signal.SIGTERM, 143),
        ("bench put --local 3 --total 1000000", "starting", signal.SIGINT, 130),
        ("bench put --local 1 --total 1000000", "puts: 1,000,000", signal.SIGINT, 130),
    ],
)
def test_interrupted(tmp_path: Path, command: str, moment: str, number: signal.Signals, code: int) -> None:
    with interruptible(), started(tmp_path, *command.split()) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if moment in line:
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert out == ""
    assert processes_naming(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
