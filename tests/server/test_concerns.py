"""What the write concerns of a batch come to, by the voters there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import pytest

from raftkv.kv.commands import Command, Delete, Put, RegisterSession
from raftkv.quorum import ALL, LEADER, MAJORITY, Needed
from raftkv.raft import Configuration, NodeId, Raft
from raftkv.server.concerns import Concerns
from raftkv.server.wire import Work


def ids(*numbers: int) -> frozenset[NodeId]:
    return frozenset(map(NodeId, numbers))


class FakeRaft:
    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration


THREE = Configuration(ids(1, 2, 3))
FIVE = Configuration(ids(1, 2, 3, 4, 5))
WITNESS = Configuration(ids(1, 2, 3), witnesses=ids(3))
GROWING = Configuration(ids(1, 2, 3, 4, 5), outgoing=ids(1, 2, 3))


def concerns(configuration: Configuration, default: int = MAJORITY) -> Concerns:
    return Concerns(cast("Raft", FakeRaft(configuration)), default)


def work(commands: Iterable[Command], asked: int = 0) -> Work:
    found = Work()
    found.commands = list(commands)
    if asked:
        found.concerns = {command.sequence: asked for command in found.commands}
    return found


def comes_to(configuration: Configuration, asked: int) -> Needed | str | None:
    needs, refused = concerns(configuration).weigh(work([Put(1, b"k", b"v")], asked))
    return refused[0][1].message if refused else needs.get(1)


@pytest.mark.parametrize("configuration", [THREE, FIVE, WITNESS, GROWING])
def test_a_majority_needs_nothing_of_its_own(configuration: Configuration) -> None:
    assert comes_to(configuration, MAJORITY) is comes_to(configuration, 0) is None


@pytest.mark.parametrize(
    ("configuration", "asked", "expected"),
    [
        (THREE, 1, Needed(1, early=True, waits=False)),
        (THREE, 2, Needed(2, early=False, waits=True)),
        (THREE, ALL, Needed(3, early=False, waits=True)),
        (FIVE, 2, Needed(2, early=True, waits=False)),
        (WITNESS, 1, Needed(1, early=True, waits=False)),
        (WITNESS, 2, Needed(2, early=False, waits=True)),
        (WITNESS, ALL, Needed(2, early=False, waits=True)),
        # A majority of both sets: 2 would be one of the old set, and not of the new one.
        (GROWING, 2, Needed(2, early=True, waits=False)),
        (GROWING, 3, Needed(3, early=False, waits=True)),
        (GROWING, ALL, Needed(5, early=False, waits=True)),
    ],
)
def test_numbers(configuration: Configuration, asked: int, expected: Needed) -> None:
    assert comes_to(configuration, asked) == expected


@pytest.mark.parametrize(
    ("configuration", "asked", "message"),
    [(THREE, 4, "1 to 3 voters"), (WITNESS, 3, "1 to 2 voters (of 3 voters 1 hold no data)"), (GROWING, 6, "1 to 5")],
)
def test_more_than_there_are(configuration: Configuration, asked: int, message: str) -> None:
    assert message in str(comes_to(configuration, asked))


def test_what_a_majority_promises() -> None:
    assert concerns(THREE).majority.voters == 2
    assert concerns(WITNESS).majority.voters == 1, "the witness may be the other one"
    assert concerns(GROWING).majority.voters == 2, "2 of the old set may be all that is known to have it"


def test_the_default_is_for_those_that_name_none() -> None:
    commands: list[Command] = [Put(1, b"k", b"v"), Delete(2, b"k", b""), Delete(3, b"a", b"b"), RegisterSession(4)]
    mixed = work(commands)
    mixed.concerns = {1: ALL}
    needs, refused = concerns(THREE, LEADER).weigh(mixed)
    assert not refused
    assert needs == {1: Needed(3, early=False, waits=True), 2: Needed(1, early=True, waits=False)}
    needs, refused = concerns(THREE, 9).weigh(work(commands))
    assert not refused
    assert set(needs) == {1, 2, 3}
    assert set(needs.values()) == {Needed(3, early=False, waits=True)}


def test_the_members_change() -> None:
    raft = FakeRaft(THREE)
    counting = Concerns(cast("Raft", raft), MAJORITY)
    assert counting.majority.voters == 2
    raft.configuration = FIVE
    assert counting.majority.voters == 3
    assert counting.weigh(work([Put(1, b"k", b"v")], ALL))[0][1].voters == 5
