"""The state machine against a model so plain that it is right: a list of dicts, one per revision."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftkv.errors import ErrorCode, FutureRevision
from raftkv.kv.commands import Command, Delete, Deleted, KeyValue, Put, Rejected, Result, Written
from raftkv.kv.ranges import RangeQuery, RangeResult

from .host import Host

KEYS = st.sampled_from([b"a", b"a\0", b"a\0\xff", b"b", b"b\xff", b"\xff"])
ENDS = st.sampled_from([b"", b"\0", b"a", b"a\0", b"b", b"c", b"\xff\xff"])
QUERIES = st.builds(RangeQuery, KEYS, ENDS, st.integers(0, 4), st.just(0), st.booleans(), st.booleans())
VALUES = st.sampled_from([b"", b"1", b"2"])


class History:
    """States by revision; nothing here knows of prefixes, tombstones or inverse revisions."""

    def __init__(self) -> None:
        self.states: list[dict[bytes, KeyValue]] = [{}, {}]

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def apply(self, command: Command) -> Result:
        state = dict(self.states[-1])
        if isinstance(command, Put):
            old = state.get(command.key)
            made = self.revision + 1
            state[command.key] = KeyValue(
                command.key, old.create_revision if old else made, made, old.version + 1 if old else 1, 0, command.value
            )
            self.states.append(state)
            return Written(self.revision)
        assert isinstance(command, Delete)
        if command.range_end not in (b"", b"\0") and command.range_end < command.key:
            return Rejected(ErrorCode.INVALID_ARGUMENT, "range_end lies before key")
        gone = [key for key in state if within(key, command.key, command.range_end)]
        if gone:
            self.states.append({key: pair for key, pair in state.items() if key not in gone})
        return Deleted(self.revision, len(gone))

    def range(self, query: RangeQuery) -> RangeResult:
        at = query.revision or self.revision
        if at > self.revision:
            raise FutureRevision("")
        state = self.states[at]
        pairs = [state[key] for key in sorted(state) if within(key, query.key, query.range_end)]
        if query.count_only:
            return RangeResult((), False, len(pairs), at)
        page = pairs[: query.limit or len(pairs)]
        if query.keys_only:
            return RangeResult(tuple(pair._replace(value=b"") for pair in page), len(page) < len(pairs), len(page), at)
        return RangeResult(tuple(page), len(page) < len(pairs), len(page), at)


def within(key: bytes, start: bytes, end: bytes) -> bool:
    if end == b"":
        return key == start
    return start <= key if end == b"\0" else start <= key < end


class StoreAgainstHistory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.make_host()
        self.history = History()
        self.sequence = 0
        self.low = 1
        self.answered: list[tuple[Command, Result]] = []
        """Commands of the session and their results; sequence n at n - 1."""

    def make_host(self) -> Host:
        return Host()

    @initialize()
    def open_session(self) -> None:
        self.session = self.host.register()

    @rule(key=KEYS, value=VALUES, in_session=st.booleans())
    def put(self, key: bytes, value: bytes, in_session: bool) -> None:
        self._write(Put(self.sequence + 1, key, value), in_session)

    @rule(key=KEYS, end=ENDS, in_session=st.booleans())
    def delete(self, key: bytes, end: bytes, in_session: bool) -> None:
        self._write(Delete(self.sequence + 1, key, end), in_session)

    def _write(self, command: Command, in_session: bool) -> None:
        expected = self.history.apply(command)
        if not in_session:
            assert self.host.do(command) == [expected]
            return
        self.sequence += 1
        assert self.host.write(self.session, command, low=self.low) == [expected]
        self.answered.append((command, expected))

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(1, self.sequence))
        command, expected = self.answered[sequence - 1]
        (result,) = self.host.write(self.session, command)
        if sequence >= self.low:
            assert result == expected
        else:
            assert isinstance(result, Rejected)
            assert result.code is ErrorCode.SEQUENCE_OUT_OF_WINDOW

    @precondition(lambda self: self.low <= self.sequence)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        self.low = data.draw(st.integers(self.low, self.sequence + 1))
        self.host.write(self.session, low=self.low)

    @rule()
    def reopen(self) -> None:
        before = self.host.hash()
        self.host.reopen()
        assert self.host.hash() == before

    @rule(query=QUERIES, back=st.integers(0, 12), max_rows=st.integers(1, 4))
    def read(self, query: RangeQuery, back: int, max_rows: int) -> None:
        query = query._replace(revision=max(self.history.revision - back, 0))
        expected = self.history.range(query)
        with self.host.machine.view() as view:
            scan = view.scan(query)
            while not scan.step(max_rows):
                pass
            assert scan.result() == view.range(query) == expected
            pair = view.get(query.key, query.revision)
            assert pair == self.history.states[query.revision or -1].get(query.key)

    @invariant()
    def revisions_agree(self) -> None:
        assert self.host.machine.revision == self.history.revision
        assert self.host.machine.applied_index == len(self.host.log)


TestStoreAgainstHistory = StoreAgainstHistory.TestCase
TestStoreAgainstHistory.settings = settings(max_examples=60, stateful_step_count=40)
