"""`raftkv doctor`: is a data directory whole, and what would a start make of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from raftkv.cli.exits import Exit, fail
from raftkv.cli.options import Format, Output
from raftkv.cli.output import megabytes, print_json, print_line, print_table

if TYPE_CHECKING:
    from raftkv.server.doctor import Progress, Report
    from raftkv.storage.log_survey import SurveyedSegment

LARGE_BYTES: Final = 32 << 20
"""From this size on, there is time to show how far it is."""


def doctor(
    data_dir: Annotated[Path, typer.Argument(metavar="DATA_DIR", help="A node's data directory; the node is stopped.")],
    *,
    output: Format = Output.TABLE,
) -> None:
    """Check the data directory of a stopped node, and say what it would start from. Changes nothing.

    Reads everything: each record of the log, each chunk of the checkpoints, and hashes the states in them. A copy that
    is mounted read-only will do.

    Exit code 0: healthy. 1: damaged; what is wrong, what is lost, and the way out are said. 2: no data directory, or a
    process holds it.
    """
    import asyncio  # noqa: PLC0415 - see cli.serve

    from raftkv.errors import ConfigurationError  # noqa: PLC0415
    from raftkv.server.doctor import examine, require_data_dir  # noqa: PLC0415

    path = data_dir.absolute()
    try:
        require_data_dir(path)
        with progress_bar(path) as progress:
            report = asyncio.run(examine(path, progress=progress))
    except ConfigurationError as error:
        fail(error, Exit.USAGE)
    if output is Output.JSON:
        print_json(described(report))
    else:
        _print(report)
    if not report.healthy:
        raise typer.Exit(Exit.ERROR)


@contextmanager
def progress_bar(path: Path) -> Iterator[Progress]:
    """Show on a terminal how much of a large directory was read."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    from rich.progress import Progress as Bar  # noqa: PLC0415

    from raftkv.server.doctor import total_bytes  # noqa: PLC0415

    console = Console(stderr=True)
    total = total_bytes(path)
    if not console.is_terminal or total < LARGE_BYTES:
        yield lambda what, size_bytes: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("start", total=total)

        def read(what: str, size_bytes: int) -> None:
            done = bar.tasks[task].completed + size_bytes
            # More than was expected, where the start would read a checkpoint too.
            bar.update(task, completed=done, total=max(total, done), description=what)

        yield read


def verdict(report: Report) -> str:
    """Return in a few words what becomes of the node at its next start."""
    start = report.start
    if start.refusal:
        return "the node refuses to start"
    if start.recovered is None:
        return "a new node: it has nothing yet"
    return "damaged, and it starts: what is damaged is replaced" if report.damage else "healthy"


def next_start(report: Report) -> dict[str, Any]:
    """Return what the node would go on from; empty where it would not start."""
    start = report.start
    if start.refusal or start.recovered is None:
        return {}
    log, state = start.recovered, start.hard_state
    voters = start.configuration
    return {
        "term": state.term,
        "vote": state.vote,
        "first": log.first_index,
        "last": log.last_index,
        "commit": state.commit,
        "applied": start.applied,
        "store": start.store,
        "checkpoint": start.checkpoint.index if start.checkpoint else None,
        "torn_bytes": log.torn_bytes,
        "torn_at": log.torn_at or None,
        "voters": sorted(voters.voters) if voters else None,
    }


def described(report: Report) -> dict[str, Any]:
    """Return all of it for programs."""
    start = report.start
    identity, last = start.identity, start.last
    return {
        "data_dir": str(report.path),
        "healthy": report.healthy,
        "verdict": verdict(report),
        "damage": report.damage,
        "identity": None
        if identity is None
        else {
            "cluster_id": f"{identity.cluster_id:016x}",
            "node_id": identity.node_id,
            "replaces": list(identity.replaces),
            "founded": identity.founded,
            "members": {str(node): address for node, address in sorted(identity.members.items())},
        },
        "stopped_cleanly": last is not None and last.clean is not None,
        "kind": start.kind or None,
        "segments": [_segment(one) for one in report.segments],
        "checkpoints": [
            {
                "index": one.index,
                "term": one.term,
                "size_bytes": one.size_bytes,
                "received": one.received,
                "state_hash": one.state_hash.hex(),
                "problem": one.problem or None,
            }
            for one in report.checkpoints
        ],
        "store": {
            "size_bytes": report.store_bytes,
            "checksums": report.store_summed,
            "trusted": last is not None and last.keeps_store,
            "problem": start.store_problem or None,
        },
        "other_files": report.others,
        "next_start": next_start(report) or None,
        "refusal": start.refusal or None,
    }


def _segment(one: SurveyedSegment) -> dict[str, Any]:
    return {
        "name": one.name,
        "size_bytes": one.size_bytes,
        "used_bytes": one.used_bytes,
        "records": one.records,
        "entries": one.entries,
        "first": one.first_index or None,
        "last": one.last_index or None,
        "terms": [one.first_term, one.last_term] if one.entries else None,
        "flaws": [{"offset": offset, "flaw": flaw} for offset, flaw in one.flaws],
    }


def _print(report: Report) -> None:
    start = report.start
    identity = start.identity
    if identity is not None:
        replaces = f", in the place of {', '.join(map(str, identity.replaces))}" if identity.replaces else ""
        print_line(
            f"node {identity.node_id} of cluster {identity.cluster_id:016x}{replaces}; holds {start.kind or '?'}"
        )
    ended = "cleanly" if start.last is not None and start.last.clean is not None else "without a clean shutdown"
    print_line(f"it stopped {ended}")
    if report.segments:
        print_line("")
        print_table(
            ("SEGMENT", "USED", "SIZE", "RECORDS", "ENTRIES", "TERMS", "STATUS"),
            (
                (
                    one.name,
                    megabytes(one.used_bytes),
                    megabytes(one.size_bytes),
                    one.records,
                    f"{one.first_index}..{one.last_index}" if one.entries else None,
                    f"{one.first_term}..{one.last_term}" if one.entries else None,
                    "; ".join(f"byte {offset}: {flaw}" for offset, flaw in one.flaws) or "ok",
                )
                for one in report.segments
            ),
            right=("USED", "SIZE", "RECORDS"),
        )
    if report.checkpoints:
        print_line("")
        print_table(
            ("CHECKPOINT", "TERM", "SIZE", "STATE HASH", "STATUS"),
            (
                (one.index or one.name, one.term, megabytes(one.size_bytes), one.state_hash.hex(), one.problem or "ok")
                for one in report.checkpoints
            ),
            right=("TERM", "SIZE"),
        )
    print_line("")
    sums = "with checksums" if report.store_summed else "without checksums"
    print_line(
        f"state store: {megabytes(report.store_bytes)}, {sums}: {start.store_problem or start.store or 'unused'}"
    )
    if report.others:
        print_line(f"files that no node makes: {', '.join(report.others)}")
    found = next_start(report)
    if found:
        print_line(
            f"at the next start: term {found['term']}, vote {found['vote'] or 'none'}, log {found['first']}.."
            f"{found['last']}, commit {found['commit']}, state of entry {found['applied']}, "
            + (f"checkpoint {found['checkpoint']}" if found["checkpoint"] else "no checkpoint")
            + (f", voters {', '.join(map(str, found['voters']))}" if found["voters"] else "")
        )
        if found["torn_bytes"]:
            print_line(f"an unconfirmed write is cut off: {found['torn_bytes']} bytes at {found['torn_at']}")
    print_line("")
    for one in report.damage:
        print_line(f"DAMAGED: {one}")
    print_line(f"{verdict(report)}")
