from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from raftkv.cli.app import run
from raftkv.testing.toxiproxy_fixture import toxiproxy_server
from tests.cli.cluster_process import RunningCluster, running_cluster
from tests.integration.waiting import PATIENCE_S, POLL_S

__all__ = ["toxiproxy_server"]


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        """The output, which must be one JSON value and nothing else."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that says what went wrong, or what JSON there is says of it."""
        assert not self.out
        lines = self.err.splitlines()
        if lines[0].startswith("{"):
            return str(self.json_error["message"])
        assert lines[0].startswith("raftkv: ")
        assert all(line.startswith("Try '") for line in lines[1:]), self.err
        assert len(lines) <= 2
        return lines[0].removeprefix("raftkv: ")

    @property
    def json_error(self) -> Any:
        """The error under -o json, which must be all there is on stderr."""
        (line,) = self.err.splitlines()
        document = json.loads(line)
        assert document.keys() == {"error"}
        assert document["error"].keys() == {"code", "message", "retryable", "ambiguous"}
        return document["error"]


def without_receipt(shown: dict[str, Any]) -> dict[str, Any]:
    """What a command did, as JSON shows it, without how it was acknowledged or read: that differs from run to run."""
    assert shown["receipt"]
    return {name: value for name, value in shown.items() if name != "receipt"}


class Cli(Protocol):
    def __call__(self, *arguments: str, stdin: bytes = b"") -> Result: ...


def eventually(attempt: Callable[[], Result], succeeds: Callable[[Result], bool]) -> Result:
    """Return the first result that succeeds."""
    deadline = time.monotonic() + PATIENCE_S
    while not succeeds(result := attempt()):
        assert time.monotonic() < deadline, result
        time.sleep(POLL_S)
    return result


@pytest.fixture(autouse=True)
def no_settings_of_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("RAFTKV_"):
            monkeypatch.delenv(name)


@pytest.fixture
def cli(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Run a command line in this process."""

    def call(*arguments: str, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run(arguments)
        out, err = capsysbinary.readouterr()
        return Result(code, out, err.decode())

    return call


@pytest.fixture(scope="package")  # three idle nodes take an eighth of a core: not until the end of all tests
def started_cluster() -> Iterator[RunningCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(started_cluster: RunningCluster, monkeypatch: pytest.MonkeyPatch) -> RunningCluster:
    """Three running nodes, at which the command line points."""
    monkeypatch.setenv("RAFTKV_ENDPOINTS", started_cluster.url)
    return started_cluster
