"""Data written by an earlier format is read, all of it (docs/storage-format.md has versions and the upgrade rule)."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from raftkv.errors import StorageError
from raftkv.kv.epoch import EPOCH_BITS
from raftkv.kv.ranges import RangeQuery
from raftkv.kv.records import Meta
from raftkv.raft import NodeId
from raftkv.server.disk import Disk, inspect_state
from raftkv.server.restore import EPOCH_BEGINS_S, Plan, restore
from raftkv.storage.json_files import CHECKSUM, seal, unseal
from raftkv.storage.store_sums import SUMS_NAME
from tests.formats.opening import HERE, extracted, opened

EARLY = "data_dir_1_early"
"""Of a build of format 1 before small files and the store had checksums (c5c05d8)."""
MEMBERS = {NodeId(node): f"127.0.0.1:71{node:02}" for node in (1, 2, 3)}
MADE_AT_S = 1_795_000_000
"""When backup_1 was made."""


def contents(disk: Disk, expected: Any) -> Meta:
    """Check that the state is the expected one; return where it stands."""
    with disk.machine.view() as view:
        pairs = view.range(RangeQuery(b"\0", b"\0")).pairs
        assert [
            [pair.key.hex(), pair.value.hex(), pair.create_revision, pair.mod_revision, pair.version, pair.lease]
            for pair in pairs
        ] == expected["pairs"]
        compacted, past = expected["past"]
        page = view.range(RangeQuery(b"history/", b"history0", revision=compacted)).pairs
        assert {pair.key.hex(): pair.value.hex() for pair in page} == past
        assert list(view.leases(0, 100)[0]) == expected["leases"]
        leased = view.lease(77, with_keys=True)
        assert leased is not None
        assert leased.keys == (b"leased",)
        line = view.line(b"lock", 10)
        assert [one.token for one in line.contenders] == expected["lock_tokens"] == [line.newest_token]
        assert (view.meta.revision, view.meta.compacted_revision) == (
            expected["revision"],
            expected["compacted_revision"],
        )
        assert disk.machine.session_count == expected["sessions"] > 0
        return view.meta


@pytest.mark.asyncio
@pytest.mark.parametrize("stop", ["clean", "power loss", "store lost"])
@pytest.mark.parametrize("name", ["data_dir_1", EARLY])
async def test_a_data_directory_of_format_1_is_opened_whole(tmp_path: Path, name: str, stop: str) -> None:
    data_dir, expected = extracted(name, tmp_path)
    boot = unseal((data_dir / "boot.json").read_bytes())
    assert boot["clean_tail"]
    if stop != "clean":
        boot["clean_tail"] = None  # and the machine has booted since: the store is rebuilt from checkpoint and log
        (data_dir / "boot.json").write_text(json.dumps(boot))
    if stop == "store lost":
        for file in (data_dir / "store").iterdir():
            file.unlink()
        (data_dir / "store").rmdir()
    async with opened(data_dir) as disk:
        assert disk.checkpoint is not None
        contents(disk, expected)
        with disk.store.read() as reader:
            state = inspect_state(reader)
        assert (state.index, state.state_hash.hex()) == (expected["applied_index"], expected["state_hash"])
    # As this raftkv leaves it, it opens it again.
    assert (data_dir / SUMS_NAME).exists()
    async with opened(data_dir) as disk:
        contents(disk, expected)


def test_the_early_directory_is_one_without_checksums(tmp_path: Path) -> None:
    data_dir, _ = extracted(EARLY, tmp_path)
    for name in ("identity.json", "boot.json", "peers.json", "kind.json"):
        assert CHECKSUM not in json.loads((data_dir / name).read_text())
    assert "store_sums" not in json.loads((data_dir / "boot.json").read_text())
    assert not (data_dir / SUMS_NAME).exists()


@pytest.mark.asyncio
async def test_a_backup_of_version_1_is_restored_whole(tmp_path: Path) -> None:
    _, expected = extracted("data_dir_1", tmp_path)
    backup = tmp_path / "backup"
    backup.write_bytes(lzma.decompress((HERE / "backup_1.xz").read_bytes()))
    directories = {node: tmp_path / str(node) for node in MEMBERS}
    made = restore(
        backup,
        Plan(MEMBERS, directories, "raftkv", None),
        progress=lambda phase, done, total: None,
        now=lambda: MADE_AT_S + 5,
    )
    assert made.backup.state_hash.hex() == expected["state_hash"]
    for node in MEMBERS:
        async with opened(directories[node], node) as disk:
            meta = contents(disk, expected)
            assert meta.last_token == (MADE_AT_S + 5 - EPOCH_BEGINS_S) << EPOCH_BITS


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["identity.json", "boot.json"])
async def test_a_data_directory_of_a_later_release_is_refused_untouched_with_the_way_out(
    tmp_path: Path, name: str
) -> None:
    """A release that writes something new says so there first, so an older one need not know what (ADR 11)."""
    data_dir, _ = extracted("data_dir_1", tmp_path)
    stored = unseal((data_dir / name).read_bytes())
    (data_dir / name).write_bytes(seal(stored | {"format_version": 2, "of_a_later_release": True}))
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    with pytest.raises(StorageError) as refused:
        async with opened(data_dir):
            pass
    assert f"{name} has format version 2; this raftkv reads version 1" in refused.value.message
    assert "start the raftkv version that wrote it, or a newer one" in refused.value.message
    assert "raftkv repair" not in refused.value.message, "nothing is damaged"
    after = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file() and path.name != "LOCK"}
    assert after == {path: content for path, content in before.items() if path.name != "LOCK"}
