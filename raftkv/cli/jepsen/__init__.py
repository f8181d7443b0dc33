"""`raftkv jepsen`: clients and faults against a cluster made for it, and the verdict on what the clients were told.

names     what --workload and --nemesis take, and what the shell offers for them
screen    how it goes, for whoever watches
summary   the verdict, as a table or JSON
"""

from __future__ import annotations

import contextlib
import os
import random
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from raftkv.cli.demo import Size
from raftkv.cli.exits import INTERRUPTED, complain
from raftkv.cli.jepsen.names import NemesisOption, WorkloadOption, nemeses_named, show_names, workloads_named
from raftkv.cli.options import Format, Output, require_empty
from raftkv.cli.tls_flags import given_tls
from raftkv.errors import RaftKVError

COULD_NOT_RUN = 2


def jepsen(
    *,
    workload: WorkloadOption = "register",
    nemesis: NemesisOption = "isolate-leader",
    nodes: Annotated[Size, typer.Option(help="Size of the cluster.")] = Size.THREE,
    time: Annotated[
        float, typer.Option(min=1, max=86_400, metavar="SECONDS", help="How long clients work and faults come and go.")
    ] = 60.0,
    rate: Annotated[
        float, typer.Option(min=0.1, max=100_000, metavar="OPS/S", help="Operations per second, of each workload.")
    ] = 100.0,
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Clients of each workload.")] = 5,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="What chance decides: faults, victims, operations. Default: drawn, and told."),
    ] = None,
    op_timeout: Annotated[
        float, typer.Option(min=0.05, max=600, metavar="SECONDS", help="After which a client gives an operation up.")
    ] = 3.0,
    check_time: Annotated[
        float,
        typer.Option(min=0.1, max=86_400, metavar="SECONDS", help="For the check of a workload; then it is unknown."),
    ] = 120.0,
    directory: Annotated[
        Path | None,
        typer.Option(help="An empty directory for history, report and the nodes' logs. Default: a new temporary one."),
    ] = None,
    endpoints: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT,...",
            help="Test a cluster that is there already, with --nemesis none. Its own keys are safe.",
        ),
    ] = "",
    serve_option: Annotated[
        list[str] | None,
        typer.Option("--serve", metavar="FLAG=VALUE", help="For `raftkv serve`, such as election-ms=500. Repeatable."),
    ] = None,
    sabotage: Annotated[str, typer.Option(envvar="RAFTKV_JEPSEN_SABOTAGE", hidden=True)] = "",
    names: Annotated[bool, typer.Option("--list", help="List the workloads and nemeses, and exit.")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Test a cluster under faults: real nodes, a Toxiproxy on every link, clients whose answers are all checked.

    Several workloads run at once, several nemeses are on at once. Everything is kept in --directory: results.json,
    history.jsonl, report.html, the nodes' data and logs.

    Exit code 0: what the clients were told is what a correct store tells. 1: it is not. 2: it could not be run. 3: not
    known, since the check ran out of time, too few operations were OK, or a fault never fired.
    """
    if names:
        show_names(as_json=output is Output.JSON)
        return
    require_empty(directory)
    size = int(nodes.value)
    kinds = workloads_named(workload)
    faults = nemeses_named(nemesis, size)
    if endpoints and faults:
        raise typer.BadParameter(
            "faults need a cluster of our own: say --nemesis none, and break yours while the clients run",
            param_hint="--endpoints",
        )
    drawn = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    arguments = tuple(word for one in serve_option or () for word in _flag(one))
    flags = {
        "workload": workload,
        "nemesis": nemesis,
        "nodes": nodes.value,
        "time": f"{time:g}",
        "rate": f"{rate:g}",
        "concurrency": str(concurrency),
        "seed": str(drawn),
        "op-timeout": f"{op_timeout:g}",
        "check-time": f"{check_time:g}",
    } | ({"endpoints": endpoints} if endpoints else {})
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    words += [word for one in serve_option or () for word in ("--serve", one)]
    command = (f"RAFTKV_JEPSEN_SABOTAGE={sabotage} " if sabotage else "") + shlex.join(["raftkv", "jepsen", *words])
    try:
        from raftkv.cli.jepsen.screen import run_and_show  # noqa: PLC0415 - a cluster takes long to load
        from raftkv.jepsen.runner import Options  # noqa: PLC0415
    except ModuleNotFoundError as error:
        complain(f"this takes {error.name}, which is not installed: pip install 'raftkv[testing]'", "NOT_INSTALLED")
        raise typer.Exit(COULD_NOT_RUN) from None
    where: Path | None = None
    try:
        where = directory or Path(tempfile.mkdtemp(prefix="raftkv-jepsen-"))
        where.mkdir(parents=True, exist_ok=True)
        options = Options(
            workloads=kinds,
            nemeses=faults,
            nodes=size,
            seconds=time,
            rate=rate,
            concurrency=concurrency,
            seed=drawn,
            op_timeout_s=op_timeout,
            check_seconds=check_time,
            directory=where,
            endpoints=endpoints,
            tls=given_tls(),
            sabotage=sabotage,
            arguments=arguments,
            command=command,
        )
        code = run_and_show(options, as_json=output is Output.JSON)
    except RaftKVError as error:
        complain(f"could not run: {error.message}{_kept(where)}", "COULD_NOT_RUN")
        raise typer.Exit(COULD_NOT_RUN) from None
    except KeyboardInterrupt:
        complain(f"interrupted; no node is left running{_kept(where)}", "INTERRUPTED")
        raise typer.Exit(INTERRUPTED) from None
    except typer.Exit:
        raise
    except Exception as error:  # 1 would be a violation
        if os.environ.get("RAFTKV_DEBUG"):
            raise
        told = f"{type(error).__name__}: {error} (RAFTKV_DEBUG=1 shows where){_kept(where)}"
        complain(f"could not run to its end: {told}", "COULD_NOT_RUN")
        raise typer.Exit(COULD_NOT_RUN) from None
    sys.stdout.flush()
    raise typer.Exit(code)


def _kept(where: Path | None) -> str:
    """Say where what there is can be found; an empty directory goes."""
    if where is None:
        return ""
    with contextlib.suppress(OSError):
        where.rmdir()
    return f"; what there is, is kept in {where}" if where.exists() else ""


def _flag(text: str) -> tuple[str, str]:
    name, is_there, value = text.partition("=")
    if not name or not is_there:
        raise typer.BadParameter(f"{text!r} is not FLAG=VALUE, such as election-ms=500", param_hint="--serve")
    return f"--{name.removeprefix('--')}", value
