"""`raftkv serve`: one node."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def serve(
    *,
    id: Annotated[int | None, typer.Option("--id", help="This node's id, 1 or more, unique in the cluster.")] = None,  # noqa: A002
    data_dir: Annotated[Path | None, typer.Option(help="Where this node keeps its log and state.")] = None,
    member: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=HOST:PORT", help="Found a cluster: each member's peer address, this one's too."),
    ] = None,
    join: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Enter the cluster with this client address, after `member add`."),
    ] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="For clients [127.0.0.1:7001].")] = None,
    advertise: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="What clients are told to use [--listen].")
    ] = None,
    peer_listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="For peers [this node's address as a member].")
    ] = None,
    peer_dial: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=HOST:PORT", help="Dial a peer elsewhere than at its --member address."),
    ] = None,
    cluster_name: Annotated[
        str | None, typer.Option(help="Part of the cluster's identity, equal on all members [raftkv].")
    ] = None,
    tick_ms: Annotated[int | None, typer.Option(help="Tick of the consensus clock [10].")] = None,
    heartbeat_ms: Annotated[int | None, typer.Option(help="Time between heartbeats [50].")] = None,
    election_ms: Annotated[
        int | None, typer.Option(help="Silence after which an election starts, 1 to 2 times this [250].")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="The caught-up voter with the highest priority is handed leadership [0].")
    ] = None,
    lease_drift_ppm: Annotated[
        int | None,
        typer.Option(help="Leases for LEASE reads: no clock is off by more than so many millionths [0: no leases]."),
    ] = None,
    store_map_size: Annotated[
        int | None, typer.Option(help="Upper bound of the state store in bytes [64 GiB of address space].")
    ] = None,
    quota_bytes: Annotated[
        int | None,
        typer.Option(help="Writes that make the state grow are refused from this size on [8 GiB; 0: never]."),
    ] = None,
    auto_compaction_mode: Annotated[
        str | None,
        typer.Option(help="Give up history by `age` or number of `revisions`, or never (`off`) [age]."),
    ] = None,
    auto_compaction_retention: Annotated[
        str | None, typer.Option(help="History that is kept: by age 30m, 7d, ... [1h], or so many revisions [100000].")
    ] = None,
    write_concern: Annotated[
        str | None,
        typer.Option(
            metavar="majority|all|leader|N",
            help="Voters that have a write on disk before it is acknowledged, unless it says so itself [majority].",
        ),
    ] = None,
    checkpoint_log_bytes: Annotated[
        int | None, typer.Option(help="Log after which a checkpoint is made and the log compacted [64 MiB].")
    ] = None,
    checkpoint_entries: Annotated[
        int | None, typer.Option(help="Entries after which the same is done [100000].")
    ] = None,
    snapshot_send_bytes_per_s: Annotated[
        int | None,
        typer.Option(help="Checkpoints are sent to followers no faster than this; 0: as fast as it goes [100 MiB]."),
    ] = None,
    max_watches: Annotated[
        int | None, typer.Option(help="Watches served at a time; one more is refused, retryably [100000].")
    ] = None,
    max_stream_watches: Annotated[
        int | None, typer.Option(help="Watches of one stream, that is of one client [20000].")
    ] = None,
    watch_ring_bytes: Annotated[
        int | None,
        typer.Option(help="Recent changes in memory; watches that lag further are caught up from the store [32 MiB]."),
    ] = None,
    watch_progress_s: Annotated[
        float | None,
        typer.Option(help="A watch that asks for progress is told it when it was told nothing for so long [10]."),
    ] = None,
    wal_segment_bytes: Annotated[int | None, typer.Option(help="Size of a log segment [64 MiB].")] = None,
    shutdown_timeout_s: Annotated[
        float | None, typer.Option(help="How long a stopping node waits for a successor and open requests [5].")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error [info].")] = None,
    log_format: Annotated[str | None, typer.Option(help="text or json [text].")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with these settings by name.")] = None,
) -> None:
    """Run a node until SIGTERM or SIGINT; it hands over leadership before it goes.

    A new node needs --member or --join; one that has run before knows its cluster and needs neither.

    Every setting can also come from the environment (RAFTKV_DATA_DIR, RAFTKV_MEMBER=1=h:p,2=h:p, ...) or from a TOML
    file; flags win over the environment, the environment over the file.
    """
    flags = {name: value for name, value in locals().items() if name != "config"}
    from raftkv.cli.node import run_node  # noqa: PLC0415 - what a node is made of takes long to load

    run_node(flags, config)
