"""Code that is shown: found in documents and docstrings, and run as it stands.

A block may `await` outside of a function, as in a notebook. One that does not runs in a thread of its own, where it may
block and have an event loop.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raftkv.client import AsyncClient

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0

# What stands for the cluster, and for a node that joins it, in all that is shown.
_SHOWN_URL = re.compile(r"raftkv://10\.0\.0\.\d:7001(,10\.0\.0\.\d:7001)*")
_SHOWN_NEWCOMER = "10.0.0.4:7101"
_NOBODY = "127.0.0.1:1"

_AWAITS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_CAUGHT = "__caught__"

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_EXAMPLE = re.compile(r"^( *)Example::\n\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """Some lines of code."""

    source: str
    file: str
    line: int
    """Of the first one in its file."""

    async def run(self, names: dict[str, Any]) -> list[int]:
        """Run it among these names. Return the lines of each `except` that caught nothing."""
        url = ",".join(names["client"].endpoints)
        source = _SHOWN_URL.sub(f"raftkv://{url}", self.source).replace(_SHOWN_NEWCOMER, _NOBODY)
        tree = compile(
            "\n" * (self.line - 1) + source, self.file, "exec", ast.PyCF_ONLY_AST | _AWAITS, dont_inherit=True
        )
        handlers = [node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)]
        for handler in handlers:
            handler.body.insert(0, ast.parse(f"{_CAUGHT}.add({handler.lineno})").body[0])
        names[_CAUGHT] = caught = set[int]()
        code = compile(ast.fix_missing_locations(tree), self.file, "exec", _AWAITS, dont_inherit=True)
        async with asyncio.timeout(PATIENCE_S):
            if code.co_flags & inspect.CO_COROUTINE:
                await eval(code, names)
            else:
                await asyncio.to_thread(exec, code, names)
        return [handler.lineno for handler in handlers if handler.lineno not in caught]


async def run_all(blocks: list[Block], client: AsyncClient) -> None:
    """Run blocks that belong together; `client` and `asyncio` are there. What they show to be raised must be raised."""
    names: dict[str, Any] = {"client": client, "asyncio": asyncio, "__name__": "shown"}
    for block in blocks:
        missing = await block.run(names)
        assert not missing, f"{block.file}: nothing was raised that `except` in line {missing} catches"


def sections(document: str) -> dict[str, list[Block]]:
    """Return the Python blocks of a document by the title of their section; sections without any are left out."""
    text = (ROOT / document).read_text()
    titles = list(_SECTION.finditer(text))
    found: dict[str, list[Block]] = {}
    for block in _BLOCK.finditer(text):
        title = max((one for one in titles if one.start() < block.start()), key=lambda one: one.start())
        line = text.count("\n", 0, block.start(1)) + 1
        found.setdefault(title.group(1), []).append(Block(block.group(1), document, line))
    return found


def example_of(docstring: str, file: str) -> Block | None:
    """Return what stands under `Example::`, indented, in a docstring; None: nothing does."""
    mark = _EXAMPLE.search(docstring)
    if mark is None:
        return None
    indent = len(mark.group(1))
    lines: list[str] = []
    for line in docstring[mark.end() :].split("\n"):
        if line.strip() and len(line) - len(line.lstrip()) <= indent:
            break
        lines.append(line)
    return Block(textwrap.dedent("\n".join(lines)).strip() + "\n", file, 1)


def table(document: str, heading: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the first table under a heading, without the head."""
    text = (ROOT / document).read_text()
    _, found, rest = text.partition(f"\n{heading}\n")
    assert found, f"{document} has no heading {heading!r}"
    started = False
    for line in rest.split("\n"):
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not started or set(cells[0]) <= {"-", " ", ":"}:
                started = True
                continue
            yield cells
        elif started or line.startswith("#"):
            return
