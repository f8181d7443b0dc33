"""What is made of a run: the recovery time of each fault, the series, and the page."""

from __future__ import annotations

from raftkv.checker.history import History, Outcome, Remark
from raftkv.jepsen.report.rto import faults_of, leaders_of, pauses_of, rto_of, worst_pause_ms
from raftkv.jepsen.report.series import percentile, series_of
from tests.jepsen.made_up import MS, S, acknowledged, in_order, leader, operation, remarks_of


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
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1.0, 50.0, 99.0, 100.0]
    assert [percentile([7.0], share) for share in (0.5, 0.99)] == [7.0, 7.0]
    assert percentile([1.0, 2.0, 3.0], 0.5) == 2.0
