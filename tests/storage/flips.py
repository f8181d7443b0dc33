"""Byte-flip fuzz: one fault anywhere in a data directory is found and named, or does not matter.

    python -m tests.storage.flips --flips 10000          (make fuzz FLIPS=10000)
    python -m tests.storage.flips --first 4711 --flips 1  one of them again

A small directory is made by the code that runs in production: several segments of log, a base, two checkpoints, a store
after a clean stop, and all small files. For each number a fault is drawn: a byte of any file gets another value, or two
sectors of a file change places, as a misdirected write leaves them. Then the node's own start reads the directory, and
what is committed is applied. Either a RaftKVError names the file, or everything is as it was: identity, kind, peers,
term and vote, all entries, and every row of the state.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import structlog

from raftkv.errors import RaftKVError
from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import Batch, Command, Group, Put, RegisterSession
from raftkv.kv.machine import AppliedEntry, StateMachine
from raftkv.raft import Configuration, Entry, EntryKind, HardState, Index, NodeId, Term
from raftkv.raft.membership import encode_configuration
from raftkv.server.cluster import find_cluster
from raftkv.server.disk import Disk, inspect_state, open_disk
from raftkv.server.peer_book import PeerBook
from raftkv.server.settings import ServerSettings, load_settings
from raftkv.storage.corrupt_mark import CorruptMark, read_mark, write_mark
from raftkv.storage.data_dir import IDENTITY_NAME, read_identity
from raftkv.storage.json_files import seal, unseal

SECTOR: Final = 512
SEGMENT_BYTES: Final = 1 << 16
TERM: Final = Term(3)
VOTE: Final = NodeId(2)
MEMBER: Final = {1: "127.0.0.1:7101", 2: "127.0.0.1:7102", 3: "127.0.0.1:7103"}
ENTRIES: Final = 120
CHECKPOINTS: Final = (60, 100)
SKIPPED: Final = frozenset({"LOCK", "lock.mdb"})
"""Nothing in them outlives the process that holds them."""


@dataclass(frozen=True, slots=True)
class Found:
    """Everything that a start reads off a directory."""

    identity: Any
    mark: Any
    peers: Any
    kind: Any
    promised_ms: int
    hard_state: HardState
    entries: tuple[Entry, ...]
    configuration: Configuration
    applied: tuple[int, int]
    state_hash: bytes


@cache
def settings_of(path: Path) -> ServerSettings:
    """Return what the node of the directory `path` is started with."""
    return load_settings(
        {"id": 1, "data_dir": path, "member": MEMBER, "wal_segment_bytes": SEGMENT_BYTES, "store_map_size": 1 << 22}
    )


def _entry(index: int) -> Entry:
    if index == 1:
        return Entry(Term(1), Index(1), EntryKind.NOOP, b"")
    command: Command = RegisterSession(0) if index % 40 == 0 else Put(index, b"key-%03d" % (index % 50), _value(index))
    group = Group(1 if index > 45 else 0, index - 2, (command,))
    return Entry(
        TERM if index > 70 else Term(2), Index(index), EntryKind.COMMANDS, encode_batch(Batch(index, (group,)))
    )


def _value(index: int) -> bytes:
    return Random(index).randbytes(1500)


async def make(path: Path) -> None:
    """Make the directory."""
    settings = settings_of(path)
    configuration = encode_configuration(Configuration(frozenset(map(NodeId, MEMBER))))
    async with open_disk(settings, await find_cluster(settings)) as disk:
        log_store = disk.log_store
        for first in range(1, ENTRIES, 4):
            entries = [_entry(index) for index in range(first, first + 4)]
            # The newest one is not known to be committed.
            state = HardState(term=max(entry.term for entry in entries), vote=VOTE, commit=Index(first + 2))
            await log_store.append(state, entries)
            apply(disk.machine, entries[:3])
            at = first + 3
            if at in CHECKPOINTS:
                apply(disk.machine, entries[3:])
                await disk.create(lambda index, term: configuration)
                await log_store.compact(Index(CHECKPOINTS[0] + 1 if at == CHECKPOINTS[1] else 30))
            elif at < ENTRIES:
                apply(disk.machine, entries[3:])
    # As long as in every other run: else the faults would be others.
    identity = path / IDENTITY_NAME
    identity.write_bytes(seal(unseal(identity.read_bytes()) | {"created_at": 1700000000.25}))
    book = PeerBook.open(path, draw=lambda bits: (1 << bits) - 3)
    for node in (2, 3):
        book.admits(NodeId(node), 1000 + node)
    write_mark(path, CorruptMark(50, b"a" * 16, b"b" * 16, (2, 3), 12.5))


def apply(machine: StateMachine, entries: Sequence[Entry]) -> None:
    """Apply entries as the driver does."""
    for entry in entries:
        payload = entry.data if entry.kind is EntryKind.COMMANDS else None
        machine.apply([AppliedEntry(entry.index, entry.term, payload)])


async def recover(path: Path) -> Found:
    """Start from the directory, as a node does, apply what is committed, and end cleanly. Raises RaftKVError."""
    settings = settings_of(path)
    cluster = await find_cluster(settings)
    async with open_disk(settings, cluster) as disk:
        mark = read_mark(path)
        book = PeerBook.open(path)
        log = disk.recovered
        committed = [
            entry for entry in log.entries if disk.machine.applied_index < entry.index <= log.hard_state.commit
        ]
        apply(disk.machine, committed)
        with disk.store.read() as reader:
            state = inspect_state(reader)
        return Found(
            identity=(cluster, read_identity(path)),
            mark=mark,
            peers=(book.incarnation, dict(book._met)),
            kind=disk.kind._known,
            promised_ms=disk.promised_ms,
            hard_state=log.hard_state,
            entries=log.entries,
            configuration=_configuration(disk),
            applied=(state.index, state.term),
            state_hash=state.state_hash,
        )


def _configuration(disk: Disk) -> Configuration:
    snapshot = disk.snapshot
    return snapshot.configuration if snapshot is not None else Configuration(frozenset())


def files_of(path: Path) -> list[Path]:
    """Return the files that a fault may hit, in an order that does not change."""
    return sorted(one for one in path.rglob("*") if one.is_file() and one.name not in SKIPPED and one.stat().st_size)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a file: a byte changes, or two sectors change places."""

    file: str
    """Relative to the directory."""
    offset: int
    other: int
    """Of the second sector; -1: a byte changes."""
    mask: int

    def __str__(self) -> str:
        if self.other >= 0:
            return f"{self.file}: sectors at {self.offset} and {self.other} swapped"
        return f"{self.file}: byte {self.offset} ^ {self.mask:#04x}"

    def strike(self, path: Path) -> None:
        file = path / self.file
        data = bytearray(file.read_bytes())
        if self.other < 0:
            data[self.offset] ^= self.mask
        else:
            one, other = slice(self.offset, self.offset + SECTOR), slice(self.other, self.other + SECTOR)
            data[one], data[other] = data[other], data[one]
        file.write_bytes(data)


def draw(path: Path, number: int) -> Fault:
    """Draw the fault of a number: the same for the same directory."""
    random = Random(f"flip-{number}")
    file = random.choice(files_of(path))
    size, name = file.stat().st_size, str(file.relative_to(path))
    if size >= 2 * SECTOR and random.random() < 0.25:
        one, other = random.sample(range(size // SECTOR), 2)
        return Fault(name, one * SECTOR, other * SECTOR, 0)
    return Fault(name, random.randrange(size), -1, random.choice([1 << random.randrange(8), random.randrange(1, 256)]))


class Wrong(AssertionError):
    """A fault was neither refused by name nor harmless."""


async def judge(pristine: Path, expected: Found, fault: Fault, path: Path) -> str:
    """Do `fault` to a copy of the directory at `path`, and start from it. Return how that ended. Raises Wrong."""
    shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(pristine, path)
    fault.strike(path)
    try:
        found = await recover(path)
    except RaftKVError as error:
        if Path(fault.file).name not in error.message:
            raise Wrong(f"{fault}: refused without naming the file: {error.message}") from error
        if "Traceback" in error.message or not error.message:
            raise Wrong(f"{fault}: refused with {error.message!r}") from error
        return "refused"
    except Exception as error:
        raise Wrong(f"{fault}: {type(error).__name__}: {error}") from error
    if found != expected:
        different = [name for name in Found.__slots__ if getattr(found, name) != getattr(expected, name)]
        raise Wrong(f"{fault}: recovered another {', '.join(different)}")
    return "harmless"


@contextmanager
def workshop() -> Iterator[Path]:
    """A directory for what is made here, in memory if there is such a file system: it is written thousands of times."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as directory:
        yield Path(directory)


async def run(numbers: Sequence[int], *, stop_at_first: bool = True) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Try the faults of `numbers`. Return how often each kind of file was struck with which end, and what was wrong."""
    structlog.configure(processors=[_drop])
    try:
        with workshop() as directory:
            pristine, path = directory / "pristine", directory / "node"
            # At the place where it will be read: the identity is of the settings, and these name no path.
            await make(pristine)
            shutil.copytree(pristine, path)
            expected = await recover(path)
            ends: Counter[tuple[str, str]] = Counter()
            wrong: list[str] = []
            for number in numbers:
                fault = draw(pristine, number)
                try:
                    ends[kind_of(fault.file), await judge(pristine, expected, fault, path)] += 1
                except Wrong as error:
                    wrong.append(f"{number}: {error}")
                    if stop_at_first:
                        break
            return ends, wrong
    finally:
        structlog.reset_defaults()


def kind_of(file: str) -> str:
    """Return what a file is, without its number."""
    path = Path(file)
    return path.name if path.suffix in (".json", ".sums", ".mdb", "") else f"*{path.suffix}"


def _drop(logger: object, name: str, event: Any) -> Any:
    raise structlog.DropEvent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    numbers = range(arguments.first, arguments.first + arguments.flips)
    ends, wrong = asyncio.run(run(numbers, stop_at_first=False))
    for (kind, end), count in sorted(ends.items()):
        sys.stdout.write(f"{kind:16} {end:10} {count:6}\n")
    for one in wrong:
        sys.stderr.write(f"WRONG {one}\n")
    sys.stdout.write(f"{arguments.flips} faults, {len(wrong)} wrong, {time.monotonic() - began:.0f} s\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
