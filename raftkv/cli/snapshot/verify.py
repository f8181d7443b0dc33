"""`raftkv snapshot verify` and `inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raftkv.cli.exits import exit_code, fail, say
from raftkv.cli.options import Format, Output
from raftkv.cli.output import print_json, print_table, size_text
from raftkv.cli.snapshot.bar import bar
from raftkv.errors import RaftKVError

if TYPE_CHECKING:
    from raftkv.kv.records import Meta
    from raftkv.storage.backup_format import BackupSummary

BackupFile = Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")]


def verify(file: BackupFile, *, output: Format = Output.TABLE) -> None:
    """Read a backup to its end and check everything: exit code 0 means that it can be restored, whole.

    Every checksum, the order and number of the rows, the state hash, and that it ends where it says. Needs no cluster.
    """
    from raftkv.cli.snapshot.described import summary_of  # noqa: PLC0415 - what a node is made of takes long to load

    summary, meta, _ = _read(file)
    if output is Output.JSON:
        print_json({"file": str(file), **summary_of(summary, meta)})
        return
    say(
        f"{file} is whole: revision {summary.header.revision}, {summary.rows:,} rows, {size_text(summary.file_bytes)}, "
        f"state hash {summary.state_hash.hex()}"
    )


def inspect(file: BackupFile, *, output: Format = Output.TABLE) -> None:
    """Show what is in a backup, once it was found whole: of which cluster, as of when, and how much of what."""
    from raftkv.cli.snapshot.described import summary_of, tables_of  # noqa: PLC0415 - what a node is made of takes long to load

    summary, meta, counts = _read(file)
    said, tables = summary_of(summary, meta), tables_of(counts)
    if output is Output.JSON:
        print_json({"file": str(file), **said, "tables": tables})
        return
    rows = [(name.replace("_", " "), value) for name, value in {**said, **tables}.items()]
    print_table(("WHAT", "VALUE"), [(name, "-" if value is None else str(value)) for name, value in rows])


def _read(file: Path) -> tuple[BackupSummary, Meta, list[int]]:
    from raftkv.cli.snapshot.described import refusal  # noqa: PLC0415 - what a node is made of takes long to load
    from raftkv.server.restore import read_whole  # noqa: PLC0415

    try:
        with bar() as show:
            return read_whole(file, show)
    except RaftKVError as error:
        fail(refusal(error, restoring=False), exit_code(error, writes=False), writes=False)
