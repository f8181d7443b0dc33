"""Golden scripts: what a cluster says and becomes, step by step, in tests/raft/golden (the language: script.py).

A change of behaviour shows up as a change of these files: `pytest tests/raft/test_golden.py --rewrite-golden`, and
review the difference.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raft.script import run_script

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.txt"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    expected = path.read_text()
    actual = run_script(expected)
    if request.config.getoption("--rewrite-golden"):
        path.write_text(actual)
        return
    assert actual == expected, f"{path.name} has changed; if that is right, run pytest with --rewrite-golden"


def test_there_are_scripts_and_they_say_something() -> None:
    assert len(GOLDEN) >= 10
    for path in GOLDEN:
        text = path.read_text()
        assert text.startswith("# "), f"{path.name} does not say what it is about"
        assert text.count("\n") > 3 * text.count("\n> "), f"{path.name} shows nothing"
