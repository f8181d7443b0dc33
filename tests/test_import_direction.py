"""The layers of raftkv: who may import whom, and what the pure packages must do without.

Every `import` in a package counts, wherever it stands: in a function, under `if TYPE_CHECKING`, relative or absolute.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import raftkv

PACKAGE = Path(raftkv.__file__).parent

# What reads a clock, a disk, a network or the operating system, or draws on a source of chance that is not injected.
IMPURE = frozenset(
    {
        "_thread", "asyncio", "calendar", "concurrent", "contextvars", "ctypes", "datetime", "fcntl", "fileinput",
        "getpass", "glob", "http", "importlib", "io", "locale", "logging", "mmap", "multiprocessing", "os", "pathlib",
        "pickle", "platform", "queue", "random", "resource", "runpy", "sched", "secrets", "select", "selectors",
        "shelve", "shutil", "signal", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "tempfile",
        "threading", "time", "urllib", "uuid", "warnings",
    }
)  # fmt: skip
IMPURE_CALLS = frozenset({"open", "input", "print", "__import__"})

COMMON = frozenset({"errors", "invariant"})
BASIC = frozenset({"kv", "quorum", "raft", "storage", "tls", "transport", "v1"}) | COMMON


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """What one package under raftkv may import; names are relative to raftkv and cover what lies below them."""

    internal: frozenset[str]
    external: frozenset[str] | None = None  # None: whatever the package's extra installs
    optional: frozenset[str] = frozenset()  # external too, but only under `try ... except ImportError`
    pure: bool = False
    seeded_random: bool = False  # random.Random as a type, or with a seed


LAYERS = {
    "": Layer(internal=COMMON, external=frozenset()),  # raftkv/__init__.py
    "errors": Layer(internal=frozenset(), external=frozenset()),
    "invariant": Layer(internal=frozenset(), external=frozenset()),
    "v1": Layer(internal=frozenset({"v1"}), external=frozenset({"grpc", "google.protobuf"})),
    "raft": Layer(internal=COMMON | {"raft"}, external=frozenset(), pure=True, seeded_random=True),
    "kv": Layer(internal=COMMON | {"kv"}, external=frozenset({"msgpack"}), pure=True),
    "quorum": Layer(internal=COMMON | {"quorum"}, external=frozenset(), pure=True),
    "storage": Layer(internal=COMMON | {"storage", "raft.types", "kv.store"}),
    "tls": Layer(internal=COMMON | {"tls"}),
    "transport": Layer(internal=COMMON | {"transport", "raft", "tls", "v1"}),
    "server": Layer(internal=BASIC | {"server"}),
    "client": Layer(
        internal=COMMON | {"client", "quorum", "tls.system", "v1"},  # tls.system: standard library only
        external=frozenset({"grpc", "google.protobuf", "google.rpc", "grpc_status"}),
        optional=frozenset({"uvloop"}),
    ),
    "checker": Layer(internal=COMMON | {"checker"}, external=frozenset(), pure=True),
    "jepsen": Layer(internal=BASIC | {"server", "client", "testing", "cli", "checker", "jepsen"}),
    "drill": Layer(internal=COMMON | {"client", "testing", "drill"}),
    "drill.measure": Layer(internal=COMMON | {"drill.measure"}, external=frozenset(), pure=True),
    "testing": Layer(internal=BASIC | {"server", "client", "cli", "testing"}),
    "cli": Layer(internal=BASIC | {"server", "client", "testing", "cli", "drill", "jepsen", "checker"}),
}


def covers(allowed: frozenset[str], module: str) -> bool:
    """Whether `module` or a package that holds it is among `allowed`."""
    parts = module.split(".")
    return any(".".join(parts[:count]) in allowed for count in range(1, len(parts) + 1))


@dataclass(slots=True)
class Imports(ast.NodeVisitor):
    """Collects (line, absolute name, is guarded) of every import of one module, and uses of what is impure."""

    package: str  # the module's package, what relative imports start from
    names: list[tuple[int, str, bool]] = field(default_factory=list)
    random_aliases: set[str] = field(default_factory=set)
    class_aliases: set[str] = field(default_factory=set)
    guards: int = 0

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.names.append((node.lineno, alias.name, self.guards > 0))
            if alias.name == "random":
                self.random_aliases.add(alias.asname or alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            parts = self.package.split(".")
            parents = parts[: len(parts) - node.level + 1]
            base = ".".join([*parents, base] if base else parents)
        for alias in node.names:
            self.names.append((node.lineno, f"{base}.{alias.name}", self.guards > 0))
            if base == "random" and alias.name == "Random":
                self.class_aliases.add(alias.asname or alias.name)

    def visit_Try(self, node: ast.Try) -> None:
        caught = {name.id for handler in node.handlers for name in ast.walk(handler) if isinstance(name, ast.Name)}
        guarded = bool(caught & {"ImportError", "ModuleNotFoundError"})
        self.guards += guarded
        for statement in node.body:
            self.visit(statement)
        self.guards -= guarded
        for rest in (*node.handlers, *node.orelse, *node.finalbody):
            self.visit(rest)


def layer_of(module: str) -> Layer | None:
    """The layer of a module: that of the innermost package around it that has one."""
    parts = module.split(".")
    return next(
        (LAYERS[name] for count in range(len(parts), 0, -1) if (name := ".".join(parts[:count])) in LAYERS), None
    )


def violations(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """Each import or call in `source`, the text of `raftkv.<module>`, that its layer does not allow."""
    full = f"raftkv.{module}" if module else "raftkv"
    name = module.split(".", maxsplit=1)[0]
    layer = layer_of(module)
    if layer is None:
        return [f"{full}: raftkv.{name} is in no layer; give it one in {Path(__file__).name}"]
    tree = ast.parse(source)
    found = Imports(package=full if is_package else full.rpartition(".")[0])
    found.visit(tree)
    problems = [
        f"{full}:{line}: imports {imported}"
        for line, imported, guarded in found.names
        if not _allowed(layer, imported, guarded)
    ]
    if layer.pure:
        problems += [f"{full}:{line}: {what}" for line, what in _impure_uses(tree, found)]
    return problems


def _allowed(layer: Layer, imported: str, guarded: bool) -> bool:
    top = imported.split(".", maxsplit=1)[0]
    if top == "raftkv":
        inner = imported.removeprefix("raftkv").removeprefix(".")
        # `from raftkv import __version__` names no module.
        return inner in {"__version__", ""} or covers(layer.internal, inner)
    if top in sys.stdlib_module_names:
        if layer.seeded_random and imported in {"random", "random.Random"}:
            return True
        return not (layer.pure and top in IMPURE)
    if layer.external is None or covers(layer.external, imported):
        return True
    return guarded and covers(layer.optional, imported)


def _impure_uses(tree: ast.AST, found: Imports) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=attr) if (
                owner in found.random_aliases and attr != "Random"
            ):
                yield node.lineno, f"uses the global random.{attr}"
            case ast.Call(func=ast.Name(id=called)) if called in IMPURE_CALLS:
                yield node.lineno, f"calls {called}()"
            case ast.Call(func=func, args=[], keywords=[]) if _is_random_class(func, found):
                yield node.lineno, "makes a random.Random without a seed"


def _is_random_class(func: ast.expr, found: Imports) -> bool:
    match func:
        case ast.Name(id=name):
            return name in found.class_aliases
        case ast.Attribute(value=ast.Name(id=owner), attr="Random"):
            return owner in found.random_aliases
    return False


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def test_every_module_keeps_to_its_layer() -> None:
    checked = 0
    problems: list[str] = []
    for module, path in modules():
        problems += violations(path.read_text(), module, is_package=path.name == "__init__.py")
        checked += 1
    assert checked >= len(LAYERS)
    assert not problems, "\n".join(problems)


def test_every_layer_exists() -> None:
    present = {module for module, _ in modules()}
    assert set(LAYERS) <= present


@pytest.mark.parametrize(
    ("module", "source", "reported"),
    [
        ("raft.core", "import asyncio", "imports asyncio"),
        ("raft.core", "def f():\n    import time", "imports time"),
        ("raft.core", "from os.path import join", "imports os.path.join"),
        ("raft.core", "import logging.handlers", "imports logging.handlers"),
        ("raft.core", "import socket, threading", "imports threading"),
        ("raft.core", "from datetime import datetime", "imports datetime.datetime"),
        ("raft.core", "import random\nrandom.random()", "uses the global random.random"),
        ("raft.core", "import random as r\nr.SystemRandom()", "uses the global random.SystemRandom"),
        ("raft.core", "from random import randint", "imports random.randint"),
        ("raft.core", "import random\nrandom.Random()", "without a seed"),
        ("raft.core", "from random import Random as R\nR()", "without a seed"),
        ("raft.core", "open('x')", "calls open()"),
        ("raft.core", "__import__('time')", "calls __import__()"),
        ("raft.core", "import msgpack", "imports msgpack"),
        ("raft.core", "import grpc", "imports grpc"),
        ("raft.core", "from raftkv.kv.store import Store", "imports raftkv.kv.store.Store"),
        ("raft.core", "from ..kv import store", "imports raftkv.kv.store"),
        ("raft.core", "from raftkv import storage", "imports raftkv.storage"),
        ("raft.core", "if TYPE_CHECKING:\n    from raftkv.v1 import kv_pb2", "imports raftkv.v1.kv_pb2"),
        ("kv.machine", "import random", "imports random"),
        ("kv.machine", "import uuid", "imports uuid"),
        ("kv.machine", "import lmdb", "imports lmdb"),
        ("kv.machine", "from raftkv.raft.types import Index", "imports raftkv.raft.types.Index"),
        ("storage.wal", "from raftkv.raft.core import Raft", "imports raftkv.raft.core.Raft"),
        ("storage.wal", "from raftkv.kv.machine import Machine", "imports raftkv.kv.machine.Machine"),
        ("storage.wal", "from raftkv.server import node", "imports raftkv.server.node"),
        ("transport.grpc_peer", "from raftkv.storage import wal", "imports raftkv.storage.wal"),
        ("transport.grpc_peer", "from raftkv.kv import machine", "imports raftkv.kv.machine"),
        ("server.node", "from raftkv.client import AsyncClient", "imports raftkv.client.AsyncClient"),
        ("server.services.kv", "from ...cli import main", "imports raftkv.cli.main"),
        ("server.node", "from raftkv.testing import toxiproxy", "imports raftkv.testing.toxiproxy"),
        ("client.aio", "from raftkv.server.config import Config", "imports raftkv.server.config.Config"),
        ("client.aio", "from raftkv.raft.types import NodeId", "imports raftkv.raft.types.NodeId"),
        ("client.aio", "from raftkv.kv.commands import Put", "imports raftkv.kv.commands.Put"),
        ("client.aio", "import structlog", "imports structlog"),
        ("client.aio", "from google.cloud import storage", "imports google.cloud.storage"),
        ("client.aio", "import uvloop", "imports uvloop"),
        ("client.aio", "try:\n    import uvloop\nexcept ValueError:\n    pass", "imports uvloop"),
        ("errors", "from raftkv.raft import types", "imports raftkv.raft.types"),
        ("v1.kv_pb2", "from raftkv.server import node", "imports raftkv.server.node"),
        ("", "from raftkv.client import AsyncClient", "imports raftkv.client.AsyncClient"),
        ("drill.load", "from raftkv.cli import exits", "imports raftkv.cli.exits"),
        ("drill.measure.rounds", "import time", "imports time"),
        ("drill.measure.rounds", "from raftkv.drill.load import Load", "imports raftkv.drill.load.Load"),
        ("drill.measure.rounds", "from raftkv.client import AsyncClient", "imports raftkv.client.AsyncClient"),
        ("newcomer.x", "", "is in no layer"),
    ],
)  # fmt: skip
def test_a_violation_is_reported(module: str, source: str, reported: str) -> None:
    assert any(reported in problem for problem in violations(source, module))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("raft.core", "import random\ndef f(rng: random.Random): return rng.random() + random.Random(7).random()"),
        ("raft.core", "from random import Random\nR = Random(7)"),
        ("raft.core", "from . import types\nfrom .types import Term\nfrom ..errors import RaftKVError"),
        ("raft.core", "import heapq\nfrom collections.abc import Sequence\nfrom raftkv.invariant import invariant"),
        ("kv.codec", "import msgpack\nfrom raftkv.errors import InvalidArgument"),
        ("storage.wal", "import os, lmdb\nfrom raftkv.raft.types import Entry\nfrom raftkv.kv.store import Store"),
        ("transport.convert", "from raftkv.v1 import peer_pb2\nfrom raftkv.raft import messages"),
        ("server.node", "from raftkv import __version__\nfrom raftkv.kv import machine\nimport raftkv.storage.wal"),
        ("client.aio", "import asyncio, grpc.aio\nfrom google.rpc import status_pb2\nfrom raftkv.v1 import kv_pb2"),
        ("client.aio", "try:\n    import uvloop\nexcept ImportError:\n    uvloop = None"),
        ("cli.serve", "from raftkv.server import node\nfrom raftkv.client import Client\nimport typer"),
    ],
)  # fmt: skip
def test_what_a_layer_may_do_is_not_reported(module: str, source: str) -> None:
    assert violations(source, module) == []


def test_relative_imports_in_a_package_start_from_itself() -> None:
    assert violations("from .core import Raft", "raft", is_package=True) == []
    assert violations("from ..kv import store", "raft", is_package=True) == ["raftkv.raft:1: imports raftkv.kv.store"]
