"""One round as an SVG: how long each request took, what each node took itself for, and the moments that count."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from raftkv.drill.measure.record import How, Outcome, Read, Record, Role, Sight, Write
from raftkv.drill.measure.rounds import Round
from raftkv.drill.measure.words import duration

WIDTH: Final = 1100
LEFT: Final = 84
RIGHT: Final = 30
LABEL: Final = 18
"""Height of a row that names a moment."""
PANEL: Final = 190
LANE: Final = 16
BETWEEN: Final = 8
AXIS: Final = 34
FASTEST_S: Final = 0.0005
"""The bottom of the scale."""
SILENCE_S: Final = 0.25
"""A node from which nothing came for so long did not answer."""
TICKS: Final = 9


@dataclass(frozen=True, slots=True)
class Moment:
    """A line across the drawing."""

    at: float
    name: str
    style: str


@dataclass(frozen=True, slots=True)
class Band:
    """What a node took itself for, for a while."""

    began: float
    ended: float
    style: str


def whole(record: Record, one: Round) -> str:
    """Draw a round from a second before the fault to a second after the last moment that counts."""
    last = max((moment.at for moment in moments(one)), default=one.began)
    first = record.sights[0].at if record.sights else 0.0
    return drawing(record, one, max(one.began - 1.0, min(first, one.began)), min(last + 1.0, max(one.until, last)))


def close(record: Record, one: Round) -> str:
    """Draw the pause alone."""
    felt = max(
        one.gap.ended - one.began if one.gap is not None and one.gap.closed else 0.0,
        one.first_write_s or 0.0,
        one.election_s or 0.0,
        0.05,
    )
    return drawing(record, one, max(one.began - 0.3 * felt, 0.0), one.began + 1.4 * felt)


def moments(one: Round) -> list[Moment]:
    """Return the moments of a round that came about, in their order."""
    found = [Moment(one.began, one.how.value, "fault")]
    for seconds, name, style in (
        (one.detection_s, "noticed", "noticed"),
        (one.election_s, f"node {one.new_leader} leads", "elected"),
        (one.first_write_s, "first write", "written"),
        (one.mttr_s, f"node {one.old_leader} caught up", "back"),
    ):
        if seconds is not None:
            found.append(Moment(one.began + seconds, f"{name} +{duration(seconds * 1000)}", style))
    return sorted(found, key=lambda moment: moment.at)


def drawing(record: Record, one: Round, since: float, until: float) -> str:
    """Draw what happened in [since, until]."""
    span = max(until - since, 1e-6)
    inner = WIDTH - LEFT - RIGHT
    marks = [moment for moment in moments(one) if since <= moment.at <= until]
    nodes = sorted({sight.node for sight in record.sights})
    top = len(marks) * LABEL + 6
    lanes = top + PANEL + BETWEEN
    bottom = lanes + len(nodes) * (LANE + BETWEEN)
    height = bottom + AXIS
    writes = [write for write in record.writes if since <= write.ended <= until]
    reads = [read for read in record.reads if since <= read.ended <= until]
    slowest = max([0.1, *(write.ended - write.began for write in writes), *(read.ended - read.began for read in reads)])
    decades = math.log10(slowest * 1.5 / FASTEST_S)

    def x(at: float) -> float:
        return LEFT + inner * min(max((at - since) / span, 0.0), 1.0)

    def y(seconds: float) -> float:
        return top + PANEL * (1 - min(math.log10(max(seconds, FASTEST_S) / FASTEST_S) / decades, 1.0))

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Round {one.number}: '
        f'{", ".join(moment.name for moment in marks)}">',
        f'<rect class="panel" x="{LEFT}" y="{top}" width="{inner}" height="{PANEL}"/>',
        *_scale(y, slowest, inner),
        *_gap(one, x, top, since, until),
        *_dots(writes, reads, x, y),
        *_lanes(record, one, x, lanes, since=since, until=until),
        *_axis(one, x, top, bottom, since=since, until=until),
        *_marks(marks, x, bottom),
        "</svg>",
    ]
    return "".join(parts)


def bands(sights: Sequence[Sight], since: float, until: float, silenced: float | None = None) -> list[Band]:
    """Return what one node took itself for in [since, until], from what it said of itself.

    `silenced`: when it was made to say nothing more for a while.
    """
    found: list[Band] = []

    def add(began: float, ended: float, style: str) -> None:
        began, ended = max(began, since), min(ended, until)
        if ended <= began:
            return
        if found and found[-1].style == style and found[-1].ended >= began:
            began = found.pop().began
        found.append(Band(began, ended, style))

    spoke = since
    for number, sight in enumerate(sights):
        if number == 0:
            add(since, sight.at, "silent")
        heard_next = sights[number + 1].at if number + 1 < len(sights) else until
        spoke = heard_next if heard_next - sight.at <= SILENCE_S else sight.at + SILENCE_S / 10
        if silenced is not None and sight.at <= silenced < spoke:
            spoke = silenced
        add(sight.at, spoke, _style(sight))
        add(spoke, heard_next, "silent")
    if not sights:
        add(since, until, "silent")
    return found


def _style(sight: Sight) -> str:
    if sight.role is Role.LEADER:
        return "leads"
    if sight.role is Role.CANDIDATE or not sight.leader:
        return "seeks"
    return "follows"


def _scale(y: Callable[[float], float], slowest: float, inner: int) -> Iterable[str]:
    for power in range(-3, 3):
        seconds = 10.0**power
        if FASTEST_S <= seconds <= slowest * 1.5:
            yield f'<line class="grid" x1="{LEFT}" x2="{LEFT + inner}" y1="{y(seconds):.1f}" y2="{y(seconds):.1f}"/>'
            name = f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"
            yield f'<text class="soft end" x="{LEFT - 8}" y="{y(seconds) + 4:.1f}">{name}</text>'


def _gap(one: Round, x: Callable[[float], float], top: int, since: float, until: float) -> Iterable[str]:
    if one.gap is None or one.gap.ended < since or one.gap.began > until:
        return
    left, right = x(one.gap.began), x(one.gap.ended)
    yield f'<rect class="gap" x="{left:.1f}" y="{top}" width="{max(right - left, 1):.1f}" height="{PANEL}"/>'
    words = f"RTO {'' if one.gap.closed else '≥ '}{duration(one.gap.seconds * 1000)}"
    if right - left > 8 * len(words):
        yield f'<text class="gap-name middle" x="{(left + right) / 2:.1f}" y="{top + PANEL - 8}">{words}</text>'


def _dots(
    writes: Sequence[Write], reads: Sequence[Read], x: Callable[[float], float], y: Callable[[float], float]
) -> Iterable[str]:
    # One path a kind: a dot is a line without length and with a round end.
    kinds: dict[str, list[str]] = {}
    for read in reads:
        style = "wrong" if read.missed or read.outcome is not Outcome.OK else "read"
        kinds.setdefault(style, []).append(f"M{x(read.ended):.1f} {y(read.ended - read.began):.1f}h0")
    for write in writes:
        style = {Outcome.OK: "write", Outcome.FAILED: "wrong", Outcome.UNKNOWN: "doubtful"}[write.outcome]
        kinds.setdefault(style, []).append(f"M{x(write.ended):.1f} {y(write.ended - write.began):.1f}h0")
    for style in ("read", "write", "doubtful", "wrong"):
        if style in kinds:
            yield f'<path class="dot {style}" d="{"".join(kinds[style])}"/>'


def _lanes(
    record: Record, one: Round, x: Callable[[float], float], top: int, *, since: float, until: float
) -> Iterable[str]:
    nodes = sorted({sight.node for sight in record.sights})
    for place, node in enumerate(nodes):
        at = top + place * (LANE + BETWEEN)
        yield f'<text class="soft end" x="{LEFT - 8}" y="{at + 12}">node {node}</text>'
        said = [sight for sight in record.sights if sight.node == node and since - 1.0 <= sight.at <= until + 1.0]
        silenced = one.began if node == one.old_leader and one.how is not How.TRANSFER else None
        for band in bands(said, since, until, silenced):
            left, right = x(band.began), x(band.ended)
            yield (
                f'<rect class="{band.style}" x="{left:.1f}" y="{at}" width="{max(right - left, 0.5):.1f}" '
                f'height="{LANE}"/>'
            )


def _axis(
    one: Round, x: Callable[[float], float], top: int, bottom: int, *, since: float, until: float
) -> Iterable[str]:
    step = _step((until - since) / TICKS)
    number = math.ceil((since - one.began) / step)
    while (at := one.began + number * step) <= until:
        name = f"{number * step * 1000:+.0f} ms" if step < 0.1 else f"{number * step:+.1f} s"
        yield f'<line class="tick" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{top}" y2="{bottom}"/>'
        yield f'<text class="soft middle" x="{x(at):.1f}" y="{bottom + 16}">{"0" if number == 0 else name}</text>'
        number += 1


def _marks(marks: Sequence[Moment], x: Callable[[float], float], bottom: int) -> Iterable[str]:
    for row, moment in enumerate(marks):
        at, height = x(moment.at), row * LABEL + 13
        yield f'<line class="mark {moment.style}" x1="{at:.1f}" x2="{at:.1f}" y1="{height - 9}" y2="{bottom}"/>'
        left = at + 8 * len(moment.name) > WIDTH - RIGHT
        yield (
            f'<text class="name {moment.style}{" end" if left else ""}" x="{at + (-6 if left else 6):.1f}" '
            f'y="{height}">{moment.name}</text>'
        )


def _step(least: float) -> float:
    """Return the next larger of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least)
