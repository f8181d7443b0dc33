"""`raftkv quorum`: what a choice of N, W and R comes to. Asks no node."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from raftkv.cli.options import Format, Output
from raftkv.cli.output import print_json, print_line, print_table
from raftkv.client.receipts import shortened
from raftkv.errors import InvalidArgument
from raftkv.quorum import Guarantee, concern_name, in_words, majority, parse_concern
from raftkv.quorum.explain import Level, Row, Sees
from raftkv.quorum.explain import explain as row_of

MAX_NODES: Final = 99

app = typer.Typer(help="What write concerns and read levels come to.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("explain")
def explain(
    *,
    nodes: Annotated[int, typer.Option(help="N: voters of the cluster, none of them a witness.")] = 3,
    w: Annotated[
        str, typer.Option(metavar="W", help="Voters that have a write on disk: 1 to N, leader, majority, all.")
    ] = "majority",
    r: Annotated[
        str, typer.Option(metavar="R", help="Voters that take part in a quorum read: 1 to N, majority, all.")
    ] = "majority",
    output: Format = Output.TABLE,
) -> None:
    """Say what reads see of writes at W, how many failures each survives, and how much load there may be.

    No node is asked: raftkv quorum explain --nodes 5 --w 3 --r 2. The proofs are in docs/guarantees.md.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise typer.BadParameter(f"{nodes} is not from 1 to {MAX_NODES} voters", param_hint="'--nodes'")
    concern, replicas = _write(w, nodes), _read(r, nodes)
    row = row_of(nodes, concern, replicas)
    if output is Output.JSON:
        print_json(_described(row, concern))
    else:
        _print(row, concern)


def _write(text: str, nodes: int) -> int:
    try:
        concern = parse_concern(text)
        row_of(nodes, concern, 0)
    except InvalidArgument:
        raise typer.BadParameter(
            f"{shortened(text)!r} is none of leader, majority, all, or 1 to {nodes} voters", param_hint="'--w'"
        ) from None
    return concern


def _read(text: str, nodes: int) -> int:
    named = {"majority": majority(nodes), "all": nodes}
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MAX_NODES))
    found = named.get(text) or (int(text) if is_number else 0)
    if not 1 <= found <= nodes:
        raise typer.BadParameter(
            f"{shortened(text)!r} is none of majority, all, or 1 to {nodes} voters", param_hint="'--r'"
        )
    return found


def _described(row: Row, concern: int) -> dict[str, object]:
    return {
        "nodes": row.voters,
        "majority": row.majority,
        "w": row.write,
        "write_concern": concern_name(concern),
        "r": row.read,
        "w_plus_r_exceeds_n": row.overlap,
        "write": {
            "acknowledged": "early" if row.early else "committed",
            "may_be_lost": row.early,
            "rpo": row.rpo,
        },
        "quorum_read": {
            "guarantee": row.guarantee.name.lower(),
            "words": in_words(row.guarantee, sees_writes_at=row.sees_writes_at),
            "sees_writes_at": row.sees_writes_at,
        },
        "sees": {level.value: _seen(seen) for level, seen in row.sees.items()},
        "survives_down": {
            "writes": row.writes_survive,
            "commits": row.commits_survive,
            "quorum_reads": row.quorum_reads_survive,
            "quorum_reads_whatever_the_logs_end_with": row.quorum_reads_survive_any_end,
            "local_reads": row.local_reads_survive,
        },
        "survives_disks_lost": {
            "going_on_by_itself": row.losses_survived,
            "with_a_copy_left": row.losses_with_a_copy_left,
        },
        "load": [
            {"gone": load.gone, "factor": round(load.factor, 3), "limit_percent": load.limit_percent}
            for load in row.loads
        ],
    }


def _seen(seen: Sees) -> dict[str, str]:
    return {"kind": seen.name.lower(), "words": seen.value}


def _print(row: Row, concern: int) -> None:
    n, w, r = row.voters, row.write, row.read
    named = f" ({concern_name(concern)})" if concern_name(concern) != str(w) else ""
    print_line(
        f"N = {n} voters, of which {row.majority} make a majority; W = {w}{named}; R = {r}; "
        f"W + R is {'greater' if row.overlap else 'not greater'} than N"
    )
    print_line("")
    if row.early:
        print_line(f"A write at W = {w} is acknowledged before it is committed: it may be lost. Puts and deletes only.")
    else:
        print_line(f"A write at W = {w} is acknowledged when it is committed{_and_held(row)}: it is there for ever.")
    print_line(f"RPO: {row.rpo}.")
    print_line(f"A read at quorum:{r} {_what(row)}.")
    if row.early and row.overlap:
        print_line("W + R > N is not enough: what is not committed when it is acknowledged may be missed, and lost.")
    print_line("")
    levels = [(f"quorum:{r}" if level is Level.QUORUM else level.value, seen.value) for level, seen in row.sees.items()]
    print_table(("READ", f"OF A WRITE ACKNOWLEDGED AT W = {w} BEFORE IT BEGAN"), levels)
    print_line("")
    print_table(
        (f"OF {n} VOTERS", "MAY BE", "AND STILL"),
        [
            (row.writes_survive, "down", f"writes are acknowledged at W = {w}"),
            (
                row.commits_survive,
                "down",
                "writes are committed; linearizable, lease and bounded reads answered; a leader elected",
            ),
            (
                row.quorum_reads_survive,
                "down",
                f"quorum:{r} reads are answered, if the logs' end is known to be committed",
            ),
            (row.quorum_reads_survive_any_end, "down", f"quorum:{r} reads are answered, whatever the logs end with"),
            (row.local_reads_survive, "down", "local reads are answered, by the node that is left"),
            (row.losses_survived, "lost, disk and all", "the others go on, with every acknowledged write"),
            (row.losses_with_a_copy_left, "lost, disk and all", "each acknowledged write is on some disk"),
        ],
        right=(f"OF {n} VOTERS",),
    )
    print_line("")
    if not row.loads:
        print_line("Capacity: no voter may be missing, so there is nothing to keep free for that.")
        return
    print_line("Capacity: what is spread evenly falls to those that are left; a leader's work to one other node.")
    print_table(
        ("VOTERS GONE", "LOAD OF EACH OTHER", "SO RUN EACH AT MOST AT"),
        [(load.gone, f"x {load.factor:.2f}", f"{load.limit_percent} %") for load in row.loads],
        right=("VOTERS GONE", "LOAD OF EACH OTHER", "SO RUN EACH AT MOST AT"),
    )


def _and_held(row: Row) -> str:
    return f" and {row.write} voters have it on disk" if row.write > row.majority else ""


def _what(row: Row) -> str:
    if row.guarantee is Guarantee.LINEARIZABLE:
        return "is linearizable, over all that is committed"
    return f"{in_words(row.guarantee, sees_writes_at=row.sees_writes_at)}; it is not linearizable"
