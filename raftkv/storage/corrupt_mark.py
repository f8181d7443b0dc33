"""The mark of a node whose state was found to be another one than a majority's: so that no restart forgets it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raftkv.errors import StorageError
from raftkv.storage.data_dir import CORRUPT_NAME, FORMAT_VERSION, write_json
from raftkv.storage.files import FileSystem, OsFileSystem, read_file
from raftkv.storage.json_files import in_words, unseal
from raftkv.storage.way_out import REPAIR_NODE


@dataclass(frozen=True, slots=True)
class CorruptMark:
    """What was found."""

    index: int
    """The entry after which the states were compared."""
    own_hash: bytes
    right_hash: bytes
    """That of the majority."""
    agreed: tuple[int, ...]
    """Who has it."""
    found_at: float
    """Seconds since 1970, for people to read."""


def read_mark(data_dir: Path, files: FileSystem | None = None) -> CorruptMark | None:
    """Return the mark of a data directory; None: it has none. Raises StorageError for one that is damaged."""
    path = data_dir / CORRUPT_NAME
    try:
        stored = unseal(read_file(files or OsFileSystem(), path))
        if stored["format_version"] != FORMAT_VERSION:
            raise ValueError(f"format version {stored['format_version']!r}")
        return CorruptMark(
            index=int(stored["index"]),
            own_hash=bytes.fromhex(stored["own_hash"]),
            right_hash=bytes.fromhex(stored["right_hash"]),
            agreed=tuple(int(node) for node in stored["agreed"]),
            found_at=float(stored["found_at"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path} is damaged ({in_words(error)}): it says that this node's state was found corrupt. {REPAIR_NODE}"
        ) from error


def write_mark(data_dir: Path, mark: CorruptMark, files: FileSystem | None = None) -> None:
    """Mark a data directory, durably. Raises StorageError."""
    write_json(
        files or OsFileSystem(),
        data_dir / CORRUPT_NAME,
        {
            "format_version": FORMAT_VERSION,
            "index": mark.index,
            "own_hash": mark.own_hash.hex(),
            "right_hash": mark.right_hash.hex(),
            "agreed": list(mark.agreed),
            "found_at": mark.found_at,
        },
    )
