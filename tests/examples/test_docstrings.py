"""Every public call of the client has an example in its docstring, and it works."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

import raftkv.client as package
from raftkv import errors
from raftkv.client import AsyncClient, txn
from tests.examples.blocks import example_of

CLASSES = [
    *(kind for name, kind in vars(package).items() if name.startswith("Async") and name in package.__all__),
    package.Fence,
    package.FencingToken,
]
FUNCTIONS = {
    name: member for name, member in vars(txn).items() if inspect.isfunction(member) and name in package.__all__
}
# What is made with a call of another class, whose example shows it.
SHOWN_ELSEWHERE = {"AsyncClient", "AsyncHeld", "AsyncTxn"}


def documented(kind: type) -> dict[str, Any]:
    """Return a class and its public methods, by name."""
    methods = {
        f"{kind.__name__}.{name}": getattr(kind, name)
        for name in dir(kind)
        if not name.startswith("_") and callable(getattr(kind, name))
    }
    return methods if kind.__name__ in SHOWN_ELSEWHERE else {kind.__name__: kind, **methods}


VALUES = {kind.__name__: kind for kind in (package.AtLeast, package.Bounded, package.Quorum, package.ReadToken)}
GROUPS = {**{kind.__name__: documented(kind) for kind in CLASSES}, "txn": FUNCTIONS, "values": VALUES}


def test_all_is_found() -> None:
    assert {"AsyncClient", "AsyncLock", "AsyncWatch", "Fence", "txn"} <= GROUPS.keys()
    assert {"AsyncClient.put", "AsyncClient.watch", "AsyncClient.lock"} <= GROUPS["AsyncClient"].keys()
    assert sum(map(len, GROUPS.values())) > 85


@pytest.mark.processes
@pytest.mark.asyncio(loop_scope="package")
@pytest.mark.parametrize("group", GROUPS)
async def test_examples_of_docstrings_work(group: str, client: AsyncClient) -> None:
    for name, member in GROUPS[group].items():
        block = example_of(inspect.getdoc(member) or "", f"example of {name}")
        assert block is not None, f"{name} has no example"
        await client.delete_prefix("")
        shown = {name: getattr(package, name) for name in package.__all__}
        await block.run({**shown, **vars(errors), "asyncio": asyncio, "client": client})
