"""Each sabotage switches off what it says; and the nodes that it strikes do not stop over it by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftkv.errors import ConfigurationError, ErrorCode
from raftkv.jepsen import sabotage
from raftkv.jepsen.sabotage import SABOTAGES, switch_off
from raftkv.kv.commands import FenceMode
from raftkv.raft import Entry, EntryKind, HardState, Index, NodeId, Role, Term
from raftkv.storage.files import OsFileSystem
from raftkv.storage.wal import WriteAheadLog
from tests.jepsen.test_lossy_disk import Machine
from tests.kv.host import Host, put
from tests.kv.lock_host import LockHost
from tests.raft.network import Network
from tests.raft.oracle import SafetyViolation
from tests.raft.single import ELECTION_TICKS, boot, candidate, hear, pre_vote_request, vote_request


def test_an_unknown_one_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match="no sabotage is called 'x'") as refused:
        switch_off("x")
    assert all(name in refused.value.message for name in SABOTAGES)


def test_what_is_not_there_cannot_be_switched_off() -> None:
    with pytest.raises(AttributeError):
        sabotage._ForGood().setattr(sabotage, "no_such_rule", None)


# --- votes-not-persisted ----------------------------------------------------------------------------------------------


async def recovered_vote(directory: Path) -> NodeId | None:
    log, _ = WriteAheadLog.open(directory)
    await log.append(HardState(Term(3), NodeId(2), Index(0)), [])
    await log.close()
    log, found = WriteAheadLog.open(directory)
    await log.append(HardState(Term(3), NodeId(1), Index(0)), [])
    await log.close()
    return found.hard_state.vote


async def test_a_node_has_forgotten_its_vote_when_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch_off("votes-not-persisted", monkeypatch)
    assert await recovered_vote(tmp_path / "wal") is None


def votes_for(*senders: int) -> list[bool]:
    raft = boot()
    answers = [hear(raft, vote_request(sender, 1)) for sender in senders]
    return [answer.granted for (answer,) in answers]  # type: ignore[union-attr]


def test_a_follower_votes_twice_in_one_term_and_nothing_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert votes_for(2, 3) == [True, False]
    switch_off("votes-not-persisted", monkeypatch)
    assert votes_for(2, 3) == [True, True]
    raft = boot(term=1, vote=2)
    (answer,) = hear(raft, pre_vote_request(3, 1))
    assert answer.granted  # type: ignore[union-attr]


def test_a_candidate_still_votes_for_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    switch_off("votes-not-persisted", monkeypatch)
    raft = candidate(boot())
    (answer,) = hear(raft, vote_request(3, raft.term))
    assert not answer.granted  # type: ignore[union-attr]


# --- reads-without-read-index -----------------------------------------------------------------------------------------


def test_a_deposed_leader_leads_on_and_answers_with_an_old_state(monkeypatch: pytest.MonkeyPatch) -> None:
    switch_off("reads-without-read-index", monkeypatch)
    network = Network()
    network.elect(1)
    network.isolate(1)
    network.tick(20 * ELECTION_TICKS)
    (newer,) = [n for n in (2, 3) if network.role(n) is Role.LEADER]
    network.propose(newer, b"newer")
    assert network.role(1) is Role.LEADER
    with pytest.raises(SafetyViolation, match="read 1 on node 1 may see index 1, but 3 was committed before it began"):
        network.read(1)
    network.heal()
    network.tick(4 * ELECTION_TICKS)
    assert network.role(1) is Role.FOLLOWER, "it hears of the other term"


# --- unfenced-lock, retries-without-sessions --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", list(FenceMode))
def test_a_stale_token_passes(mode: FenceMode, monkeypatch: pytest.MonkeyPatch) -> None:
    host = LockHost()
    one, two = host.leased(), host.leased()
    token = host.token(b"l", one)
    host.acquire(b"l", two)
    host.release(b"l", token)
    refused = host.check(b"l", token, mode)
    assert refused is not None
    assert refused.code is ErrorCode.STALE_FENCE
    switch_off("unfenced-lock", monkeypatch)
    assert host.check(b"l", token, mode) is None


def test_a_write_that_is_sent_again_is_applied_again(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    session = host.register()
    host.write(session, put(b"k", b"1", 1))
    before = host.machine.revision
    host.write(session, put(b"k", b"1", 1))
    assert host.machine.revision == before
    switch_off("retries-without-sessions", monkeypatch)
    host.write(session, put(b"k", b"1", 1))
    host.write(session, put(b"k", b"1", 1))
    assert host.machine.revision == before + 2
    host.reopen()
    host.write(session, put(b"k", b"1", 1))
    assert host.machine.revision == before + 3


# --- ack-before-fsync -------------------------------------------------------------------------------------------------


def entries(*indexes: int) -> list[Entry]:
    return [Entry(Term(1), Index(index), EntryKind.COMMANDS, b"content") for index in indexes]


async def confirm_and_lose_power(machine: Machine) -> int:
    """Return how many of ten confirmed entries are there afterwards."""
    log, _ = WriteAheadLog.open(machine.directory / "wal", segment_bytes=65536, files=machine.files)
    for index in range(1, 11):
        await log.append(HardState(Term(1), None, Index(index)), entries(index))
    await log.close()
    machine.power_on()
    log, found = WriteAheadLog.open(machine.directory / "wal", segment_bytes=65536, files=machine.files)
    await log.close()
    return len(found.entries)


async def test_what_was_confirmed_is_lost_with_the_power(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("honest", "not"):
        (tmp_path / name).mkdir()
    assert await confirm_and_lose_power(Machine(tmp_path / "honest")) == 10
    switch_off("ack-before-fsync", monkeypatch)
    monkeypatch.setattr(sabotage, "UNSYNCED_S", 1e9)
    assert await confirm_and_lose_power(Machine(tmp_path / "not")) < 10


async def test_it_is_flushed_in_the_end_and_segments_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch_off("ack-before-fsync", monkeypatch)
    machine = Machine(tmp_path)
    monkeypatch.setattr(sabotage, "UNSYNCED_S", 0.0)
    assert await confirm_and_lose_power(machine) == 10
    monkeypatch.setattr(sabotage, "UNSYNCED_S", 1e9)
    log, _ = WriteAheadLog.open(machine.directory / "wal", segment_bytes=65536, files=machine.files)
    for index in range(11, 41):
        data = [Entry(Term(1), Index(index), EntryKind.COMMANDS, bytes(4000))]
        await log.append(HardState(Term(1), None, Index(index)), data)
    await log.close()
    machine.power_on()
    log, found = WriteAheadLog.open(machine.directory / "wal", segment_bytes=65536, files=machine.files)
    await log.close()
    assert 10 < len(found.entries) < 40, "a segment that was full is there, and the one after it is not"


async def test_without_a_loss_of_power_nobody_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch_off("ack-before-fsync", monkeypatch)
    log, _ = WriteAheadLog.open(tmp_path / "wal", files=OsFileSystem())
    await log.append(HardState(Term(1), None, Index(1)), entries(1))
    await log.close()
    log, found = WriteAheadLog.open(tmp_path / "wal")
    await log.close()
    assert len(found.entries) == 1
