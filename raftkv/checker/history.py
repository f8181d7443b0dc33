"""A history: what was asked, what was answered, and when. As values, and as JSON lines (docs/jepsen.md).

A file begins with a header, {"format": "raftkv-history", "version": 1, ...}. Every other line is an event, in the order
of time:

    {"index": 7, "time": 120301922, "process": 3, "type": "invoke", "workload": "register", "f": "write", "key": "r1",
     "value": 12}
    {"index": 9, "time": 121900412, "process": 3, "type": "ok", "workload": "register", "f": "write", "key": "r1",
     "value": 12, "revision": 41}

as Jepsen has them: `index` counts lines, `time` is in nanoseconds since the run began, a process does one thing at a
time, and `type` is `invoke`, then `ok` (it happened), `fail` (it did not, nor ever will) or `info` (nobody knows). A
process whose operation ended as `info`, or never ended, is not used again. Events of `"process": "nemesis"` and
`"cluster"` are of type `info`, tell what else went on, and are not checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

FORMAT: Final = "raftkv-history"
VERSION: Final = 1


class Outcome(StrEnum):
    """How an operation ended, as far as its caller knows."""

    OK = "ok"
    FAIL = "fail"
    """It had no effect, provably."""
    INFO = "info"
    """Nobody knows: it may have taken effect at any time after it began, or may yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of one client. `value` and `result` are JSON: None, bool, int, str, list, or dict with str keys."""

    workload: str = ""
    process: int
    f: str
    """What was asked: `read`, `write`, ...; each check says which ones it knows."""
    key: str = ""
    value: Any = None
    """What it was asked with."""
    outcome: Outcome = Outcome.OK
    result: Any = None
    """What was answered; None unless the outcome is OK."""
    revision: int = 0
    """What an answer said of the store's order: the revision that a write made, or the mod_revision that a read of a
    key saw. 0: nothing was said."""
    began: int
    """Nanoseconds since the run began."""
    ended: int
    """When the answer came; of an unknown outcome, when the caller gave up."""
    error: str = ""
    """Of what was not OK."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else was asked or answered, by name: what a check says that it reads."""
    index: int = -1
    """Of its first line in the file."""

    @property
    def ok(self) -> bool:
        return self.outcome is Outcome.OK

    @property
    def unknown(self) -> bool:
        return self.outcome is Outcome.INFO

    def precedes(self, other: Operation) -> bool:
        """Whether this was over, for certain, before `other` began; at equal times it was not."""
        return self.ended < other.began and not self.unknown

    def __str__(self) -> str:
        asked = " ".join(
            part for part in (self.f, self.key, "" if self.value is None else json.dumps(self.value)) if part
        )
        told = f" -> {json.dumps(self.result)}" if self.result is not None else ""
        at = f" @{self.revision}" if self.revision else ""
        why = f" ({self.error})" if self.error else ""
        return f"[{self.began / 1e9:.6f} {self.ended / 1e9:.6f}] p{self.process} {asked} {self.outcome}{told}{at}{why}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """What else went on: a fault began, a leader was seen."""

    who: str
    """`nemesis` or `cluster`."""
    f: str
    value: Any
    time: int
    """Nanoseconds since the run began."""


@dataclass(slots=True)
class History:
    """All that is known of a run."""

    header: dict[str, Any] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    """In the order in which they began."""
    remarks: list[Remark] = field(default_factory=list)
    """In the order of time."""

    def of(self, workload: str) -> list[Operation]:
        """Return the operations of one workload."""
        return [one for one in self.operations if one.workload == workload]


class BadHistory(ValueError):
    """A file that is no history. The message names the line and what is wrong with it."""


def encode(history: History) -> Iterator[str]:
    """Return the lines of a file, each with its end."""
    yield _line({"format": FORMAT, "version": VERSION} | history.header)
    events: list[tuple[int, int, dict[str, Any]]] = []
    for number, one in enumerate(history.operations):
        asked: dict[str, Any] = {"process": one.process, "workload": one.workload, "f": one.f, "key": one.key}
        asked["value"] = one.value
        told = asked | {"type": str(one.outcome), "result": one.result, "revision": one.revision, "error": one.error}
        events += [
            (one.began, number, asked | {"type": "invoke"}),
            (one.ended, number, told | {"extra": dict(one.extra)}),
        ]
    events += [
        (one.time, -1, {"process": one.who, "type": "info", "f": one.f, "value": one.value}) for one in history.remarks
    ]
    # Stable: an operation's end follows its beginning though both have one time.
    events.sort(key=lambda event: event[0])
    for index, (time, _, event) in enumerate(events):
        kept = {
            name: value
            for name, value in event.items()
            if value not in (None, "", {}) and (name, value) != ("revision", 0)
        }
        yield _line({"index": index, "time": time} | kept)


def decode(lines: Iterable[str]) -> History:
    """Read a file's lines. An operation that never ended is INFO, ended with the file. Raises BadHistory."""
    history = History()
    open_: dict[Any, dict[str, Any]] = {}
    begun: list[tuple[int, Operation]] = []
    last = number = 0
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line)
            if number == 1:
                history.header = _header(event)
                continue
            last = max(last, int(event["time"]))
            process, kind = event["process"], event["type"]
            if isinstance(process, str):
                remark = Remark(who=process, f=event["f"], value=event.get("value"), time=event["time"])
                history.remarks.append(remark)
            elif kind == "invoke":
                if process in open_:
                    raise BadHistory(f"line {number}: process {process} begins again before it has ended")
                # What an operation must have is looked for here: it may never end.
                open_[process] = {"index": event["index"], "f": event["f"]} | event
            else:
                began = open_.pop(process, None)
                if began is None:
                    raise BadHistory(f"line {number}: process {process} ends what it never began")
                begun.append((began["index"], _operation(began, event)))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, BadHistory):
                raise
            raise BadHistory(f"line {number} is no event of a history: {type(error).__name__}: {error}") from error
    if not number:
        raise BadHistory("the file is empty")
    begun += [
        (event["index"], _operation(event, {"type": "info", "time": last, "error": "never ended"}))
        for event in open_.values()
    ]
    begun.sort(key=lambda one: one[0])
    history.operations = [one for _, one in begun]
    return history


def _header(event: dict[str, Any]) -> dict[str, Any]:
    if event.get("format") != FORMAT:
        raise BadHistory(f'line 1 is no header of a history: it wants {{"format": "{FORMAT}", "version": {VERSION}}}')
    if event.get("version") != VERSION:
        raise BadHistory(f"the history has version {event.get('version')}; this program reads version {VERSION}")
    return {name: value for name, value in event.items() if name not in ("format", "version")}


def _operation(began: dict[str, Any], ended: dict[str, Any]) -> Operation:
    return Operation(
        workload=began.get("workload", ""),
        process=began["process"],
        f=began["f"],
        key=began.get("key", ""),
        value=began.get("value"),
        outcome=Outcome(ended["type"]),
        result=ended.get("result"),
        revision=ended.get("revision", 0),
        began=began["time"],
        ended=ended["time"],
        error=ended.get("error", ""),
        extra=ended.get("extra", {}),
        index=began["index"],
    )


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, separators=(",", ":")) + "\n"
