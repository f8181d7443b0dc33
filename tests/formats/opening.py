"""Opens what earlier releases wrote, as a node does at its start."""

from __future__ import annotations

import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from raftkv.kv.machine import AppliedEntry
from raftkv.raft import EntryKind
from raftkv.server.cluster import find_cluster
from raftkv.server.disk import Disk, open_disk
from raftkv.server.settings import load_settings

HERE = Path(__file__).parent


def extracted(name: str, target: Path) -> tuple[Path, Any]:
    """Unpack a data directory; return it, and what it is to hold."""
    with tarfile.open(HERE / f"{name}.tar.xz") as archive:
        archive.extractall(target, filter="tar")
    data_dir = target / "data"
    expected = json.loads((data_dir / "expected.json").read_text())
    (data_dir / "expected.json").unlink()
    return data_dir, expected


@asynccontextmanager
async def opened(data_dir: Path, node: int = 1) -> AsyncIterator[Disk]:
    """Open a data directory and apply what its log has."""
    settings = load_settings({"id": node, "data_dir": data_dir, "wal_segment_bytes": 65536, "store_map_size": 16 << 20})
    async with open_disk(settings, await find_cluster(settings)) as disk:
        machine = disk.machine
        disk.machine.apply(
            [
                AppliedEntry(entry.index, entry.term, entry.data if entry.kind is EntryKind.COMMANDS else None)
                for entry in disk.entries
                if entry.index > machine.applied_index
            ]
        )
        yield disk
