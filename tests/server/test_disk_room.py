"""Floors of free space, and the pace of a log: what is low, what is slow, and when that is over."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raftkv.errors import SpaceExceeded
from raftkv.kv.commands import Compact, Delete, Expire, KeepAlive, Put
from raftkv.server.disk_pace import AVERAGE_S, CALM_S, LONGEST_S, DiskPace
from raftkv.server.disk_room import GRACE_S, PATIENT_LOOKS, VOTES_BYTES, DiskRoom, must_go_on
from raftkv.storage.files import free_bytes


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def noted(room: DiskRoom, free: int) -> DiskRoom:
    room.note(free)
    return room


def test_below_the_reserve_a_node_should_not_lead_until_there_is_a_quarter_more() -> None:
    room = DiskRoom(lambda: 0, 1000, "/data")
    seen = [noted(room, free).low for free in (1000, 999, 1249, 1250, 1000, 999)]
    assert seen == [False, True, True, False, False, True]
    assert "999 bytes are free on the file system of /data" in room.problem
    assert "the reserve of 1000 bytes (--disk-reserve-bytes)" in room.problem
    assert "until 1250 bytes are free" in room.problem
    assert "The way out: free or add space" in room.problem


def test_a_leader_refuses_writes_once_it_has_had_time_to_hand_over() -> None:
    clock = Clock()
    room = DiskRoom(lambda: 0, 1000, now_s=clock)
    seen = [noted(room, 900).refuses_writes]
    clock.now_s += GRACE_S
    seen += [room.refuses_writes, noted(room, 10).refuses_writes, noted(room, 5000).refuses_writes]
    room.starve("the log", "no room")
    seen.append(room.refuses_writes)
    clock.now_s += GRACE_S
    seen.append(room.refuses_writes)
    assert seen == [False, True, True, False, False, True]
    assert isinstance(room.refusal(), SpaceExceeded)
    assert room.refusal().message.startswith("the disk of the leader is full: no room")


def test_a_follower_takes_commands_again_once_the_reserve_is_there() -> None:
    room = DiskRoom(lambda: 0, 1000)
    seen = [noted(room, free).full for free in (500, 499, 999, 1000, 600)]
    assert seen == [False, True, True, False, False]


def test_a_full_follower_takes_what_its_log_has_room_for_and_keeps_some_for_votes() -> None:
    room = DiskRoom(lambda: 0, 1000)
    assert noted(room, 500).takes(1 << 30, 0)
    noted(room, 499)
    assert room.takes(1000, VOTES_BYTES + 1000)
    assert not room.takes(1001, VOTES_BYTES + 1000)
    room.starve("the state", "no room")
    assert not room.takes(1000, VOTES_BYTES + 1000)


def test_what_waits_for_room_counts_as_a_full_disk_whatever_is_free() -> None:
    room = DiskRoom()
    seen = [room.low]
    room.starve("the log", "no space left on the device of /log (ENOSPC)")
    room.starve("the state", "the store is full")
    seen += [room.low, room.full]
    assert room.problem.startswith("no space left on the device of /log (ENOSPC); the store is full. The node waits")
    room.feed("the log")
    seen.append(room.low)
    room.feed("the state")
    assert [*seen, room.low, room.full] == [False, True, True, True, False, False]


async def test_what_found_no_room_is_tried_again_as_soon_as_there_is_more_and_after_some_looks() -> None:
    looks = [DiskRoom(lambda: 0, 1000, look_s=0.001) for _ in range(2)]
    for room in looks:
        room.note(10)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == PATIENT_LOOKS + 2:
            looks[1].note(11)
        await sleep(0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raftkv.server.disk_room.asyncio.sleep", counted)
        await looks[0].pause()
        assert len(slept) == PATIENT_LOOKS
        await looks[1].pause()
        assert len(slept) == PATIENT_LOOKS + 2


def test_who_holds_something_does_not_lose_it_for_want_of_room() -> None:
    assert must_go_on(KeepAlive(1, (1,)))
    assert must_go_on(Compact(1, 5))
    assert must_go_on(Expire(1))
    assert not must_go_on(Put(1, b"k", b"v"))
    assert not must_go_on(Delete(1, b"k", b""))


def test_the_file_system_says_how_much_is_free(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) > 0


class Log:
    """Writes of given lengths, and a look after each."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.pace = DiskPace(self.clock, slow_s=0.1, election_s=0.25)

    def write(self, took_s: float, times: int = 1) -> bool:
        for _ in range(times):
            self.pace.begin()
            self.clock.now_s += took_s
            self.pace.end()
            self.pace.look()
        return self.pace.slow

    def rest(self, seconds: float) -> bool:
        for _ in range(int(seconds * 20)):
            self.clock.now_s += 0.05
            self.pace.look()
        return self.pace.slow


def test_a_log_is_slow_by_its_average_and_fast_again_when_it_has_been_so_for_a_while() -> None:
    log = Log()
    assert not log.write(0.09, 30)
    assert log.write(0.15, 30)
    assert "writes to the log take 1" in log.pace.problem
    assert "(--slow-disk-ms)" in log.pace.problem
    assert log.rest(AVERAGE_S), "nothing is known of it yet"
    assert not log.rest(CALM_S + 1)
    assert log.pace.longest_s == pytest.approx(0.15)
    log.rest(LONGEST_S)
    assert log.pace.longest_s == 0


def test_one_write_that_took_long_makes_no_slow_disk() -> None:
    log = Log()
    assert not log.write(0.45)
    assert not log.write(0.001, 3)


def test_a_write_that_hangs_is_noticed_while_it_does() -> None:
    log = Log()
    log.pace.begin()
    seen = [log.rest(0.45), log.rest(0.2)]
    assert seen == [False, True]
    assert "one has been under way for 6" in log.pace.problem
    assert log.rest(60), "for as long as it hangs"
    log.pace.end()
    assert log.pace.longest_s > 60


def test_a_look_that_comes_late_does_not_take_a_finished_write_for_one_that_hangs() -> None:
    """The event loop stood still, not the disk: the next look sees that it is done."""
    log = Log()
    log.pace.begin()
    log.clock.now_s += 5
    log.pace.look()
    assert not log.pace.slow
    log.pace.end()


def test_without_a_limit_no_disk_is_slow() -> None:
    log = Log()
    log.pace = DiskPace(log.clock)
    assert not log.write(100, 10)
    log.pace.begin()
    assert not log.rest(100)
