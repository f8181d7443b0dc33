"""docs/invariants.md says where each property is checked. It must be true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "invariants.md").read_text()


def functions_under(folder: str) -> set[str]:
    """Names of all functions and, as "Class.name", of methods."""
    names: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                names |= {f"{node.name}.{n.name}" for n in node.body if isinstance(n, ast.FunctionDef)}
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                names.add(node.name)
    return names


def test_every_test_that_the_document_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT))
    assert len(named) > 40
    assert named - functions_under("tests") == set()


def test_every_known_bug_of_the_table_has_a_row() -> None:
    rows = {int(number) for number in re.findall(r"^\| (\d+) \|", DOCUMENT, re.MULTILINE)}
    assert rows == set(range(1, 49))


def test_every_check_that_the_document_names_exists() -> None:
    rows = re.findall(r"^\| [NLP]\d \|.*\| `([\w.]+)` \|", DOCUMENT, re.MULTILINE)
    assert len(rows) == 12
    assert set(rows) - functions_under("raftkv/raft") == set()


def test_the_numbers_in_the_code_are_those_of_the_document() -> None:
    documented = set(re.findall(r"^\| ([NLPC]\d+) \|", DOCUMENT, re.MULTILINE))
    checks = (ROOT / "raftkv/raft/checks.py").read_text() + (ROOT / "raftkv/raft/log.py").read_text()
    checked = set(re.findall(r"\"([NL]\d): ", checks))
    oracle = set(re.findall(r"\b(C\d+): ", (ROOT / "tests/raft/oracle.py").read_text()))
    oracle |= set(re.findall(r"^    (C\d+) ", (ROOT / "tests/sim/l1/oracle.py").read_text(), re.MULTILINE))
    assert {n for n in documented if n[0] == "N"} == {n for n in checked if n[0] == "N"}
    assert {n for n in documented if n[0] == "C"} == oracle
