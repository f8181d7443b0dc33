"""`raftkv snapshot save`."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raftkv.cli.exits import say
from raftkv.cli.options import DEFAULT_ENDPOINTS, Endpoints, Format, Output
from raftkv.cli.output import print_json, size_text
from raftkv.cli.session import run_with_client
from raftkv.cli.snapshot.bar import bar
from raftkv.client import AsyncClient, SavedSnapshot, SnapshotProgress
from raftkv.client.core import DEFAULT_TIMEOUT_S
from raftkv.errors import Compacted, ConnectionFailed, DeadlineExceeded

if TYPE_CHECKING:
    from raftkv.storage.backup_format import BackupSummary

_NO_FILES: Final = (Path(), Path("-"))
"""What `Path` makes of no name at all; what others take for standard output."""


def save(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where the backup goes.")],
    *,
    revision: Annotated[
        int, typer.Option(min=0, help="The keys, and their history, as of this revision; 0: all there is now.")
    ] = 0,
    stale: Annotated[
        bool, typer.Option("--stale", help="Whatever state the node has, however old; needs no leader.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.001, max=86_400, metavar="SECONDS", help="For every silence of the node, not for all."
        ),
    ] = 60.0,
) -> None:
    """Save a consistent backup of the running cluster: keys with history, leases, locks, sessions.

    The first endpoint that can sends it, so name one node to have that node do it; writes go on meanwhile. All that was
    acknowledged before is in it, unless --stale. The bytes are checked as they come, written to FILE.part, and put in
    place once they are whole and on the disk; otherwise nothing is left.

    With --revision there are no sessions in it, nobody holds a lock or waits for one, and keys whose lease has ended
    since are deleted. Ids and fencing tokens are those of now: nothing is given twice.
    """
    if file in _NO_FILES:
        raise typer.BadParameter(
            f"FILE is {'-' if file.name else 'empty'}: a backup goes into a file, as it is checked before it is put in "
            "place. Name one"
        )
    began = time.monotonic()
    saved, summary = run_with_client(
        endpoints,
        DEFAULT_TIMEOUT_S,
        lambda client: _save(client, file, revision=revision, stale=stale, force=force, timeout=timeout),
    )
    seconds = time.monotonic() - began
    if output is Output.JSON:
        print_json(
            {
                "file": str(file),
                "endpoint": saved.endpoint,
                "member_id": saved.member_id,
                "revision": saved.revision,
                "as_of": revision or None,
                "applied_index": saved.applied_index,
                "rows": summary.rows,
                "size_bytes": summary.file_bytes,
                "state_hash": summary.state_hash.hex(),
                "seconds": round(seconds, 3),
            }
        )
        return
    rate = size_text(int(summary.file_bytes / max(seconds, 0.001)))
    say(
        f"saved {_what(saved, revision)} (entry {saved.applied_index}) of node {saved.member_id} to {file}: "
        f"{summary.rows:,} rows, {size_text(summary.file_bytes)} in {seconds:.1f} s ({rate}/s)"
        + _why_later(saved, revision)
    )


def _what(saved: SavedSnapshot, as_of: int) -> str:
    return f"the state as of revision {as_of}" if as_of else f"revision {saved.revision}"


def _why_later(saved: SavedSnapshot, as_of: int) -> str:
    """Explain a backup as of a revision that is at another one itself."""
    ended = saved.revision - as_of
    if not as_of or not ended:
        return ""
    leases = "a lease that has ended" if ended == 1 else f"{ended} leases that have ended"
    return f". A cluster restored from it begins at revision {saved.revision}, without the keys of {leases} since"


async def _save(
    client: AsyncClient, file: Path, *, revision: int, stale: bool, force: bool, timeout: float
) -> tuple[SavedSnapshot, BackupSummary]:
    from raftkv.storage.backup_file import BackupWriter  # noqa: PLC0415 - what a node is made of takes long to load

    begun = False

    def moved(one: SnapshotProgress) -> None:
        nonlocal begun
        begun = begun or one.done_bytes > 0
        show(f"node {one.endpoint}" + ("" if begun else ": preparing"), one.done_bytes, one.total_bytes)

    with BackupWriter(file, replace=force) as writer, bar() as show:
        try:
            saved = await client.save_snapshot(writer, revision=revision, stale=stale, progress=moved, timeout=timeout)
        except Compacted as error:
            if error.compacted_revision:
                error.message += (
                    f". Backups can be made as of {error.compacted_revision} or later, or without --revision"
                )
            raise
        except (ConnectionFailed, DeadlineExceeded) as error:
            if isinstance(error, DeadlineExceeded):
                error.message += f" (--timeout {timeout:g})"
            if begun:
                error.message = f"{error.message}. The backup was cut short, and nothing of it is kept: try again"
            raise
        return saved, await asyncio.to_thread(writer.finish)
