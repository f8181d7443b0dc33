"""What `--workload` and `--nemesis` take, and what the shell offers for them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from raftkv.cli.output import print_json, print_line, print_table
from raftkv.jepsen.nemeses import NEMESES, NemesisUnusable, examine
from raftkv.jepsen.workloads import HELP, WORKLOADS

if TYPE_CHECKING:
    from raftkv.jepsen.workload import Workload

ALL: Final = "all"
NONE: Final = "none"
PROBE: Final = "probe"
"""Always runs along: the longest pause, and so the RTO, is what it saw."""


def _completion(known: Callable[[], Mapping[str, str]]) -> Callable[[str], Iterator[tuple[str, str]]]:
    """Offer the names, also behind a comma."""

    def complete(incomplete: str) -> Iterator[tuple[str, str]]:
        before, comma, begun = incomplete.rpartition(",")
        return ((before + comma + name, told) for name, told in known().items() if name.startswith(begun))

    return complete


def _workloads() -> dict[str, str]:
    return {**HELP, ALL: "all of them"}


def _nemeses() -> dict[str, str]:
    return {name: entry.help for name, entry in NEMESES.items()} | {NONE: "no fault"}


WorkloadOption = Annotated[
    str,
    typer.Option(
        "--workload",
        "-w",
        metavar="W[,W]",
        help="What clients do; --list tells.",
        autocompletion=_completion(_workloads),
    ),
]
NemesisOption = Annotated[
    str,
    typer.Option(
        "--nemesis",
        "-f",
        metavar="F[,F]",
        help="What goes wrong, all at the same time; --list tells.",
        autocompletion=_completion(_nemeses),
    ),
]


def workloads_named(text: str) -> list[type[Workload]]:
    """Return the classes that `--workload` names, and the probe's. Raises typer.BadParameter."""
    names = list(WORKLOADS) if text == ALL else _split(text, "--workload")
    for name in names:
        if name not in WORKLOADS:
            raise _unknown(name, _workloads(), "--workload")
    return [WORKLOADS[name] for name in dict.fromkeys([*names, PROBE])]


def nemeses_named(text: str, nodes: int) -> list[str]:
    """Return what `--nemesis` names. Raises typer.BadParameter, also for what cannot be done to so many nodes."""
    if text == NONE:
        return []
    names = _split(text, "--nemesis")
    for name in names:
        if name.partition(":")[0] not in NEMESES:
            raise _unknown(name, _nemeses(), "--nemesis")
    try:
        examine(names, nodes)
    except NemesisUnusable as error:
        raise typer.BadParameter(error.message, param_hint="--nemesis") from None
    return list(names)


def show_names(*, as_json: bool) -> None:
    """Write all names and what they stand for."""
    faults = {name: entry.help for name, entry in NEMESES.items()}
    if as_json:
        options = {name: list(entry.options) for name, entry in NEMESES.items()}
        print_json({"workloads": dict(HELP), "nemeses": faults, "options": options})
        return
    print_table(("workload", ""), HELP.items())
    print_line("")
    rows = ((name, entry.help, ", ".join(entry.options) or None) for name, entry in NEMESES.items())
    print_table(("nemesis", "", "NEMESIS:..."), rows)


def _split(text: str, option: str) -> Sequence[str]:
    names = [name.strip() for name in text.split(",")]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise typer.BadParameter(f"{twice!r} is named twice", param_hint=option)
    return names


def _unknown(name: str, known: Mapping[str, str], option: str) -> typer.BadParameter:
    if name in (ALL, NONE):
        return typer.BadParameter(f"{name!r} stands alone", param_hint=option)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return typer.BadParameter(f"{name!r} is none of {', '.join(known)}{hint}", param_hint=option)
