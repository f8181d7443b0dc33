"""The page: one file that needs nothing but a browser. The template, report.html, is beside this module.

What comes from a run goes into the page as JSON, in which no character can end the element that holds it, and
the page's program makes text of it, never markup.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from raftkv.checker.history import History, Operation
from raftkv.checker.verdict import Problem, Verdict
from raftkv.jepsen.report import timeline, words
from raftkv.jepsen.report.rto import PROBE, SETTLE_S, Felt, leaders_of, rto_of
from raftkv.jepsen.report.series import series_of

PAGE_MAX: Final = 5_000_000
"""Bytes that a page may have: a browser opens it at once, and it can be sent to somebody."""
PROBLEMS_MAX: Final = 25
"""Of all workloads together. The first are the ones to look at; the rest mostly follows from them."""
EVIDENCE_MAX: Final = 30
"""Operations of one problem."""
TITLES: Final = {"valid": "Valid", "violation": "VIOLATION", "unknown": "Unknown"}

_CYCLE: Final = re.compile(r"\bG[-0-9]|\bGSI|[Cc]ycl|skew")


def write_report(path: Path, history: History, results: Mapping[str, Any], verdicts: Mapping[str, Verdict]) -> None:
    """Write the page of a run. `results` is what results.json holds; `verdicts`, by workload, have the evidence."""
    path.write_text(page(history, results, verdicts), encoding="utf-8")


def page(history: History, results: Mapping[str, Any], verdicts: Mapping[str, Verdict]) -> str:
    """Return the page of a run."""
    template = resources.files("raftkv.jepsen.report").joinpath("report.html").read_text(encoding="utf-8")
    room = PAGE_MAX - len(template.encode())
    words_of_verdict = TITLES.get(results.get("verdict", ""), TITLES["unknown"])
    filled = {"verdict": words_of_verdict, "data": _embedded(report_data(history, results, verdicts, room))}
    # All at once: what has been filled in is not looked at again.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: filled[found[1]], template)


def report_data(
    history: History, results: Mapping[str, Any], verdicts: Mapping[str, Verdict], room: int = PAGE_MAX
) -> dict[str, Any]:
    """Return what the page shows, as JSON that takes about `room` bytes at most."""
    problems = [(name, one) for name, verdict in verdicts.items() for one in verdict.problems]
    shown = problems[:PROBLEMS_MAX]
    ended = max([one.ended for one in history.operations] + [one.time for one in history.remarks], default=0)
    data = {
        "run": _run(results, verdicts),
        "seconds": round(ended / 1e9, 3),
        "probe": PROBE,
        "settle_s": SETTLE_S,
        "faults": [_fault(felt) for felt in rto_of(history)],
        "leaders": [
            {"node": one.node, "term": one.term, "seen_s": round(one.seen / 1e9, 3)} for one in leaders_of(history)
        ],
        "series": series_of(history.operations).as_json(),
        "problems": [_problem(workload, one) for workload, one in shown],
        "problems_total": len(problems),
    }
    room -= len(_embedded(data))
    evidence = [one for _, problem in shown for one in problem.operations]
    data["operations"] = timeline.pack(history.operations, evidence, budget=round(room * 0.98))
    return data


def suspect(problem: Problem) -> int | None:
    """Return which of the problem's operations cannot have been answered so, given the others.

    That is the last one to be read; of several that are in the order of time, as a check of one register shows them,
    the last to be answered; what read the future, the reader. None: they are a cycle, of which each is possible without
    the rest.
    """
    shown = problem.operations
    answered = [at for at, one in enumerate(shown) if one.ok]
    if _CYCLE.search(problem.name) or not answered:
        return None
    if "future" in problem.name:
        return answered[0]
    if len(shown) > 2 and all(one.began <= after.began for one, after in pairwise(shown)):
        return max(answered, key=lambda at: (shown[at].ended, shown[at].began))
    return answered[-1]


def _run(results: Mapping[str, Any], verdicts: Mapping[str, Verdict]) -> dict[str, Any]:
    workloads: dict[str, Any] = {}
    for name, told in results.get("workloads", {}).items():
        workloads[name] = {key: value for key, value in told.items() if key != "problems"}
    for name, verdict in verdicts.items():
        found = {"valid": verdict.valid, "checked": verdict.checked, "why": verdict.why}
        workloads[name] = found | workloads.get(name, {})
        workloads[name]["problems"] = len(verdict.problems)
    kept = ("verdict", "why", "seed", "command", "nodes", "seconds", "began", "nemeses", "leaders", "worst_pause_ms")
    return {key: results[key] for key in kept if key in results} | {"workloads": workloads}


def _fault(felt: Felt) -> dict[str, Any]:
    pause = felt.pause
    return felt.as_json() | {
        "number": felt.fault.number,
        "doubt": felt.fault.doubt,
        "pause_s": None if pause is None else [round(pause.began / 1e9, 4), round(pause.ended / 1e9, 4)],
    }


def _problem(workload: str, problem: Problem) -> dict[str, Any]:
    evidence, last = problem.operations, suspect(problem)
    shown = list(range(len(evidence)))
    if len(shown) > EVIDENCE_MAX:
        # The one that cannot be is mostly among the last.
        shown = shown[: EVIDENCE_MAX // 2] + shown[-(EVIDENCE_MAX - EVIDENCE_MAX // 2) :]
    return {
        "workload": workload,
        "name": problem.name,
        "text": problem.text,
        "operations": [_evidence(evidence[at], impossible=at == last) for at in shown],
        "left_out": len(evidence) - len(shown),
    }


def _evidence(one: Operation, *, impossible: bool) -> dict[str, Any]:
    return {
        "process": one.process,
        "label": words.label(one),
        "f": one.f,
        "asked": words.asked(one, words.LONG),
        "told": words.told(one, words.LONG),
        "extra": words.brief(dict(one.extra), words.LONG) if one.extra else "",
        "outcome": str(one.outcome),
        "began_s": one.began / 1e9,
        "ended_s": one.ended / 1e9,
        "impossible": impossible,
    }


_HARMLESS: Final = {ord(mark): f"\\u{ord(mark):04x}" for mark in "<>&"}


def _embedded(data: Any) -> str:
    """Return JSON, in ASCII, that a <script> may hold: nothing in it looks like a tag, a comment or an entity."""
    return json.dumps(data, separators=(",", ":")).translate(_HARMLESS)
