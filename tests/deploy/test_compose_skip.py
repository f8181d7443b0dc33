"""`make compose-test` on machines that cannot run it: what it says, and how it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.deploy.compose.__main__ import main
from tests.deploy.compose.compose_binary import find_compose
from tests.deploy.compose.shell import CommandFailed, NotPossible, run

UNREACHABLE = "echo 'Cannot connect to the Docker daemon'; exit 1"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it yet."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("RAFTKV_COMPOSE", raising=False)
    return tmp_path


def put(directory: Path, name: str, script: str) -> None:
    program = directory / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


@pytest.mark.parametrize(("required", "code", "word"), [("", 77, "SKIPPED"), ("0", 77, "SKIPPED"), ("1", 1, "FAILED")])
@pytest.mark.usefixtures("programs")
def test_without_docker(
    required: str, code: int, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAFTKV_REQUIRE_DOCKER", required)
    assert main([]) == code
    assert f"{word}: there is no `docker` command" in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts an engine")
def test_an_engine_that_cannot_start_is_named_with_its_log(
    programs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAFTKV_REQUIRE_DOCKER", raising=False)
    put(programs, "docker", UNREACHABLE)
    put(programs, "dockerd", "echo 'failed to mount cgroup: permission denied'; exit 1")
    assert main([]) == 77
    said = capsys.readouterr().out
    assert "dockerd was started and ended" in said
    assert "failed to mount cgroup: permission denied" in said


def test_an_unknown_scenario_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["thre"])
    assert "no scenario thre" in capsys.readouterr().err


@pytest.mark.parametrize("version", ["1.29.2", "v2.19.9"])
def test_an_old_compose_is_not_taken(programs: Path, tmp_path: Path, version: str) -> None:
    put(programs, "docker", "exit 1")
    put(programs, "docker-compose", f"echo {version}")
    with pytest.raises(NotPossible, match=r"older than 2\.20"):
        find_compose(tmp_path / "cache")


@pytest.mark.parametrize("version", ["2.20.0", "v2.40.3", "5.0.1"])
def test_a_new_compose_is(programs: Path, tmp_path: Path, version: str) -> None:
    put(programs, "docker", f"echo {version}")
    assert find_compose(tmp_path / "cache") == ["docker", "compose"]


def test_every_command_is_bounded_and_failures_show_what_was_said() -> None:
    with pytest.raises(CommandFailed, match="not done after"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], 0.5)
    with pytest.raises(CommandFailed, match=r"(?s)exit code 3.*alas"):
        run([sys.executable, "-c", "print('alas'); raise SystemExit(3)"], 30)
