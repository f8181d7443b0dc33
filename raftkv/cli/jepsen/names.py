"""What `--workload` and `--nemesis` take, and what the shell offers for them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Final

import typer

from raftkv.cli.output import print_json, print_table
from raftkv.jepsen import nemeses, workloads
from raftkv.jepsen.nemeses import ChosenNemesis
from raftkv.jepsen.workload import Workload

ALL: Final = "all"
NONE: Final = "none"


def _completion(known: Callable[[], Mapping[str, str]]) -> Callable[[str], Iterator[tuple[str, str]]]:
    """Offer the names, also behind a comma."""

    def complete(incomplete: str) -> Iterator[tuple[str, str]]:
        before, comma, begun = incomplete.rpartition(",")
        return ((before + comma + name, told) for name, told in known().items() if name.startswith(begun))

    return complete


def _workloads() -> dict[str, str]:
    return workloads.helps() | {ALL: "all of them"}


def _nemeses() -> dict[str, str]:
    return nemeses.helps() | {NONE: "no fault"}


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
    """Return the classes that `--workload` names. Raises typer.BadParameter."""
    names = list(workloads.helps()) if text == ALL else _split(text, "--workload")
    return [workloads.find(_known(name, _workloads(), "--workload")) for name in names]


def nemeses_named(text: str, nodes: int) -> list[ChosenNemesis]:
    """Return what `--nemesis` names. Raises typer.BadParameter, also for what cannot be done to so many nodes."""
    if text == NONE:
        return []
    found = []
    for name in _split(text, "--nemesis"):
        _known(name.partition(":")[0], _nemeses(), "--nemesis")
        try:
            chosen = nemeses.find(name)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--nemesis") from None
        if refusal := chosen.kind.refuses(nodes):
            raise typer.BadParameter(f"{name} is impossible with {nodes} nodes: {refusal}", param_hint="--nemesis")
        found.append(chosen)
    return found


def show_names(*, as_json: bool) -> None:
    """Write all names and what they stand for."""
    if as_json:
        print_json({"workloads": workloads.helps(), "nemeses": nemeses.helps()})
        return
    for title, known in (("workload", workloads.helps()), ("nemesis", nemeses.helps())):
        print_table((title, ""), known.items())


def _split(text: str, option: str) -> Sequence[str]:
    names = [name.strip() for name in text.split(",")]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise typer.BadParameter(f"{twice!r} is named twice", param_hint=option)
    return names


def _known(name: str, known: Mapping[str, str], option: str) -> str:
    if name in known and name not in (ALL, NONE):
        return name
    if name in (ALL, NONE):
        raise typer.BadParameter(f"{name!r} stands alone", param_hint=option)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise typer.BadParameter(f"{name!r} is none of {', '.join(known)}{hint}", param_hint=option)
