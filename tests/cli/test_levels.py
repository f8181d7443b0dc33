"""Read levels, write concerns and receipts as the command line writes and shows them; without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer

from raftkv.cli.levels import READS, WRITES, FallbackTo, completion, concern_of, fallback_of, level_of, several
from raftkv.cli.receipts import described_read, described_write, say_read, say_write, weaker
from raftkv.client import AtLeast, Bounded, Guarantee, Level, Quorum, ReadLevel, ReadReceipt, ReadToken, WriteReceipt


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("linearizable", ReadLevel.LINEARIZABLE),
        ("lease", ReadLevel.LEASE),
        ("local", ReadLevel.LOCAL),
        ("quorum", Quorum()),
        ("quorum:2", Quorum(2)),
        ("bounded:500ms", Bounded(0.5)),
        ("bounded:1.5s", Bounded(1.5)),
        ("bounded:2m", Bounded(120)),
        ("bounded:1h", Bounded(3600)),
        ("bounded:1ms", Bounded(0.001)),
        ("at-least:00000000000000ff-7-4211", AtLeast(ReadToken(255, 7, 4211))),
        ("at-least:ff-7-4211?", AtLeast(ReadToken(255, 7, 4211, committed=False))),
    ],
)
def test_levels(text: str, level: Level) -> None:
    assert level_of(text) == level


LONG = "9" * 5000
"""Python refuses to read numbers of more than 4300 digits."""


@pytest.mark.parametrize("text", [f"quorum:{LONG}", f"at-least:1-1-{LONG}", f"at-least:1-{LONG}-1", f"bounded:{LONG}s"])
def test_numbers_of_any_length_are_refused_in_short(text: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        level_of(text)
    assert len(refused.value.message) < 500
    with pytest.raises(typer.BadParameter):
        concern_of(LONG)


def test_concerns() -> None:
    written = (None, "leader", "majority", "all", "1", "3")
    assert [concern_of(text) for text in written] == [None, "leader", "majority", "all", 1, 3]


def test_fallback() -> None:
    assert (fallback_of(None), fallback_of(FallbackTo.STALE)) == (None, "stale")


def test_lists() -> None:
    assert several("a, b,c", "--level") == ("a", "b", "c")


def test_the_shell_is_offered_what_is_understood() -> None:
    assert [word for word, _ in completion(READS)("l")] == ["linearizable", "lease", "local"]
    assert [word for word, _ in completion(WRITES)("")] == ["leader", "majority", "all"]
    for word in READS:
        level_of(word.replace("TOKEN", "1-1-1"))
    for word in WRITES:
        concern_of(word)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("raftkv get k --read b", {"bounded:500ms"}),
        ("raftkv put k v --write a", {"all"}),
        ("raftkv bench get --level quo", {"quorum", "quorum:2"}),
    ],
)
def test_completion_in_a_shell(line: str, offered: set[str]) -> None:
    found = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv[0] = 'raftkv'; from raftkv.cli import main; main()"],
        capture_output=True,
        text=True,
        check=False,
        env={
            **os.environ,
            "_RAFTKV_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        },
    )
    assert set(found.stdout.split()) == offered, found.stderr


COMMITTED = WriteReceipt(255, 7, 4211, committed=True, durable_on=2, wanted=2, configuration_index=1)
EARLY = WriteReceipt(255, 7, 4211, committed=False, durable_on=1, wanted=1, configuration_index=1)
SHORT = WriteReceipt(255, 7, 4211, committed=True, durable_on=2, wanted=3, configuration_index=1)
CERTAIN = ReadReceipt(Guarantee.LINEARIZABLE, 255, 2, 7, 4211, replicas=2, configuration_index=1)
REGULAR = ReadReceipt(Guarantee.SEES_WRITES_AT_W_GE, 255, 2, 7, 4211, 1, sees_writes_at=3, configuration_index=1)
BOUND = ReadReceipt(Guarantee.BOUNDED, 255, 2, 7, 4211, 1, staleness=0.125, configuration_index=1)
STALE = ReadReceipt(Guarantee.STALE_PREFIX, 255, 2, 7, 4211, 1)


def test_receipts_of_writes_as_json() -> None:
    assert described_write(EARLY) == {
        "committed": False,
        "words": EARLY.words,
        "durable_on": 1,
        "wanted": 1,
        "reached": True,
        "term": 7,
        "index": 4211,
        "configuration_index": 1,
        "token": "00000000000000ff-7-4211?",
    }
    assert described_write(COMMITTED)["token"] == "00000000000000ff-7-4211"
    unknown = described_write(WriteReceipt(255, 7, 4211, committed=True, durable_on=0, wanted=3))
    assert (unknown["durable_on"], unknown["reached"]) == (None, None)


def test_receipts_of_reads_as_json() -> None:
    assert described_read(CERTAIN) == {
        "guarantee": "linearizable",
        "words": "linearizable",
        "served_by": 2,
        "applied_term": 7,
        "applied_index": 4211,
        "replicas": 2,
        "sees_writes_at": None,
        "staleness_ms": None,
        "configuration_index": 1,
        "token": "00000000000000ff-7-4211",
    }
    regular = described_read(REGULAR)
    assert (regular["guarantee"], regular["sees_writes_at"]) == ("sees_writes_at_w_ge", 3)
    assert described_read(BOUND)["staleness_ms"] == 125


def test_what_reads_say(capsys: pytest.CaptureFixture[str]) -> None:
    def said(receipt: ReadReceipt, *, verbose: bool = False) -> str:
        say_read(receipt, verbose=verbose)
        return capsys.readouterr().err

    assert said(CERTAIN) == ""
    assert said(CERTAIN, verbose=True) == (
        "raftkv: linearizable; node 2, 2 voters took part, token 00000000000000ff-7-4211\n"
    )
    assert said(REGULAR) == "raftkv: sees every write acknowledged at W >= 3\n"
    assert said(STALE) == "raftkv: a state of the past, possibly stale\n"
    assert weaker(CERTAIN) == ""
    assert weaker(STALE) == " (a state of the past, possibly stale)"


def test_what_writes_say(capsys: pytest.CaptureFixture[str]) -> None:
    def said(receipt: WriteReceipt, *, asked: str | None = None, verbose: bool = False) -> str:
        say_write(receipt, asked=asked, verbose=verbose)
        return capsys.readouterr().err

    assert said(COMMITTED) == ""
    assert said(EARLY) == ""  # stdout has it
    assert said(SHORT) == f"raftkv: {SHORT.words}\n"
    assert "3 were asked for" in SHORT.words
    assert said(COMMITTED, verbose=True) == f"raftkv: {COMMITTED.words}; token 00000000000000ff-7-4211\n"
    # Leadership was lost before anybody had counted. What is committed, a majority has.
    uncounted = WriteReceipt(255, 7, 4211, committed=True, durable_on=0, wanted=2)
    assert said(uncounted) == said(uncounted, asked="majority") == ""
    for asked in ("all", "2"):
        assert said(uncounted, asked=asked) == (
            "raftkv: committed, how many have it on disk is not known, 2 were asked for\n"
        )
