"""What a disk holds: data, or only where entries stand, as a witness's does. One of the two for ever.

A witness's log has entries without their payload. Removed, and added again under the same id as a learner, it would be
sent what comes after them, count as caught up, and could lead with half of the data. Nothing in Raft's messages shows
that, so the disk itself says it: the first entry of commands that is stored decides, durably, and whatever contradicts
it stops the node before anything of it is promised. The mirror image, a data disk that is made a witness's, is no
better: where its own data ends, the log would go on without payloads.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from raftkv.errors import DataDirectoryMismatch, StorageError
from raftkv.raft import Configuration, Entry, EntryKind, HardState, Index, NodeId, Term
from raftkv.raft.membership import decode_configuration
from raftkv.storage.data_dir import write_json
from raftkv.storage.files import FileSystem, OsFileSystem, read_file
from raftkv.storage.json_files import in_words, unseal
from raftkv.storage.protocols import LogStore
from raftkv.storage.way_out import REPAIR

NAME: Final = "kind.json"


class Kind(StrEnum):
    """What entries of commands bring along."""

    DATA = "data"
    WITNESS = "witness"


class DiskKind:
    """The kind of one data directory; open until the first entry of commands."""

    def __init__(self, path: Path, files: FileSystem, node_id: NodeId, known: Kind | None) -> None:
        self._path = path
        self._files = files
        self._node_id = node_id
        self._known = known

    @classmethod
    def open(cls, data_dir: Path, node_id: NodeId, files: FileSystem | None = None) -> DiskKind:
        """Read the mark of a data directory. Raises StorageError."""
        path = data_dir / NAME
        files = files or OsFileSystem()
        try:
            known = Kind(unseal(read_file(files, path))["kind"])
        except FileNotFoundError:
            known = None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{path} is damaged ({in_words(error)}): whether entries have their payload here is lost. The way out: "
                f"put the file back, or `{REPAIR}`"
            ) from error
        return cls(path, files, node_id, known)

    @property
    def known(self) -> Kind | None:
        return self._known

    def require(self, kind: Kind) -> None:
        """Make sure, durably, that the disk is one of this kind.

        Raises DataDirectoryMismatch, and StorageError; NoRoom, where it may be tried again.
        """
        self._compare(kind)
        if self._known is None:
            write_json(self._files, self._path, {"kind": kind})
            self._known = kind

    def require_fits(self, configuration: Configuration) -> None:
        """Make sure that what the node is by `configuration` goes with the disk. Raises DataDirectoryMismatch."""
        if self._node_id in configuration.witnesses:
            self._compare(Kind.WITNESS)
        elif self._node_id in configuration.members:
            self._compare(Kind.DATA)

    def _compare(self, kind: Kind) -> None:
        if self._known is not None and self._known is not kind:
            raise kind_mismatch(self._node_id, kind)


def kind_mismatch(node_id: NodeId, wanted: Kind) -> DataDirectoryMismatch:
    """Return the error of a node whose disk is not of the kind that its cluster wants."""
    what = (
        f"node {node_id} is a member that holds data, and its disk has been a witness's: it lacks what was written then"
        if wanted is Kind.DATA
        else f"node {node_id} is a witness, and its disk has been that of a member that holds data"
    )
    return DataDirectoryMismatch(
        f"{what}. The way out: `raftkv member remove {node_id}`, and join with --join, under a new id and with an "
        "empty data directory"
    )


class KindGuard:
    """The log store of a node, which stores nothing that contradicts the kind of its disk."""

    def __init__(self, log_store: LogStore, kind: DiskKind) -> None:
        self._log_store = log_store
        self._kind = kind

    async def append(self, hard_state: HardState, entries: Sequence[Entry]) -> None:
        """See LogStore. Raises DataDirectoryMismatch too; nothing is written then, nor is after NoRoom."""
        for entry in entries:
            if entry.kind is EntryKind.COMMANDS:
                # A witness is sent entries in the place of those of the data members, without their payload.
                self._kind.require(Kind.DATA if entry.data else Kind.WITNESS)
            elif entry.kind is EntryKind.CONFIGURATION:
                self._kind.require_fits(decode_configuration(entry.data))
        await self._log_store.append(hard_state, entries)

    async def compact(self, first_kept: Index) -> None:
        await self._log_store.compact(first_kept)

    async def restart(self, hard_state: HardState, index: Index, term: Term) -> None:
        await self._log_store.restart(hard_state, index, term)

    def size_bytes(self) -> int:
        return self._log_store.size_bytes()

    def reserved_bytes(self) -> int:
        return self._log_store.reserved_bytes()

    async def close(self) -> None:
        await self._log_store.close()
