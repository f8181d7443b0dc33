"""Compaction and restart of the log under power loss: the old log or the new one, whole; never the old one again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import CorruptLog, StorageError
from raftkv.raft.types import Entry, HardState, Index, Term
from raftkv.storage.wal_format import BASE_NAME, SEGMENT_HEADER_BYTES
from raftkv.storage.wal_recovery import RecoveredSegments
from raftkv.storage.wal_segments import SegmentWriter
from tests.storage.simdisk import PowerLoss, SimDisk
from tests.storage.support import LOG, entry, hard, open_log, records, run, segment_path

SEGMENT = 1024


@dataclass
class Log:
    """What a log holds, had nothing been dropped from it but by a restart."""

    hard_state: HardState = field(default_factory=HardState)
    base: tuple[int, int] = (0, 0)
    entries: tuple[Entry, ...] = ()
    first_kept: int = 1
    """Entries below it may be missing."""

    @property
    def last(self) -> int:
        return self.base[0] + len(self.entries)

    def term_at(self, index: int) -> int:
        return self.base[1] if index == self.base[0] else self.entries[index - self.base[0] - 1].term

    def matches(self, found: RecoveredSegments) -> bool:
        """Whether `found` is this log, without some of the entries that may be missing."""
        first = found.shape.first_index
        if not self.base[0] < first <= max(self.first_kept, self.base[0] + 1):
            return False
        state = replace(self.hard_state, commit=Index(max(self.hard_state.commit, first - 1)))
        return (
            tuple(found.entries) == self.entries[first - 1 - self.base[0] :]
            and found.shape.last_index == self.last
            and found.base.term == self.term_at(first - 1)
            and found.hard_state == state
        )

    def appended(self, hard_state: HardState, entries: tuple[Entry, ...]) -> Log:
        kept = self.entries[: entries[0].index - self.base[0] - 1] if entries else self.entries
        return replace(self, hard_state=hard_state, entries=(*kept, *entries))

    def compacted(self, first_kept: int) -> Log:
        return replace(self, first_kept=max(self.first_kept, first_kept))

    def restarted(self, hard_state: HardState, index: int, term: int) -> Log:
        return Log(replace(hard_state, commit=Index(index)), (index, term), (), index + 1)


@dataclass
class Operation:
    """One call on the writer, and what it makes of the log."""

    call: Callable[[SegmentWriter], None]
    result: Callable[[Log], Log]


def append(hard_state: HardState, *entries: Entry) -> Operation:
    return Operation(lambda writer: writer.append(hard_state, entries), lambda log: log.appended(hard_state, entries))


def delete_all(writer: SegmentWriter) -> None:
    while writer.delete_one():
        pass


def compact(first_kept: int) -> Operation:
    def call(writer: SegmentWriter) -> None:
        writer.compact(Index(first_kept))
        delete_all(writer)

    return Operation(call, lambda log: log.compacted(first_kept))


def restart(hard_state: HardState, index: int, term: int) -> Operation:
    state = replace(hard_state, commit=Index(index))

    def call(writer: SegmentWriter) -> None:
        writer.restart(state, Index(index), Term(term))
        delete_all(writer)

    return Operation(call, lambda log: log.restarted(hard_state, index, term))


def live(disk: SimDisk, log: Log, operations: list[Operation]) -> list[Log]:
    """Run the operations until the power goes; return every log that was confirmed, the given one first."""
    logs = [log]
    try:
        writer, _ = open_log(disk, segment_bytes=SEGMENT)
        for operation in operations:
            operation.call(writer)
            logs.append(operation.result(logs[-1]))
            if writer.wants_next():
                writer.prepare_next()
    except PowerLoss:
        pass
    return logs


SCENARIO = [
    append(hard(1, 2)),
    *(append(hard(1, 2, at - 1), *run(1, at, at, b"a" * 200)) for at in range(1, 15)),
    compact(8),
    append(hard(2, 3, 13), *run(2, 14, 16, b"b" * 200)),
    compact(17),
    append(hard(3, None, 16)),
    restart(hard(3, 1), 40, 2),
    restart(hard(3, 1), 50, 3),
    append(hard(3, 1, 50), *run(3, 51, 55, b"c" * 300)),
    *(append(hard(3, 1, at - 1), *run(3, at, at, b"d" * 200)) for at in range(56, 64)),
    compact(60),
    append(hard(4, None, 63)),
    restart(hard(4, 4), 70, 4),
    append(hard(4, 4, 70), *run(4, 71, 71, b"e" * 3000)),
]


def test_bug_28_a_crash_at_every_operation_leaves_the_old_log_or_the_new_one() -> None:
    whole = SimDisk()
    logs = live(whole, Log(), SCENARIO)
    assert len(logs) == len(SCENARIO) + 1
    assert whole.trace.count("unlink") >= 10
    seen = set()
    for crash_at in range(1, len(whole.trace) + 1):
        for seed in range(8):
            disk = SimDisk()
            disk.crash_at = crash_at
            confirmed = len(live(disk, Log(), SCENARIO)) - 1
            disk.lose_power(Random(seed))
            _, found = open_log(disk, segment_bytes=SEGMENT)
            matching = [at for at in (confirmed, confirmed + 1) if at < len(logs) and logs[at].matches(found)]
            assert matching, f"crash {crash_at}, seed {seed}: {found.shape.first_index} to {found.shape.last_index}"
            # Nothing is left of what counts no more, and what was found is durable by itself.
            assert disk.names(LOG)[0] in {BASE_NAME, segment_path(found.base.segment).name}
            disk.lose_power(Random(seed))
            _, again = open_log(disk, segment_bytes=SEGMENT)
            assert (again.entries, again.hard_state, again.base) == (found.entries, found.hard_state, found.base)
            seen |= {(confirmed, at) for at in matching}
    # Both outcomes of every restart came about.
    for at, operation in enumerate(SCENARIO):
        if logs[at + 1].base != logs[at].base:
            assert {(at, at), (at, at + 1)} <= seen, operation


def random_operation(log: Log, random: Random) -> Operation:
    state = log.hard_state
    term, vote, commit = state.term, state.vote, int(max(state.commit, log.first_kept - 1))
    if random.random() < 0.3:
        term, vote = Term(term + random.randint(1, 3)), None
    if vote is None and random.random() < 0.3:
        vote = hard(1, random.randint(1, 5)).vote
    fate = random.random()
    if fate < 0.2:
        return compact(random.randint(1, commit + 1))
    if fate < 0.3:
        index = random.randint(commit, log.last + 20)
        return restart(HardState(term, vote, Index(random.randint(0, index))), index, random.randint(0, term))
    count = random.choice((0, 1, 1, 2, 5)) if term else 0
    first = random.randint(commit + 1, log.last + 1) if random.random() < 0.3 else log.last + 1
    entries = tuple(entry(term, first + at, random.randbytes(random.choice((0, 40, 400)))) for at in range(count))
    if random.random() < 0.5:
        commit = random.randint(commit, entries[-1].index if entries else log.last)
    return append(HardState(term, vote, Index(commit)), *entries)


@settings(max_examples=400)
@given(
    seed=st.integers(0, 2**32 - 1),
    lives=st.lists(st.tuples(st.integers(0, 25), st.integers(1, 150), st.booleans()), min_size=1, max_size=4),
)
def test_random_lives_with_compaction_and_restarts(seed: int, lives: list[tuple[int, int, bool]]) -> None:
    random = Random(seed)
    disk = SimDisk()
    log = Log()
    for count, operations, power_fails in lives:
        planned, logs = [], [log]
        for _ in range(count):
            planned.append(random_operation(logs[-1], random))
            logs.append(planned[-1].result(logs[-1]))
        disk.crash_at = len(disk.trace) + operations
        confirmed = len(live(disk, log, planned)) - 1
        disk.crash_at = None
        if power_fails:
            disk.lose_power(random)
        _, found = open_log(disk, segment_bytes=SEGMENT)
        outcomes = [logs[at] for at in (confirmed, confirmed + 1) if at < len(logs) and logs[at].matches(found)]
        assert outcomes
        first_kept = max(outcomes[0].first_kept, found.shape.first_index)
        log = replace(outcomes[0], hard_state=found.hard_state, first_kept=first_kept)
        disk.lose_power(random)
        assert log.matches(open_log(disk, segment_bytes=SEGMENT)[1])


def test_bug_28_a_segment_of_before_the_restart_that_comes_back_is_no_part_of_the_log() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=SEGMENT)
    for at in range(1, 10):
        writer.append(hard(1, 2), run(1, at, at, b"x" * 200))
    old = {name: disk.content(LOG / name) for name in disk.names(LOG)}
    writer.restart(hard(1, 2, 20), Index(20), Term(1))
    delete_all(writer)
    for name, content in old.items():
        disk.create(LOG / name)
        disk.overwrite(LOG / name, 0, content)
    disk.fsync_dir(LOG)
    _, found = open_log(disk, segment_bytes=SEGMENT)
    assert (found.entries, found.hard_state, found.shape.first_index) == ([], hard(1, 2, 20), 21)
    assert not set(old) & set(disk.names(LOG))


def test_a_segment_is_deleted_only_when_the_new_base_is_durable() -> None:
    for operation in (compact(9), restart(hard(1, 2), 20, 1)):
        disk = SimDisk()
        writer, _ = open_log(disk, segment_bytes=SEGMENT)
        for at in range(1, 10):
            writer.append(hard(1, 2), run(1, at, at, b"x" * 200))
        writer.prepare_next()
        before = len(disk.trace)
        operation.call(writer)
        steps = disk.trace[before:]
        assert steps[:5] == ["create .tmp", "pwrite", "fdatasync", "rename", "fsync_dir"]
        assert set(steps[5:]) == {"unlink"}


def test_a_process_that_dies_before_the_new_base_is_durable_loses_nothing() -> None:
    """The restarted process sees the new base in the page cache, and must not delete segments on its word alone."""
    for crash in range(1, 12):
        for seed in range(10):
            disk = SimDisk()
            writer, _ = open_log(disk, segment_bytes=SEGMENT)
            for at in range(1, 10):
                writer.append(hard(1, 2, at - 1), run(1, at, at, b"x" * 200))
            writer.prepare_next()
            disk.crash_at = len(disk.trace) + 4
            with pytest.raises(PowerLoss):
                writer.compact(Index(9))
            assert disk.trace[-1] == "rename"
            disk.crash_at = len(disk.trace) + crash
            with contextlib.suppress(PowerLoss):
                open_log(disk, segment_bytes=SEGMENT)
            disk.lose_power(Random(seed))
            _, found = open_log(disk, segment_bytes=SEGMENT)
            assert found.entries[-1].index == 9


def test_the_base_that_was_found_is_made_durable_before_anything_is_deleted() -> None:
    """An old base without its segments would be a lost log. The simulated disk keeps names in order; others may not."""
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=SEGMENT)
    for at in range(1, 10):
        writer.append(hard(1, 2, at - 1), run(1, at, at, b"x" * 200))
    disk.crash_at = len(disk.trace) + 4
    with pytest.raises(PowerLoss):
        writer.compact(Index(9))
    disk.crash_at = None
    assert disk.unsynced_names() == ["base.tmp", "base"]
    deleted = []

    def unlink(path: Path) -> None:
        assert "base" not in disk.unsynced_names()
        deleted.append(path)
        SimDisk.unlink(disk, path)

    disk.unlink = unlink  # type: ignore[method-assign]
    open_log(disk, segment_bytes=SEGMENT)
    assert deleted == [segment_path(1), segment_path(2)]


def cut_log() -> tuple[SimDisk, SegmentWriter]:
    """Twelve records in segments 1 to 4, of which 1 and 2 were dropped, and 5 prepared."""
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=SEGMENT)
    for at in range(1, 13):
        writer.append(hard(1, 2, at - 1), run(1, at, at, b"x" * 200))
        if writer.wants_next():
            writer.prepare_next()
    writer.compact(Index(8))
    delete_all(writer)
    assert disk.names(LOG) == [*(segment_path(sequence).name for sequence in (3, 4, 5)), BASE_NAME]
    return disk, writer


def lose_the_base(disk: SimDisk) -> None:
    disk.remove(LOG / BASE_NAME)


def lose_the_first_segment(disk: SimDisk) -> None:
    disk.remove(segment_path(3))


def lose_a_middle_segment(disk: SimDisk) -> None:
    disk.remove(segment_path(4))


def lose_all_segments(disk: SimDisk) -> None:
    for sequence in (3, 4, 5):
        disk.remove(segment_path(sequence))


def cut_the_base_short(disk: SimDisk) -> None:
    disk.truncate(LOG / BASE_NAME, 50)


def take_a_base_of_another_log(disk: SimDisk) -> None:
    other = SimDisk()
    writer, _ = open_log(other, segment_bytes=SEGMENT, seed=7)
    for at in range(1, 13):
        writer.append(hard(1, 2, at - 1), run(1, at, at, b"y" * 200))
    writer.compact(Index(8))
    disk.overwrite(LOG / BASE_NAME, 0, other.content(LOG / BASE_NAME))


def drop_the_first_record(disk: SimDisk) -> None:
    """The chain is anchored in the base, so the first segment cannot lose its first records to an exact copy."""
    first, second = records(disk)[:2]
    image = disk.content(first.path)
    disk.overwrite(first.path, SEGMENT_HEADER_BYTES, image[second.start :] + bytes(second.start - first.start))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lose_the_base, "0001.wal, byte offset 0: the segment is missing, though 0000000000000003.wal exists"),
        (lose_the_first_segment, "0003.wal, byte offset 0: the segment is missing, though .*4.wal exists"),
        (lose_a_middle_segment, "0004.wal, byte offset 0: the segment is missing, though .*5.wal exists"),
        (lose_all_segments, "0003.wal, byte offset 0: the segment is missing, though base names it"),
        (cut_the_base_short, "base, byte offset 0: the file has 50 bytes"),
        (take_a_base_of_another_log, "0003.wal, byte offset 64: a valid record that does not follow"),
        (drop_the_first_record, "0003.wal, byte offset 64: "),
    ],
)
def test_lost_segments_are_not_taken_for_compacted_ones(damage: Callable[[SimDisk], None], message: str) -> None:
    disk, _ = cut_log()
    damage(disk)
    before = disk.image()
    for _ in range(2):
        with pytest.raises(CorruptLog, match=message):
            open_log(disk, segment_bytes=SEGMENT)
    assert disk.image() == before


def test_every_flipped_bit_of_the_base_is_noticed() -> None:
    disk, _ = cut_log()
    path = LOG / BASE_NAME
    for offset in range(len(disk.content(path))):
        disk.flip_bit(path, offset, offset % 8)
        with pytest.raises(CorruptLog, match="base, byte offset 0"):
            open_log(disk, segment_bytes=SEGMENT)
        disk.flip_bit(path, offset, offset % 8)
    assert open_log(disk, segment_bytes=SEGMENT)[1].shape.first_index == 7


def test_a_clean_tail_tells_two_restarted_logs_apart() -> None:
    tails = []
    for index in (20, 30):
        disk = SimDisk()
        writer, _ = open_log(disk)
        writer.restart(hard(1, 2, index), Index(index), Term(1))
        assert open_log(disk, clean_tail=writer.tail)[1].tail == writer.tail
        tails.append(writer.tail)
    assert tails[0] != tails[1]
    with pytest.raises(CorruptLog, match="clean shutdown"):
        open_log(disk, clean_tail=tails[0])


@pytest.mark.parametrize("name", ["create", "pwrite", "fdatasync", "rename", "fsync_dir", "unlink"])
@pytest.mark.parametrize("operation", [compact(8), restart(hard(1, 2), 20, 1)])
def test_a_failing_disk_kills_the_log_and_leaves_it_whole(operation: Operation, name: str) -> None:
    disk = SimDisk()
    writer, _ = open_log(disk, segment_bytes=SEGMENT)
    for at in range(1, 13):
        writer.append(hard(1, 2, at - 1), run(1, at, at, b"x" * 200))
    disk.fail_next(name, 5)
    with pytest.raises(StorageError, match="EIO"):
        operation.call(writer)
    with pytest.raises(StorageError, match="dead"):
        writer.append(hard(1, 2, 11), ())
    disk.lose_power(Random(0))
    _, found = open_log(disk, segment_bytes=SEGMENT)
    assert found.shape.last_index in {12, 20}


def test_the_base_is_what_the_document_says() -> None:
    disk, _ = cut_log()
    content = disk.content(LOG / BASE_NAME)
    third = disk.content(segment_path(3))
    assert content[:64].hex(" ", 8) == (
        "524146544b564c42 0100000000000000 0300000000000000 0600000000000000 0100000000000000 "
        "0100000000000000 0200000000000000 0500000000000000"
    )
    # The checksum that the first record of the segment names as the one before it.
    assert content[64:68] == third[SEGMENT_HEADER_BYTES + 8 : SEGMENT_HEADER_BYTES + 12]
    assert len(content) == 72
