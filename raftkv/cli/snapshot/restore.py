"""`raftkv snapshot restore`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from raftkv.cli.exits import exit_code, fail, say
from raftkv.cli.options import Format, Output
from raftkv.cli.output import print_json, print_table, size_text
from raftkv.cli.snapshot.bar import bar
from raftkv.errors import RaftKVError


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup.")],
    *,
    data_dir: Annotated[
        Path, typer.Option(help="Where the members' directories are made: DIR/1, DIR/2, ... With --id: that one's.")
    ],
    member: Annotated[
        list[str], typer.Option(metavar="ID=HOST:PORT", help="Each member's peer address, as for `raftkv serve`.")
    ],
    node_id: Annotated[
        int | None, typer.Option("--id", min=1, help="Only this member, for members on several machines.")
    ] = None,
    fencing_epoch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Needed with --id, equal for all members: seconds since 2020, above all epochs before."
        ),
    ] = None,
    cluster_name: Annotated[str, typer.Option(help="Part of the new cluster's identity.")] = "raftkv",
    output: Format = Output.TABLE,
) -> None:
    """Make the data directories of a new cluster from a backup; then start its nodes with `raftkv serve`.

    Offline. The directories must be empty or not be there; when anything is wrong, nothing is changed. The new cluster
    has another id, so that nodes and read tokens of the old one are refused, and fencing tokens, sessions and leases
    are numbered from a new epoch on, above all that the old cluster ever gave. Stop the old cluster first: clients
    that reach it go on with it.

    With members on several machines, run it on each with --id and the same --fencing-epoch, --member and FILE.
    """
    from raftkv.cli.snapshot.described import refusal  # noqa: PLC0415 - what a node is made of takes long to load
    from raftkv.raft import NodeId  # noqa: PLC0415
    from raftkv.server.restore import Plan, epoch_to_give  # noqa: PLC0415 - what a node is made of takes long to load
    from raftkv.server.restore import restore as make  # noqa: PLC0415
    from raftkv.server.settings import parse_members  # noqa: PLC0415

    began = time.monotonic()
    try:
        members = parse_members(member)
        if node_id is None:
            directories = {one: data_dir / str(one) for one in members}
        elif node_id not in members:
            raise typer.BadParameter(f"--id {node_id} is not among the members: {', '.join(map(str, sorted(members)))}")
        elif fencing_epoch is None:
            raise typer.BadParameter(
                "--id makes one member of several: give all the same --fencing-epoch; now it is "
                f"--fencing-epoch {epoch_to_give(file)}"
            )
        else:
            directories = {NodeId(node_id): data_dir}
        with bar() as show:
            made = make(file, Plan(members, directories, cluster_name, fencing_epoch), progress=show)
    except RaftKVError as error:
        fail(refusal(error, restoring=True), exit_code(error, writes=False), writes=False)
    seconds = time.monotonic() - began
    if output is Output.JSON:
        print_json(
            {
                "file": str(file),
                "cluster_id": f"{made.cluster_id:016x}",
                "fencing_epoch": made.epoch,
                "revision": made.backup.header.revision,
                "rows": made.backup.rows,
                "state_hash": made.state_hash.hex(),
                "members": [
                    {"id": one, "peer_address": members[one], "data_dir": str(path)}
                    for one, path in made.directories.items()
                ],
                "seconds": round(seconds, 3),
            }
        )
        return
    print_table(
        ("ID", "PEER ADDRESS", "DATA DIR"),
        [(one, members[one], path) for one, path in made.directories.items()],
        right=("ID",),
    )
    say(
        f"restored revision {made.backup.header.revision}, {size_text(made.backup.file_bytes)}, in {seconds:.1f} s: "
        f"cluster {made.cluster_id:016x}, fencing epoch {made.epoch}"
    )
    if len(made.directories) < len(members):
        say(
            f"on the machines of the other members, within a day: --fencing-epoch {made.epoch}, the same FILE, --member"
        )
