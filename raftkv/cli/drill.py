"""`raftkv drill`: take the leader away on purpose, and measure what that costs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raftkv.cli.exits import Exit, fail, say
from raftkv.cli.options import DEFAULT_ENDPOINTS, Endpoints, Format, Output
from raftkv.cli.output import print_json, print_line, print_table
from raftkv.cli.session import catch_signals, run_to_end
from raftkv.cli.tls_flags import given_tls

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftkv.client import AsyncClient
    from raftkv.drill.drill import Plan
    from raftkv.drill.faults import Way
    from raftkv.drill.measure.record import How
    from raftkv.drill.measure.verdict import Result

DEFAULT_RATE: Final = 200.0
DEFAULT_WRITERS: Final = 4
DEFAULT_PATIENCE_S: Final = 60.0
REPORTS: Final = (".html", ".htm")


def drill(
    *,
    kill: Annotated[bool, typer.Option("--kill", help="SIGKILL to the leader's process; it is started again.")] = False,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Ask the leader to hand over [the default: nothing stops].")
    ] = False,
    pause: Annotated[bool, typer.Option("--pause", help="SIGSTOP to the leader's process, and SIGCONT later.")] = False,
    times: Annotated[int, typer.Option(min=1, max=1000, help="Rounds.")] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    compose: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The nodes are services of this compose file, found by the ports they publish."
        ),
    ] = None,
    local: Annotated[
        int | None,
        typer.Option(min=3, max=9, metavar="NODES", help="Drill a cluster of its own, started here, which then goes."),
    ] = None,
    rate: Annotated[float, typer.Option(min=10, max=5000, help="Writes a second meanwhile.")] = DEFAULT_RATE,
    clients: Annotated[int, typer.Option(min=1, max=64, help="Writers.")] = DEFAULT_WRITERS,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="Write one page, with a drawing of every round.")
    ] = None,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Annotated[
        float, typer.Option(min=1, max=3600, metavar="SECONDS", help="For each thing that has to come about.")
    ] = DEFAULT_PATIENCE_S,
) -> None:
    """Take the leader away under a light load, and measure how soon another one writes, and that nothing is lost.

    Before each round: a leader, all voters answer, a follower has caught up, no alarm, and a majority is left without
    one node; or the drill goes no further. The keys that it writes, below raftkv-drill/, are deleted at the end. It
    asks before it begins. Ctrl-C puts right what was done.

    Only processes on loopback addresses of this machine, and services of --compose, are killed or paused.

    Exit code 0: nothing acknowledged is lost, and the cluster is whole again. 1: not so, or it is not fit for a drill.
    2: usage. 5: unreachable, or no leader. 130: interrupted.
    """
    from raftkv.drill.drill import Plan  # noqa: PLC0415 - see raftkv.cli

    how = _how(kill=kill, transfer=transfer, pause=pause)
    _require(local, compose, report)
    plan = Plan(how=how, times=times, writers=clients, rate=rate, patience_s=timeout)
    result = _drill_own(plan, local, report) if local else _drill(plan, endpoints, compose, report, yes=yes)
    if output is Output.JSON:
        print_json(result.as_json())
    else:
        _print(result)
    if not result.passed:
        fail(f"the drill failed: {'; '.join(result.problems)}", Exit.ERROR)


def _how(*, kill: bool, transfer: bool, pause: bool) -> How:
    from raftkv.drill.measure.record import How  # noqa: PLC0415 - see raftkv.cli

    if kill + transfer + pause > 1:
        fail("one of --kill, --transfer and --pause at a time", Exit.USAGE)
    return How.KILL if kill else How.PAUSE if pause else How.TRANSFER


def _require(local: int | None, compose: Path | None, report: Path | None) -> None:
    if local is not None and compose is not None:
        fail("--local starts its own cluster: there is no --compose file to it", Exit.USAGE)
    if compose is not None and not compose.is_file():
        fail(f"--compose {compose}: no such file", Exit.USAGE)
    if report is None:
        return
    if report.suffix.lower() not in REPORTS:
        fail(
            f"--report writes a page of HTML: {report} does not end in .html. For a picture of it: "
            "chromium --headless --screenshot=drill.png drill.html",
            Exit.USAGE,
        )
    if not report.absolute().parent.is_dir():
        fail(f"--report {report}: there is no such directory", Exit.USAGE)


def _drill(plan: Plan, endpoints: str, compose: Path | None, report: Path | None, *, yes: bool) -> Result:
    from raftkv.client import AsyncClient, Tls  # noqa: PLC0415 - see raftkv.cli
    from raftkv.client.urls import asks_for_tls  # noqa: PLC0415
    from raftkv.drill.compose import ComposeNodes  # noqa: PLC0415
    from raftkv.drill.drill import LOOK_S, aim, fit  # noqa: PLC0415
    from raftkv.drill.local_process import LocalNodes  # noqa: PLC0415

    tls = given_tls()
    if tls is None and asks_for_tls(endpoints):
        tls = Tls()  # the endpoints that the nodes are found at say it no more

    def connect() -> AsyncClient:
        return AsyncClient(endpoints, tls=tls)

    def connect_to(endpoint: str) -> AsyncClient:
        return AsyncClient([endpoint], tls=tls)

    way: Way = LocalNodes(connect_to) if compose is None else ComposeNodes(compose)

    async def foreseen() -> str:
        async with connect() as client:
            seen = await fit(client, LOOK_S)
            fault = await aim(client, plan.how, seen, way)
            nodes = ", ".join(f"{node} ({endpoint})" for node, endpoint in sorted(seen.endpoints.items()))
            return (
                f"nodes {nodes}; node {seen.picture.leader} leads. "
                f"{plan.times} round{'s' if plan.times > 1 else ''}, the first: {fault.text}. "
                f"Meanwhile {plan.rate:g} writes/s below raftkv-drill/, deleted afterwards"
            )

    say(run_to_end(foreseen()))
    if not yes:
        if not sys.stdin.isatty():
            fail("nothing was done: --yes is needed where nobody can be asked", Exit.USAGE)
        if not typer.confirm("Go on?", err=True):
            fail("nothing was done", Exit.USAGE)
    return run_to_end(_played(plan, endpoints, connect, way, report), writes=True)


def _drill_own(plan: Plan, nodes: int, report: Path | None) -> Result:
    from raftkv.client import AsyncClient  # noqa: PLC0415 - see raftkv.cli
    from raftkv.drill.faults import OwnNodes  # noqa: PLC0415
    from raftkv.testing.cluster import LocalCluster  # noqa: PLC0415

    async def play() -> Result:
        cluster = LocalCluster(nodes)
        say(f"starting a cluster of {nodes} in {cluster.directory}")
        async with cluster:
            await cluster.leader()
            return await _played(plan, cluster.url, lambda: AsyncClient(cluster.url), OwnNodes(cluster), report)

    return run_to_end(play(), writes=True)


async def _played(
    plan: Plan, endpoints: str, connect: Callable[[], AsyncClient], way: Way, report: Path | None
) -> Result:
    import secrets  # noqa: PLC0415
    import time  # noqa: PLC0415

    from raftkv.drill.drill import Drill  # noqa: PLC0415
    from raftkv.drill.report import write_report  # noqa: PLC0415

    run = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
    drill = Drill(plan, connect, way, run, say)
    result = await drill.play(unwinding=_unwinding)
    if report is not None:
        write_report(report, result, drill.record, cluster=endpoints, when=time.strftime("%d %B %Y %H:%M:%S %z"))
        say(f"report: {report}")
    return result


def _unwinding() -> None:
    say("interrupted: putting right what was done")
    catch_signals(lambda _number: say("still putting right what was done"))


def _print(result: Result) -> None:
    from raftkv.drill.measure.verdict import FIGURES, milliseconds  # noqa: PLC0415 - see raftkv.cli
    from raftkv.drill.measure.words import duration, summary  # noqa: PLC0415

    columns = ("DETECTION", "ELECTION", "FIRST WRITE", "RTO", "MTTR")
    counts = ("ACKNOWLEDGED", "FAILED", "UNKNOWN")
    rows = [
        (
            one.number,
            f"{one.old_leader} -> {'-' if one.new_leader is None else one.new_leader}",
            f"{one.old_term} -> {'-' if one.new_term is None else one.new_term}",
            *(duration(milliseconds(figure(one))) for figure in FIGURES.values()),
            one.acknowledged,
            one.failed,
            one.unknown,
        )
        for one in result.rounds
    ]
    print_table(("ROUND", "LEADER", "TERM", *columns, *counts), rows, right=("ROUND", *columns, *counts))
    print_line("")
    for name, words in summary(result).items():
        print_line(f"{name:<10}{words}")
