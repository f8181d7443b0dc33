"""What is made of a run: the recovery time of each fault, the series, and the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from raftkv.checker.history import History, Operation, Outcome, Remark
from raftkv.checker.verdict import Problem, Verdict, judged, undecided
from raftkv.cli.figures import percentile
from raftkv.jepsen.report import timeline, words, write_report
from raftkv.jepsen.report.html import PAGE_MAX, PROBLEMS_MAX, page, report_data, suspect
from raftkv.jepsen.report.rto import faults_of, leaders_of, pauses_of, rto_of, worst_pause_ms
from raftkv.jepsen.report.series import series_of
from tests.jepsen.made_up import MS, S, acknowledged, in_order, leader, operation, plausible, remarks_of, results_of


def every(step_ms: float, begin_ms: float, end_ms: float) -> list[float]:
    """Times at an even step, both ends included."""
    return [begin_ms + step_ms * number for number in range(int((end_ms - begin_ms) / step_ms) + 1)]


def test_remarks_are_paired_into_faults() -> None:
    first, second = remarks_of(0, "kill", 100, 300, text="node 1"), remarks_of(1, "slow", 200, None, proven=False)
    found = faults_of(History(remarks=in_order([*first, *second, leader(1, 2, 150)])))
    assert [(one.number, one.nemesis, one.text, one.began, one.ended, one.proven) for one in found] == [
        (0, "kill", "node 1", 100 * MS, 300 * MS, True),
        (1, "slow", "struck", 200 * MS, None, False),
    ]


def test_a_fault_that_was_seen_to_be_off_is_not_proven() -> None:
    value = {"nemesis": "ring", "text": "", "number": 3}
    events = [("begin", value | {"text": "a ring"}), ("proven", value), ("unproven", value | {"text": "1 hears 3"})]
    events += [("proven", value), ("end", value)]
    remarks = [Remark(who="nemesis", f=f, value=told, time=time) for time, (f, told) in enumerate(events)]
    (fault,) = faults_of(History(remarks=remarks))
    assert (fault.proven, fault.doubt, fault.text, fault.ended) == (False, "1 hears 3", "a ring", 4)


def test_a_text_that_comes_with_the_proof_is_the_faults() -> None:
    remarks = [
        Remark(who="nemesis", f="begin", value={"nemesis": "kill", "number": 0}, time=1),
        Remark(who="nemesis", f="proven", value={"nemesis": "kill", "number": 0, "text": "node 2"}, time=2),
    ]
    (fault,) = faults_of(History(remarks=remarks))
    assert (fault.text, fault.proven, fault.ended) == ("node 2", True, None)


def test_a_leader_that_is_seen_again_at_once_counts_once() -> None:
    seen = leaders_of(History(remarks=[leader(1, 2, 1), leader(1, 2, 2), leader(3, 4, 3), leader(1, 5, 4)]))
    assert [(one.node, one.term, one.seen) for one in seen] == [(1, 2, MS), (3, 4, 3 * MS), (1, 5, 4 * MS)]


def test_pauses_lie_between_acknowledgements() -> None:
    found = pauses_of(acknowledged(10, 25, 100))
    assert [(one.began, one.ended, one.recovered) for one in found] == [
        (0, 10 * MS, True),
        (10 * MS, 25 * MS, True),
        (25 * MS, 100 * MS, True),
    ]


def test_what_failed_or_is_unknown_acknowledges_nothing() -> None:
    asked = [
        operation("write", 0, 10),
        operation("read", 10, 20, outcome=Outcome.FAIL),
        operation("write", 20, 30, outcome=Outcome.INFO),
        operation("write", 30, 50, process=1),
        operation("write", 50, 90, process=1, outcome=Outcome.INFO),
    ]
    assert [(one.ns, one.recovered) for one in pauses_of(asked)] == [
        (10 * MS, True),
        (40 * MS, True),
        (40 * MS, False),
    ]


def test_when_nobody_asks_nothing_pauses() -> None:
    # The last reads come when the cluster was made whole: the seconds until then were nobody's wait.
    asked = [operation("write", 0, 10), operation("write", 10, 40), operation("read", 9_000, 9_007)]
    assert [one.ns for one in pauses_of(asked)] == [10 * MS, 30 * MS, 7 * MS]
    assert worst_pause_ms(History(operations=asked)) == 30.0
    # An answer that took as long is another matter.
    assert worst_pause_ms(History(operations=[*asked, operation("read", 9_007, 12_000)])) == 2_993.0


def test_a_run_without_a_probe_has_no_figures() -> None:
    history = History(operations=[operation("write", 0, 10, workload="register")], remarks=remarks_of(0, "kill", 1, 5))
    assert worst_pause_ms(history) is None
    (felt,) = rto_of(history)
    assert (felt.rto_ms, felt.pause, felt.elected_ns) == (None, None, None)
    assert felt.as_json()["rto_ms"] is None


def test_the_rto_of_a_fault_is_its_longest_pause() -> None:
    times = [*every(10, 10, 1_000), *every(10, 1_820, 2_500), *every(10, 2_700, 9_000)]
    history = History(
        operations=acknowledged(*times),
        remarks=in_order([*remarks_of(0, "kill", 1_004, 2_000), leader(1, 2, 30), leader(3, 4, 1_704)]),
    )
    (felt,) = rto_of(history)
    # The acknowledgement at 1,000 came before the fault: it is counted from when the fault began.
    assert (felt.rto_ms, felt.elected_ns, felt.resumed_ns, felt.elections) == (816.0, 700 * MS, 116 * MS, 1)
    assert worst_pause_ms(history) == 820.0
    assert felt.as_json() == {
        "nemesis": "kill",
        "text": "struck",
        "began_s": 1.004,
        "proven": True,
        "ended_s": 2.0,
        "rto_ms": 816.0,
        "recovered": True,
        "elected_ms": 700.0,
        "resumed_ms": 116.0,
        "elections": 1,
    }


def test_a_pause_that_no_new_leader_ended_is_not_split() -> None:
    history = History(
        operations=acknowledged(*every(10, 10, 500), *every(10, 900, 4_000)),
        remarks=in_order([leader(1, 2, 30), *remarks_of(0, "slow", 505, 2_000), leader(2, 3, 950)]),
    )
    (felt,) = rto_of(history)
    assert (felt.rto_ms, felt.elected_ns, felt.resumed_ns, felt.elections) == (395.0, None, None, 0)


def test_a_pause_with_two_elections_lasts_until_the_leader_who_answered() -> None:
    history = History(
        operations=acknowledged(*every(10, 10, 500), *every(10, 2_000, 4_000)),
        remarks=in_order([*remarks_of(0, "ring", 500, 3_000), leader(2, 3, 900), leader(3, 4, 1_900)]),
    )
    (felt,) = rto_of(history)
    assert (felt.rto_ms, felt.elected_ns, felt.elections) == (1_500.0, 1_400 * MS, 2)


def test_a_heal_can_be_felt_too() -> None:
    times = [*every(10, 10, 3_500), *every(10, 4_100, 9_000)]
    history = History(operations=acknowledged(*times), remarks=remarks_of(0, "isolate", 1_000, 3_000))
    assert [one.rto_ms for one in rto_of(history)] == [600.0]
    assert [one.rto_ms for one in rto_of(history, settle_s=0.4)] == [10.0]


def test_a_later_fault_has_its_pause_for_itself() -> None:
    times = [*every(10, 10, 3_500), *every(10, 4_100, 9_000)]
    remarks = [*remarks_of(0, "isolate", 1_000, 3_000), *remarks_of(1, "kill", 3_500, 4_500)]
    first, second = rto_of(History(operations=acknowledged(*times), remarks=in_order(remarks)))
    assert (first.rto_ms, second.rto_ms) == (10.0, 600.0)
    # A pause that both have a part in is divided where the later one began; the earlier never recovered from it.
    times = [*every(10, 10, 3_200), *every(10, 4_100, 9_000)]
    first, second = rto_of(History(operations=acknowledged(*times), remarks=in_order(remarks)))
    assert (first.rto_ms, second.rto_ms) == (300.0, 600.0)
    assert [one.pause.recovered for one in (first, second) if one.pause is not None] == [False, True]


def test_faults_that_are_on_together_share_what_is_felt() -> None:
    times = [*every(10, 10, 2_500), *every(10, 3_100, 9_000)]
    remarks = [*remarks_of(0, "isolate", 1_000, 4_000), *remarks_of(1, "pause", 2_000, 3_500)]
    felt = rto_of(History(operations=acknowledged(*times), remarks=in_order(remarks)))
    assert [one.rto_ms for one in felt] == [600.0, 600.0]


def test_what_was_never_made_good_is_at_least_so_long() -> None:
    asked = [*acknowledged(*every(10, 10, 1_000)), operation("write", 1_000, 3_000, outcome=Outcome.INFO)]
    (felt,) = rto_of(History(operations=asked, remarks=[*remarks_of(0, "kill", 1_500, None), leader(1, 2, 2_000)]))
    assert felt.rto_ms == 1_500.0
    assert felt.as_json()["recovered"] is False
    assert felt.elected_ns is None  # it was seen, and yet nothing was answered
    assert felt.pause is not None
    assert felt.pause.ended == 3 * S


def test_a_slice_counts_what_ended_in_it() -> None:
    asked = [
        operation("write", 100, 200),
        operation("write", 200, 230),
        operation("read", 400, 600),
        operation("read", 600, 700, outcome=Outcome.FAIL),
        operation("write", 800, 1_400, outcome=Outcome.INFO, workload="register"),
    ]
    series = series_of(asked)
    assert (series.width_s, series.slices, list(series.lines)) == (0.5, 3, ["", "probe", "register"])
    line = series.lines["probe"]
    assert (line.ok, line.failed, line.unknown) == ([4.0, 2.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 0.0])
    assert (line.p50, line.p99, line.max) == ([30.0, 200.0, None], [100.0, 200.0, None], [100.0, 200.0, None])
    assert series.lines[""].unknown == [0.0, 0.0, 2.0]


def test_slices_are_few_however_long_the_run() -> None:
    for seconds, width_s in ((10, 0.5), (179, 0.5), (180, 1.0), (359.9, 1.0), (605, 2.0), (40_000, 300.0)):
        series = series_of([operation("write", 0, seconds * 1_000)])
        assert series.width_s == width_s
        assert series.slices <= 360
    assert series_of([]).as_json()["slices"] == 1


def test_percentiles_are_of_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, percent) for percent in (0, 50, 99, 100)] == [1.0, 50.0, 99.0, 100.0]
    assert [percentile([7.0], percent) for percent in (50, 99)] == [7.0, 7.0]
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0


# --- the page


class Parser(HTMLParser):
    """Reads a page as a browser does, as far as it matters here: what is a tag, and what is a script's text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=False)
        self.scripts: list[str] = []
        self.tags: list[str] = []
        self._script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "script":
            self._script = True
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._script = self._script and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._script:
            self.scripts[-1] += data


def embedded(text: str) -> Any:
    """What the page's program will find."""
    parser = Parser()
    parser.feed(text)
    assert len(parser.scripts) == 2
    return json.loads(parser.scripts[0])


def numbers(history: History) -> dict[str, Verdict]:
    return {name: judged(len(history.of(name)), []) for name in {one.workload for one in history.operations}}


STALE = (
    operation("write", 1, 2, workload="register", value=1, process=1, revision=7),
    operation("write", 3, 4, workload="register", value=2, process=2, revision=8),
    operation("read", 5, 6, workload="register", process=3, result=1, revision=7),
)


def stale(*operations: Operation, name: str = "stale read", text: str = "It read what was overwritten.") -> Problem:
    return Problem(name=name, text=text, operations=operations or STALE)


def test_a_page_holds_what_it_shows(tmp_path: Path) -> None:
    history = plausible(operations=2_000, seconds=30.0)
    results = results_of(history)
    write_report(tmp_path / "report.html", history, results, numbers(history))
    data = embedded((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert data["run"]["verdict"] == "valid"
    assert (data["run"]["command"], data["run"]["seed"]) == (results["command"], 7)
    assert data["run"]["workloads"]["register"]["ok"] == results["workloads"]["register"]["ok"] > 100
    assert [one["nemesis"] for one in data["faults"]] == [one.nemesis for one in faults_of(history)] != []
    assert [one["rto_ms"] for one in data["faults"]] == [one.rto_ms for one in rto_of(history)]
    assert [(one["node"], one["term"]) for one in data["leaders"]] == [
        (one.node, one.term) for one in leaders_of(history)
    ]
    packed = data["operations"]
    shown = [packed["kinds"][kind] for kind in packed["kind"]]
    assert shown == [[one.workload, one.f, one.outcome] for one in history.operations]
    assert len(packed["described"]) == packed["total"] == len(history.operations)


def test_times_on_the_page_are_those_of_the_history() -> None:
    history = plausible(operations=1_000, seconds=20.0)
    packed = timeline.pack(history.operations, [], 1_000_000)
    clock = 0
    for at, one in enumerate(history.operations):
        clock += packed["began"][at]
        assert clock == one.began // timeline.UNIT_NS
        assert clock + packed["took"][at] == one.ended // timeline.UNIT_NS


def test_a_page_needs_nothing_from_elsewhere() -> None:
    template = resources.files("raftkv.jepsen.report").joinpath("report.html").read_text(encoding="utf-8")
    # The name of a namespace is no address: nothing is loaded from it.
    assert re.findall(r"\w+://[^\s\"']+", template) == ["http://www.w3.org/2000/svg"]
    assert not re.search(r"<link|@import|url\(|\bsrc=|\bimport\b|fetch\(|XMLHttp|innerHTML|document\.write", template)
    assert [template.count(f"{{{{{name}}}}}") for name in ("verdict", "data")] == [2, 1]


NASTY = (
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "]]>&lt;&amp;\u2028\u2029\x00\x7f",
    "{{data}}{{verdict}}",
    "\ud800",
    "'\"\\n`${1}",
)


@pytest.mark.parametrize("nasty", NASTY)
def test_nothing_in_a_run_can_break_out_of_the_page(nasty: str, tmp_path: Path) -> None:
    struck = operation("write", 1, 2, workload=nasty, key=nasty, value=[nasty], result={nasty: nasty}, process=1)
    failed = operation(nasty, 3, 4, workload=nasty, outcome=Outcome.FAIL, error=nasty, extra={nasty: nasty})
    history = History(
        operations=[struck, failed],
        remarks=[
            *remarks_of(0, nasty, 1, 3, text=nasty),
            Remark(who="cluster", f="leader", value={"node": nasty, "term": 1}, time=5),
            Remark(who="nemesis", f="begin", value=nasty, time=6),
        ],
    )
    results = {"verdict": nasty, "why": [nasty], "command": nasty, "began": nasty, "nemeses": {nasty: {"begun": 1}}}
    verdict = undecided(2, nasty, [stale(struck, failed, name=nasty, text=nasty)])
    plain = Parser()
    plain.feed(page(History(), {}, {}))
    write_report(tmp_path / "report.html", history, results, {nasty: verdict})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    broken = Parser()
    broken.feed(text)
    assert broken.tags == plain.tags
    assert not set("<>&") & set(broken.scripts[0])  # nor a comment, which a browser sees and this parser does not
    data = embedded(text)
    assert data["run"]["why"] == [nasty]
    assert data["problems"][0]["text"] == data["faults"][0]["text"] == nasty
    assert data["operations"]["kinds"][0][0] == nasty


def test_a_page_without_operations_is_a_page() -> None:
    data = embedded(page(History(), {"verdict": "unknown", "why": ["could not run"]}, {}))
    assert (data["operations"]["total"], data["faults"], data["seconds"]) == (0, [], 0.0)


def test_the_words_of_a_verdict_are_in_the_page_even_without_its_program() -> None:
    for verdict, title in (("valid", "Valid"), ("violation", "VIOLATION"), ("unknown", "Unknown"), ("<b>", "Unknown")):
        text = page(History(), {"verdict": verdict}, {})
        assert f"<title>{title} · raftkv jepsen</title>" in text
        assert f"<h1>{title}</h1>" in text


def test_evidence_is_shown_whole() -> None:
    history = History(operations=list(STALE))
    verdicts = {"register": judged(3, [stale()])}
    (problem,) = embedded(page(history, {"verdict": "violation"}, verdicts))["problems"]
    assert (problem["workload"], problem["name"], problem["left_out"]) == ("register", "stale read", 0)
    assert [one["label"] for one in problem["operations"]] == ["write k 1 → @7", "write k 2 → @8", "read k → 1 @7"]
    assert [one["impossible"] for one in problem["operations"]] == [False, False, True]
    assert [(one["process"], one["began_s"], one["ended_s"]) for one in problem["operations"]] == [
        (1, 0.001, 0.002),
        (2, 0.003, 0.004),
        (3, 0.005, 0.006),
    ]


@pytest.mark.parametrize("name", ["G1c", "G0", "G2-item", "G-single", "write skew", "cycle of reads", "GSIb"])
def test_of_a_cycle_no_operation_is_the_impossible_one(name: str) -> None:
    assert suspect(stale(name=name)) is None
    assert suspect(stale()) == 2


def test_which_operation_is_the_impossible_one() -> None:
    late = operation("read", 2, 9, process=4, result=1)
    unanswered = operation("write", 5.5, 60, process=5, outcome=Outcome.INFO)
    # In the order of time the last answer cannot be explained; otherwise the check has put it last.
    assert suspect(stale(STALE[0], late, STALE[1], STALE[2], unanswered)) == 1
    assert suspect(stale(STALE[0], STALE[2], late)) == 2
    assert suspect(stale(STALE[2], STALE[1])) == 1
    assert suspect(stale(STALE[2], unanswered)) == 0
    assert suspect(stale(STALE[2], STALE[1], name="read from the future")) == 0
    assert suspect(stale(unanswered)) is None
    assert suspect(Problem(name="lost element", text="")) is None


def test_of_many_problems_and_much_evidence_the_first_are_shown() -> None:
    many = tuple(operation("read", at, at + 1, process=at) for at in range(100))
    problems = [stale(*many)] * (PROBLEMS_MAX + 5)
    data = report_data(History(operations=list(many)), {}, {"register": judged(100, problems)})
    assert (len(data["problems"]), data["problems_total"]) == (PROBLEMS_MAX, PROBLEMS_MAX + 5)
    first = data["problems"][0]
    assert (len(first["operations"]), first["left_out"]) == (30, 70)
    assert first["operations"][-1]["impossible"]
    assert first["operations"][-1]["process"] == 99


def test_a_workload_that_only_a_check_knows_is_in_the_table() -> None:
    data = report_data(History(), {"workloads": {"set": {"ok": 3, "valid": True, "problems": ["long"]}}}, {})
    assert data["run"]["workloads"] == {"set": {"ok": 3, "valid": True}}
    data = report_data(History(), {}, {"register": judged(3, [stale()])})
    assert data["run"]["workloads"] == {"register": {"valid": False, "checked": 3, "why": "", "problems": 1}}


# --- what is left out


@pytest.mark.parametrize("nasty", ["", "<" * 200, "\u2028" * 200])
def test_a_page_keeps_within_its_room(nasty: str) -> None:
    history = plausible(operations=4_000, seconds=30.0)
    history.operations[7] = operation("write", 400, 400.1, workload="register", key="r1", value=nasty, process=1)
    if nasty:
        history.operations = [operation("write", at, at + 1, value=nasty, process=at % 8) for at in range(4_000)]
    room = 150_000
    data = report_data(history, {}, {}, room)
    size = len(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))
    assert 0.7 * room < size <= room
    assert len(data["operations"]["described"]) < data["operations"]["total"]


def test_the_room_of_a_page_is_shared_out_by_its_size() -> None:
    # What holds for 4,000 operations and 150,000 bytes holds for 300,000 and PAGE_MAX: there are bars for two in three.
    assert PAGE_MAX <= 5_000_000
    assert PAGE_MAX // timeline.ROOM_PER_BAR > 200_000


def test_what_matters_is_not_left_out() -> None:
    history = plausible(operations=4_000, seconds=30.0)
    evidence = [history.operations[at] for at in (1_234, 2_345)]
    packed = timeline.pack(history.operations, evidence, 40_000)
    assert len(packed["began"]) < 0.6 * len(history.operations)
    told = [packed["kinds"][kind][2] for kind in packed["kind"]]
    counted = [one.outcome for one in history.operations]
    for outcome in (Outcome.FAIL, Outcome.INFO):
        assert told.count(outcome) == counted.count(outcome) > 0
    assert all(f"p{one.process} {one.f} {words.asked(one)}".strip() in packed["asked"] for one in evidence)


def test_what_is_left_out_is_left_out_evenly() -> None:
    asked = [operation("write", at, at + 0.5) for at in range(10_000)]
    packed = timeline.pack(asked, [], 10_000 * timeline.ROOM_PER_BAR // 4)
    assert len(packed["began"]) == 2_500
    assert max(packed["began"]) <= 12 * MS // timeline.UNIT_NS


# --- lanes and words


def test_a_client_keeps_its_lane_when_its_process_number_changes() -> None:
    asked = [
        operation("write", 0, 5, process=0, outcome=Outcome.INFO),
        operation("write", 1, 9, process=1),
        operation("write", 6, 7, process=2),
        operation("write", 6, 7, process=3, workload="register"),
        operation("write", 7, 8, process=2, outcome=Outcome.INFO),
        operation("write", 8, 9, process=4),
        operation("write", 8.5, 9, process=5),
    ]
    lanes, lane_of = timeline.lanes_of(asked)
    assert [(lane.workload, lane.number) for lane in lanes] == [
        ("probe", 1),
        ("probe", 2),
        ("probe", 3),
        ("register", 1),
    ]
    assert lane_of == {0: 0, 1: 1, 2: 0, 3: 3, 4: 0, 5: 2}


@pytest.mark.parametrize(
    ("one", "asked", "told", "label"),
    [
        (operation("write", 0, 1, value=12, revision=41), "k 12", "@41", "write k 12 → @41"),
        (operation("read", 0, 1), "k", "null", "read k → null"),
        (operation("read", 0, 1, outcome=Outcome.FAIL, error="NotLeader: x"), "k", "NotLeader: x", "read k (failed)"),
        (operation("add", 0, 1, key="", value=3, outcome=Outcome.INFO, error="E"), "3", "E", "add 3 (unknown)"),
        (operation("acquire", 0, 1, key="", result={"token": 3}), "", "{token: 3}", "acquire → {token: 3}"),
        (
            operation(
                "txn",
                0,
                1,
                key="",
                value=[["append", "a", 3], ["r", "b", None]],
                result=[["append", "a", 3], ["r", "b", [1, 2]]],
                revision=9,
            ),
            "append a 3, r b",
            "append a 3, r b [1, 2] @9",
            "append a 3, r b [1, 2] @9",
        ),
    ],
)
def test_operations_in_few_words(one: Operation, asked: str, told: str, label: str) -> None:
    assert (words.asked(one), words.told(one), words.label(one)) == (asked, told, label)


def test_of_a_long_value_both_ends_are_shown() -> None:
    assert words.brief(list(range(5)), 40) == "[0, 1, 2, 3, 4]"
    shown = words.brief(list(range(10_000)), 40)
    assert shown == "[0, 1, 2, 3, 4, 5, 6, … 9990 more …, 9997, 9998, 9999]"
    assert len(words.brief("x" * 10_000, 40)) == 40
    assert len(words.brief({str(at): at for at in range(1_000)}, 40)) == 40
    assert len(words.brief([["x" * 90] * 90] * 90, 100)) < 400


def test_the_report_is_made_without_what_a_cluster_needs() -> None:
    program = (
        "import sys, raftkv.jepsen.report; print([name for name in ('grpc', 'asyncio', 'lmdb') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
