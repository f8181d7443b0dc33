"""1,000 random histories: what each watcher is told is what the model says, however it is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

import pytest

from raftkv.kv.commands import Branch, Command, Delete, Put, Txn, TxnDelete, TxnPut
from raftkv.kv.versions import WHOLE_ROW_BYTES
from raftkv.server.watch_hub import WatchLimits
from raftkv.v1 import common_pb2
from tests.server.watching import Stream, Watched, summary

KEYS = [b"a", b"a\0", b"ab", b"abc", b"b", b"b\xff", b"b\xff\xff", b"c\0\1", b"\0", b"\xff", b"\xff\xff"]
Event = tuple[int, bytes, bytes | None, bytes | None]


class Wanted(NamedTuple):
    key: bytes
    range_end: bytes
    start: int
    no_puts: bool
    no_deletes: bool
    previous: bool
    fragment: bool

    def holds(self, key: bytes) -> bool:
        if not self.range_end:
            return key == self.key
        return key >= self.key and (self.range_end == b"\0" or key < self.range_end)


class Model:
    """All events there ever were."""

    def __init__(self) -> None:
        self.pairs: dict[bytes, bytes] = {}
        self.events: list[Event] = []
        self.revision = 1

    def apply(self, command: Command) -> None:
        match command:
            case Put(_, key, value):
                changes: list[tuple[bytes, bytes | None]] = [(key, value)]
            case Delete(_, key, range_end):
                wanted = Wanted(key, range_end, 0, False, False, False, False)
                changes = [(one, None) for one in sorted(self.pairs) if wanted.holds(one)]
            case Txn(_, _, Branch(_, then, _)):
                changes = []
                for operation in then:
                    if isinstance(operation, TxnPut):
                        changes.append((operation.key, operation.value))
                    elif isinstance(operation, TxnDelete) and operation.key in self.pairs:
                        changes.append((operation.key, None))
            case _:
                raise AssertionError(command)
        if changes:
            self.revision += 1
        for changed, now in changes:
            self.events.append((self.revision, changed, now, self.pairs.get(changed)))
            if now is None:
                del self.pairs[changed]
            else:
                self.pairs[changed] = now

    def told(self, wanted: Wanted, first: int, last: int) -> list[Event]:
        return [
            (revision, key, value, previous if wanted.previous else None)
            for revision, key, value, previous in self.events
            if first <= revision <= last
            and wanted.holds(key)
            and not (wanted.no_puts if value is not None else wanted.no_deletes)
        ]


@dataclass
class Run:
    random: Random
    watched: Watched
    model: Model = field(default_factory=Model)
    streams: list[tuple[Stream, dict[int, Wanted]]] = field(default_factory=list)
    lost: int = 0
    """Watches that began before what was compacted."""

    def command(self) -> Command:
        random = self.random
        value = bytes(random.choices(b"xyz", k=random.choice((0, 1, 5, 60))))
        if random.random() < 0.15:
            value += bytes(WHOLE_ROW_BYTES)  # what replaces it does not read it
        match random.randrange(10):
            case 0:
                return Delete(0, random.choice(KEYS), b"\0")
            case 1 | 2:
                return Delete(0, random.choice(KEYS), b"")
            case 3:
                keys = random.sample(KEYS, random.randint(1, 6))
                operations = [
                    TxnDelete(key, b"", False) if random.random() < 0.3 else TxnPut(key, value, 0, False)
                    for key in keys
                ]
                return Txn(0, (), Branch((), tuple(operations), ()))
            case _:
                return Put(0, random.choice(KEYS), value)

    def wanted(self) -> Wanted:
        random = self.random
        key = random.choice(KEYS)
        later = [one for one in KEYS if one > key]
        stem = key.rstrip(b"\xff")
        successor = stem[:-1] + bytes((stem[-1] + 1,)) if stem else b"\0"
        range_end = random.choice((b"", b"\0", successor, random.choice(later) if later else b"\0"))
        filters = random.choice(((False, False),) * 3 + ((True, False), (False, True)))
        start = random.choice(
            (0, 0, random.randint(1, self.model.revision), self.model.revision + random.randint(1, 9))
        )
        return Wanted(key, range_end, start, *filters, random.random() < 0.4, random.random() < 0.7)

    def create(self) -> None:
        stream, watches = self.random.choice(self.streams)
        watch_id, wanted = len(watches) + 1, self.wanted()
        compacted = self.watched.machine.compacted_revision
        watches[watch_id] = wanted._replace(start=wanted.start or self.model.revision + 1)
        if wanted.start and wanted.start < compacted:
            self.lost += 1
        stream.create(
            watch_id,
            wanted.key,
            wanted.range_end,
            start_revision=wanted.start,
            no_puts=wanted.no_puts,
            no_deletes=wanted.no_deletes,
            prev_kv=wanted.previous,
            fragment=wanted.fragment,
        )

    def check(self, stream: Stream, watches: dict[int, Wanted]) -> None:
        for watch_id, wanted in watches.items():
            told = stream.told[watch_id]
            until = self.model.revision
            if told.canceled is not None:
                until = told.revisions[-1] if told.revisions else 0
                if told.canceled.code == common_pb2.COMPACTED:
                    assert told.canceled.number <= self.watched.machine.compacted_revision
                    assert wanted.start < self.watched.machine.compacted_revision
                else:
                    assert told.canceled.code == common_pb2.LIMIT_EXCEEDED
                    assert not wanted.fragment
            expected = self.model.told(wanted, wanted.start, until)
            found = summary(told.events)
            if told.split:
                assert told.canceled is not None
                assert told.canceled.code == common_pb2.COMPACTED
                expected = expected[: len(found)]
            if wanted.previous:
                # What was compacted away is not told; what is told must be true.
                expected = [
                    (*event[:3], None if told_event[3] is None else event[3])
                    for event, told_event in zip(expected, found, strict=True)
                ]
            assert found == expected, (watch_id, wanted)


async def play(seed: int) -> Run:
    random = Random(seed)
    limits = WatchLimits(
        ring_bytes=random.choice((0, 2_000, 10_000, 1 << 20)),
        step_work=random.choice((1, 3, 20, 500)),
        turn_bytes=random.choice((1, 200, 1 << 20)),
        turn_changes=random.choice((1, 5, 1000)),
        message_bytes=random.choice((60, 200, 1 << 20)),
        notice_s=random.choice((0.0, 1000.0)),
        max_rest_s=0.0,
    )
    run = Run(random, Watched(limits))
    run.streams = [(Stream(run.watched), {}) for _ in range(2)]
    for _ in range(40):
        match random.randrange(8):
            case 0 | 1:
                run.create()
            case 2:
                stream, _ = random.choice(run.streams)
                stream.ask_progress()
                await stream.pull()
            case 3:
                stream, _ = random.choice(run.streams)
                await (stream.fall_asleep() if random.random() < 0.5 else stream.pull_all())
            case 4 if random.random() < 0.2:
                compacted = run.watched.machine.compacted_revision
                if run.model.revision > compacted + 1:
                    run.watched.compact(random.randint(compacted + 1, run.model.revision))
            case _:
                commands = [run.command() for _ in range(random.choice((1, 1, 3)))]
                run.watched.do(*commands)
                for command in commands:
                    run.model.apply(command)
                assert run.model.revision == run.watched.revision
    for stream, watches in run.streams:
        await stream.pull_all()
        run.check(stream, watches)
        await stream.close()
    assert run.watched.hub.watches == 0
    assert not run.watched.hub.index
    return run


@pytest.mark.parametrize("block", [0, 1, *(pytest.param(block, marks=pytest.mark.jepsen) for block in (2, 3))])
async def test_bug_45_what_each_watcher_is_told_is_what_the_model_says(block: int) -> None:
    codes: Counter[int] = Counter()
    fragments = events = 0
    for seed in range(block * 250, (block + 1) * 250):
        try:
            run = await play(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
        for stream, _ in run.streams:
            for told in stream.told.values():
                fragments += told.fragments
                events += len(told.events)
                codes[told.canceled.code if told.canceled is not None else 0] += 1
    # All the ways that there are have been gone.
    assert min(codes[common_pb2.COMPACTED], codes[common_pb2.LIMIT_EXCEEDED], codes[0], fragments) > 10
    assert events > 5_000
