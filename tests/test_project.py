"""What the project promises about itself: versions, pins, docstrings, and error codes that match the wire."""

from __future__ import annotations

import ast
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import raftkv
from raftkv import errors
from raftkv.errors import ERROR_TYPES, ErrorCode, RaftKVError
from raftkv.v1 import common_pb2

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for path in (ROOT / "raftkv").rglob("*.py") if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
)


def test_the_version_is_stated_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"], "the version has two sources"
    assert "version" in project["project"]["dynamic"]
    assert (ROOT / project["tool"]["hatch"]["version"]["path"]).samefile(raftkv.__file__)
    assert version("raftkv") == raftkv.__version__, "reinstall: the installed metadata is of another version"


def test_constraints_are_exact_pins_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert len(pins) > 30
    for pin in pins:
        name, _, pinned = pin.partition("==")
        exact = bool(name and pinned) and not set(pinned) & set("/@ ;,*")
        assert exact, f"{pin!r} is no exact pin"
    assert "://" not in "\n".join(lines)


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(one for extra in project["project"]["optional-dependencies"].values() for one in extra),
    ]
    names = {_distribution(one) for one in wanted} - {"raftkv"}
    pinned = {_distribution(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names <= pinned, f"not in constraints.txt: {sorted(names - pinned)}"


def _distribution(requirement: str) -> str:
    name = requirement
    for mark in "[<>=!~; ":
        name = name.split(mark)[0]
    return name.lower().replace("_", "-")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def test_error_codes_are_those_of_the_wire() -> None:
    wire = {name.removeprefix("ERROR_CODE_"): number for name, number in common_pb2.ErrorCode.items()}
    assert {code.name: code.value for code in ErrorCode} == wire


def test_every_error_code_stands_for_one_class() -> None:
    classes = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, RaftKVError)]
    own_codes = [cls.code for cls in classes if "code" in vars(cls) and cls is not RaftKVError]
    assert sorted(own_codes) == sorted(set(own_codes)), "two classes share a code"
    assert {cls.code: cls for cls in classes if "code" in vars(cls) and cls is not RaftKVError} == ERROR_TYPES
    assert set(ERROR_TYPES) == set(ErrorCode) - {ErrorCode.UNSPECIFIED}
