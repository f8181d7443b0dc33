"""How fresh a read must be, and how many voters must have a write, as they are written on the command line.

--read   linearizable, lease, local, quorum, quorum:R, bounded:TIME, at-least:TOKEN
--write  leader, majority, all, or a number of voters
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Final

import typer

from raftkv.client import AtLeast, Bounded, Concern, Fallback, Level, Quorum, ReadLevel, ReadToken
from raftkv.client.levels import MAX_REPLICAS, MAX_STALENESS_S
from raftkv.client.receipts import shortened
from raftkv.errors import InvalidArgument
from raftkv.quorum import parse_concern

LINEARIZABLE: Final = "linearizable"
READS: Final[Mapping[str, str]] = {
    "linearizable": "sees every write acknowledged at a majority",
    "lease": "the same while clocks keep the nodes' --lease-drift-ppm",
    "local": "what the asked node has; works without a leader",
    "quorum": "asks a majority, and no leader",
    "quorum:2": "asks R voters, and no leader",
    "bounded:500ms": "misses nothing older than that",
    "at-least:TOKEN": "not older than what an answer's token names",
}
"""What the shell offers."""
WRITES: Final[Mapping[str, str]] = {
    "leader": "the leader has it on disk; not committed, and may be lost",
    "majority": "committed and applied",
    "all": "committed, and every voter has it on disk",
}
_SIMPLE: Final = {"linearizable": ReadLevel.LINEARIZABLE, "lease": ReadLevel.LEASE, "local": ReadLevel.LOCAL}
_NAMED: Final[Mapping[str, Concern]] = {"leader": "leader", "majority": "majority", "all": "all"}
_UNITS_S: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_TIME: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)", re.ASCII)


class FallbackTo(StrEnum):
    """What a read may come to when it cannot be answered as it was asked for."""

    STALE = "stale"


def completion(words: Mapping[str, str]) -> Callable[[str], Iterator[tuple[str, str]]]:
    """Return what offers `words`, with what they mean, to the shell."""

    def complete(incomplete: str) -> Iterator[tuple[str, str]]:
        return ((word, said) for word, said in words.items() if word.startswith(incomplete))

    return complete


ReadOption = Annotated[
    str,
    typer.Option(
        "--read",
        metavar="LEVEL",
        autocompletion=completion(READS),
        help="linearizable: sees every write acknowledged at a majority. lease: the same as long as clocks keep the "
        "nodes' --lease-drift-ppm. local: what the asked node holds itself, possibly stale; works without a leader. "
        "quorum, quorum:R: asks a majority, or R voters, and no leader. bounded:500ms: the asked node's state, if that "
        "misses nothing older. at-least:TOKEN: not older than the answer that had this token. docs/guarantees.md says "
        "what each is worth.",
    ),
]
WriteOption = Annotated[
    str | None,
    typer.Option(
        "--write",
        metavar="CONCERN",
        autocompletion=completion(WRITES),
        help="Voters that must have it on disk: leader, majority, all, or 1 to N. Below a majority it is acknowledged "
        "before it is committed and may be lost. Default: the cluster's, a majority unless told otherwise.",
        show_default=False,
    ),
]
FallbackOption = Annotated[
    FallbackTo | None,
    typer.Option(
        help="stale: when nothing better comes in time, show what a node has, and say what that is.", show_default=False
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say on stderr what the answer is worth.")]


def level_of(text: str) -> Level:
    """Return the read level that is written so. Raises typer.BadParameter."""
    if text in _SIMPLE:
        return _SIMPLE[text]
    if text == "quorum":
        return Quorum()
    kind, colon, rest = text.partition(":")
    if colon:
        try:
            match kind:
                case "quorum":
                    return Quorum(_voters(rest))
                case "bounded":
                    return Bounded(_seconds(rest))
                case "at-least":
                    return AtLeast(ReadToken.parse(rest))
        except InvalidArgument as error:
            raise _bad("--read", text, error.message) from None
    raise _bad(
        "--read", text, "linearizable, lease, local, quorum, quorum:R, bounded:TIME and at-least:TOKEN are known"
    )


def fallback_of(fallback: FallbackTo | None) -> Fallback:
    """Return the client's name of what --fallback says."""
    return None if fallback is None else "stale"


def concern_of(text: str | None) -> Concern:
    """Return the client's name of the concern that is written so; None: the cluster's. Raises typer.BadParameter."""
    if text is None:
        return None
    if text in _NAMED:
        return _NAMED[text]
    try:
        return parse_concern(text)
    except InvalidArgument:
        raise _bad("--write", text, "leader, majority, all, or 1 to N voters are possible") from None


def several(text: str, option: str) -> tuple[str, ...]:
    """Return what is named in a list with commas. Raises typer.BadParameter where one is empty or comes twice."""
    names = tuple(one.strip() for one in text.split(","))
    if not all(names) or len(set(names)) < len(names):
        raise _bad(option, text, "one of these is empty, or comes twice")
    return names


def _voters(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= len(str(MAX_REPLICAS)) and 1 <= int(text) <= MAX_REPLICAS:
        return int(text)
    raise InvalidArgument("R is a number of voters, 1 to N")


def _seconds(text: str) -> float:
    found = _TIME.fullmatch(text)
    seconds = 0.0 if found is None else float(found[1]) * _UNITS_S[found[2]]
    if not 0.001 <= seconds <= MAX_STALENESS_S:
        longest_h = int(MAX_STALENESS_S // 3600)
        raise InvalidArgument(f"TIME is from 1ms to {longest_h}h, in ms, s, m or h: bounded:500ms, bounded:1.5s")
    return seconds


def _bad(option: str, text: str, message: str) -> typer.BadParameter:
    return typer.BadParameter(f"{shortened(text)!r}: {message}", param_hint=f"'{option}'")
