"""`raftkv quorum explain`: it needs no cluster."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli


def test_a_row_as_json(cli: Cli) -> None:
    row = cli("quorum", "explain", "--nodes", "5", "--w", "3", "--r", "2", "-o", "json").json
    assert {name: row[name] for name in ("nodes", "majority", "w", "r", "w_plus_r_exceeds_n")} == {
        "nodes": 5, "majority": 3, "w": 3, "r": 2, "w_plus_r_exceeds_n": False,
    }  # fmt: skip
    assert row["write"]["acknowledged"] == "committed"
    assert row["write"]["may_be_lost"] is False
    assert row["quorum_read"] == {
        "guarantee": "sees_writes_at_w_ge",
        "words": "sees every write acknowledged at W >= 4",
        "sees_writes_at": 4,
    }
    assert row["sees"]["quorum"] == {"kind": "perhaps", "words": "may miss it"}
    assert row["sees"]["linearizable"]["kind"] == "it"
    assert row["survives_down"] == {
        "writes": 2, "commits": 2, "quorum_reads": 3, "quorum_reads_whatever_the_logs_end_with": 2, "local_reads": 4,
    }  # fmt: skip
    assert row["survives_disks_lost"] == {"going_on_by_itself": 2, "with_a_copy_left": 2}
    assert row["load"] == [
        {"gone": 1, "factor": 1.25, "limit_percent": 80},
        {"gone": 2, "factor": 1.667, "limit_percent": 60},
    ]


def test_a_row_for_people(cli: Cli) -> None:
    told = cli("quorum", "explain", "--nodes", "5", "--w", "3", "--r", "2")
    assert (told.code, told.err) == (0, "")
    assert "N = 5 voters, of which 3 make a majority; W = 3; R = 2; W + R is not greater than N\n" in told.text
    assert "sees every write acknowledged at W >= 4; it is not linearizable.\n" in told.text
    assert "quorum:2      may miss it\n" in told.text
    assert "          2              x 1.67                    60 %\n" in told.text


def test_names_of_concerns(cli: Cli) -> None:
    for name, w in (("leader", 1), ("majority", 3), ("all", 5), ("2", 2)):
        assert cli("quorum", "explain", "--nodes", "5", "--w", name, "-o", "json").json["w"] == w
    assert "W = 1 (leader); R = 2;" in cli("quorum", "explain", "--w", "leader").text
    assert cli("quorum", "explain", "--nodes", "5", "--r", "all", "-o", "json").json["r"] == 5
    default = cli("quorum", "explain", "-o", "json").json
    assert (default["nodes"], default["w"], default["r"]) == (3, 2, 2)


def test_what_may_be_lost_says_so(cli: Cli) -> None:
    told = cli("quorum", "explain", "--w", "1", "--r", "3").text
    assert "is acknowledged before it is committed: it may be lost" in told
    assert "W + R > N is not enough" in told
    assert "no voter may be missing" in cli("quorum", "explain", "--nodes", "2").text


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--nodes", "0"), "0 is not from 1 to 99 voters"),
        (("--nodes", "100"), "100 is not from 1 to 99 voters"),
        (("--nodes", "three"), "'--nodes'"),
        (("--w", "0"), "'0' is none of leader, majority, all, or 1 to 3 voters"),
        (("--w", "4"), "'4' is none of leader, majority, all, or 1 to 3 voters"),
        (("--w", "-1"), "'-1' is none of leader, majority, all, or 1 to 3 voters"),
        (("--w", "most"), "'most' is none of leader, majority, all, or 1 to 3 voters"),
        (("--r", "0"), "'0' is none of majority, all, or 1 to 3 voters"),
        (("--r", "4"), "'4' is none of majority, all, or 1 to 3 voters"),
        (("--r", "leader"), "'leader' is none of majority, all, or 1 to 3 voters"),
        (("--r", "²"), "is none of majority, all, or 1 to 3 voters"),
    ],
    ids=" ".join,
)
def test_what_is_out_of_range_is_refused_with_the_range(cli: Cli, flags: tuple[str, ...], said: str) -> None:
    result = cli("quorum", "explain", *flags)
    assert said in result.error
    assert result.code == 2


@pytest.mark.parametrize("flag", ["--w", "--r"])
def test_numbers_of_any_length_are_refused_in_short(cli: Cli, flag: str) -> None:
    result = cli("quorum", "explain", flag, "9" * 5000)
    assert "all, or 1 to 3 voters" in " ".join(result.error.split())
    assert len(result.error) < 1000
    assert result.code == 2
