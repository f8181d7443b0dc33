"""The demo must not be able to pass without proof: its judgement, taken apart."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from raftkv.cli.demo.compare import differences
from raftkv.cli.demo.ledger import Ledger
from raftkv.cli.demo.report import MIN_WRITES, Report
from raftkv.client import Guarantee, KeyValue


def a_pass() -> Report:
    return Report(
        nodes=3,
        writes_acked=2 * MIN_WRITES,
        writes_acked_before_kill=MIN_WRITES,
        writes_acked_after_kill=MIN_WRITES,
        writes_lost=0,
        writes_repeated=0,
        nodes_compared=3,
        failover_ms=300.0,
        catch_up_ms=1000.0,
        leader_before=1,
        leader_after=2,
        terms=[1, 2],
        applied_index=300,
        state_hash="00",
        state_hash_equal=True,
    )


def test_a_pass_is_one() -> None:
    report = a_pass()
    report.judge()
    assert report.problems == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"writes_acked_before_kill": MIN_WRITES - 1}, "before the kill"),
        ({"writes_acked_after_kill": 0}, "after the kill"),
        ({"writes_lost": 1}, "1 acknowledged writes are lost"),
        ({"writes_repeated": 1}, "twice"),
        ({"writes_failed": 1}, "1 writes failed"),
        ({"nodes_compared": 2}, "2 of 3 nodes"),
        ({"nodes_compared": 0, "writes_lost": None, "writes_repeated": None}, "0 of 3 nodes"),
        ({"failover_ms": None}, "no pause"),
        ({"catch_up_ms": None}, "catch up"),
        ({"leader_after": 1}, "no other node"),
        ({"leader_after": None}, "no other node"),
        ({"terms": [1]}, "term"),
        ({"terms": [2, 2]}, "term"),
        ({"state_hash_equal": False}, "differ"),
        ({"state_hash_equal": None}, "not compared"),
    ],
)
def test_whatever_is_missing_is_a_problem(change: dict[str, Any], said: str) -> None:
    report = replace(a_pass(), problems=[], **change)
    report.judge()
    assert len(report.problems) == 1
    assert said in report.problems[0]


def test_nothing_done_is_no_pass() -> None:
    report = Report(nodes=3)
    report.judge()
    assert len(report.problems) >= 7


def pair(key: bytes, value: bytes, version: int = 1) -> KeyValue:
    return KeyValue(key, value, 1, version, version, Guarantee.STALE_PREFIX)


def compared(ledger: Ledger, *held: KeyValue) -> tuple[int, int]:
    found = differences(ledger.promises, {one.key: one for one in held})
    return found.lost.total(), found.repeated.total()


def test_a_key_written_once() -> None:
    ledger = Ledger()
    ledger.acknowledged(b"k", b"v")
    assert compared(ledger, pair(b"k", b"v")) == (0, 0)
    assert compared(ledger) == (1, 0)
    assert compared(ledger, pair(b"k", b"other")) == (1, 0)
    assert compared(ledger, pair(b"k", b"v", version=2)) == (0, 1)


def test_a_key_written_again_and_again() -> None:
    ledger = Ledger()
    for number in range(5):
        ledger.acknowledged(b"k", b"%d" % number)
    assert compared(ledger, pair(b"k", b"4", version=5)) == (0, 0)
    assert compared(ledger, pair(b"k", b"3", version=5)) == (1, 0), "an earlier write came back"
    assert compared(ledger, pair(b"k", b"3", version=4)) == (1, 0), "the last one is gone"
    assert compared(ledger, pair(b"k", b"4", version=3)) == (2, 0), "two in between are gone"
    assert compared(ledger, pair(b"k", b"4", version=7)) == (0, 2)
    assert compared(ledger) == (5, 0)


def test_a_write_that_failed_may_be_there_or_not_but_once() -> None:
    ledger = Ledger()
    ledger.acknowledged(b"k", b"1")
    ledger.failed(b"k", b"2", "no answer")
    ledger.failed(b"new", b"1", "no answer")
    assert compared(ledger, pair(b"k", b"1")) == (0, 0)
    assert compared(ledger, pair(b"k", b"2", version=2), pair(b"new", b"1")) == (0, 0)
    assert compared(ledger, pair(b"k", b"3", version=2)) == (1, 0)
    assert compared(ledger, pair(b"k", b"2", version=3)) == (0, 1)
    assert len(ledger.failures) == 2


def test_two_nodes_that_lack_different_writes_lack_both() -> None:
    ledger = Ledger()
    for key in (b"a", b"b", b"c"):
        ledger.acknowledged(key, b"v")
    first = differences(ledger.promises, {b"a": pair(b"a", b"v"), b"c": pair(b"c", b"v")})
    second = differences(ledger.promises, {b"b": pair(b"b", b"v"), b"c": pair(b"c", b"v")})
    assert (first | second).lost.total() == 2
    assert (first | first).lost.total() == 1, "one write that two nodes lack is one lost write"


async def test_the_ledger_wakes_who_waits_for_writes() -> None:
    ledger = Ledger()
    ledger.acknowledged(b"k", b"1")
    waiting = asyncio.create_task(ledger.more(2))
    await asyncio.sleep(0)
    ledger.acknowledged(b"k", b"2")
    await asyncio.sleep(0)
    assert not waiting.done()
    ledger.acknowledged(b"k", b"3")
    await waiting
