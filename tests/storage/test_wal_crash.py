"""Whatever a crash leaves of unsynced writes, recovery finds a legal log with everything that was confirmed."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.errors import CorruptLog
from raftkv.raft.types import Entry, HardState, Index
from raftkv.storage.wal_format import Flaw
from raftkv.storage.wal_recovery import RecoveredSegments
from tests.storage.simdisk import PowerLoss, SimDisk
from tests.storage.support import LOG, entry, hard, open_log, records, run

State = tuple[HardState, tuple[Entry, ...]]
Append = tuple[HardState, tuple[Entry, ...]]


class Model:
    """The log that a node believes in, and the appends it may legally make next."""

    def __init__(self, state: State) -> None:
        self.hard_state, entries = state
        self.entries = list(entries)

    def next_append(self, random: Random) -> Append:
        term, vote, commit = self.hard_state.term, self.hard_state.vote, self.hard_state.commit
        if random.random() < 0.3:
            term, vote = type(term)(term + random.randint(1, 3)), None
        if vote is None and random.random() < 0.3:
            vote = hard(1, random.randint(1, 5)).vote
        last = len(self.entries)
        first = random.randint(commit + 1, last + 1) if random.random() < 0.3 else last + 1
        count = random.choice((0, 0, 1, 1, 2, 5)) if term else 0
        data = [random.randbytes(random.choice((0, 3, 40, 400, 1500))) for _ in range(count)]
        entries = tuple(entry(term, first + at, content) for at, content in enumerate(data))
        new_last = entries[-1].index if entries else last
        if random.random() < 0.4:
            commit = Index(random.randint(commit, new_last))
        return HardState(term=term, vote=vote, commit=commit), entries

    def take(self, append: Append) -> None:
        self.hard_state, entries = append
        self.entries = list(replayed(self.entries, entries))

    @property
    def state(self) -> State:
        return self.hard_state, tuple(self.entries)


def replayed(log: Sequence[Entry], entries: Sequence[Entry]) -> tuple[Entry, ...]:
    return (*log[: entries[0].index - 1], *entries) if entries else tuple(log)


def legal_outcomes(confirmed: State, in_flight: Append | None) -> list[State]:
    """Nothing of the append under way, all of it, or its hard state with a prefix of its entries."""
    outcomes = [confirmed]
    if in_flight is not None:
        hard_state, entries = in_flight
        outcomes.append((hard_state, replayed(confirmed[1], entries)))
        for count in range(1, len(entries)):
            prefix = entries[:count]
            commit = min(hard_state.commit, prefix[-1].index)
            part = HardState(term=hard_state.term, vote=hard_state.vote, commit=commit)
            outcomes.append((part, replayed(confirmed[1], prefix)))
    return outcomes


def found_state(found: RecoveredSegments) -> State:
    return found.hard_state, tuple(found.entries)


def live(
    disk: SimDisk, random: Random, model: Model, appends: int, *, segment_bytes: int, record_limit_bytes: int
) -> Append | None:
    """Append until done or until the power goes; return the append that was under way."""
    append: Append | None = None
    try:
        writer, _ = open_log(
            disk,
            seed=random.getrandbits(32),
            segment_bytes=segment_bytes,
            record_limit_bytes=record_limit_bytes,
        )
        for _ in range(appends):
            append = model.next_append(random)
            writer.append(*append)
            model.take(append)
            append = None
            if writer.wants_next():
                writer.prepare_next()
    except PowerLoss:
        return append
    return None


@settings(max_examples=250)
@given(
    seed=st.integers(0, 2**32 - 1),
    lives=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 60), st.booleans()), min_size=1, max_size=4),
    segment_bytes=st.sampled_from((512, 2048, 8192)),
    record_limit_bytes=st.sampled_from((100, 1000, 1 << 20)),
)
def test_every_crash_leaves_a_legal_log_with_all_that_was_confirmed(
    seed: int, lives: list[tuple[int, int, bool]], segment_bytes: int, record_limit_bytes: int
) -> None:
    random = Random(seed)
    disk = SimDisk()
    model = Model((HardState(), ()))
    for appends, operations, power_fails in lives:
        disk.crash_at = len(disk.trace) + operations
        in_flight = live(
            disk, random, model, appends, segment_bytes=segment_bytes, record_limit_bytes=record_limit_bytes
        )
        disk.crash_at = None
        if power_fails:
            disk.lose_power(random)
        outcomes = legal_outcomes(model.state, in_flight)
        _, found = open_log(disk, seed=seed, segment_bytes=segment_bytes)
        assert found_state(found) in outcomes
        # What recovery returned may be acted upon, so it has to survive the next power loss on its own.
        disk.lose_power(random)
        _, again = open_log(disk, seed=seed, segment_bytes=segment_bytes)
        assert found_state(again) == found_state(found)
        model = Model(found_state(again))


def scenario(disk: SimDisk) -> list[State]:
    """Rotation, overwriting, an oversized record, hard states alone; returns the states that were confirmed."""
    states: list[State] = [(HardState(), ())]
    try:
        writer, _ = open_log(disk, segment_bytes=1024)
        for hard_state, entries in SCENARIO:
            writer.append(hard_state, entries)
            states.append((hard_state, replayed(states[-1][1], entries)))
            if writer.wants_next():
                writer.prepare_next()
    except PowerLoss:
        pass
    return states


SCENARIO: list[Append] = [
    (hard(1, 2), ()),
    (hard(1, 2), run(1, 1, 3, b"a" * 100)),
    (hard(1, 2, 2), run(1, 4, 9, b"b" * 90)),
    (hard(3, None, 2), run(3, 5, 6, b"c" * 10)),
    (hard(3, 1, 6), ()),
    (hard(3, 1, 6), run(3, 7, 7, b"d" * 3000)),
    (hard(4, 1, 6), run(4, 7, 12, b"e" * 100)),
]


def test_bug_34_torn_or_reordered_append_at_every_operation() -> None:
    whole = SimDisk()
    everything = scenario(whole)
    assert len(everything) == len(SCENARIO) + 1
    torn = 0
    for crash_at in range(1, len(whole.trace) + 1):
        for seed in range(12):
            disk = SimDisk()
            disk.crash_at = crash_at
            confirmed = scenario(disk)
            disk.lose_power(Random(seed))
            _, found = open_log(disk, segment_bytes=1024)
            assert found_state(found) in everything[len(confirmed) - 1 : len(confirmed) + 1]
            torn += found.torn is not None
    # The test means something only if torn writes really came about.
    assert torn > 20


def test_bug_34_append_torn_at_every_byte() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(1), run(1, 1, 2))
    writer.append(hard(1), run(1, 3, 4, b"\x00payload with zeros at its end\x00\x00\x00"))
    last = records(disk)[-1]
    content = disk.content(last.path)
    for cut in range(last.start, last.end):
        disk.overwrite(last.path, cut, bytes(last.end - cut))
        _, found = open_log(disk)
        intact = content[cut : last.end].strip(b"\0") == b""
        assert len(found.entries) == (4 if intact else 2)
        assert records(disk)[-1].end == (last.end if intact else last.start)
        assert disk.content(last.path)[last.end :].strip(b"\0") == b""
        disk.overwrite(last.path, last.start, content[last.start : last.end])


def test_the_torn_tail_is_gone_for_good_and_reported() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(1), run(1, 1, 1))
    writer.append(hard(1), run(1, 2, 2, b"x" * 2000))
    last = records(disk)[-1]
    disk.overwrite(last.path, last.start + 1000, bytes(512))

    writer, found = open_log(disk)
    assert found.torn is not None
    assert (found.torn.start, found.torn.flaw) == (last.start, Flaw.CHECKSUM)
    # A shorter record in its place must not be followed by remains of the torn one.
    writer.append(hard(2), run(2, 2, 2, b"y"))
    disk.lose_power(Random(1))
    _, found = open_log(disk)
    assert found.torn is None
    assert [e.data for e in found.entries] == [b"data", b"y"]


def test_recovery_makes_durable_what_it_returns() -> None:
    for seed in range(20):
        disk = SimDisk()
        writer, _ = open_log(disk)
        writer.append(hard(1), run(1, 1, 1))
        disk.crash_at = len(disk.trace) + 1
        with pytest.raises(PowerLoss):
            writer.append(hard(2, 3), ())
        # Only the process died: the vote is in the page cache, so the restarted node sees it and may repeat it.
        disk.crash_at = None
        _, found = open_log(disk)
        assert found.hard_state == hard(2, 3)
        disk.lose_power(Random(seed))
        assert open_log(disk)[1].hard_state == hard(2, 3)


def test_recovery_makes_durable_the_names_it_finds() -> None:
    for seed in range(20):
        disk = SimDisk()
        writer, _ = open_log(disk, segment_bytes=1024)
        writer.append(hard(1), run(1, 1, 1, b"x" * 700))
        disk.crash_at = len(disk.trace) + 5
        with pytest.raises(PowerLoss):
            writer.prepare_next()
        assert disk.trace[-1] == "rename"
        # Only the process died: the next segment has its name, but no directory sync.
        disk.crash_at = None
        writer, _ = open_log(disk, segment_bytes=1024)
        writer.append(hard(1), run(1, 2, 2, b"x" * 700))
        disk.lose_power(Random(seed))
        assert len(open_log(disk, segment_bytes=1024)[1].entries) == 2


def test_bug_33_the_log_directory_itself_is_durable() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(1, 1), ())
    disk.lose_power(Random(0))
    assert open_log(disk)[1].hard_state == hard(1, 1)


def test_bug_36_a_crash_in_a_suffix_overwrite_leaves_the_old_or_the_new_log() -> None:
    old, new = run(1, 1, 30, b"o" * 60), run(2, 3, 4, b"n" * 400)
    outcomes = set()
    for operation in range(1, 10):
        for seed in range(8):
            disk = SimDisk()
            writer, _ = open_log(disk, segment_bytes=1024)
            for at in range(0, 30, 5):
                writer.append(hard(1), old[at : at + 5])
            segments_before = disk.names(LOG)
            disk.crash_at = len(disk.trace) + operation
            with contextlib.suppress(PowerLoss):
                writer.append(hard(2), new)
            disk.lose_power(Random(seed))
            _, found = open_log(disk, segment_bytes=1024)
            assert set(segments_before) <= set(disk.names(LOG))
            assert tuple(found.entries) in (old, (*old[:2], *new))
            outcomes.add(len(found.entries))
    assert outcomes == {30, 4}


def test_bug_02_term_and_vote_are_one_record() -> None:
    outcomes = set()
    for seed in range(60):
        disk = SimDisk()
        writer, _ = open_log(disk, segment_bytes=8192)
        writer.append(hard(1, 1), ())
        disk.crash_at = len(disk.trace) + 1 + seed % 2
        with pytest.raises(PowerLoss):
            writer.append(hard(2, 2), run(2, 1, 3, b"x" * 700))
        disk.lose_power(Random(seed))
        _, found = open_log(disk, segment_bytes=8192)
        assert (found.hard_state.term, found.hard_state.vote, len(found.entries)) in ((1, 1, 0), (2, 2, 3))
        outcomes.add(found.hard_state.term)
    assert outcomes == {1, 2}


def test_an_unconfirmed_segment_file_is_no_obstacle() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(1), run(1, 1, 1))
    writer.prepare_next()
    disk.create(LOG / "0000000000000003.wal.tmp")
    _, found = open_log(disk)
    assert len(found.entries) == 1
    assert disk.names(LOG) == ["0000000000000001.wal", "0000000000000002.wal"]


def test_a_log_with_a_torn_tail_after_a_clean_shutdown_is_refused() -> None:
    disk = SimDisk()
    writer, _ = open_log(disk)
    writer.append(hard(1), run(1, 1, 1))
    writer.append(hard(1), run(1, 2, 2))
    tail = writer.tail
    _, found = open_log(disk, clean_tail=tail)
    assert found.tail == tail
    last = records(disk)[-1]
    disk.flip_bit(last.path, last.start + 40)
    before = disk.image()
    for _ in range(2):
        with pytest.raises(CorruptLog, match=rf"byte offset {last.start}: .*clean shutdown"):
            open_log(disk, clean_tail=tail)
    assert disk.image() == before
