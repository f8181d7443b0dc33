"""What a seed gave, for every test that looks at it: run once, whichever worker gets to it first."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import pytest

from tests.sim.l0.run import run
from tests.sim.l1 import Result, run_seed
from tests.sim.levels import Report

T = TypeVar("T")


class Remembered(Generic[T]):
    """The results of seeds, kept in a directory that all workers of one test run share."""

    def __init__(self, directory: Path, run: Callable[[int], T]) -> None:
        self._directory = directory
        self._run = run
        self._known: dict[int, T] = {}

    def __call__(self, seed: int) -> T:
        if seed not in self._known:
            path = self._directory / str(seed)
            try:
                self._known[seed] = pickle.loads(path.read_bytes())
            except FileNotFoundError:
                self._known[seed] = result = self._run(seed)
                written = path.with_suffix(f".{os.getpid()}")
                written.write_bytes(pickle.dumps(result))
                written.rename(path)
        return self._known[seed]


def _shared(factory: pytest.TempPathFactory, name: str) -> Path:
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # that of the whole run
    directory = base / f"remembered-{name}"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def core_report(tmp_path_factory: pytest.TempPathFactory) -> Remembered[Report]:
    """What a seed of the simulator of the core gave."""
    return Remembered(_shared(tmp_path_factory, "l0"), run)


@pytest.fixture(scope="session")
def node_result(tmp_path_factory: pytest.TempPathFactory) -> Remembered[Result]:
    """What a seed of the simulator of whole nodes gave."""
    return Remembered(_shared(tmp_path_factory, "l1"), run_seed)
