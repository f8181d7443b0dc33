"""What passes, what does not, and how it is told."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from raftkv.drill.measure.chart import bands
from raftkv.drill.measure.record import How, Outcome, Record, Role
from raftkv.drill.measure.verdict import Audit, Result, judged
from raftkv.drill.measure.words import duration, summary
from raftkv.drill.report import page, write_report
from tests.drill.histories import killed, read, sight, write

ALL_THERE = Audit(acknowledged=9)


def judge(record: Record, audit: Audit | None = ALL_THERE, *, wanted: int = 1) -> Result:
    return judged(record, How.KILL, wanted, audit)


def test_a_round_that_recovered_and_lost_nothing_passes() -> None:
    result = judge(killed())
    assert result.passed
    assert result.rpo == 0


def test_failed_and_unknown_writes_are_told_and_do_not_fail_it() -> None:
    record = killed()
    record.writes += [write(10.5, outcome=Outcome.FAILED), write(10.6, outcome=Outcome.UNKNOWN)]
    result = judge(record)
    assert result.passed
    assert (result.failed, result.unknown) == (1, 1)
    assert result.first_error == "no result after 10 s"


@pytest.mark.parametrize(
    ("audit", "problem"),
    [
        (Audit(acknowledged=9, lost=["raftkv-drill/x/0/7"]), "1 acknowledged writes are lost, raftkv-drill/x/0/7"),
        (Audit(acknowledged=9, repeated=["raftkv-drill/x/0/7"]), "1 writes were applied twice"),
        (Audit(acknowledged=0), "nothing was acknowledged"),
        (None, "could not be read back"),
    ],
)
def test_what_the_audit_found_fails_it(audit: Audit | None, problem: str) -> None:
    result = judge(killed(), audit)
    assert not result.passed
    assert any(problem in one for one in result.problems)


def test_a_read_that_missed_an_acknowledged_write_fails_it() -> None:
    record = killed()
    record.reads.append(read(10.5, missed=True))
    assert "1 linearizable reads did not show" in judge(record).problems[0]


@pytest.mark.parametrize(
    ("keep", "problem"),
    [
        (lambda one: one.term <= 3, "round 1: no new leader was elected"),
        (lambda one: one.node != 1 or one.at < 12, "round 1: node 1 did not come back"),
    ],
)
def test_a_cluster_that_is_not_whole_again_fails_it(keep: object, problem: str) -> None:
    record = killed()
    assert callable(keep)
    record.sights = [one for one in record.sights if keep(one)]
    assert problem in judge(record).problems[0]


def test_a_new_leader_that_takes_no_write_fails_it() -> None:
    record = killed()
    record.writes = [one for one in record.writes if one.term <= 3]
    assert "node 3 was elected, but acknowledged no write" in judge(record).problems[0]


def test_rounds_that_did_not_take_place_fail_it() -> None:
    assert judge(killed(), wanted=2).problems == ["1 of 2 rounds took place"]


def test_the_result_as_json() -> None:
    found = judge(killed()).as_json()
    assert found["rpo"] == 0
    assert found["detection_ms"] == {"min": 40.0, "median": 40.0, "max": 40.0}
    (one,) = found["rounds"]
    assert (one["rto_ms"], one["mttr_ms"], one["longest_wait_ms"]) == (115.0, 3000.0, 3183.0)
    assert (one["old_leader"], one["new_leader"]) == (1, 3)


def test_the_result_in_words() -> None:
    words = summary(judge(killed(), Audit(acknowledged=9, lost=["k"])))
    assert words["RTO"] == "median 115 ms, at most 115 ms"
    assert words["RPO"] == "1 of 9 acknowledged writes lost, 0 applied twice"
    assert words["result"].startswith("FAILED: 1 acknowledged writes are lost")


@pytest.mark.parametrize(("ms", "words"), [(None, "-"), (4.25, "4.2 ms"), (115.4, "115 ms"), (3004.0, "3.00 s")])
def test_durations_for_people(ms: float | None, words: str) -> None:
    assert duration(ms) == words


def test_what_a_node_took_itself_for() -> None:
    said = [sight(1.0, 2), sight(1.1, 2), sight(1.2, 2, Role.CANDIDATE, leader=0), sight(1.3, 2, Role.LEADER, leader=2)]
    found = bands([*said, sight(3.0, 2)], 1.05, 3.1)
    assert [one.style for one in found] == ["follows", "seeks", "leads", "silent", "follows"]
    assert (found[0].began, found[-1].ended) == (1.05, 3.1)
    assert all(one.ended == after.began for one, after in pairwise(found))


def test_a_node_that_was_struck_leads_no_more() -> None:
    said = [sight(1.0, 2, Role.LEADER, leader=2), sight(3.0, 2)]
    found = bands(said, 1.0, 3.1, silenced=1.01)
    assert [(one.style, one.began) for one in found] == [("leads", 1.0), ("silent", 1.01), ("follows", 3.0)]


def test_a_node_of_which_nothing_was_heard_was_silent() -> None:
    assert [one.style for one in bands([], 0.0, 1.0)] == ["silent"]


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_stands_alone_and_shows_every_moment(tmp_path: Path) -> None:
    write_report(tmp_path / "r.html", judge(killed()), killed(), cluster="h:1,h:2", when="today")
    found = Elements()
    found.feed((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert found.names.count("svg") == 2
    assert "script" not in found.names
    assert found.addresses == [], "nothing is fetched"
    for moment in ("kill", "noticed +40 ms", "node 3 leads +70 ms", "first write +90 ms", "node 1 caught up +3.00 s"):
        assert moment in found.text
    assert "RTO 115 ms" in found.text
    assert "Passed" in found.text


def test_the_page_of_what_failed_says_why_and_trusts_no_text() -> None:
    record = killed()
    result = judged(record, How.KILL, 1, None, ["round 1: <script>alert(1)</script>"])
    text = page(result, record, cluster="<b>", when="today")
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    assert "<b>," not in text


def test_the_page_of_a_drill_without_a_round() -> None:
    assert "0 of 2 rounds took place" in page(judge(Record(), wanted=2), Record(), cluster="h:1", when="today")
