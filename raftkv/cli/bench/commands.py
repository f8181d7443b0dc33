"""The flags of `raftkv bench`, and its output."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raftkv.cli.exits import Exit, fail
from raftkv.cli.levels import LINEARIZABLE, READS, WRITES, completion, concern_of, level_of, several
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Format,
    Output,
    Timeout,
    require_empty,
)
from raftkv.cli.output import print_json, print_line, print_table
from raftkv.cli.session import run_to_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftkv.cli.bench.load import LoadResult
    from raftkv.cli.bench.operations import Operation
    from raftkv.cli.bench.target import Target

BENCH_DRIFT_PPM = 1_000
"""What own nodes are told of their clocks for LEASE reads: they all have the same one."""

Clients = Annotated[int, typer.Option(min=1, max=1000, help="Client objects, each with connections of its own.")]
Inflight = Annotated[int, typer.Option(min=1, max=100_000, help="Operations under way at a time, in all.")]
Total = Annotated[int, typer.Option(min=1, max=1_000_000_000, help="Operations in all.")]
KeySize = Annotated[int, typer.Option(min=1, max=500, metavar="BYTES", help="Length of a key.")]
ValueSize = Annotated[int, typer.Option(min=0, max=1 << 20, metavar="BYTES", help="Length of a value.")]
Levels = Annotated[
    str,
    typer.Option(
        "--level",
        "--read",
        metavar="LEVEL,...",
        autocompletion=completion(READS),
        help="Read levels, as `raftkv get --read` takes them; several take turns on one cluster.",
    ),
]
Concerns = Annotated[
    str | None,
    typer.Option(
        "--write",
        metavar="CONCERN,...",
        autocompletion=completion(WRITES),
        help="Write concerns, as `raftkv put --write` takes them; several take turns on one cluster. Default: the "
        "cluster's.",
        show_default=False,
    ),
]
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
    write: Concerns = None,
    local: Local = None,
    directory: Directory = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Measure puts, each of a new key. The keys, which begin with bench/ if that fits, stay in the store.

    --timeout is for each operation. A short warm-up does not count. Exit code 1 when an operation fails.

    Several write concerns, --total puts of each: raftkv bench put --local 3 --write leader,majority,all
    """
    from raftkv.cli.bench.operations import Puts  # noqa: PLC0415 - see raftkv.cli

    names = (None,) if write is None else several(write, "--write")
    _measure(
        *(
            Puts(
                total,
                key_size=key_size,
                value_size=value_size,
                concern=concern_of(name),
                variant=name,
                place=place,
                places=len(names),
            )
            for place, name in enumerate(names)
        ),
        baseline="majority",
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
    level: Levels = LINEARIZABLE,
    local: Local = None,
    directory: Directory = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Measure gets, of up to 10,000 keys that are written first and stay in the store.

    --timeout is for each operation. A short warm-up does not count. Exit code 1 when an operation fails.

    Several read levels, --total gets of each: raftkv bench get --local 3 --level linearizable,lease,local,quorum:2
    """
    from raftkv.cli.bench.operations import Gets  # noqa: PLC0415 - see raftkv.cli

    names = several(level, "--level")
    _measure(
        *(Gets(total, key_size=key_size, value_size=value_size, level=level_of(name), variant=name) for name in names),
        baseline=LINEARIZABLE,
        clients=clients,
        inflight=inflight,
        local=local,
        directory=directory,
        endpoints=endpoints,
        output=output,
        timeout=timeout,
        node_flags=("--lease-drift-ppm", str(BENCH_DRIFT_PPM)) if "lease" in names else (),
    )


def txn(
    *,
    clients: Clients = 1,
    inflight: Inflight = 256,
    total: Total = 50_000,
    key_size: KeySize = 16,
    value_size: ValueSize = 128,
    local: Local = None,
    directory: Directory = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Measure transactions of one condition (which holds) and one put, each of a new key. Otherwise as `bench put`."""
    from raftkv.cli.bench.operations import Txns  # noqa: PLC0415 - see raftkv.cli

    _measure(
        Txns(total, key_size=key_size, value_size=value_size),
        clients=clients,
        inflight=inflight,
        local=local,
        directory=directory,
        endpoints=endpoints,
        output=output,
        timeout=timeout,
    )


def lock(
    *,
    clients: Clients = 1,
    contenders: Annotated[
        int, typer.Option(min=1, max=10_000, help="Each acquires and releases, again and again.")
    ] = 64,
    locks: Annotated[
        int, typer.Option(min=1, max=10_000, help="Over how many locks they are spread; 1: all want the same.")
    ] = 1,
    total: Total = 20_000,
    local: Local = None,
    directory: Directory = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Measure acquires and releases of locks: one operation is both, and its latency the wait in line, too.

    --timeout is for each request. A short warm-up does not count. Exit code 1 when an operation fails, or a lock is
    ever granted with a token that is not newer than that of its last holder.
    """
    from raftkv.cli.bench.operations import Locks  # noqa: PLC0415 - see raftkv.cli

    _measure(
        Locks(total, locks=locks),
        clients=clients,
        inflight=contenders,
        local=local,
        directory=directory,
        endpoints=endpoints,
        output=output,
        timeout=timeout,
    )


def watch(
    *,
    watchers: Annotated[int, typer.Option(min=1, max=100_000, help="Watches, all of one prefix.")] = 1000,
    clients: Clients = 1,
    rate: Annotated[int, typer.Option(min=1, max=100_000, metavar="PUTS/S", help="Puts that go in.")] = 2000,
    total: Total = 20_000,
    key_size: KeySize = 16,
    value_size: ValueSize = 128,
    local: Local = None,
    directory: Directory = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Measure how soon watches are told: from the moment at which a put is sent until a watcher has its event.

    --clients share the watchers among them; the puts come from another client. --timeout is for each put, and for how
    long the last event may take. Exit code 1 when a put fails, or a watcher misses an event or is told one twice.
    """
    from raftkv.cli.bench.watch import measure_watch  # noqa: PLC0415 - see raftkv.cli

    target = _target(local, directory, endpoints)
    result = run_to_end(
        measure_watch(
            target,
            watchers=watchers,
            clients=clients,
            rate=rate,
            total=total,
            key_size=key_size,
            value_size=value_size,
            timeout=timeout,
        )
    )
    if output is Output.JSON:
        print_json(asdict(result))
    else:
        where = f"a local cluster of {result.nodes}" if result.nodes else result.endpoints
        print_line(f"{result.watchers:,} watchers of one prefix on {where}, over {_clients(result.clients)}")
        print_line(f"  {result.puts_per_s:,} puts/s ({result.rate:,} wanted), {result.events_per_s:,} events/s")
        print_line(f"  p50 {result.p50_ms} ms   p99 {result.p99_ms} ms   max {result.max_ms} ms from put to event")
        print_line(f"  p50 {result.put_p50_ms} ms   p99 {result.put_p99_ms} ms until a put is acknowledged")
        print_line(f"  {result.lost} lost   {result.duplicated} twice   {result.elections} elections")
    if result.lost or result.duplicated:
        fail(f"of {result.events:,} events {result.lost:,} were lost, {result.duplicated:,} came twice", Exit.ERROR)


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


def checkpoint(
    *,
    local: Annotated[int, typer.Option(min=1, max=9, metavar="NODES", help="Size of the cluster that is started.")] = 3,
    keys: Annotated[int, typer.Option(min=1, max=100_000_000, help="Keys that are written first.")] = 1_000_000,
    value_size: ValueSize = 128,
    rate: Annotated[int, typer.Option(min=1, max=100_000, metavar="PUTS/S", help="Puts of these keys.")] = 2000,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many checkpoints the leader makes.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long puts go on without, in each round.")] = 5.0,
    directory: Directory = None,
    output: Format = Output.TABLE,
) -> None:
    """Measure what a checkpoint of the leader costs: latencies of puts with and without, heartbeats, memory.

    Puts are sent at a steady rate, and their time counts from when they are due.
    """
    from raftkv.cli.bench.checkpoint import measure_checkpoint  # noqa: PLC0415 - see raftkv.cli

    require_empty(directory)
    result = run_to_end(
        measure_checkpoint(
            local, directory, keys=keys, value_size=value_size, rate=rate, rounds=rounds, seconds=seconds
        )
    )
    if output is Output.JSON:
        print_json(asdict(result))
        return
    print_line(
        f"{result.rounds} checkpoints of {result.keys:,} keys, on the leader of {result.nodes}, {result.rate:,} puts/s"
    )
    for name, put in (("without", result.without), ("during", result.during)):
        print_line(f"  {name:8} p50 {put.p50_ms} ms   p99 {put.p99_ms} ms   max {put.max_ms} ms   ({put.puts:,} puts)")
    print_line(f"  p99 x {result.p99_ratio} (median of the rounds)   {result.elections} elections")
    print_line(f"  a checkpoint took {_list(result.checkpoint_s)} s")
    print_line(f"  longest delay of a heartbeat {_list(result.longest_delay_ms)} ms")
    print_line(
        f"  memory {result.before.resident} MiB, at most {result.peak.resident} meanwhile; without pages of files "
        f"{result.before.anonymous}, at most {result.peak.anonymous}"
    )


def _list(numbers: list[float]) -> str:
    return "  ".join(str(number) for number in numbers)


def _measure(
    *operations: Operation,
    clients: int,
    inflight: int,
    local: int | None,
    directory: Path | None,
    endpoints: str,
    output: Output,
    timeout: float,
    node_flags: tuple[str, ...] = (),
    baseline: str = "",
) -> None:
    from raftkv.cli.bench.load import measure  # noqa: PLC0415 - see raftkv.cli

    target = _target(local, directory, endpoints, node_flags)
    results = run_to_end(measure(operations, target, clients=clients, inflight=inflight, timeout=timeout))
    if output is Output.JSON:
        print_json(asdict(results[0]) if len(results) == 1 else [asdict(one) for one in results])
    elif len(results) == 1:
        _print(results[0])
    else:
        _compare(results, baseline)
    for result in results:
        if result.first_error is not None:
            at = f" at {result.variant}" if len(results) > 1 else ""
            fail(
                f"{result.errors} of {result.total} operations failed{at}; the first: {result.first_error}", Exit.ERROR
            )


def _target(
    local: int | None, directory: Path | None, endpoints: str, node_flags: tuple[str, ...] = ()
) -> AbstractAsyncContextManager[Target]:
    from raftkv.cli.bench.target import existing_cluster, own_cluster  # noqa: PLC0415 - see raftkv.cli

    if directory is not None and local is None:
        fail("--directory needs --local", Exit.USAGE)
    require_empty(directory)
    return existing_cluster(endpoints) if local is None else own_cluster(local, directory, node_flags)


def _clients(number: int) -> str:
    return f"{number} client" + ("s" if number > 1 else "")


def _print(result: LoadResult) -> None:
    where = f"a local cluster of {result.nodes}" if result.nodes else result.endpoints
    print_line(f"{result.total:,} {result.operation}s in {result.seconds} s on {where}")
    if result.locks is None:
        shape = f"{result.inflight} in flight", f"keys of {result.key_size} and values of {result.value_size} bytes"
    else:
        shape = f"{result.inflight} contenders", f"{result.locks} lock" + ("s" if result.locks > 1 else "")
    print_line(f"  {shape[0]} over {_clients(result.clients)}, {shape[1]}")
    print_line(f"  {result.ops_per_s:,} {result.operation}s/s")
    print_line(f"  p50 {result.p50_ms} ms   p99 {result.p99_ms} ms   max {result.max_ms} ms")
    print_line(f"  {result.errors} errors   {result.elections} elections")


def _compare(results: Sequence[LoadResult], baseline: str) -> None:
    """Write variants side by side, and how each compares with `baseline`, if that is among them."""
    first = results[0]
    where = f"a local cluster of {first.nodes}" if first.nodes else first.endpoints
    print_line(f"{first.total:,} {first.operation}s each, in turns, on {where}")
    print_line(
        f"  {first.inflight} in flight over {_clients(first.clients)}, "
        f"keys of {first.key_size} and values of {first.value_size} bytes"
    )
    against = next((one for one in results if one.variant == baseline), None)
    ratios = () if against is None else (f"VS {baseline.upper()}", "P50 VS")
    numbers = (f"{first.operation.upper()}S/S", "P50 MS", "P99 MS", "MAX MS", *ratios, "ERRORS", "ELECTIONS")
    print_table(
        ("VARIANT", *numbers, "AN ANSWER SAID"),
        (
            (
                one.variant,
                f"{one.ops_per_s:,.0f}",
                one.p50_ms,
                one.p99_ms,
                one.max_ms,
                *(
                    ()
                    if against is None
                    else (_times(one.ops_per_s, against.ops_per_s), _times(one.p50_ms, against.p50_ms))
                ),
                one.errors,
                one.elections,
                one.worth,
            )
            for one in results
        ),
        right=numbers,
    )


def _times(measured: float | None, against: float | None) -> str | None:
    return f"x {measured / against:.2f}" if measured is not None and against else None
