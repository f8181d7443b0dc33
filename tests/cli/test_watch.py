"""`raftkv watch`."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli
from tests.cli.processes import interruptible, started

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("cluster")]


@pytest.fixture
def first(cli: Cli) -> int:
    """The revision of the first of six changes."""
    revision = int(cli("put", "watch/a", "1", "-o", "json").json["revision"])
    cli("put", "watch/b", "2")
    cli("put", "watch/a", "3 \n")
    cli("del", "watch/b")
    cli("put", "elsewhere", "4")
    cli("put", "watch/c", "5")
    return revision


def test_what_happened(cli: Cli, first: int) -> None:
    def seen(*flags: str) -> list[str]:
        return cli("watch", *flags, "--revision", str(first)).text.splitlines()

    all_of_it = [
        f"{first} put watch/a 1",
        f"{first + 1} put watch/b 2",
        f"{first + 2} put watch/a 3 \\n",
        f"{first + 3} delete watch/b",
        f"{first + 5} put watch/c 5",
    ]
    assert seen("--prefix", "watch/", "--count", "5") == all_of_it
    assert seen("--prefix", "watch/", "--count", "2") == all_of_it[:2]
    assert seen("--prefix", "watch/", "--deletes", "--count", "1") == [all_of_it[3]]
    assert seen("--prefix", "watch/", "--puts", "--count", "4") == [*all_of_it[:3], all_of_it[4]]
    assert seen("--prefix", "watch/", "--puts", "--deletes", "--count", "5") == all_of_it
    assert seen("watch/b", "--count", "2") == [all_of_it[1], all_of_it[3]]
    assert seen("--from", "watch/b", "--to", "watch/d", "--count", "3") == [all_of_it[1], *all_of_it[3:]]
    assert seen("--from", "watch/b", "--count", "3") == [all_of_it[1], *all_of_it[3:]]
    assert seen("watch/a", "--previous", "--count", "2")[1] == f"{first + 2} put watch/a 3 \\n (before: 1)"
    assert seen("--hex", b"watch/c".hex(), "--count", "1") == [f"{first + 5} put {b'watch/c'.hex()} {b'5'.hex()}"]


def test_json(cli: Cli, first: int) -> None:
    shown = cli("watch", "watch/b", "--revision", str(first), "--count", "2", "--previous", "-o", "json").text
    put, delete = (json.loads(line) for line in shown.splitlines())
    previous = delete.pop("previous")
    assert delete == {"kind": "delete", "revision": first + 3, "key": "watch/b"}
    assert (previous["value"], previous["mod_revision"]) == ("2", first + 1)
    del put["previous"]
    assert {name: put[name] for name in ("kind", "revision", "key", "value", "lease")} == {
        "kind": "put", "revision": first + 1, "key": "watch/b", "value": "2", "lease": None,
    }  # fmt: skip


def test_each_event_comes_at_once_and_ctrl_c_ends_it(
    cli: Cli, cluster: RunningCluster, first: int, tmp_path: Path
) -> None:
    arguments = ("watch", "watch/live", "--revision", str(first), "--endpoints", cluster.url)
    with interruptible(), started(tmp_path, *arguments) as process:
        assert process.stdout is not None
        for number in range(3):
            revision = cli("put", "watch/live", str(number), "-o", "json").json["revision"]
            assert process.stdout.readline() == f"{revision} put watch/live {number}\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_command_for_each_event(cli: Cli, cluster: RunningCluster, first: int, tmp_path: Path) -> None:
    found = tmp_path / "found"
    line = "$RAFTKV_WATCH_KIND $RAFTKV_WATCH_REVISION $RAFTKV_WATCH_KEY=$RAFTKV_WATCH_VALUE"
    script = f'echo "{line}" >> {found}; cat >> {found}'
    shown = cli("watch", "watch/b", "--revision", str(first), "--count", "2", "--", "sh", "-c", script)
    assert (shown.code, shown.text, shown.err) == (0, "", "")
    put, put_json, delete, delete_json = found.read_text().splitlines()
    assert put == f"put {first + 1} watch/b=2"
    assert json.loads(put_json)["value"] == "2"
    assert delete == f"delete {first + 3} watch/b="
    assert json.loads(delete_json) == {"kind": "delete", "revision": first + 3, "key": "watch/b"}


def test_a_value_that_fits_in_no_environment(cli: Cli, first: int, tmp_path: Path) -> None:
    found = tmp_path / "found"
    for value in (b"x" * 200_000, b"a\0b"):
        cli("put", "watch/large", "-", stdin=value)
    script = f'printf "%s;" "${{RAFTKV_WATCH_VALUE-none}}" >> {found}; wc -c >> {found}'
    assert cli("watch", "watch/large", "--revision", str(first), "--count", "2", "--", "sh", "-c", script).code == 0
    (large, large_size), (zero, zero_size) = (line.split(";") for line in found.read_text().splitlines())
    assert (large, zero) == ("none", "none")
    assert int(large_size) > 200_000
    assert int(zero_size) < 1000


def test_a_command_that_fails_ends_it(cli: Cli, first: int) -> None:
    failed = cli("watch", "watch/b", "--revision", str(first), "--", "sh", "-c", "exit 9")
    assert failed.code == 9
    assert failed.error == f"sh ended with code 9; to go on: --revision {first + 1}"
    missing = cli("watch", "watch/b", "--revision", str(first), "--", "no-such-command")
    assert (missing.code, missing.error) == (127, "no-such-command: command not found")


def test_a_command_goes_with_the_watch(cluster: RunningCluster, first: int, tmp_path: Path) -> None:
    arguments = ("watch", "watch/b", "--revision", str(first), "--endpoints", cluster.url)
    with interruptible(), started(tmp_path, *arguments, "--", "sh", "-c", "echo begun; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        # Its end is the end of the last who has our stdout.
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (143, "", "")


def test_history_that_is_gone(cli: Cli, first: int) -> None:
    assert cli("compact", str(first + 2)).text == f"history begins at revision {first + 2}\n"
    assert cli("compact", str(first + 3), "-o", "json").json == {"compacted_revision": first + 3}
    # Any node may be asked to watch, and says what it has applied itself.
    deadline = time.monotonic() + 60
    while any(
        one["compacted_revision"] != first + 3 for one in cli("endpoint", "status", "-o", "json").json["members"]
    ):
        assert time.monotonic() < deadline
    gone = cli("watch", "watch/a", "--revision", str(first))
    assert gone.code == 1
    assert f"changes from revision {first} on are compacted away" in gone.error
    assert f"--revision {first + 3}" in gone.error
    assert cli("watch", "watch/b", "--revision", str(first + 3), "--count", "1").code == 0
    old = cli("get", "watch/a", "--revision", str(first))
    assert old.code == 1
    assert "compacted" in old.error
    again = cli("compact", str(first))
    assert again.code == 1
    future = cli("compact", "999999999")
    assert future.code == 1
    assert "future" in future.error
