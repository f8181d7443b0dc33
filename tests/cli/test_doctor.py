"""`raftkv doctor` and what `raftkv repair` does without a cluster: what they say, and their exit codes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest

from raftkv.raft import NodeId
from raftkv.server.doctor import examine, total_bytes
from raftkv.server.rehearsal import probe_here
from raftkv.storage.data_dir import Identity, write_identity
from raftkv.storage.files import OsFileSystem
from raftkv.storage.way_out import REPAIR, exact, without_command
from tests.cli.conftest import Cli
from tests.server.directories import copied, flip, image, made

NOBODY = ("--endpoints", "127.0.0.1:1", "--timeout", "0.5")
SEGMENT = "0000000000000002.wal"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return asyncio.run(made(tmp_path_factory.mktemp("doctor") / "node"))


@pytest.fixture
def node(whole: Path, tmp_path: Path) -> Path:
    return copied(whole, tmp_path / "node")


def test_a_healthy_directory(cli: Cli, node: Path) -> None:
    before = image(node)
    shown = cli("doctor", str(node))
    assert (shown.code, shown.err) == (0, "")
    text = shown.out.decode() if isinstance(shown.out, bytes) else shown.out
    assert "term 1, vote 2, log 1..600" in text
    assert text.splitlines()[-1] == "healthy"
    told = json.loads(cli("doctor", str(node), "-o", "json").out)
    assert told["healthy"] is True
    assert told["identity"]["node_id"] == 1
    assert told["next_start"]["applied"] == 600
    assert told["stopped_cleanly"] is True
    assert image(node) == before


def test_damage_is_exit_code_1_with_the_way_out(cli: Cli, node: Path) -> None:
    flip(node / "wal" / SEGMENT, 3000)
    shown = cli("doctor", str(node), "-o", "json")
    assert shown.code == 1
    told = json.loads(shown.out)
    assert told["verdict"] == "the node refuses to start"
    assert f"raftkv repair --data-dir {node} " in told["damage"][0]
    assert told["next_start"] is None


def test_files_that_no_node_makes_are_listed_wherever_they_are(cli: Cli, node: Path) -> None:
    for name in ("notes.txt", "wal/core.1", "checkpoints/copy.bak"):
        (node / name).write_text("x")
    told = cli("doctor", str(node), "-o", "json")
    assert told.code == 0
    assert told.json["other_files"] == ["notes.txt", "wal/core.1", "checkpoints/copy.bak"]


@pytest.mark.parametrize("name", ["wal", "checkpoints"])
def test_a_file_in_the_place_of_a_directory_is_damage(cli: Cli, node: Path, name: str) -> None:
    shutil.rmtree(node / name)
    (node / name).write_text("x")
    told = cli("doctor", str(node), "-o", "json")
    assert told.code == 1
    assert told.json["verdict"] == "the node refuses to start"
    (said,) = [one for one in told.json["damage"] if one.startswith(f"{node / name} is no directory: ")]
    assert f"raftkv repair --data-dir {node} " in said
    repair = cli("repair", "--data-dir", str(node), *NOBODY)
    assert repair.code in {0, 5}, repair.err
    assert f"DAMAGED: {node / name} is no directory" in repair.text


def test_the_examination_tells_how_much_it_has_read(node: Path) -> None:
    read: Counter[str] = Counter()
    asyncio.run(examine(node, progress=lambda what, size: read.update({what: size}), probe_with=probe_here))
    assert read["start"] > read["log"] > 0
    assert sum(read.values()) >= total_bytes(node)


def test_what_is_no_data_directory_is_exit_code_2(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "missing", tmp_path / "file", tmp_path):
        for command in (("doctor", str(path)), ("repair", "--data-dir", str(path), *NOBODY)):
            assert cli(*command).code == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file"]


def test_a_repair_on_the_spot_needs_no_cluster(cli: Cli, node: Path) -> None:
    flip(node / "wal" / SEGMENT, 3000)
    before = image(node)
    dry = cli("repair", "--data-dir", str(node), *NOBODY, "-o", "json")
    assert (dry.code, image(node)) == (0, before)
    told = json.loads(dry.out)
    assert (told["done"], told["dry_run"], len(told["remedies"])) == (False, True, 1)
    done = cli("repair", "--data-dir", str(node), *NOBODY, "--yes")
    assert done.code == 0, done.err
    assert cli("doctor", str(node)).code == 0
    assert (node.parent / "node.damaged-1" / "wal" / SEGMENT).exists()
    again = cli("repair", "--data-dir", str(node), *NOBODY, "--yes", "-o", "json")
    assert json.loads(again.out)["healthy"] is True


def test_what_only_the_peers_can_bring_back_needs_them(cli: Cli, node: Path) -> None:
    flip(node / "wal" / SEGMENT, 3000)
    shutil.rmtree(node / "checkpoints")
    before = image(node)
    refused = cli("repair", "--data-dir", str(node), *NOBODY, "--yes")
    assert refused.code == 5
    assert {name: digest for name, digest in image(node).items() if name != "LOCK"} == {
        name: digest for name, digest in before.items() if name != "LOCK"
    }


def test_a_repair_does_not_say_that_a_repair_is_the_way_out(cli: Cli, node: Path) -> None:
    flip(node / "wal" / SEGMENT, 3000)
    said = cli("repair", "--data-dir", str(node), *NOBODY).text
    assert "DAMAGED: " in said
    assert "raftkv repair" not in said
    assert "The way out:" not in said
    for known in ((), ("h:1",)):
        told = exact(f"x is damaged. The way out: put the file back, or `{REPAIR}`", node, known)
        assert without_command(told) == "x is damaged. The way out: put the file back"


def test_a_repair_that_is_done_says_again_how_to_start_the_node(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "node"
    path.mkdir()
    identity = Identity(
        cluster_id=7,
        node_id=NodeId(5),
        members={NodeId(5): "h:5"},
        created_at=1.0,
        founded=False,
        replaces=(NodeId(1), NodeId(4)),
    )
    write_identity(OsFileSystem(), path, identity)
    done = cli("repair", "--data-dir", str(path), *NOBODY)
    assert done.code == 0, done.err
    assert "start the node with the flags that it always had (--id 1); it runs as node 5, and with TLS" in done.text


def test_whose_directory_it_is_must_be_known(cli: Cli, node: Path) -> None:
    for arguments, said in (((), "--id"), (("--id", "0"), "--id")):
        (node / "identity.json").unlink(missing_ok=True)
        shown = cli("repair", "--data-dir", str(node), *NOBODY, *arguments)
        assert shown.code == 2
        assert said in shown.err
    wrong = copied(node, node.parent / "other")
    (wrong / "identity.json").write_text("{")
    assert cli("repair", "--data-dir", str(wrong), *NOBODY).code == 2
    assert cli("repair", "--data-dir", str(wrong), *NOBODY, "--id", "1").code == 5


def test_a_directory_of_another_node_is_not_repaired_under_this_name(cli: Cli, node: Path) -> None:
    flip(node / "wal" / "0000000000000006.wal", 3000)
    shutil.rmtree(node / "checkpoints")
    shown = cli("repair", "--data-dir", str(node), *NOBODY, "--id", "2")
    assert shown.code == 2
    assert "belongs to node 1, not to node 2" in shown.err
