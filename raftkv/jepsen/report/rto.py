"""How long each fault was felt: its recovery time (RTO), measured by the operations of the `probe` workload.

The probe asks without a break, so a time in which none of its operations was acknowledged is a time in which the store
was of no use to anybody. Such a pause belongs to a fault when it overlaps the fault's band, from its beginning until
`settle` after its end (a heal can be felt too), or until a later fault begins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from raftkv.checker.history import History, Operation

PROBE: Final = "probe"
SETTLE_S: Final = 5.0
IDLE_NS: Final = 1_000_000_000
"""When nobody has asked for so long, the probe was over or the suite itself stood still: no pause of the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One stroke of one nemesis. Times are nanoseconds since the run began."""

    number: int
    nemesis: str
    text: str
    """What was struck."""
    began: int
    proven: bool
    """A probe has seen it on, and none has seen it off before its end."""
    ended: int | None
    """None: it was on when the run ended."""
    doubt: str = ""
    """What `unproven` said, if it said anything but `text`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leader:
    """A leader that the observer saw."""

    node: int
    term: int
    seen: int
    """When, at first; it was elected a little earlier."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A time in which the probe asked and nothing was acknowledged."""

    began: int
    ended: int
    recovered: bool
    """False: no acknowledgement ended it, the probe was over first."""

    @property
    def ns(self) -> int:
        return self.ended - self.began


@dataclass(frozen=True, slots=True, kw_only=True)
class Felt:
    """What a fault did to the probe."""

    fault: Fault
    pause: Pause | None
    """The longest, counted from the fault's beginning. None: the probe did not run then."""
    elected_ns: int | None
    """From the pause's beginning until the leader was seen that was in office when it ended: detection and election.
    None: no new leader was seen in the pause."""
    elections: int
    """New leaders that were seen in the pause."""

    @property
    def resumed_ns(self) -> int | None:
        """From when that leader was seen until the next acknowledgement."""
        return None if self.pause is None or self.elected_ns is None else self.pause.ns - self.elected_ns

    @property
    def rto_ms(self) -> float | None:
        return None if self.pause is None else _ms(self.pause.ns)

    def as_json(self) -> dict[str, Any]:
        """Return what results.json says of the fault. `recovered` false: the RTO is at least `rto_ms`."""
        return {
            "nemesis": self.fault.nemesis,
            "text": self.fault.text,
            "began_s": _s(self.fault.began),
            "proven": self.fault.proven,
            "ended_s": None if self.fault.ended is None else _s(self.fault.ended),
            "rto_ms": self.rto_ms,
            "recovered": None if self.pause is None else self.pause.recovered,
            "elected_ms": None if self.elected_ns is None else _ms(self.elected_ns),
            "resumed_ms": None if self.resumed_ns is None else _ms(self.resumed_ns),
            "elections": self.elections,
        }


def faults_of(history: History) -> list[Fault]:
    """Pair the remarks of nemeses into faults, in the order in which they began."""
    faults: dict[int, Fault] = {}
    for remark in sorted(history.remarks, key=lambda one: one.time):
        if remark.who != "nemesis" or not isinstance(remark.value, Mapping):
            continue
        number, text = int(remark.value.get("number", -1)), str(remark.value.get("text", ""))
        fault = faults.get(number)
        if fault is None:
            fault = Fault(
                number=number,
                nemesis=str(remark.value.get("nemesis", "")),
                text="",
                began=remark.time,
                proven=False,
                ended=None,
            )
        match remark.f:
            case "begin" | "proven" | "end":
                fault = replace(fault, text=fault.text or text)
                if remark.f == "proven":
                    fault = replace(fault, proven=not fault.doubt)
                elif remark.f == "end":
                    fault = replace(fault, ended=remark.time)
            case "unproven":
                fault = replace(fault, proven=False, doubt=text or "unproven")
            case _:
                continue
        faults[number] = fault
    return sorted(faults.values(), key=lambda one: (one.began, one.number))


def leaders_of(history: History) -> list[Leader]:
    """Return the leaders that were seen, in that order; one that was seen again at once counts once."""
    leaders: list[Leader] = []
    for remark in sorted(history.remarks, key=lambda one: one.time):
        if remark.who == "cluster" and remark.f == "leader" and isinstance(remark.value, Mapping):
            node, term = remark.value.get("node"), remark.value.get("term")
            if isinstance(node, int) and isinstance(term, int):
                leader = Leader(node=node, term=term, seen=remark.time)
                if not leaders or (leaders[-1].node, leaders[-1].term) != (node, term):
                    leaders.append(leader)
    return leaders


def pauses_of(operations: Sequence[Operation]) -> list[Pause]:
    """Return the times between acknowledgements of the probe, in order, from its first operation to its last."""
    pauses: list[Pause] = []
    asked = sorted(operations, key=lambda one: one.began)
    if not asked:
        return pauses
    last = until = asked[0].began
    acknowledged: list[int] = []

    def close() -> None:
        """Turn what was acknowledged since `last` into pauses; the probe did not ask after `until`."""
        begun = last
        for time in sorted(acknowledged):
            pauses.append(Pause(began=begun, ended=time, recovered=True))
            begun = time
        if until > begun:
            pauses.append(Pause(began=begun, ended=until, recovered=False))
        acknowledged.clear()

    for one in asked:
        if one.began - until > IDLE_NS:
            close()
            last = until = one.began
        until = max(until, one.ended)
        if one.ok:
            acknowledged.append(one.ended)
    close()
    return pauses


def rto_of(history: History, settle_s: float = SETTLE_S) -> list[Felt]:
    """Measure every fault of `faults_of`, in its order."""
    faults = faults_of(history)
    pauses = pauses_of(history.of(PROBE))
    ends = [one.ended for one in pauses]
    leaders = leaders_of(history)
    found = []
    for fault in faults:
        # Faults that are on together share what is felt; one that begins when this one is over has it for itself.
        later = min((one.began for one in faults if fault.ended is not None and one.began > fault.ended), default=None)
        band_ends = None if fault.ended is None else fault.ended + round(settle_s * 1e9)
        longest: Pause | None = None
        for pause in pauses[bisect_right(ends, fault.began) :]:
            if band_ends is not None and pause.began > band_ends:
                break
            if later is not None and pause.began >= later:
                break
            cut = replace(pause, began=max(pause.began, fault.began))
            if later is not None and pause.ended > later:
                cut = replace(cut, ended=later, recovered=False)
            if longest is None or cut.ns > longest.ns:
                longest = cut
        found.append(_felt(fault, longest, leaders))
    return found


def worst_pause_ms(history: History) -> float | None:
    """Return the longest pause of the whole run, whoever caused it; None: there was no probe."""
    longest = max((one.ns for one in pauses_of(history.of(PROBE))), default=None)
    return None if longest is None else _ms(longest)


def _felt(fault: Fault, pause: Pause | None, leaders: Sequence[Leader]) -> Felt:
    seen = [] if pause is None else [one.seen for one in leaders if pause.began < one.seen <= pause.ended]
    elected = seen[-1] - pause.began if pause is not None and seen and pause.recovered else None
    return Felt(fault=fault, pause=pause, elected_ns=elected, elections=len(seen))


def _ms(ns: int) -> float:
    return round(ns / 1e6, 1)


def _s(ns: int) -> float:
    return round(ns / 1e9, 3)
