"""Histories that nobody lived through, for the tests of what is made of histories.

`python -m tests.jepsen.made_up DIRECTORY` writes pages to look at in a browser: of a valid run, and of a violation.
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from raftkv.checker.history import History, Operation, Outcome, Remark
from raftkv.checker.verdict import Problem, judged
from raftkv.jepsen.report import rto_of, worst_pause_ms, write_report

MS = 1_000_000
S = 1_000 * MS

FAULTS = (
    ("isolate-leader", "node {leader}, who leads, is cut off", 1_400),
    ("one-way", "node 2 hears nobody, and is heard", 350),
    ("kill", "node {leader} is killed", 900),
    ("pause", "node {leader} is paused", 1_700),
    ("disk-slow", "the disk of node 1 takes 40 ms for each sync", 0),
)


def operation(f: str, began_ms: float, ended_ms: float, **rest: Any) -> Operation:
    """Make an operation of process 0 of `probe`, unless told otherwise."""
    made: dict[str, Any] = {"workload": "probe", "process": 0, "key": "k"} | rest
    return Operation(f=f, began=round(began_ms * MS), ended=round(ended_ms * MS), **made)


def acknowledged(*times_ms: float) -> list[Operation]:
    """Make a probe that asked from 0 on without a break and was acknowledged at these times."""
    begins = (0.0, *times_ms)
    return [operation("write", began, ended) for began, ended in zip(begins, times_ms, strict=False)]


def remarks_of(
    number: int, nemesis: str, began_ms: float, ended_ms: float | None, *, proven: bool = True, text: str = "struck"
) -> list[Remark]:
    """Make what a nemesis says of one fault, proven twice as the schedule does it."""
    value = {"nemesis": nemesis, "text": text, "number": number}
    middle = "proven" if proven else "unproven"
    made = [("begin", began_ms), (middle, began_ms + 1)]
    if ended_ms is not None:
        made += [(middle, ended_ms - 1), ("end", ended_ms)]
    return [Remark(who="nemesis", f=f, value=value, time=round(ms * MS)) for f, ms in made]


def leader(node: int, term: int, seen_ms: float) -> Remark:
    return Remark(who="cluster", f="leader", value={"node": node, "term": term}, time=round(seen_ms * MS))


def plausible(operations: int = 50_000, seconds: float = 120.0, seed: int = 7, nodes: int = 5) -> History:
    """Make a run with faults, in which clients mostly get answers; its values make no sense together."""
    rng = random.Random(seed)
    outages, remarks = _faults(rng, seconds, nodes)
    workloads = {"register": 8, "set": 5, "append": 5, "bank": 4, "lock": 4, "watch": 3, "probe": 1}
    clients = sum(workloads.values())
    each = seconds * S / (operations / clients)
    made: list[Operation] = []
    process = 0
    counter = 0
    for name, count in workloads.items():
        for _ in range(count):
            process += 1
            now = rng.random() * each
            while now < seconds * S:
                counter += 1
                one = _one(rng, name, counter)
                latency = _latency(rng)
                hit = next((until for since, until in outages if since <= now < until), None)
                outcome, error = Outcome.OK, ""
                if hit is not None and rng.random() < 0.8:
                    latency = min(hit - now + _latency(rng), 1.0 * S)
                    if latency >= 1.0 * S:
                        reads = one.f == "read"
                        outcome = Outcome.FAIL if reads else Outcome.INFO
                        error = (
                            "Timeout: no answer in 1 s" if reads else "UnknownOutcome: it was sent, and no answer came"
                        )
                elif rng.random() < 0.004:
                    outcome, error = Outcome.FAIL, "NotLeader: node 3 does not lead; nobody knows who does"
                made.append(
                    replace(
                        one,
                        process=process,
                        began=round(now),
                        ended=round(now + latency),
                        outcome=outcome,
                        error=error,
                        result=one.result if outcome is Outcome.OK else None,
                        revision=counter if outcome is Outcome.OK else 0,
                    )
                )
                if outcome is Outcome.INFO:
                    process += 1
                now += max(latency + 0.05 * MS, each * rng.uniform(0.6, 1.4))
    made.sort(key=lambda one: one.began)
    return History(header={"seed": seed, "nodes": nodes}, operations=made, remarks=remarks)


def results_of(history: History, verdict: str = "valid") -> dict[str, Any]:
    """Make what a runner would write into results.json."""
    workloads: dict[str, Any] = {}
    for one in history.operations:
        counts = workloads.setdefault(one.workload, {"ok": 0, "failed": 0, "unknown": 0})
        counts[{Outcome.OK: "ok", Outcome.FAIL: "failed", Outcome.INFO: "unknown"}[one.outcome]] += 1
    for counts in workloads.values():
        counts |= {"valid": True, "checked": counts["ok"] + counts["unknown"], "problems": [], "why": ""}
    return {
        "verdict": verdict,
        "why": [],
        "seed": 7,
        "command": "raftkv jepsen --workload register,set --nemesis isolate-leader --nodes 5 --time 120 --seed 7",
        "nodes": 5,
        "seconds": 120.0,
        "began": "2026-11-21T19:30:00+00:00",
        "workloads": workloads,
        "faults": [],
        "nemeses": {},
        "leaders": 0,
        "worst_pause_ms": None,
    }


def _faults(rng: random.Random, seconds: float, nodes: int) -> tuple[list[tuple[float, float]], list[Remark]]:
    outages: list[tuple[float, float]] = []
    remarks = [leader(1, 2, 40.0)]
    leads, term, at, number = 1, 2, 4_000.0, 0
    while at + 8_000 < seconds * 1_000:
        nemesis, text, outage_ms = FAULTS[number % len(FAULTS)]
        held = rng.uniform(3_000, 6_000)
        remarks += remarks_of(number, nemesis, at, at + held, text=text.format(leader=leads), proven=number % 7 != 5)
        felt = outage_ms * rng.uniform(0.7, 1.3)
        if felt:
            outages.append((at * MS, (at + felt) * MS))
            leads, term = leads % nodes + 1, term + rng.randint(1, 2)
            remarks.append(leader(leads, term, at + felt * 0.9))
        at += held + rng.uniform(2_000, 3_000)
        number += 1
    return outages, sorted(remarks, key=lambda one: one.time)


def _latency(rng: random.Random) -> float:
    return math.exp(rng.gauss(1.3, 0.5)) * MS


def _one(rng: random.Random, workload: str, number: int) -> Operation:
    key, read = f"{workload[0]}{rng.randrange(8)}", rng.random() < 0.5
    f: str
    value: Any
    result: Any
    match workload:
        case "set":
            f, value, result = ("read", None, [*range(min(number, 400))]) if read else ("add", number, None)
        case "append":
            txn = [["r", key, None], ["append", key, number]]
            f, value, result = "txn", txn, [["r", key, [1, 2, number - 1]], txn[1]]
        case "bank":
            moved = {"from": 1, "to": 4, "amount": rng.randrange(9)}
            f, value, result = ("read", None, {"0": 12, "1": 88}) if read else ("transfer", moved, None)
        case "lock":
            f, value, result = rng.choice(
                [
                    ("acquire", None, {"token": number}),
                    ("increment", {"token": number, "to": number + 1}, None),
                    ("release", {"token": number}, None),
                ]
            )
        case "watch":
            events = [[number, key, number]]
            f, value, result = "watch", {"from": number}, {"events": events, "through": number}
        case _:
            f, value, result = ("read", None, number - 1) if read else ("write", number, None)
    return Operation(workload=workload, process=0, f=f, key=key, value=value, result=result, began=0, ended=0)


def in_order(remarks: Iterable[Remark]) -> list[Remark]:
    return sorted(remarks, key=lambda one: one.time)


def pages(directory: Path) -> None:
    """Write reports that show everything a report can show."""
    history = plausible()
    write_report(directory / "valid.html", history, _finished(history, "valid"), {})
    history = plausible(operations=20_000, seconds=60.0)
    told: list[tuple[str, float, float, int, dict[str, Any]]] = [
        ("write", 1_000.0, 1_012.0, 101, {"value": 17, "revision": 41}),
        ("write", 1_030.0, 3_031.0, 102, {"value": 18, "outcome": Outcome.INFO, "error": "UnknownOutcome: no answer"}),
        ("write", 1_034.2, 1_041.0, 101, {"value": 19, "revision": 44}),
        ("read", 1_036.0, 1_060.5, 103, {"result": 19, "revision": 44}),
        ("cas", 1_061.0, 1_066.5, 104, {"value": [18, 20], "result": False}),
        ("read", 1_070.0, 1_075.0, 105, {"result": 17, "revision": 41}),
    ]
    stale = [
        operation(f, began, ended, workload="register", key="r3", process=9_000 + process, **rest)
        for f, began, ended, process, rest in told
    ]
    cycle = history.of("append")[3_000:3_003]
    history.operations = sorted([*history.operations, *stale], key=lambda one: one.began)
    found = {
        "register": ("stale read", "r3 was read as 17, though 19, written after it, had been read before.", stale),
        "append": ("G1c", "Each of these transactions saw what the next one wrote.", cycle),
    }
    verdicts = {
        workload: judged(1_000, [Problem(name=name, text=text, operations=tuple(evidence))])
        for workload, (name, text, evidence) in found.items()
    }
    results = _finished(history, "violation")
    for workload in verdicts:
        results["workloads"][workload]["valid"] = False
    write_report(directory / "violation.html", history, results, verdicts)


def _finished(history: History, verdict: str) -> dict[str, Any]:
    results = results_of(history, verdict)
    results |= {"worst_pause_ms": worst_pause_ms(history), "faults": [felt.as_json() for felt in rto_of(history)]}
    for fault in results["faults"]:
        counts = results["nemeses"].setdefault(fault["nemesis"], {"begun": 0, "proven": 0})
        counts["begun"] += 1
        counts["proven"] += fault["proven"]
    return results


if __name__ == "__main__":
    pages(Path(sys.argv[1]))
