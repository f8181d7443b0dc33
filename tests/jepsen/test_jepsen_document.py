"""docs/jepsen.md: it tells of everything, its commands can be typed, its examples work and are as short as it says."""

from __future__ import annotations

import random
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer

from raftkv.checker.verdict import never
from raftkv.cli.app import app
from raftkv.client import AsyncClient
from raftkv.jepsen.nemeses import NEMESES
from raftkv.jepsen.nemesis import FaultNotProven, Nemesis
from raftkv.jepsen.sabotage import SABOTAGES
from raftkv.jepsen.testbed import Testbed
from raftkv.jepsen.workload import Workload
from raftkv.jepsen.workloads import WORKLOADS
from raftkv.testing.cluster import LocalCluster
from tests.jepsen.driving import done, drive, setting

DOCUMENT = (Path(__file__).parents[2] / "docs" / "jepsen.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition("#")[0].strip()
    for block in re.findall(r"^```\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("raftkv ")
]
MOST_LINES = 60


def example(kind: type[Any]) -> type[Any]:
    """Return the class of this kind that the document shows."""
    for text in EXAMPLES:
        scope: dict[str, Any] = {"__name__": "example"}
        exec(text, scope)
        for found in scope.values():
            if isinstance(found, type) and found is not kind and issubclass(found, kind):
                return found
    raise AssertionError(f"no example of {kind.__name__}")


@pytest.mark.parametrize("name", [*WORKLOADS, *NEMESES, *SABOTAGES])
def test_everything_is_told_of(name: str) -> None:
    assert f"`{name}`" in DOCUMENT


def test_examples_are_as_short_as_it_says() -> None:
    assert len(EXAMPLES) == 2
    assert all(len(text.splitlines()) < MOST_LINES for text in EXAMPLES)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_can_be_typed(command: str) -> None:
    assert len(COMMANDS) >= 4
    name, *arguments = shlex.split(command)[1:]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    commands[name].make_context(name, arguments)


@pytest.mark.processes
async def test_the_workload_works() -> None:
    workload = example(Workload)(setting("ids", workers=3))
    async with LocalCluster(1) as cluster:
        history = await drive(workload, lambda: AsyncClient(cluster.url), enough=done("create", times=60))
    created = [one.key for one in history if one.result]
    assert len(created) == len(set(created)) > 5
    assert workload.check(history, never).valid
    (twice, *_) = (one for one in history if one.result)
    assert workload.check([*history, replace(twice, process=99)], never).valid is False


@pytest.mark.processes
@pytest.mark.toxiproxy
@pytest.mark.asyncio(loop_scope="package")
async def test_the_nemesis_works(bed: Testbed) -> None:
    nemesis = example(Nemesis)(bed, random.Random(1))
    await nemesis.end()
    said = await nemesis.begin()
    assert re.fullmatch(r"the clock of node \d stands still", said)
    for _ in range(200):
        try:
            await nemesis.prove()
        except FaultNotProven:
            await bed.leader()
        else:
            break
    else:
        pytest.fail("it was never proven")
    await nemesis.end()
