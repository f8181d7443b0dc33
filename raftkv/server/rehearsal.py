"""A start that is only rehearsed: its own code, on a file system that keeps all writes to itself (`storage.overlay`).

What `raftkv doctor` says would happen at the next start is what happened here. The order of the steps is that of
`disk.open_disk`; tests compare the two over many damaged directories.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from raftkv.errors import StorageError
from raftkv.kv.keys import META
from raftkv.kv.records import EMPTY_META, encode_meta, read_meta
from raftkv.kv.store import OrderedStore
from raftkv.raft import Configuration, EntryKind, HardState, Index, Term
from raftkv.raft.membership import decode_configuration
from raftkv.server.disk_kind import DiskKind
from raftkv.server.peer_book import PeerBook
from raftkv.storage.checkpoint import CheckpointManifest, StateInfo
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.data_dir import (
    CHECKPOINTS_NAME,
    STORE_DATA_NAME,
    STORE_NAME,
    WAL_NAME,
    Identity,
    LastRun,
    read_identity,
    read_last_run,
    refuse_half_repaired,
    refuse_leftovers,
)
from raftkv.storage.lmdb_store import DamagedStore, LmdbEngine
from raftkv.storage.memory import MemoryEngine, MemoryOrderedStore
from raftkv.storage.overlay import Overlay
from raftkv.storage.progress import UNHEARD, Progress
from raftkv.storage.protocols import RESTORE_FROM_PEERS, RecoveredLog
from raftkv.storage.recovery import recover_node
from raftkv.storage.wal import WriteAheadLog
from raftkv.storage.worker import Inline

SEGMENT_BYTES: Final = 1 << 16
"""Of the segments that a rehearsal makes, in memory."""
PROBE: Final = """
import sys
from pathlib import Path
from raftkv.server.rehearsal import probe_here
from raftkv.storage.lmdb_store import DamagedStore
try:
    print(probe_here(Path(sys.argv[1])))
except DamagedStore as error:
    sys.exit(error.message)
"""
"""LMDB believes what a page says: opening a damaged file can end the process, so another one does it."""
PROBE_TIMEOUT_S: Final = 60.0


def _store_at(applied: Index) -> MemoryOrderedStore:
    """Return what stands for a state store: of it, a start needs to know only what was applied."""
    store = MemoryOrderedStore()
    with store.write() as writer:
        writer.put(META, encode_meta(EMPTY_META._replace(applied_index=applied)))
    return store


def _applied_index(store: OrderedStore) -> Index:
    with store.read() as reader:
        return Index(read_meta(reader).applied_index)


class _Checkpoints(CheckpointStore[MemoryOrderedStore]):
    """Verifies what it would restore, and restores nothing."""

    def restore_at_start(
        self, manifest: CheckpointManifest, store: MemoryOrderedStore | None, progress: Progress = UNHEARD
    ) -> MemoryOrderedStore:
        """See `CheckpointStore.restore_at_start`. Raises DamagedCheckpoint."""
        reader = self._directory.open_reader(manifest)
        try:
            for _ in reader.blocks():
                pass
        finally:
            reader.close()
        data = self._directory.data_path(manifest)
        return _store_at(probe_here(data))


@dataclass(slots=True)
class Rehearsal:
    """How a start went, or would have gone."""

    refusal: str = ""
    """Why the node would refuse to start; empty: it would start."""
    identity: Identity | None = None
    last: LastRun | None = None
    kind: str = ""
    log: RecoveredLog | None = None
    """As it was read: set also where what comes after it is refused."""
    recovered: RecoveredLog | None = None
    """What the node would go on from."""
    checkpoint: CheckpointManifest | None = None
    store: str = ""
    """What would become of the state store: kept, restored, rebuilt, or new."""
    applied: Index = field(default=Index(0))
    store_problem: str = ""
    store_unreadable: bool = False
    """Reading it is what the start fails at."""
    passed_over: tuple[str, ...] = ()
    """What is wrong with checkpoints that the start would do without."""
    configuration: Configuration | None = None
    """The newest one that the log or the checkpoint holds."""

    @property
    def hard_state(self) -> HardState:
        log = self.recovered or self.log
        return log.hard_state if log else HardState()


async def rehearse(path: Path, files: Overlay, boot_id: str | None, probe: Callable[[Path], Index]) -> Rehearsal:
    """Go through a start of the node in `path`, on a machine that booted as `boot_id`.

    `probe` reads which entry a store has applied; it raises StorageError for one that cannot be opened.
    """
    found = Rehearsal()
    try:
        await _rehearse(path, files, boot_id, probe, found)
    except (StorageError, ValueError) as error:
        found.refusal = error.message if isinstance(error, StorageError) else str(error)
    except OSError as error:
        found.refusal = f"{error.filename or path}: {error.strerror or error}"
    return found


async def _rehearse(
    path: Path, files: Overlay, boot_id: str | None, probe: Callable[[Path], Index], found: Rehearsal
) -> None:
    found.identity = read_identity(path, files)
    refuse_half_repaired(files, path)
    if found.identity is None:
        refuse_leftovers(files, path)
        return
    last = found.last = read_last_run(files, path, boot_id)
    found.store_problem = last.store_problem
    if not last.keeps_store and STORE_NAME in files.names(path):
        files.rename(path / STORE_NAME, path / f"{STORE_NAME}.discarded")
    wal, log = WriteAheadLog.open(
        path / WAL_NAME,
        segment_bytes=SEGMENT_BYTES,
        clean_tail=last.clean.wal_tail if last.clean else None,
        must_exist=last.ran_before,
        same_boot=last.same_boot,
        files=files,
        runner=Inline(),
    )
    try:
        found.log = log
        kind = DiskKind.open(path, found.identity.node_id, files)
        found.kind = kind.known or "not decided"
        checkpoints = _Checkpoints.open(
            path / CHECKPOINTS_NAME,
            engine=MemoryEngine(files),
            inspect=_inspect_nothing,
            files=files,
            make_runner=lambda _: Inline(),
        )
        store = _opened(path, files, probe, found)
        node = await recover_node(
            wal,
            log,
            checkpoints,
            open_store=lambda: store,
            applied_index=_applied_index,
            restored=found.identity.restored,
        )
        found.recovered, found.checkpoint, found.passed_over = node.log, node.checkpoint, node.damaged
        found.applied = _applied_index(node.store)
        found.store = _becomes_of(found, restored=node.store_restored)
        if node.checkpoint is not None:
            found.configuration = decode_configuration(node.checkpoint.meta.configuration)
        for entry in node.log.entries:
            if entry.kind is EntryKind.CONFIGURATION:
                found.configuration = decode_configuration(entry.data)
        PeerBook.open(path, files)
    finally:
        await wal.close()


def _opened(path: Path, files: Overlay, probe: Callable[[Path], Index], found: Rehearsal) -> MemoryOrderedStore:
    data = path / STORE_NAME / STORE_DATA_NAME
    if not files.on_disk(data):
        return _store_at(Index(0))
    try:
        return _store_at(probe(data))
    except DamagedStore as error:
        found.store_problem = error.message
        return _store_at(Index(0))
    except StorageError:
        found.store_unreadable = True
        raise


def _becomes_of(found: Rehearsal, *, restored: bool) -> str:
    if restored:
        return "restored from the checkpoint"
    return "kept" if found.applied else "rebuilt from the log"


def _inspect_nothing(reader: object) -> StateInfo:
    return StateInfo(Index(0), Term(0), b"")


def probe_here(data: Path) -> Index:
    """Read in this process which entry the store in the file `data` has applied; its checksums were found right."""
    with LmdbEngine(data.parent).open_copy(data) as reader:
        return Index(read_meta(reader).applied_index)


def probe_apart(data: Path) -> Index:
    """Read it in a process of its own. Raises DamagedStore, StorageError."""
    ran = subprocess.run(
        [sys.executable, "-c", PROBE, str(data)], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False
    )
    if ran.returncode == 0:
        return Index(int(ran.stdout))
    if ran.returncode < 0:
        raise StorageError(
            f"{data}: the state store is damaged: opening it kills the process (signal {-ran.returncode}). "
            f"{RESTORE_FROM_PEERS}"
        )
    said = (ran.stderr.strip().splitlines() or ["no message"])[-1]
    if "Traceback" in ran.stderr:
        raise StorageError(f"{data} cannot be read: {said}")
    raise DamagedStore(said)
