"""A model of the store so plain that it is right: a list of dicts, one per revision."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any

from raftkv.errors import Compacted, ErrorCode, FutureRevision
from raftkv.kv import commands as c
from raftkv.kv.commands import KeyValue
from raftkv.kv.ranges import RangeQuery, RangeResult

State = dict[bytes, KeyValue]

RELATIONS: list[Callable[[Any, Any], bool]] = [operator.eq, operator.ne, operator.lt, operator.gt]
MISSING = KeyValue(b"", 0, 0, 0, 0, b"")


def within(key: bytes, start: bytes, end: bytes) -> bool:
    if end == b"":
        return key == start
    return start <= key if end == b"\0" else start <= key < end


def backwards(start: bytes, end: bytes) -> bool:
    return end not in (b"", b"\0") and end < start


class Twice(Exception):
    pass


class History:
    """States by revision; nothing here knows of prefixes, tombstones or inverse revisions."""

    def __init__(self) -> None:
        self.states: list[State] = [{}, {}]
        self.compacted = 0
        self.now = 0
        """Cluster time."""
        self.leases: dict[int, tuple[int, int]] = {}
        """By id: (ttl, deadline), dead ones included until they are ended."""
        self.last_lease = 0

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def apply(self, command: c.Command) -> Any:
        """Return the result; Rejected without its text and number."""
        match command:
            case c.Put(_, key, value):
                self.states.append(put(self.states[-1], key, value, 0, self.revision + 1))
                return c.Written(self.revision)
            case c.Delete(_, key, end):
                if backwards(key, end):
                    return ErrorCode.INVALID_ARGUMENT
                state, gone = delete(self.states[-1], key, end)
                if gone:
                    self.states.append(state)
                return c.Deleted(self.revision, len(gone))
            case c.Txn(_, (), branch):
                return self.txn(branch)
            case c.Compact(_, revision):
                return self.compact(revision)
            case c.GrantLease(_, lease, ttl):
                return self.grant(lease, ttl)
            case c.KeepAlive(_, leases):
                return c.KeptAlive(tuple(self.renew(lease) for lease in leases))
            case c.RevokeLease(_, lease):
                if not self.alive(lease):
                    return ErrorCode.LEASE_NOT_FOUND
                return c.Revoked(self.revision + bool(self.attached(lease)), self.end(lease))
            case c.Expire():
                due = sorted((deadline, lease) for lease, (_, deadline) in self.leases.items() if deadline <= self.now)
                for _, lease in due:
                    self.end(lease)
                return c.Expired(len(due))
        raise AssertionError(command)

    def alive(self, lease: int) -> bool:
        return lease in self.leases and self.now < self.leases[lease][1]

    def attached(self, lease: int) -> list[bytes]:
        return [key for key, pair in self.states[-1].items() if pair.lease == lease]

    def grant(self, lease: int, ttl: int) -> Any:
        if self.alive(lease):
            return ErrorCode.LEASE_EXISTS
        if lease in self.leases:
            self.end(lease)
        lease = lease or self.last_lease + 1
        self.last_lease = max(self.last_lease, lease)
        self.leases[lease] = (ttl, self.now + ttl + 1)
        return c.LeaseGranted(lease, ttl)

    def renew(self, lease: int) -> int:
        if not self.alive(lease):
            return 0
        ttl, _ = self.leases[lease]
        self.leases[lease] = (ttl, self.now + ttl + 1)
        return ttl

    def end(self, lease: int) -> int:
        gone = self.attached(lease)
        if gone:
            self.states.append({key: pair for key, pair in self.states[-1].items() if key not in gone})
        del self.leases[lease]
        return len(gone)

    def compact(self, revision: int) -> Any:
        if revision == 0:
            return ErrorCode.INVALID_ARGUMENT
        if revision > self.revision:
            return ErrorCode.FUTURE_REVISION
        if revision <= self.compacted:
            return ErrorCode.COMPACTED
        self.compacted = revision
        return c.Compacted(revision)

    def txn(self, branch: c.Branch) -> Any:
        if not sensible(branch):
            return ErrorCode.INVALID_ARGUMENT
        run = ModelTxn(self)
        try:
            done = run.branch(branch)
        except LookupError:
            return ErrorCode.LEASE_NOT_FOUND
        except Compacted:
            return ErrorCode.COMPACTED
        except FutureRevision:
            return ErrorCode.FUTURE_REVISION
        if run.changed:
            self.states.append(run.state)
        return c.TxnDone(self.revision, done)

    def at(self, revision: int) -> State:
        if revision > self.revision:
            raise FutureRevision("")
        if 0 < revision < self.compacted:
            raise Compacted("")
        return self.states[revision or -1]

    def range(self, query: RangeQuery) -> RangeResult:
        """The whole range, from the first pair on: `more` and `cursor` are the page's."""
        return select(self.at(query.revision), query, query.revision or self.revision)


def select(state: State, query: RangeQuery, at: int) -> RangeResult:
    pairs = [state[key] for key in sorted(state) if within(key, query.key, query.range_end)]
    pairs = [
        pair
        for pair in pairs
        if query.min_mod_revision <= pair.mod_revision <= (query.max_mod_revision or pair.mod_revision)
        and query.min_create_revision <= pair.create_revision <= (query.max_create_revision or pair.create_revision)
    ]
    attribute = {1: "version", 2: "create_revision", 3: "mod_revision", 4: "value"}.get(query.order, "key")
    pairs.sort(key=lambda pair: (getattr(pair, attribute), pair.key), reverse=query.descending)
    if query.count_only:
        return RangeResult((), False, len(pairs), at)
    page = pairs[: query.limit or len(pairs)]
    if query.keys_only:
        page = [pair._replace(value=b"") for pair in page]
    return RangeResult(tuple(page), len(page) < len(pairs), len(page), at)


def put(state: State, key: bytes, value: bytes, lease: int, revision: int) -> State:
    old = state.get(key)
    pair = KeyValue(
        key, old.create_revision if old else revision, revision, old.version + 1 if old else 1, lease, value
    )
    return state | {key: pair}


def delete(state: State, start: bytes, end: bytes) -> tuple[State, list[KeyValue]]:
    gone = [state[key] for key in sorted(state) if within(key, start, end)]
    return {key: pair for key, pair in state.items() if pair not in gone}, gone


class ModelTxn:
    def __init__(self, history: History) -> None:
        self.history = history
        self.before = self.state = history.states[-1]
        self.changed = False

    def branch(self, branch: c.Branch) -> c.BranchDone:
        holds = all(self.holds(compare) for compare in branch.compares)
        return c.BranchDone(holds, tuple(self.do(one) for one in (branch.then if holds else branch.otherwise)))

    def holds(self, compare: c.Compare) -> bool:
        names = ["value", "version", "create_revision", "mod_revision", "lease"]
        found = [self.before[key] for key in self.before if within(key, compare.key, compare.range_end)]
        if not found:
            if names[compare.target] == "value":
                return False
            found = [MISSING]
        relation = RELATIONS[compare.relation]
        return all(relation(getattr(pair, names[compare.target]), compare.operand) for pair in found)

    def do(self, operation: c.TxnOperation) -> c.OperationDone:
        made = self.history.revision + 1
        match operation:
            case c.TxnPut(key, value, lease, with_previous):
                if lease and not self.history.alive(lease):
                    raise LookupError
                old = self.state.get(key)
                self.state = put(self.state, key, value, lease, made)
                self.changed = True
                return c.PutDone(old if with_previous else None)
            case c.TxnDelete(start, end, with_previous):
                self.state, gone = delete(self.state, start, end)
                self.changed = self.changed or bool(gone)
                return c.DeleteDone(len(gone), tuple(gone) if with_previous else ())
            case c.TxnRange(start, end, limit, revision, keys_only, count_only):
                if self.changed and revision == made:
                    state = self.state
                else:
                    state = self.history.at(revision) if revision else self.state
                page = select(state, RangeQuery(start, end, limit, 0, keys_only, count_only), 0)
                return c.RangeDone(page.pairs, page.more, page.count)
            case c.Branch():
                return self.branch(operation)


def sensible(branch: c.Branch) -> bool:
    try:
        for side in ways(branch):
            check(side)
    except Twice:
        return False
    return all(not backwards(one.key, one.range_end) for one in spans(branch))


def ways(branch: c.Branch) -> Iterator[list[c.TxnOperation]]:
    """Every list of operations that a transaction may come to run."""
    for side in (branch.then, branch.otherwise):
        found: list[list[c.TxnOperation]] = [[]]
        for operation in side:
            inner = list(ways(operation)) if isinstance(operation, c.Branch) else [[operation]]
            found = [before + after for before in found for after in inner]
        yield from found


def check(operations: list[c.TxnOperation]) -> None:
    puts = [one.key for one in operations if isinstance(one, c.TxnPut)]
    deletes = [one for one in operations if isinstance(one, c.TxnDelete)]
    if len(puts) > len(set(puts)) or any(within(key, one.key, one.range_end) for key in puts for one in deletes):
        raise Twice


def spans(branch: c.Branch) -> Iterator[c.Compare | c.TxnDelete | c.TxnRange]:
    yield from branch.compares
    for one in (*branch.then, *branch.otherwise):
        if isinstance(one, c.Branch):
            yield from spans(one)
        elif not isinstance(one, c.TxnPut):
            yield one
