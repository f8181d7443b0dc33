"""The flags of `raftkv bench`, and its output."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raftkv.cli.exits import Exit, fail
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Format,
    Output,
    Read,
    ReadOption,
    Timeout,
    level_of,
    require_empty,
)
from raftkv.cli.output import print_json, print_line
from raftkv.cli.session import run_to_end

if TYPE_CHECKING:
    from raftkv.cli.bench.load import LoadResult
    from raftkv.cli.bench.operations import Operation

BENCH_DRIFT_PPM = 1_000
"""What own nodes are told of their clocks for LEASE reads: they all have the same one."""

Clients = Annotated[int, typer.Option(min=1, max=1000, help="Client objects, each with connections of its own.")]
Inflight = Annotated[int, typer.Option(min=1, max=100_000, help="Operations under way at a time, in all.")]
Total = Annotated[int, typer.Option(min=1, max=1_000_000_000, help="Operations in all.")]
KeySize = Annotated[int, typer.Option(min=1, max=500, metavar="BYTES", help="Length of a key.")]
ValueSize = Annotated[int, typer.Option(min=0, max=1 << 20, metavar="BYTES", help="Length of a value.")]
Local = Annotated[
    int | None,
    typer.Option(min=1, max=9, metavar="NODES", help="Start so many nodes here for the run, instead of --endpoints."),
]
Directory = Annotated[
    Path | None, typer.Option(help="With --local: where data and logs go, and stay; default: a temporary directory.")
]


def put(
    *,
    clients: Clients = 1,
    inflight: Inflight = 256,
    total: Total = 100_000,
    key_size: KeySize = 16,
    value_size: ValueSize = 128,
    local: Local = None,
    directory: Directory = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Measure puts, each of a new key. The keys, which begin with bench/ if that fits, stay in the store.

    --timeout is for each operation. A short warm-up does not count. Exit code 1 when an operation fails.
    """
    from raftkv.cli.bench.operations import Puts  # noqa: PLC0415 - see raftkv.cli

    _measure(
        Puts(total, key_size=key_size, value_size=value_size),
        clients=clients,
        inflight=inflight,
        local=local,
        directory=directory,
        endpoints=endpoints,
        output=output,
        timeout=timeout,
    )


def get(
    *,
    clients: Clients = 1,
    inflight: Inflight = 256,
    total: Total = 100_000,
    key_size: KeySize = 16,
    value_size: ValueSize = 128,
    read: ReadOption = Read.LINEARIZABLE,
    local: Local = None,
    directory: Directory = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Measure gets, of up to 10,000 keys that are written first and stay in the store.

    --timeout is for each operation. A short warm-up does not count. Exit code 1 when an operation fails.
    """
    from raftkv.cli.bench.operations import Gets  # noqa: PLC0415 - see raftkv.cli

    _measure(
        Gets(total, key_size=key_size, value_size=value_size, level=level_of(read)),
        clients=clients,
        inflight=inflight,
        local=local,
        directory=directory,
        endpoints=endpoints,
        output=output,
        timeout=timeout,
        node_flags=("--lease-drift-ppm", str(BENCH_DRIFT_PPM)) if read is Read.LEASE else (),
    )


def failover(
    *,
    local: Annotated[int, typer.Option(min=3, max=9, metavar="NODES", help="Size of the cluster that is started.")] = 3,
    times: Annotated[int, typer.Option(min=1, max=1000, help="How often the leader is ended.")] = 20,
    graceful: Annotated[bool, typer.Option("--graceful", help="SIGTERM instead of SIGKILL: it hands over.")] = False,
    directory: Directory = None,
    output: Format = Output.TABLE,
) -> None:
    """Measure how long a writer pauses when the leader is killed.

    One client writes without a break; a pause is its longest time between two acknowledgements. After each kill the
    dead node is started again and catches up.
    """
    from raftkv.cli.bench.failover import measure_failover  # noqa: PLC0415 - see raftkv.cli

    require_empty(directory)
    result = run_to_end(measure_failover(local, times, directory, graceful=graceful))
    if output is Output.JSON:
        print_json(asdict(result))
        return
    signal_name = "SIGTERM" if graceful else "SIGKILL"
    print_line(f"{signal_name} to the leader of {result.nodes} nodes: longest pause of a writer, {result.times} times")
    print_line(f"  median {result.median_ms} ms   p95 {result.p95_ms} ms   max {result.max_ms} ms")
    print_line(f"  all    {'  '.join(str(sample) for sample in result.samples_ms)} ms")


def _measure(
    operation: Operation,
    *,
    clients: int,
    inflight: int,
    local: int | None,
    directory: Path | None,
    endpoints: str,
    output: Output,
    timeout: float,
    node_flags: tuple[str, ...] = (),
) -> None:
    from raftkv.cli.bench.load import measure  # noqa: PLC0415 - see raftkv.cli
    from raftkv.cli.bench.target import existing_cluster, own_cluster  # noqa: PLC0415 - see raftkv.cli

    if directory is not None and local is None:
        fail("--directory needs --local", Exit.USAGE)
    require_empty(directory)
    target = existing_cluster(endpoints) if local is None else own_cluster(local, directory, node_flags)
    result = run_to_end(measure(operation, target, clients=clients, inflight=inflight, timeout=timeout))
    if output is Output.JSON:
        print_json(asdict(result))
    else:
        _print(result)
    if result.first_error is not None:
        fail(f"{result.errors} of {result.total} operations failed; the first: {result.first_error}", Exit.ERROR)


def _print(result: LoadResult) -> None:
    where = f"a local cluster of {result.nodes}" if result.nodes else result.endpoints
    clients = f"{result.clients} client" + ("s" if result.clients > 1 else "")
    print_line(f"{result.total:,} {result.operation}s in {result.seconds} s on {where}")
    sizes = f"keys of {result.key_size} and values of {result.value_size} bytes"
    print_line(f"  {result.inflight} in flight over {clients}, {sizes}")
    print_line(f"  {result.ops_per_s:,} {result.operation}s/s")
    print_line(f"  p50 {result.p50_ms} ms   p99 {result.p99_ms} ms   max {result.max_ms} ms")
    print_line(f"  {result.errors} errors   {result.elections} elections")
