"""The state machine against a model so plain that it is right (`model`)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftkv.errors import Compacted, ErrorCode
from raftkv.kv import commands as c
from raftkv.kv.commands import Command, Delete, KeyValue, Put, Rejected, Result, StateChecked, Swept
from raftkv.kv.keys import META
from raftkv.kv.ranges import Order, RangeQuery, query_fault
from raftkv.kv.txn_check import is_read_only
from raftkv.kv.versions import WHOLE_ROW_BYTES

from .host import Host
from .model import History

KEYS = st.sampled_from([b"a", b"a\0", b"a\0\xff", b"b", b"b\xff", b"\xff"])
ENDS = st.sampled_from([b"", b"\0", b"a", b"a\0", b"b", b"c", b"\xff\xff"])
BOUND = st.sampled_from([0, 0, 0, 2, 4, 7])
QUERIES = st.builds(
    RangeQuery,
    KEYS,
    ENDS,
    st.integers(0, 4),
    st.just(0),
    st.booleans(),
    st.booleans(),
    order=st.sampled_from(Order),
    descending=st.booleans(),
    min_mod_revision=BOUND,
    max_mod_revision=BOUND,
    min_create_revision=BOUND,
    max_create_revision=BOUND,
    cursor=st.just(b""),
)
LARGE = b"2" * (WHOLE_ROW_BYTES + 1)
"""A write that replaces it does not read it."""
VALUES = st.sampled_from([b"", b"1", b"2", LARGE])
NUMBERS = st.integers(0, 6)


def few(one: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(one, max_size=3).map(tuple)


LEASES = st.sampled_from([0, 0, 0, 1, 2, 7])
"""The store chooses low ones; 7 is given."""
TTLS = st.sampled_from([500, 1000, 3000])
COMPARES = st.one_of(
    st.builds(c.Compare, KEYS, ENDS, st.just(0), st.integers(0, 3), VALUES),
    st.builds(c.Compare, KEYS, ENDS, st.integers(1, 4), st.integers(0, 3), NUMBERS),
)
OPERATIONS = st.recursive(
    st.builds(c.TxnPut, KEYS, VALUES, LEASES, st.booleans())
    | st.builds(c.TxnDelete, KEYS, ENDS, st.booleans())
    | st.builds(c.TxnRange, KEYS, ENDS, st.integers(0, 3), st.sampled_from([0, 0, 0, 3]), st.booleans(), st.booleans()),
    lambda inner: st.builds(c.Branch, few(COMPARES), few(inner), few(inner)),
    max_leaves=6,
)
BRANCHES = st.builds(c.Branch, few(COMPARES), few(OPERATIONS), few(OPERATIONS))


def plain(result: Result) -> Any:
    """As the model says it: of a rejection the code."""
    return result.code if isinstance(result, Rejected) else result


class StoreAgainstHistory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.host = self.make_host()
        self.history = History()
        self.sequence = 0
        self.low = 1
        self.answered: list[tuple[Command, Any]] = []
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

    @rule(branch=BRANCHES, in_session=st.booleans())
    def txn(self, branch: c.Branch, in_session: bool) -> None:
        command = c.Txn(self.sequence + 1, (), branch)
        if is_read_only(command):
            before = self.host.hash()
            with self.host.machine.view() as view:
                assert plain(view.txn(command)) == self.history.apply(command)
            assert self.host.hash() == before
        else:
            self._write(command, in_session)

    @rule(back=st.integers(-1, 4), in_session=st.booleans())
    def compact(self, back: int, in_session: bool) -> None:
        self._write(c.Compact(self.sequence + 1, max(self.history.revision - back, 0)), in_session)

    @rule(lease=st.sampled_from([0, 0, 7, 2]), ttl=TTLS, in_session=st.booleans())
    def grant(self, lease: int, ttl: int, in_session: bool) -> None:
        self._write(c.GrantLease(self.sequence + 1, lease, ttl), in_session)

    @rule(leases=st.lists(LEASES.filter(bool), min_size=1, max_size=3).map(tuple), in_session=st.booleans())
    def keep_alive(self, leases: tuple[int, ...], in_session: bool) -> None:
        self._write(c.KeepAlive(self.sequence + 1, leases), in_session)

    @rule(lease=LEASES.filter(bool), in_session=st.booleans())
    def revoke(self, lease: int, in_session: bool) -> None:
        self._write(c.RevokeLease(self.sequence + 1, lease), in_session)

    @rule(passed=st.sampled_from([0, 300, 700, 2000]))
    def expire(self, passed: int) -> None:
        self.host.now += passed
        self.history.now += passed
        self._write(c.Expire(0), in_session=False)

    @rule()
    def sweep(self) -> None:
        more = self.host.machine.unswept
        (swept,) = self.host.do(c.Sweep(0))
        assert isinstance(swept, Swept)
        assert more or not swept.versions
        assert swept.more == self.host.machine.unswept

    @rule()
    def check(self) -> None:
        """It shows the revision, and changes nothing but how far the state has come."""
        before = {row for row in self.rows() if row[0] != META}
        assert self.host.do(c.CheckState(0)) == [StateChecked(self.history.revision)]
        assert {row for row in self.rows() if row[0] != META} == before

    def rows(self) -> list[tuple[bytes, bytes]]:
        with self.host.store.read() as reader:
            return list(reader.scan(b"\0", None))

    def _write(self, command: Command, in_session: bool) -> None:
        before = self.history.revision
        expected = self.history.apply(command)
        if not in_session:
            assert [plain(one) for one in self.host.do(command)] == [expected]
        else:
            self.sequence += 1
            assert [plain(one) for one in self.host.write(self.session, command, low=self.low)] == [expected]
            self.answered.append((command, expected))
        self._check_changes(before)

    def _check_changes(self, before: int) -> None:
        """What the entry is said to have changed is what it changed."""
        changed = {change.prefix: change for change in self.host.changes}
        assert len(changed) == len(self.host.changes)
        old, new = self.history.states[before], self.history.states[-1]
        pairs = {key: (old.get(key), new.get(key)) for key in {*old, *new} if old.get(key) != new.get(key)}
        assert self.host.pairs_of_changes() == pairs

    @precondition(lambda self: self.answered)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        sequence = data.draw(st.integers(1, self.sequence))
        command, expected = self.answered[sequence - 1]
        (result,) = self.host.write(self.session, command)
        assert plain(result) == (expected if sequence >= self.low else ErrorCode.SEQUENCE_OUT_OF_WINDOW)

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
        if query_fault(query) is not None:
            return
        with self.host.machine.view() as view:
            if 0 < query.revision < self.history.compacted:
                with pytest.raises(Compacted) as caught:
                    view.scan(query)
                assert caught.value.compacted_revision == self.history.compacted
                return
            expected = self.history.range(query)
            scan = view.scan(query)
            while not scan.step(max_rows):
                pass
            page = scan.result()
            assert page == view.range(query)
            assert (page.pairs, page.more, page.count, page.revision) == (
                expected.pairs,
                expected.more,
                expected.count,
                expected.revision,
            )
            pair = view.get(query.key, query.revision)
            assert pair == self.history.states[query.revision or -1].get(query.key)

    @rule(query=QUERIES, limit=st.integers(1, 3))
    def pages(self, query: RangeQuery, limit: int) -> None:
        """Following the cursors gives the whole range, each pair once, whatever is written meanwhile."""
        if query_fault(query) is not None or query.count_only:
            return
        expected = self.history.range(query._replace(limit=0)).pairs
        found: list[KeyValue] = []
        query = query._replace(limit=limit)
        while True:
            page = self.host.range(query)
            found += page.pairs
            if not page.more:
                break
            query = query._replace(cursor=page.cursor)
            self._write(Put(0, b"a", b"meanwhile"), in_session=False)
        assert tuple(found) == expected

    @invariant()
    def revisions_agree(self) -> None:
        assert self.host.machine.revision == self.history.revision
        assert self.host.machine.compacted_revision == self.history.compacted
        deadlines = [deadline for _, deadline in self.history.leases.values()]
        assert self.host.machine.leases.next_deadline_ms() == min(deadlines, default=None)
        assert self.host.machine.applied_index == len(self.host.log)

    def teardown(self) -> None:
        """When all is swept, no version is left that nobody can see, nor a watch that begins at the mark."""
        while self.host.machine.unswept:
            self.host.do(c.Sweep(0))
        seen = set()
        for revision in range(max(self.history.compacted - 1, 1), self.history.revision + 1):
            seen |= {(key, pair.mod_revision) for key, pair in self.history.states[revision].items()}
        assert self.host.versions() == seen


TestStoreAgainstHistory = StoreAgainstHistory.TestCase
TestStoreAgainstHistory.settings = settings(max_examples=60, stateful_step_count=40)
