"""The pytest plugin, as somebody uses it who has nothing but raftkv installed and a test file."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parent.parent.parent

USERS_TESTS = """
import pytest

@pytest.mark.asyncio
async def test_asynchronously(raftkv_client):
    written = await raftkv_client.put("k", "v")
    found = await raftkv_client.get("k")
    assert (found.value, found.mod_revision) == (b"v", written.revision)

def test_synchronously(raftkv_sync_client, raftkv_cluster):
    assert raftkv_sync_client.get("k").value == b"v", "the cluster is not shared"
    assert len(raftkv_cluster.endpoints) == 3

def test_a_failover(raftkv_cluster, raftkv_sync_client):
    raftkv_sync_client.put("before", "1", timeout=60.0)
    dead = raftkv_cluster.kill_leader()
    raftkv_sync_client.put("after", "2", timeout=60.0)
    raftkv_cluster.restore()
    assert raftkv_sync_client.get("before", timeout=60.0).value == b"1"
    assert dead in (1, 2, 3)
    print("PIDS", *[node.pid for node in raftkv_cluster._cluster.nodes])
"""

WITHOUT_RAFTKV = """
import sys

def test_nothing_else_is_imported():
    assert "raftkv.testing.plugin" in sys.modules
    assert not {"raftkv.client", "raftkv.server", "raftkv.testing.cluster", "grpc"} & set(sys.modules)
"""


def users_run(directory: Path, source: str) -> str:
    """Run pytest on a test file in its own directory and process; it must pass. Return what it printed."""
    (directory / "test_mine.py").write_text(source)
    (directory / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\nasyncio_default_fixture_loop_scope = function\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "test_mine.py"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_a_users_tests_pass_and_leave_nothing_running(tmp_path: Path) -> None:
    printed = users_run(tmp_path, USERS_TESTS)
    assert "3 passed" in printed
    pids = next(line for line in printed.splitlines() if "PIDS" in line).split("PIDS")[1].split()
    assert len(pids) == 3
    for pid in pids:
        assert not Path(f"/proc/{pid}/cmdline").exists() or b"raftkv" not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_those_who_do_not_ask_import_nothing(tmp_path: Path) -> None:
    assert "1 passed" in users_run(tmp_path, WITHOUT_RAFTKV)


def test_pytest_finds_the_plugin_by_itself() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = {entry.name: entry.value for entry in entry_points(group="pytest11")}
    assert declared == {"raftkv": "raftkv.testing.plugin"}
    assert declared.items() <= installed.items(), "reinstall: the installed metadata is of another version"
