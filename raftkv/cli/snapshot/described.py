"""What a backup is, as tables and JSON show it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from raftkv.errors import RaftKVError, StorageError
from raftkv.kv import keys
from raftkv.kv.epoch import epoch_of
from raftkv.kv.records import Meta
from raftkv.storage.backup_format import BackupSummary, DamagedBackup

_TABLES: Final = {
    "versions": keys.VERSIONS,
    "sessions": keys.SESSIONS,
    "session_results": keys.RESULTS,
    "changes": keys.CHANGES,
    "leases": keys.LEASES,
    "leased_keys": keys.LEASE_KEYS,
    "locks": keys.LOCKS,
    "places_in_lines": keys.LINES,
}


_WAY_OUT: Final = "The way out"


def refusal(error: RaftKVError, *, restoring: bool) -> RaftKVError:
    """Return an error about a backup with what has become of the restore and the way out, where it does not say so."""
    if isinstance(error, StorageError):
        if restoring and "othing was restored" not in error.message:
            error.message += ". Nothing was restored"
        if isinstance(error, DamagedBackup) and _WAY_OUT not in error.message:
            error.message += f". {_WAY_OUT}: take another backup, and check it with `raftkv snapshot verify`"
    return error


def summary_of(summary: BackupSummary, meta: Meta) -> dict[str, object]:
    """Return what identifies a backup."""
    header = summary.header
    made_at = datetime.fromtimestamp(header.made_at_ms / 1000, UTC).isoformat(timespec="seconds")
    return {
        "cluster_id": f"{header.cluster_id:016x}",
        "node_id": header.node_id,
        "made_at": made_at.replace("+00:00", "Z"),
        "applied_index": header.index,
        "applied_term": header.term,
        "revision": header.revision,
        "compacted_revision": header.compacted_revision,
        "as_of": header.as_of or None,
        "fencing_epoch": epoch_of(meta),
        "last_token": header.last_token,
        "rows": summary.rows,
        "size_bytes": summary.file_bytes,
        "state_hash": summary.state_hash.hex(),
        "state_format": header.state_format,
        "raftkv": header.software,
    }


def tables_of(counts: list[int]) -> dict[str, int]:
    """Return how many rows each table has."""
    return {name: counts[table[0]] for name, table in _TABLES.items()}
