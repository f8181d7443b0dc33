"""The page of a drill: one file that needs nothing but a browser, and no program in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Final

from raftkv.drill.measure.chart import close, whole
from raftkv.drill.measure.record import How, Record
from raftkv.drill.measure.rounds import Round
from raftkv.drill.measure.verdict import FIGURES, Result, milliseconds
from raftkv.drill.measure.words import duration

DRAWN_MAX: Final = 20
"""Rounds that are drawn: the longest pauses. The table has all."""
_NAMES: Final = {
    "detection_ms": "noticed after",
    "election_ms": "new leader after",
    "first_write_ms": "first write after",
    "rto_ms": "RTO, as a writer felt it",
    "mttr_ms": "MTTR, whole again after",
}
_DONE: Final = {How.TRANSFER: "hands over", How.KILL: "is killed", How.PAUSE: "is paused"}
_LEGEND: Final = (
    ("--write", "write", True),
    ("--read", "linearizable read", True),
    ("--doubtful", "outcome unknown", True),
    ("--wrong", "failed", True),
    ("--leads", "leads", False),
    ("--follows", "follows", False),
    ("--seeks", "knows no leader", False),
    ("--silent", "does not answer", False),
)


def write_report(path: Path, result: Result, record: Record, *, cluster: str, when: str) -> None:
    """Write the page. `cluster`: where it is; `when`: in words."""
    path.write_text(page(result, record, cluster=cluster, when=when), encoding="utf-8")


def page(result: Result, record: Record, *, cluster: str, when: str) -> str:
    """Return the page."""
    template = resources.files("raftkv.drill").joinpath("report.html").read_text(encoding="utf-8")
    title = "Passed" if result.passed else "FAILED"
    filled = {"title": title, "body": "\n".join(_body(result, record, title, cluster, when))}
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


def _body(result: Result, record: Record, title: str, cluster: str, when: str) -> Iterable[str]:
    rounds = len(result.rounds)
    yield f'<header class="{"passed" if result.passed else "failed"}"><h1>{title}</h1>'
    yield (
        f"<p>The leader was taken away {'once' if rounds == 1 else f'{rounds} times'} ({result.how}), "
        f"under writes and reads, on {escape(cluster)}, {escape(when)}.</p>"
    )
    if result.problems:
        yield f'<ul class="problems">{"".join(f"<li>{escape(one)}</li>" for one in result.problems)}</ul>'
    yield f'<dl class="figures">{"".join(_figures(result))}</dl></header>'
    yield f'<section><h2>Rounds</h2><div class="scroll">{_table(result.rounds)}</div></section>'
    drawn = _drawn(result.rounds)
    if len(drawn) < rounds:
        yield f'<section class="soft">The {len(drawn)} rounds with the longest pauses are drawn.</section>'
    for one in drawn:
        yield _round(record, one)
    yield f"<section>{_words(result)}</section>"


def _figures(result: Result) -> Iterable[str]:
    audit = result.audit
    rpo = "-" if result.rpo is None else f"{result.rpo:,}"
    yield _figure(
        "RPO, acknowledged writes lost", rpo, f"of {audit.acknowledged:,}" if audit else "could not be read back"
    )
    for key, name in _NAMES.items():
        one = result.spread(FIGURES[key])
        more = f"{duration(one.least)} to {duration(one.most)}" if one and len(result.rounds) > 1 else ""
        yield _figure(name, duration(one.median if one else None), more)
    yield _figure("writes failed", f"{result.failed:,}", f"{result.unknown:,} of unknown outcome")
    yield _figure(
        "reads failed", f"{result.reads_failed:,}", f"of {result.reads:,}; {result.reads_missed} missed a write"
    )


def _figure(name: str, value: str, more: str) -> str:
    small = f"<small>{escape(more)}</small>" if more else ""
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}{small}</dd></div>"


def _table(rounds: Sequence[Round]) -> str:
    heads = (
        "round",
        "leader",
        "term",
        "noticed",
        "elected",
        "first write",
        "RTO",
        "MTTR",
        "longest wait",
        "writes",
        "failed",
        "unknown",
    )
    rows = (
        (
            str(one.number),
            f"{one.old_leader} → {one.new_leader or '-'}",
            f"{one.old_term} → {one.new_term or '-'}",
            *(duration(milliseconds(figure(one))) for figure in FIGURES.values()),
            duration(milliseconds(one.longest_gap.seconds if one.longest_gap else None)),
            f"{one.acknowledged:,}",
            f"{one.failed:,}",
            f"{one.unknown:,}",
        )
        for one in rounds
    )
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{one}</th>' for one in heads)}</tr>{body}</table>"


def _drawn(rounds: Sequence[Round]) -> list[Round]:
    longest = sorted(rounds, key=lambda one: one.gap.seconds if one.gap else 0.0, reverse=True)[:DRAWN_MAX]
    return sorted(longest, key=lambda one: one.number)


def _round(record: Record, one: Round) -> str:
    legend = "".join(
        f'<li><i{" class=round" if is_round else ""} style="background: var({colour})"></i>{name}</li>'
        for colour, name, is_round in _LEGEND
    )
    return (
        f"<section><h2>Round {one.number}: node {one.old_leader} {_DONE[one.how]}</h2>"
        f'<ul class="legend">{legend}</ul>'
        f'<h3>The pause</h3><div class="scroll">{close(record, one)}</div>'
        f'<h3>The whole round</h3><div class="scroll">{whole(record, one)}</div></section>'
    )


def _words(result: Result) -> str:
    return (
        "<h2>What the figures mean</h2>"
        "<p>Each dot is one request: when it was answered, and how long that took. The bars below are what each node "
        "said of itself; it was asked every 20 ms, and so the moments are as fine as that.</p>"
        "<p><b>Noticed</b>: a node no longer took the old leader for its leader. <b>Elected</b>: a node knew the new "
        "one. <b>First write</b>: acknowledged by the new leader. <b>RTO</b>: the longest that a writer waited between "
        "the old leader's last acknowledgement and the new one's first. <b>Longest wait</b>: the longest of the whole "
        "round, for whatever reason; a node that starts takes its share of the machine. <b>MTTR</b>: until the old "
        "leader was back with all that had been committed without it. "
        f"<b>RPO</b>: acknowledged writes that a linearizable read did not find at the end; all of "
        f"{result.audit.acknowledged if result.audit else 0:,} were looked for.</p>"
    )
