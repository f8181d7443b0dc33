"""History files: what is written is read again, and what is no history is refused by its line."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from raftkv.checker.history import BadHistory, History, Operation, Outcome, Remark, decode, encode
from tests.checker.histories import cas, execution, fail, info, op, r, w

HEADER = {"format": "raftkv-history", "version": 1}
INVOKE: dict[str, Any] = {"index": 0, "time": 5, "process": 1, "type": "invoke", "f": "write", "key": "x", "value": 3}
OK: dict[str, Any] = {"index": 1, "time": 9, "process": 1, "type": "ok", "f": "write", "key": "x", "value": 3}


def lines(*events: Any) -> list[str]:
    return [one if isinstance(one, str) else json.dumps(one) for one in events]


def as_read(history: History) -> list[Operation]:
    """Its operations, without the numbers of lines."""
    return [replace(one, index=-1) for one in history.operations]


def test_round_trip() -> None:
    operations = [
        w(0, 10, 1, revision=7, process=1),
        r(1, 4, None, process=2),
        cas(5, 5, None, 2, False, process=3),
        info(w(6, 20, 2, process=4)),
        fail(w(7, 8, 3, process=5)),
        op(11, 12, "read", result=[1, {"a": "b"}], key="", process=1, extra={"at": 4}),
        op(13, 13, "txn", [["append", "k", 1], ["r", "k", None]], [["append", "k", 1], ["r", "k", [1]]], process=1),
    ]
    operations = [replace(one, workload="mixed") for one in operations]
    remarks = [Remark(who="nemesis", f="begin", value="node 1 is cut off", time=3)]
    written = History(header={"seed": 4}, operations=operations, remarks=remarks)
    read = decode(encode(written))
    assert as_read(read) == operations
    assert (read.header, read.remarks) == (written.header, written.remarks)
    assert [one.index for one in read.operations] == sorted(one.index for one in read.operations)
    assert list(encode(read)) == list(encode(written))


def test_a_long_round_trip() -> None:
    history = History(operations=execution(random.Random(1), operations=500, clients=5, unknown=0.1))
    assert as_read(decode(encode(history))) == history.operations


def test_lines_are_in_the_order_of_time_and_count() -> None:
    events = [json.loads(line) for line in encode(History(operations=[w(0, 9, 1, process=1), w(3, 4, 2, process=2)]))]
    assert events[0] == HEADER
    assert [event["index"] for event in events[1:]] == [0, 1, 2, 3]
    assert [event["time"] for event in events[1:]] == [0, 3, 4, 9]
    assert [event["type"] for event in events[1:]] == ["invoke", "invoke", "ok", "ok"]


def test_what_never_ended_is_unknown_until_the_end_of_the_file() -> None:
    other = [INVOKE | {"index": 1, "process": 2, "time": 6}, OK | {"index": 2, "process": 2, "time": 70}]
    (never, ended) = decode(lines(HEADER, INVOKE, *other)).operations
    assert (never.outcome, never.error, never.began, never.ended) == (Outcome.INFO, "never ended", 5, 70)
    assert (never.process, never.f, never.key, never.value, never.index) == (1, "write", "x", 3, 0)
    assert ended.outcome is Outcome.OK


def test_an_answer_may_leave_out_what_it_does_not_say() -> None:
    (one,) = decode(lines(HEADER, INVOKE, {"index": 1, "time": 9, "process": 1, "type": "ok"})).operations
    assert (one.result, one.revision, one.error, one.extra) == (None, 0, "", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "the file is empty"),
        (lines({"format": "jepsen"}), 'line 1 is no header of a history: it wants {"format": "raftkv-history"'),
        (lines(INVOKE), "line 1 is no header of a history"),
        (lines("[]"), "line 1 is no event of a history: AttributeError"),
        (lines(HEADER | {"version": 2}), "the history has version 2; this program reads version 1"),
        (lines(HEADER, INVOKE, INVOKE), "line 3: process 1 begins again before it has ended"),
        (lines(HEADER, OK), "line 2: process 1 ends what it never began"),
        (lines(HEADER, "{"), "line 2 is no event of a history: JSONDecodeError"),
        (lines(HEADER, ""), "line 2 is no event of a history: JSONDecodeError"),
        (lines(HEADER, "7"), "line 2 is no event of a history: TypeError"),
        (lines(HEADER, {"time": 1, "type": "ok"}), "line 2 is no event of a history: KeyError: 'process'"),
        (lines(HEADER, {"process": 1, "type": "ok"}), "line 2 is no event of a history: KeyError: 'time'"),
        (lines(HEADER, INVOKE, OK | {"type": "maybe"}), "line 3 is no event of a history: ValueError: 'maybe'"),
        (lines(HEADER, {"time": 1, "process": "nemesis", "type": "info"}), "line 2 is no event .* KeyError: 'f'"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(content: list[str], message: str) -> None:
    with pytest.raises(BadHistory, match=message.replace("[]", r"\[\]").replace("{", r"\{")):
        decode(content)


@pytest.mark.parametrize("missing", ["f", "index"])
def test_an_operation_lacks_what_it_must_have(missing: str) -> None:
    asked = {name: value for name, value in INVOKE.items() if name != missing}
    for content in (lines(HEADER, asked, OK), lines(HEADER, asked)):
        with pytest.raises(BadHistory, match=f"line 2 is no event of a history: KeyError: '{missing}'"):
            decode(content)


@pytest.mark.parametrize(
    ("first", "second", "precedes"),
    [
        (w(0, 1, 1), w(2, 3, 2), True),
        (w(0, 2, 1), w(2, 3, 2), False),
        (info(w(0, 1, 1)), w(2, 3, 2), False),
        (w(2, 3, 1), w(0, 1, 2), False),
    ],
)
def test_what_precedes(first: Operation, second: Operation, precedes: bool) -> None:
    assert first.precedes(second) is precedes


def test_an_operation_is_told_in_one_line() -> None:
    one = cas(1_500_000_000, 2_000_000_000, 1, 2, True, revision=9, process=4)
    assert str(one) == "[1.500000 2.000000] p4 cas x [1, 2] ok -> true @9"
    assert str(info(one)) == "[1.500000 2.000000] p4 cas x [1, 2] info (timeout)"
