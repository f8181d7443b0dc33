"""The data directory of a node: who owns it, whom it belongs to, and whether its state store can be trusted."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raftkv.errors import DataDirectoryMismatch, StorageError
from raftkv.raft.types import NodeId
from raftkv.storage.files import FileSystem, OsFileSystem, is_full, publish_file, read_file
from raftkv.storage.json_files import in_words, seal, unseal
from raftkv.storage.protocols import WalPosition
from raftkv.storage.store_sums import SUMS_NAME, problem_with, write_sums
from raftkv.storage.wal_segments import describe_os_error, no_room
from raftkv.storage.way_out import INTERRUPTED_NAME, REPAIR, REPAIR_NODE

FORMAT_VERSION: Final = 1
LOCK_NAME: Final = "LOCK"
IDENTITY_NAME: Final = "identity.json"
BOOT_NAME: Final = "boot.json"
WAL_NAME: Final = "wal"
CHECKPOINTS_NAME: Final = "checkpoints"
STORE_NAME: Final = "store"
STORE_DATA_NAME: Final = "data.mdb"
"""The file in the store's directory."""
DISCARDED_NAME: Final = "store.discarded"
CORRUPT_NAME: Final = "corrupt.json"
"""Written by `corrupt_mark`."""
PEERS_NAME: Final = "peers.json"
"""Written by `raftkv.server.peer_book`, after `mark_running`."""
LEFTOVERS: Final = (WAL_NAME, STORE_NAME, CHECKPOINTS_NAME, PEERS_NAME, BOOT_NAME, CORRUPT_NAME)
"""What only a node that has run leaves behind."""


@dataclass(frozen=True, slots=True)
class RestoredState:
    """The state that a cluster was founded on: of a backup. Nothing before its entry is anywhere in the cluster."""

    index: int
    term: int
    state_hash: bytes
    cluster_name: str | None = None


ANY_RESTORED: Final = RestoredState(1, 0, b"")
"""What an earlier raftkv, which did not say more, restored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose data a directory holds."""

    cluster_id: int
    node_id: NodeId
    members: Mapping[NodeId, str]
    """Peer addresses of the members the cluster began with; only the log knows later ones."""
    created_at: float
    """Seconds since 1970, for people to read."""
    founded: bool | None = None
    """Whether the node founded the cluster, with `members`, or joined it. None: an earlier raftkv did not say."""
    replaces: tuple[NodeId, ...] = ()
    """Ids of the nodes in whose place it came when they were repaired (ADR 9): it may be started under those, too."""
    promote: bool = False
    """It came as a learner in the place of a voter: it asks to be one as soon as it is caught up."""
    restored: RestoredState | None = None
    """Set where the cluster was founded on a backup: `cluster_id` says more than its name and `members`, and what does
    not reach that state is not this node's."""

    def may_run_as(self, node_id: NodeId) -> bool:
        return node_id == self.node_id or node_id in self.replaces


@dataclass(frozen=True, slots=True)
class CleanMark:
    """A node was shut down in order: its store is flushed, and its log ends exactly at `wal_tail`."""

    wal_tail: WalPosition
    summed: bool = False
    """The store's checksums were written. An earlier raftkv wrote none."""


def store_is_trustworthy(recorded_boot: str | None, current_boot: str | None, clean: CleanMark | None) -> bool:
    """Decide whether the working state store is kept (DESIGN.md section 4).

    It is not synced when it commits, so it survives the death of the process, but not that of the machine. A clean
    shutdown has flushed it. After an unclean one it is sound only if the machine has not stopped since; an unknown
    boot id proves nothing.
    """
    return clean is not None or (recorded_boot is not None and recorded_boot == current_boot)


def read_boot_id() -> str | None:
    """Return what the kernel drew at random when the machine booted; None where there is no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip() or None
    except OSError:
        return None


class DataDir:
    """An open data directory, locked for this process until `close`. `raftkv.storage` has the order of use."""

    def __init__(
        self,
        path: Path,
        *,
        files: FileSystem,
        lock_fd: int,
        identity: Identity,
        boot_id: str | None,
        clean: CleanMark | None,
        ran_before: bool,
        same_boot: bool = False,
        store_discarded: bool,
        store_problem: str = "",
        promised_ms: int = 0,
        promise_ms: int = 0,
    ) -> None:
        self.path = path
        self.identity = identity
        self.clean_shutdown = clean
        """How the last run ended; None after a crash, and in a new directory."""
        self.ran_before = ran_before
        """A node has run here: there must be a log, and a missing one is a lost one."""
        self.same_boot = same_boot
        """The machine has not stopped since the last run began: what was written is all there."""
        self.store_discarded = store_discarded
        """The state store was thrown away: rebuild it from checkpoint and log."""
        self.store_problem = store_problem
        """What was wrong with it, if it was damaged: file and offset."""
        self.promised_ms = promised_ms
        """How long, in ms, the last runs had promised to vote for nobody after they heard a leader (leader leases)."""
        self._promise_ms = promise_ms
        self._store_damage = ""
        """What was found wrong with the store since it was opened."""
        self._condemning = threading.Lock()
        self._opened_s = time.monotonic()
        self._files = files
        self._lock_fd = lock_fd
        self._boot_id = boot_id

    @property
    def wal_path(self) -> Path:
        return self.path / WAL_NAME

    @property
    def store_path(self) -> Path:
        return self.path / STORE_NAME

    @property
    def checkpoints_path(self) -> Path:
        return self.path / CHECKPOINTS_NAME

    @property
    def clean_tail(self) -> WalPosition | None:
        """What `WriteAheadLog.open` takes as `clean_tail`."""
        return self.clean_shutdown.wal_tail if self.clean_shutdown else None

    def discard_store(self) -> None:
        """Throw the state store away: it is damaged, and nobody has it open. Raises OSError."""
        self.store_discarded = _discard_store(self._files, self.path) or self.store_discarded

    def condemn_store(self, problem: str) -> None:
        """Record durably that the store is damaged: the next start discards it. In any thread. Raises StorageError."""
        with self._condemning:
            if not self._store_damage:
                self._store_damage = problem
                self._write_boot(None)

    def mark_running(self) -> None:
        """Record durably that from here on a stop is unclean, and on which boot. Raises StorageError.

        Before the first write to log or store, and after the log was recovered: a log refused as corrupt has to be
        refused at the next attempt as well, which takes the clean mark.
        """
        self._write_boot(None)

    def mark_clean(self, wal_tail: WalPosition) -> None:
        """Record durably that everything is flushed and the log ends at `wal_tail`. Raises StorageError.

        Last of all: after the store's and the log's `close` returned without an error. Reads all of the store: its
        checksums come first, since a clean mark without them would vouch for a file that nobody can check.
        """
        data = self.store_path / STORE_DATA_NAME
        summed = STORE_NAME in self._files.names(self.path) and STORE_DATA_NAME in self._files.names(self.store_path)
        try:
            if summed:
                write_sums(self._files, data, self.path / SUMS_NAME)
        except OSError as error:
            raise StorageError(describe_os_error(self.path / SUMS_NAME, error)) from error
        self._write_boot(CleanMark(wal_tail, summed))

    def close(self) -> None:
        """Release the lock. Idempotent."""
        if self._lock_fd >= 0:
            fd, self._lock_fd = self._lock_fd, -1
            os.close(fd)

    def _write_boot(self, clean: CleanMark | None) -> None:
        tail = clean.wal_tail if clean else None
        kept = clean is not None and time.monotonic() - self._opened_s > self.promised_ms / 1000
        write_json(
            self._files,
            self.path / BOOT_NAME,
            {
                "format_version": FORMAT_VERSION,
                "boot_id": self._boot_id,
                "clean_tail": {"segment": tail.segment, "offset": tail.offset, "crc": tail.crc} if tail else None,
                "store_sums": clean is not None and clean.summed,
                **({"store_damage": self._store_damage} if self._store_damage else {}),
                "promise_ms": self._promise_ms if kept else max(self._promise_ms, self.promised_ms),
            },
        )


def open_data_dir(
    path: Path,
    *,
    cluster_id: int,
    node_id: NodeId,
    members: Mapping[NodeId, str],
    founded: bool = True,
    promise_ms: int = 0,
    boot_id: str | None = None,
    now: Callable[[], float] = time.time,
    files: FileSystem | None = None,
) -> DataDir:
    """Open the data directory of a node, or create it.

    `members` and `founded` are recorded when the directory is new and ignored afterwards. `boot_id` defaults to the
    machine's. `promise_ms` is what this run promises (see `DataDir.promised_ms`).

    Raises DataDirectoryMismatch when another process holds the directory, or when it belongs to another cluster or
    node; StorageError when it cannot be used for another reason.
    """
    files = files or OsFileSystem()
    boot_id = boot_id if boot_id is not None else read_boot_id()
    lock_fd = -1
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock_fd = lock_data_dir(path)
        refuse_half_repaired(files, path)
        identity = read_identity(path, files)
        if identity is None:
            identity = Identity(
                cluster_id=cluster_id, node_id=node_id, members=dict(members), created_at=now(), founded=founded
            )
            _create_identity(files, path, identity)
        check_identity(path, identity, cluster_id, node_id)
        last = read_last_run(files, path, boot_id)
        discarded = False if last.keeps_store else _discard_store(files, path)
        _delete_discarded(files, path)
    except BaseException as error:
        if lock_fd >= 0:
            os.close(lock_fd)
        if isinstance(error, OSError):
            raise StorageError(describe_os_error(path, error)) from error
        raise
    return DataDir(
        path,
        files=files,
        lock_fd=lock_fd,
        identity=identity,
        boot_id=boot_id,
        clean=last.clean,
        ran_before=last.ran_before,
        same_boot=last.same_boot,
        store_discarded=discarded,
        store_problem=last.store_problem,
        promised_ms=last.promised_ms,
        promise_ms=promise_ms,
    )


@dataclass(frozen=True, slots=True)
class LastRun:
    """How the last run in a directory ended, and what that makes of its state store."""

    clean: CleanMark | None
    promised_ms: int
    ran_before: bool
    same_boot: bool
    """The machine has not stopped since the run began."""
    keeps_store: bool
    store_problem: str
    """What is wrong with the store, as far as its checksums tell, or as the last run found; else empty."""


def read_last_run(files: FileSystem, path: Path, boot_id: str | None) -> LastRun:
    """Judge the directory `path`, on a machine that booted as `boot_id`; changes nothing. Reads all of a store that
    has checksums.

    Raises StorageError when its mark is damaged, and OSError.
    """
    recorded_boot, clean, promised_ms, problem = _read_boot(files, path)
    keeps = store_is_trustworthy(recorded_boot, boot_id, clean)
    if not problem and clean is not None and clean.summed:
        problem = problem_with(files, path / STORE_NAME / STORE_DATA_NAME, path / SUMS_NAME) or ""
    return LastRun(
        clean=clean,
        promised_ms=promised_ms,
        ran_before=bool({BOOT_NAME, PEERS_NAME} & set(files.names(path))),
        same_boot=recorded_boot is not None and recorded_boot == boot_id,
        keeps_store=keeps and not problem,
        store_problem=problem,
    )


def refuse_half_repaired(files: FileSystem, path: Path) -> None:
    """Raise StorageError where a repair has begun and was interrupted: what is there belongs to nobody yet."""
    if INTERRUPTED_NAME in files.names(path):
        raise StorageError(
            f"{path / INTERRUPTED_NAME}: a repair of this data directory was interrupted. {REPAIR_NODE} once more; it "
            "goes on where it ended"
        )


def lock_data_dir(path: Path) -> int:
    """Hold the directory `path`; return what to close to let go of it. Raises DataDirectoryMismatch, OSError."""
    fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_still(path / LOCK_NAME, fd):
            # Whoever held it took it away with what else it had made here.
            os.close(fd)
            return lock_data_dir(path)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise DataDirectoryMismatch(
            f"the data directory {path} is held by process {holder}. The way out: stop that process, or give each "
            "node a data directory of its own"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode("ascii"), 0)
    return fd


def _is_still(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def check_identity(path: Path, found: Identity, cluster_id: int, node_id: NodeId) -> None:
    """Raise DataDirectoryMismatch unless what the directory `path` holds is this node's, of this cluster."""
    if found.cluster_id == cluster_id and found.may_run_as(node_id):
        return
    refusal = (
        f"the data directory {path} belongs to node {found.node_id} of cluster {found.cluster_id:#x}, but this is "
        f"node {node_id} of cluster {cluster_id:#x}. "
    )
    if not found.may_run_as(node_id):
        raise DataDirectoryMismatch(
            f"{refusal}The way out: start it with its own data directory, or with an empty one to join as a new node"
        )
    # Most likely the right node with an edited --member. Its data must not be thrown away for that.
    if found.founded is False:
        explanation = "That node joined its cluster. The way out: start it without --member; the log has the members"
    else:
        members = ",".join(f"{member}={address}" for member, address in sorted(found.members.items()))
        explanation = (
            f"--member is the list that the cluster was founded with: {members}; later members come from the log. The "
            "way out: give exactly this list and the --cluster-name of then, or no --member at all"
        )
    raise DataDirectoryMismatch(f"{refusal}{explanation}. If it is a node of another cluster: a directory of its own")


def _create_identity(files: FileSystem, path: Path, identity: Identity) -> None:
    refuse_leftovers(files, path)
    # The name of the directory itself must be durable too, before anything in it counts.
    files.fsync_dir(path.parent)
    write_identity(files, path, identity)


def refuse_leftovers(files: FileSystem, path: Path) -> None:
    """Raise StorageError where there is anything of an earlier run, but no identity.

    A node that went on without the rest would pass for one that lost nothing.
    """
    names = files.names(path)
    for name in LEFTOVERS:
        if name in names:
            raise StorageError(
                f"{path} holds {name!r} but no {IDENTITY_NAME}: it is damaged, or no data directory of raftkv. Whose "
                f"votes and entries these are is lost. The way out: put the file back, or `{REPAIR}`"
            )


def write_identity(files: FileSystem, path: Path, identity: Identity) -> None:
    """Say durably whose the directory `path` is. Raises StorageError."""
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "cluster_id": identity.cluster_id,
        "node_id": identity.node_id,
        "members": {str(member): address for member, address in identity.members.items()},
        "created_at": identity.created_at,
        "founded": identity.founded,
    }
    if identity.replaces:
        content |= {"replaces": list(identity.replaces), "promote": identity.promote}
    if identity.restored:
        content["restored"] = {
            "index": identity.restored.index,
            "term": identity.restored.term,
            "state_hash": identity.restored.state_hash.hex(),
            "cluster_name": identity.restored.cluster_name,
        }
    write_json(files, path / IDENTITY_NAME, content)


def read_identity(path: Path, files: FileSystem | None = None) -> Identity | None:
    """Return whose data the directory `path` holds, None where it holds none. Raises StorageError when damaged."""
    stored = _read_json(files or OsFileSystem(), path / IDENTITY_NAME)
    if stored is None:
        return None
    try:
        founded = stored.get("founded")
        if founded not in (None, True, False):
            raise ValueError(f"founded: {founded!r}")
        return Identity(
            cluster_id=int(stored["cluster_id"]),
            node_id=NodeId(int(stored["node_id"])),
            members={NodeId(int(member)): str(address) for member, address in stored["members"].items()},
            created_at=float(stored["created_at"]),
            founded=founded,
            replaces=tuple(NodeId(int(node)) for node in stored.get("replaces", ())),
            promote=bool(stored.get("promote", False)),
            restored=_read_restored(stored.get("restored", False)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path / IDENTITY_NAME, error, "whose votes and entries these are") from error


def _read_restored(stored: Any) -> RestoredState | None:
    """Raises KeyError, TypeError, ValueError."""
    if type(stored) is bool:
        return ANY_RESTORED if stored else None
    name = stored["cluster_name"]
    if not (name is None or isinstance(name, str)):
        raise ValueError(f"restored: {stored!r}")
    return RestoredState(int(stored["index"]), int(stored["term"]), bytes.fromhex(stored["state_hash"]), name)


def _read_boot(files: FileSystem, path: Path) -> tuple[str | None, CleanMark | None, int, str]:
    """Return boot id, clean mark, promise and what was found wrong with the store."""
    stored = _read_json(files, path / BOOT_NAME)
    if stored is None:
        return None, None, 0, ""
    try:
        tail = stored["clean_tail"]
        clean = None
        if tail:
            position = WalPosition(int(tail["segment"]), int(tail["offset"]), int(tail["crc"]))
            clean = CleanMark(position, bool(stored.get("store_sums", False)))  # an earlier version wrote none
        promised_ms = int(stored.get("promise_ms", 0))  # an earlier version promised nothing
        return stored["boot_id"], clean, promised_ms, str(stored.get("store_damage", ""))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path / BOOT_NAME, error, "where the log must end") from error


def write_json(files: FileSystem, path: Path, content: dict[str, Any]) -> None:
    """Put one of the directory's small files in place, durably.

    Raises StorageError; after NoRoom, what was there before stands.
    """
    try:
        publish_file(files, path, seal(content)).close()
    except OSError as error:
        if is_full(error):
            raise no_room(path, error) from error
        raise StorageError(describe_os_error(path, error)) from error


def _read_json(files: FileSystem, path: Path) -> dict[str, Any] | None:
    try:
        stored = unseal(read_file(files, path))
        version = stored["format_version"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error, "what it says") from error
    if version != FORMAT_VERSION:
        raise StorageError(
            f"{path} has format version {version}; this raftkv reads version {FORMAT_VERSION}. The way out: start the "
            "raftkv version that wrote it, or a newer one"
        )
    return stored


def _damaged(path: Path, problem: Exception, lost: str) -> StorageError:
    return StorageError(
        f"{path} is damaged ({in_words(problem)}): {lost} is lost. The way out: put the file back, or `{REPAIR}`"
    )


def _discard_store(files: FileSystem, path: Path) -> bool:
    """Take the store out of the way; say whether there was one.

    Rename first: a store half deleted would look like a store.
    """
    store = path / STORE_NAME
    if not store.exists():
        return False
    _delete_discarded(files, path)
    files.rename(store, path / DISCARDED_NAME)
    files.fsync_dir(path)
    return True


def _delete_discarded(files: FileSystem, path: Path) -> None:
    discarded = path / DISCARDED_NAME
    if discarded.exists():
        for name in files.names(discarded):
            files.unlink(discarded / name)
        discarded.rmdir()
