"""raftkv snapshot: what it makes, what it shows, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster
from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli
from tests.cli.processes import interruptible, started

pytestmark = pytest.mark.processes

MEMBER = ("--member", "1=127.0.0.1:7101,2=127.0.0.1:7102", "--member", "3=127.0.0.1:7103")


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def test_save_verify_inspect_restore(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    for value in ("1", "2", "3"):
        assert cli("put", "snapshot/k", value).code == 0
    shown = cli("get", "snapshot/k", "-o", "json").json
    file = str(tmp_path / "backup")
    saved = cli("snapshot", "save", file, "-o", "json")
    assert saved.code == 0, saved.err
    assert saved.json["revision"] >= shown["mod_revision"]
    assert saved.json["size_bytes"] == Path(file).stat().st_size
    assert names(tmp_path) == ["backup"]

    verified = cli("snapshot", "verify", file, "-o", "json")
    assert verified.code == 0, verified.err
    for name in ("revision", "applied_index", "rows", "size_bytes", "state_hash"):
        assert verified.json[name] == saved.json[name]
    text = cli("snapshot", "verify", file)
    assert (text.code, text.out) == (0, b"")
    assert f"{file} is whole: revision {saved.json['revision']}" in text.err

    inspected = cli("snapshot", "inspect", file, "-o", "json").json
    assert inspected["fencing_epoch"] == 0
    assert inspected["as_of"] is None
    assert inspected["tables"]["versions"] >= 3
    assert inspected["tables"]["sessions"] >= 1
    assert "fencing epoch" in cli("snapshot", "inspect", file).text

    restored = cli("snapshot", "restore", file, "--data-dir", str(tmp_path / "new"), *MEMBER, "-o", "json")
    assert restored.code == 0, restored.err
    assert [one["data_dir"] for one in restored.json["members"]] == [str(tmp_path / "new" / one) for one in "123"]
    assert restored.json["cluster_id"] != inspected["cluster_id"]
    identity = json.loads((tmp_path / "new" / "2" / "identity.json").read_text())
    assert (identity["node_id"], identity["restored"]) == (2, True)

    refused = cli("snapshot", "restore", file, "--data-dir", str(tmp_path / "new"), *MEMBER)
    assert refused.code == 2
    assert "1 is not empty" in refused.error
    past = cli("snapshot", "save", file, "--revision", str(shown["mod_revision"] - 1), "--force", "-o", "json")
    assert past.code == 0, past.err
    assert past.json["revision"] == past.json["as_of"] == shown["mod_revision"] - 1
    said = cli("snapshot", "save", file, "--revision", str(shown["mod_revision"]), "--force").err
    assert f"saved the state as of revision {shown['mod_revision']} (entry " in said
    assert cli("snapshot", "inspect", file, "-o", "json").json["tables"]["sessions"] == 0


def test_save_refuses(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    future = cli("snapshot", "save", str(file), "--revision", "999999999")
    assert future.code == 1
    assert "revision 999999999 is in the future" in future.error
    assert cli("put", "snapshot/compacted", "x").code == 0
    revision = cli("get", "snapshot/compacted", "-o", "json").json["mod_revision"]
    assert cli("compact", str(revision)).code == 0
    compacted = cli("snapshot", "save", str(file), "--revision", str(revision - 1))
    assert compacted.code == 1
    assert f"is compacted: history begins at {revision}. Backups can be made as of {revision} or" in compacted.error
    unreachable = cli("snapshot", "save", str(file), "--endpoints", "127.0.0.1:1", "--timeout", "2")
    assert unreachable.code == 5
    assert names(tmp_path) == []
    file.write_bytes(b"precious")
    taken = cli("snapshot", "save", str(file))
    assert taken.code == 2
    assert "give --force to replace it" in taken.error
    nowhere = cli("snapshot", "save", str(tmp_path / "missing" / "b"))
    assert nowhere.code == 2
    assert file.read_bytes() == b"precious"
    assert names(tmp_path) == ["backup"]


@pytest.mark.parametrize("name", ["", "-"])
def test_save_takes_no_file_that_is_none(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    refused = cli("snapshot", "save", name, "--endpoints", "127.0.0.1:1")
    assert refused.code == 2
    assert f"FILE is {name or 'empty'}: a backup goes into a file" in refused.error
    assert names(tmp_path) == []


def test_files_that_are_none(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "backup"
    file.write_bytes(b"PK\3\4 something else")
    for command in (("verify",), ("inspect",), ("restore", "--data-dir", str(tmp_path / "new"), *MEMBER)):
        refused = cli("snapshot", command[0], str(file), *command[1:])
        assert refused.code == 1
        assert refused.error == (
            f"{file}: this is no backup of raftkv: it does not begin as one."
            + (" Nothing was restored." if command[0] == "restore" else "")
            + " The way out: take another backup, and check it with `raftkv snapshot verify`"
        )
        missing = cli("snapshot", command[0], str(tmp_path / "missing"), *command[1:], "-o", "json")
        assert missing.code == 2
        assert "cannot be read: No such file" in missing.json_error["message"]
    assert names(tmp_path) == ["backup"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--member", "1=nonsense"), "is not HOST:PORT"),
        (("--member", "1=h:1,2=h:1"), "two members have the same address"),
        (("--member", "1=h:1,1=h:2"), "named twice"),
        (("--member", ","), "no member is named"),
        ((*MEMBER, "--id", "4", "--fencing-epoch", "1"), "--id 4 is not among the members"),
        ((*MEMBER, "--id", "1"), "give all the same --fencing-epoch"),
        ((*MEMBER, "--fencing-epoch", "0"), "greater than or equal to 1"),
    ],
)
def test_restore_refuses(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], problem: str) -> None:
    refused = cli("snapshot", "restore", "nothing", "--data-dir", str(tmp_path / "new"), *arguments)
    assert refused.code == 2
    assert problem in refused.error
    assert names(tmp_path) == []


def test_a_node_that_dies_and_a_ctrl_c_in_the_middle_leave_nothing(tmp_path: Path) -> None:
    asyncio.run(_broken_saves(tmp_path))


async def _broken_saves(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    async with LocalCluster(1) as cluster, AsyncClient(cluster.url, timeout=60.0) as client:
        await asyncio.gather(*(client.put(f"k{number}", b"v" * 1_000_000) for number in range(60)))
        node = cluster.nodes[0]
        for how in ("ctrl-c", "dies"):
            with (
                interruptible(),
                started(tmp_path, "snapshot", "save", str(target / "b"), "--endpoints", node.client_address) as save,
            ):
                part = target / "b.part"
                while not (part.exists() and part.stat().st_size > 2_000_000):
                    assert save.poll() is None, save.communicate()
                    await asyncio.sleep(0.001)
                save.send_signal(signal.SIGSTOP)
                if how == "ctrl-c":
                    save.send_signal(signal.SIGINT)
                else:
                    await node.kill()
                save.send_signal(signal.SIGCONT)
                _, err = await asyncio.to_thread(save.communicate)
            assert names(target) == []
            if how == "ctrl-c":
                assert save.returncode == 130
            else:
                assert save.returncode == 5
                assert "The backup was cut short, and nothing of it is kept: try again" in err
