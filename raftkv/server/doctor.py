"""What is in a data directory, whether it is whole, and what a start would make of it. Reads, and writes nothing."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import google_crc32c

from raftkv.errors import ConfigurationError, StorageError
from raftkv.raft import Index, Term
from raftkv.server.disk import inspect_state
from raftkv.server.disk_kind import NAME as KIND_NAME
from raftkv.server.endpoints_book import NAME as ENDPOINTS_NAME
from raftkv.server.endpoints_book import known_endpoints
from raftkv.server.rehearsal import Rehearsal, probe_apart, probe_here, rehearse
from raftkv.server.replacement import ASIDE_PREFIX
from raftkv.storage.checkpoint import CHUNK_BYTES, CheckpointManifest, decode_manifest
from raftkv.storage.checkpoint_directory import DATA_SUFFIX, INCOMING, MANIFEST_SUFFIX, checkpoint_stem
from raftkv.storage.corrupt_mark import read_mark
from raftkv.storage.data_dir import (
    BOOT_NAME,
    CHECKPOINTS_NAME,
    CORRUPT_NAME,
    DISCARDED_NAME,
    IDENTITY_NAME,
    LEFTOVERS,
    LOCK_NAME,
    PEERS_NAME,
    STORE_DATA_NAME,
    STORE_NAME,
    WAL_NAME,
    read_boot_id,
)
from raftkv.storage.files import TEMPORARY_SUFFIX, File, read_file
from raftkv.storage.lmdb_store import LmdbEngine
from raftkv.storage.log_shape import NO_INDEX, NO_TERM
from raftkv.storage.log_survey import SurveyedSegment, survey
from raftkv.storage.overlay import Overlay
from raftkv.storage.protocols import RESTORE_FROM_PEERS
from raftkv.storage.store_sums import SUMS_NAME, problem_with
from raftkv.storage.wal_format import BASE_NAME, SEGMENT_SUFFIX, FormatError
from raftkv.storage.way_out import INTERRUPTED_NAME, exact

KNOWN_NAMES: Final = frozenset(
    {
        *(LOCK_NAME, IDENTITY_NAME, BOOT_NAME, PEERS_NAME, KIND_NAME, CORRUPT_NAME, ENDPOINTS_NAME, SUMS_NAME),
        *(WAL_NAME, CHECKPOINTS_NAME, STORE_NAME, DISCARDED_NAME, INTERRUPTED_NAME),
    }
)


class Progress(Protocol):
    """Is told how far an examination is."""

    def __call__(self, what: str, size_bytes: int) -> None:
        """So many more bytes of `what` were read."""
        ...


@dataclass(slots=True)
class ExaminedCheckpoint:
    """One checkpoint, read whole."""

    name: str
    index: Index = NO_INDEX
    term: Term = NO_TERM
    size_bytes: int = 0
    received: bool = False
    state_hash: bytes = b""
    problem: str = ""
    """File and offset; empty: its bytes are those of the manifest, and so is the state in them."""


@dataclass(slots=True)
class Report:
    """All that was found."""

    path: Path
    start: Rehearsal
    """How the next start would go."""
    segments: list[SurveyedSegment] = field(default_factory=list)
    checkpoints: list[ExaminedCheckpoint] = field(default_factory=list)
    store_bytes: int = 0
    store_summed: bool = False
    others: list[str] = field(default_factory=list)
    """Files that no node makes."""
    damage: list[str] = field(default_factory=list)
    """What is wrong, each with its file; empty: the directory is healthy."""
    state_is_corrupt: bool = False
    """The comparison of states found it so: no start puts that right."""

    @property
    def healthy(self) -> bool:
        return not self.damage


def _silent(what: str, size_bytes: int) -> None:
    pass


async def examine(
    path: Path,
    *,
    files: Overlay | None = None,
    boot_id: str | None = None,
    progress: Progress = _silent,
    probe_with: Callable[[Path], Index] | None = None,
    may_be_held: bool = False,
) -> Report:
    """Examine the data directory `path`, an absolute one. Blocks, for as long as it takes to read all of it.

    `boot_id` defaults to this machine's. `may_be_held`: whoever asks holds the lock. Raises ConfigurationError: it is
    no data directory, or a process holds it.
    """
    require_data_dir(path)
    if not may_be_held:
        require_free(path)
    files = files or Overlay(lambda size: progress("start", size))
    boot_id = boot_id if boot_id is not None else read_boot_id()
    start = await rehearse(path, files, boot_id, probe_with or probe)
    # What is on the disk, that is: the rehearsal has changed its own view of it.
    disk = Overlay()
    report = Report(path, start)
    _small_files(disk, report)
    _log(disk, report, progress)
    _checkpoints(disk, report, progress)
    _store(disk, report)
    if start.refusal:
        report.damage.insert(0, start.refusal)
    report.damage = [exact(one, path, known_endpoints(path)) for one in dict.fromkeys(report.damage)]
    return report


def require_data_dir(path: Path) -> None:
    """Raise ConfigurationError unless `path` is a directory with something in it that a node has left."""
    if not path.is_dir():
        raise ConfigurationError(f"{path} is not a directory")
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from error
    if not names & {IDENTITY_NAME, INTERRUPTED_NAME, *LEFTOVERS}:
        raise ConfigurationError(f"{path} is not a data directory of raftkv: it holds nothing that a node leaves")


def require_free(path: Path) -> None:
    """Raise ConfigurationError when a process holds the directory. Takes the lock for no longer than to see that."""
    try:
        fd = os.open(path / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigurationError(f"{path / LOCK_NAME}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise ConfigurationError(
            f"{path} is in use: process {holder} holds it. Stop the node first; of one that runs, `raftkv endpoint "
            "status` tells alarms and what the scrubber has found"
        ) from error
    finally:
        os.close(fd)


def total_bytes(path: Path) -> int:
    """Return what an examination reads, about, for a progress bar: the rehearsed start reads too."""
    data = path / STORE_NAME / STORE_DATA_NAME
    summed = data.stat().st_size if data.is_file() and (path / SUMS_NAME).is_file() else 0
    return 2 * _size_of(path / WAL_NAME) + _size_of(path / CHECKPOINTS_NAME) + summed


def _size_of(directory: Path) -> int:
    if not directory.is_dir():
        return 0
    return sum(entry.stat().st_size for entry in directory.iterdir() if entry.is_file())


def probe(data: Path) -> Index:
    """Read which entry the store in the file `data` has applied. Raises DamagedStore, StorageError."""
    # A store whose checksums are right cannot take the process down; any other one may.
    sums = data.parent.parent / SUMS_NAME
    return probe_here(data) if _sums_match(data, sums) else probe_apart(data)


def _sums_match(data: Path, sums: Path) -> bool:
    return problem_with(Overlay(), data, sums) is None


def _small_files(files: Overlay, report: Report) -> None:
    path = report.path
    report.others = [
        name
        for name in files.names(path)
        if name not in KNOWN_NAMES and not name.endswith(TEMPORARY_SUFFIX) and not name.startswith(ASIDE_PREFIX)
    ]
    report.others += _strangers(path / WAL_NAME, lambda name: name == BASE_NAME or name.endswith(SEGMENT_SUFFIX))
    report.others += _strangers(path / CHECKPOINTS_NAME, lambda name: name.endswith((MANIFEST_SUFFIX, DATA_SUFFIX)))
    for name, lost in ((WAL_NAME, "the log"), (CHECKPOINTS_NAME, "what checkpoints there were")):
        if (path / name).exists() and not (path / name).is_dir():
            report.damage.append(f"{path / name} is no directory: {lost} is lost. {RESTORE_FROM_PEERS}")
    names = files.names(path)
    if PEERS_NAME in names and BOOT_NAME not in names:
        report.damage.append(
            f"{path / BOOT_NAME} is missing: how the last run ended is lost, and with it where the log must end. The "
            "start takes it for a crash of the machine"
        )
    try:
        mark = read_mark(path, files)
    except StorageError as error:
        report.state_is_corrupt = True
        report.damage.append(error.message)
    else:
        if mark is not None:
            report.state_is_corrupt = True
            report.damage.append(
                f"{path / CORRUPT_NAME}: the state of this node was found to be another one than that of "
                f"{', '.join(map(str, mark.agreed))} at entry {mark.index}. It serves no reads. {RESTORE_FROM_PEERS}"
            )


def _strangers(directory: Path, known: Callable[[str], bool]) -> list[str]:
    """Return the names of files in `directory`, with its own, that no node makes."""
    if not directory.is_dir():
        return []
    names = sorted(entry.name for entry in directory.iterdir())
    return [f"{directory.name}/{name}" for name in names if not known(name) and not name.endswith(TEMPORARY_SUFFIX)]


def _log(files: Overlay, report: Report, progress: Progress) -> None:
    directory = report.path / WAL_NAME
    if directory.is_dir():
        report.segments = survey(files, directory, lambda size: progress("log", size))


def _checkpoints(files: Overlay, report: Report, progress: Progress) -> None:
    directory = report.path / CHECKPOINTS_NAME
    if not directory.is_dir():
        return
    for name in files.names(directory):
        stem = name.removesuffix(MANIFEST_SUFFIX)
        if stem in {name, INCOMING}:
            continue
        found = ExaminedCheckpoint(stem)
        try:
            _examine_checkpoint(files, directory, stem, found, progress)
        except (FormatError, StorageError) as error:
            found.problem = f"{directory / name}: {error}"
        except OSError as error:
            found.problem = f"{error.filename or directory / name}: {error.strerror or error}"
        if found.problem:
            report.damage.append(f"a checkpoint is damaged: {found.problem}")
        report.checkpoints.append(found)


def _examine_checkpoint(
    files: Overlay, directory: Path, stem: str, found: ExaminedCheckpoint, progress: Progress
) -> None:
    manifest = decode_manifest(read_file(files, directory / (stem + MANIFEST_SUFFIX)))
    found.index, found.term, found.size_bytes = manifest.index, manifest.term, manifest.size
    found.received, found.state_hash = manifest.received, manifest.state_hash
    if stem != checkpoint_stem(manifest.index):
        raise FormatError(f"the manifest is that of entry {manifest.index}")
    data = directory / (stem + DATA_SUFFIX)
    file = files.open(data)
    try:
        found.problem = _chunk_problem(file, data, manifest, progress)
    finally:
        file.close()
    if found.problem:
        return
    with LmdbEngine(directory).open_copy(data) as reader:
        state = inspect_state(reader)
    if (state.index, state.term, state.state_hash) != (manifest.index, manifest.term, manifest.state_hash):
        found.problem = (
            f"{data}: the state in it is that of entry {state.index} of term {state.term} with hash "
            f"{state.state_hash.hex()}, and the manifest says {manifest.index}, {manifest.term}, "
            f"{manifest.state_hash.hex()}"
        )


def _chunk_problem(file: File, data: Path, manifest: CheckpointManifest, progress: Progress) -> str:
    if file.size() != manifest.size:
        return f"{data} has {file.size()} bytes instead of {manifest.size}"
    for number, expected in enumerate(manifest.chunk_crcs):
        start, stop = manifest.chunk_at(number * CHUNK_BYTES)
        if google_crc32c.value(file.pread(stop - start, start)) != expected:
            return f"{data}, byte offset {start}: checksum mismatch"
        progress("checkpoints", stop - start)
    return ""


def _store(files: Overlay, report: Report) -> None:
    data = report.path / STORE_NAME / STORE_DATA_NAME
    last = report.start.last
    report.store_summed = last is not None and last.clean is not None and last.clean.summed
    if files.on_disk(data):
        report.store_bytes = data.stat().st_size
    if report.start.store_problem:
        report.damage.append(f"the state store is damaged: {report.start.store_problem}")
