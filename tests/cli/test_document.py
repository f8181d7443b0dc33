"""docs/cli.md shows commands that are there, and that work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from raftkv.cli.app import app
from raftkv.cli.exits import INTERRUPTED, Exit
from tests.cli.cluster_process import RunningCluster

DOCUMENT = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
SHOWN = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)


def rows(heading: str) -> list[list[str]]:
    _, _, rest = DOCUMENT.partition(f"| {heading} |")
    table = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table]


def test_every_command_has_a_row() -> None:
    told = set()
    for cell, _ in rows("command"):
        group = ""
        for name in re.findall(r"`([^`]+)`", cell):
            first, _, second = name.partition(" ")
            group = first if second else group
            told.add(f"{group} {second or first}".strip())
    known = set()
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        known |= {f"{name} {one}" for one in getattr(command, "commands", {})} or {name}
    assert told == known


def test_every_exit_code_has_a_row() -> None:
    told = {int(code) for cell, _ in rows("exit code") for code in cell.split(",")}
    assert told == {*Exit, 126, 127, INTERRUPTED, 143}


@pytest.mark.jepsen
@pytest.mark.processes
def test_what_is_shown_works(cluster: RunningCluster, tmp_path: Path) -> None:
    assert len(SHOWN) >= 6
    bash = shutil.which("bash")
    assert bash is not None
    script = f'set -eo pipefail\nraftkv() {{ "{sys.executable}" -m raftkv.cli "$@"; }}\n' + "\n".join(SHOWN)
    environment = {**os.environ, "RAFTKV_ENDPOINTS": cluster.url, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [bash, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    # Only where it is shown that something is refused, that somebody was elected, and what became of backups.
    said = [line for line in done.stderr.splitlines() if ".backup" not in line and "restored revision" not in line]
    assert [line.partition(":")[0] for line in said] == ["raftkv"] * 3, done.stderr
    out = done.stdout.splitlines()
    for line in ("put users/2", "leading", "workers/7", "revoked, with 1 key"):
        assert line in out
