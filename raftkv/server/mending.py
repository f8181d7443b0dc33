"""What of a damaged data directory can be put right on the spot, so that nothing is lost (docs/adr/0009-repair.md).

Each remedy is first tried on an overlay, and counts only if the start, rehearsed on top of it, succeeds. Whatever it
takes away is set aside, never deleted.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from raftkv.errors import StorageError
from raftkv.raft import EntryKind, Index, Term
from raftkv.server.disk_kind import NAME as KIND_NAME
from raftkv.server.disk_kind import DiskKind, Kind
from raftkv.server.doctor import Report
from raftkv.server.rehearsal import Rehearsal, rehearse
from raftkv.storage.data_dir import (
    BOOT_NAME,
    FORMAT_VERSION,
    STORE_NAME,
    WAL_NAME,
    read_last_run,
    write_json,
)
from raftkv.storage.files import FileSystem, flush_dir, publish_file, read_file
from raftkv.storage.log_mending import find_new_base
from raftkv.storage.overlay import Overlay
from raftkv.storage.wal_format import BASE_NAME, SEGMENT_SUFFIX
from raftkv.storage.wal_recovery import recover

PROMISE_MS: Final = 60_000
"""For how long a node votes for nobody whose own promise is not known any more: longer than the election timeout of any
cluster that makes such promises."""
MOST_REMEDIES: Final = 8


@dataclass(slots=True)
class Remedy:
    """One thing to put right."""

    what: str
    """In words, for the operator."""
    why: str
    """Why nothing is lost."""
    moves: tuple[Path, ...] = ()
    """What is set aside, after `write`."""
    replaces: tuple[Path, ...] = ()
    """What `write` replaces: a copy of it is set aside before."""
    write: Callable[[FileSystem], None] = field(default=lambda files: None)


async def find_remedies(report: Report, boot_id: str | None, probe: Callable[[Path], Index]) -> list[Remedy]:
    """Return what makes the node start again without loss; nothing where there is no such thing."""
    path = report.path
    tried = Overlay()
    start = report.start
    remedies: list[Remedy] = []
    whole = tuple((one.index, one.term) for one in report.checkpoints if one.index and not one.problem)
    while start.refusal and len(remedies) < MOST_REMEDIES:
        remedy = _remedy(path, tried, start, boot_id, whole=whole, known={one.what for one in remedies})
        if remedy is None:
            return []
        _carry_out(remedy, tried, path, path / "damaged")
        remedies.append(remedy)
        start = await rehearse(path, tried.fork(), boot_id, probe)
    return [] if start.refusal else remedies


def apply(remedy: Remedy, files: FileSystem, path: Path, aside: Path) -> None:
    """Apply a remedy to the data directory `path`; what it takes away goes to `aside`. Raises StorageError, OSError."""
    files.mkdir(aside)
    flush_dir(files, aside.parent)
    # Copies, and all of them first: what is replaced is replaced in one step, so a crash leaves the damaged file or
    # the new one. What is to be moved is garbage once that is written, and a start after a crash would delete it.
    for source in (*remedy.replaces, *(one for one in remedy.moves if one.suffix == SEGMENT_SUFFIX)):
        if source.name in files.names(source.parent):
            _copy(files, source, _target(files, source, path, aside))
    _carry_out(remedy, files, path, aside)


def _copy(files: FileSystem, source: Path, target: Path) -> None:
    try:
        content = read_file(files, source)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return  # there is nothing of it that could be kept, but for the file itself, where it is only moved
    publish_file(files, target, content).close()


def _carry_out(remedy: Remedy, files: FileSystem, path: Path, aside: Path) -> None:
    files.mkdir(aside)
    remedy.write(files)
    _move(remedy, files, path, aside)


def _move(remedy: Remedy, files: FileSystem, path: Path, aside: Path) -> None:
    for source in remedy.moves:
        if source.name not in files.names(source.parent):
            continue
        target = _target(files, source, path, aside)
        files.rename(source, target)
        flush_dir(files, target.parent)
        flush_dir(files, source.parent)


def _target(files: FileSystem, source: Path, path: Path, aside: Path) -> Path:
    """Return where `source` goes, in a directory that is there."""
    target = aside / source.relative_to(path)
    if target.parent != aside:
        files.mkdir(target.parent)
        flush_dir(files, aside)
    return target


def _remedy(
    path: Path,
    files: Overlay,
    start: Rehearsal,
    boot_id: str | None,
    *,
    whole: tuple[tuple[Index, Term], ...],
    known: set[str],
) -> Remedy | None:
    """Return the first remedy that applies and was not tried yet."""
    for remedy in (
        _boot_remedy(path, files, start),
        _kind_remedy(path, files, start),
        _log_remedy(path, files, start, boot_id, whole),
        _store_remedy(path, files, start),
    ):
        if remedy is not None and remedy.what not in known:
            return remedy
    return None


def _boot_remedy(path: Path, files: Overlay, start: Rehearsal) -> Remedy | None:
    """The mark of the last run is gone: without it, the node starts as after a crash of the machine."""
    if start.identity is None or start.last is not None or BOOT_NAME not in files.names(path):
        return None
    try:
        found = recover(files, path / WAL_NAME)
    except (StorageError, OSError):
        return None
    if found is None or found.torn is not None:
        return None  # whether the end was confirmed, only the mark could tell
    content = {
        "format_version": FORMAT_VERSION,
        "boot_id": None,
        "clean_tail": None,
        "store_sums": False,
        "promise_ms": PROMISE_MS,
    }
    return Remedy(
        f"replace {path / BOOT_NAME}: the state store is rebuilt from checkpoint and log, and the node votes for "
        f"nobody for {PROMISE_MS // 1000} s",
        "it says how the last run ended; the log is whole, and ends with a whole record",
        replaces=(path / BOOT_NAME,),
        write=lambda target: write_json(target, path / BOOT_NAME, content),
    )


def _kind_remedy(path: Path, files: Overlay, start: Rehearsal) -> Remedy | None:
    """Whether a disk holds data shows in its entries: all of them have their payload, or none has."""
    if start.identity is None or start.log is None:
        return None
    try:
        DiskKind.open(path, start.identity.node_id, files)
    except StorageError:
        pass
    else:
        return None
    payloads = {bool(entry.data) for entry in start.log.entries if entry.kind is EntryKind.COMMANDS}
    if len(payloads) != 1:
        return None
    kind = Kind.DATA if payloads.pop() else Kind.WITNESS
    return Remedy(
        f"replace {path / KIND_NAME}: the entries of the log say that it is {kind}",
        "a disk holds entries with their payload or without, never both",
        replaces=(path / KIND_NAME,),
        write=lambda target: write_json(target, path / KIND_NAME, {"kind": kind}),
    )


def _log_remedy(
    path: Path, files: Overlay, start: Rehearsal, boot_id: str | None, whole: tuple[tuple[Index, Term], ...]
) -> Remedy | None:
    """Damage that lies wholly in front of what a checkpoint has."""
    directory = path / WAL_NAME
    if start.identity is None or start.log is not None or WAL_NAME not in files.names(path):
        return None
    try:
        last = start.last or read_last_run(files, path, boot_id)
        clean_tail = last.clean.wal_tail if last.clean else None
        found = find_new_base(files, directory, whole, clean_tail, same_boot=last.same_boot)
    except (StorageError, OSError):
        return None
    if found is None:
        return None
    base = found.base
    return Remedy(
        f"let the log begin after entry {base.index}, in segment {base.segment}; set aside {', '.join(found.dropped)}",
        f"a checkpoint whose every byte is right has all entries up to {base.index}, and all after that are whole",
        tuple(directory / name for name in found.dropped),
        replaces=(directory / BASE_NAME,) if BASE_NAME in files.names(directory) else (),
        write=lambda target: publish_file(target, directory / BASE_NAME, base.encode()).close(),
    )


def _store_remedy(path: Path, files: Overlay, start: Rehearsal) -> Remedy | None:
    """A state store that cannot even be read; it is a cache. Whether the rest covers it, the rehearsal shows."""
    if start.log is None or start.recovered is not None or STORE_NAME not in files.names(path):
        return None
    if not start.store_unreadable:
        return None
    return Remedy(
        f"set aside {path / STORE_NAME}: the state store is rebuilt from checkpoint and log",
        "it is a cache of what they say",
        (path / STORE_NAME,),
    )


__all__ = ["Remedy", "apply", "find_remedies"]
