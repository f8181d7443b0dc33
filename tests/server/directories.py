"""Data directories of nodes that have run, for what examines and repairs them."""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from pathlib import Path

from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import Batch, Group, Put
from raftkv.kv.machine import AppliedEntry
from raftkv.raft import Configuration, Entry, EntryKind, HardState, Index, NodeId, Term
from raftkv.raft.membership import encode_configuration
from raftkv.server.cluster import founded_by
from raftkv.server.disk import Disk, open_disk
from raftkv.server.peer_book import PeerBook
from raftkv.server.settings import ServerSettings, load_settings

MEMBER = ["1=127.0.0.1:7101", "2=127.0.0.1:7102", "3=127.0.0.1:7103"]
CONFIGURATION = Configuration(
    voters=frozenset({NodeId(1), NodeId(2), NodeId(3)}),
    addresses=tuple((NodeId(node), f"127.0.0.1:{7100 + node}") for node in (1, 2, 3)),
)
LAST = 600


class Crash(Exception):
    """Ends a run without a clean shutdown."""


def settings(path: Path) -> ServerSettings:
    flags = {"id": 1, "data_dir": path, "member": MEMBER, "wal_segment_bytes": 1 << 16, "store_map_size": 1 << 26}
    return load_settings(flags)


def put(index: int) -> Entry:
    payload = encode_batch(Batch(index, (Group(0, 0, (Put(0, b"key %d" % index, b"value" * 100),)),)))
    return Entry(Term(1), Index(index), EntryKind.COMMANDS, payload)


def apply(disk: Disk, last: int) -> None:
    first = disk.machine.applied_index + 1
    disk.machine.apply([AppliedEntry(index, 1, put(index).data) for index in range(first, last + 1)])


async def made(
    path: Path, *, clean: bool = True, checkpoints: tuple[int, ...] = (250, 450), kept_from: int = 0
) -> Path:
    """Make a directory of several segments, with checkpoints at these entries, all entries applied."""
    node = settings(path)
    with suppress(Crash):
        async with open_disk(node, founded_by(node)) as disk:
            PeerBook.open(path)
            for first in range(1, LAST + 1, 5):
                entries = tuple(put(index) for index in range(first, first + 5))
                state = HardState(term=Term(1), vote=NodeId(2), commit=Index(first - 1))
                await disk.log_store.append(state, entries)
            for index in checkpoints:
                apply(disk, index)
                await disk.checkpoints.create(disk.store, lambda index, term: encode_configuration(CONFIGURATION))
            if kept_from:
                await disk.wal.compact(Index(kept_from))
            apply(disk, LAST)
            if not clean:
                raise Crash
    return path


def copied(source: Path, target: Path) -> Path:
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target)
    return target


def image(path: Path) -> dict[str, str]:
    """Return what every file in a directory holds."""
    return {
        str(one.relative_to(path)): hashlib.blake2b(one.read_bytes()).hexdigest()
        for one in sorted(path.rglob("*"))
        if one.is_file()
    }


def flip(path: Path, offset: int, mask: int = 0x10) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))
