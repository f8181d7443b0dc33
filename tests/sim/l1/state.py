"""The state as the log defines it: what each command does, worked out anew from the commands and their results.

The oracle gives it every entry once, as the first node to apply it did; everything that clients and watches were told
is compared with what is found here. Names of the properties: `oracle`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from raftkv.errors import ErrorCode
from raftkv.kv.codec import decode_batch
from raftkv.kv.commands import (
    Acquire,
    Branch,
    BranchDone,
    CheckState,
    Command,
    Compact,
    Compacted,
    Compare,
    Delete,
    Deleted,
    DeleteDone,
    Expire,
    Expired,
    GrantLease,
    KeepAlive,
    KeptAlive,
    KeyValue,
    LeaseGranted,
    OperationDone,
    Proclaim,
    Proclaimed,
    Put,
    PutDone,
    RangeDone,
    RegisterSession,
    Rejected,
    Relation,
    Release,
    Released,
    Result,
    Revoked,
    RevokeLease,
    SessionRegistered,
    StateChecked,
    Sweep,
    Swept,
    Target,
    Txn,
    TxnDelete,
    TxnDone,
    TxnOperation,
    TxnPut,
    Written,
)
from raftkv.kv.commands import Place as Told
from raftkv.kv.keys import is_place, lock_of_place, ticket_of, user_key
from raftkv.kv.machine import GroupResults
from raftkv.kv.records import TOMBSTONE, decode_place, decode_version
from raftkv.kv.versions import header_of, value_of
from raftkv.kv.writing import Change
from tests.sim.l1.lines import Lines, Place, Report

COUNTER = b"counter-"
"""Keys that begin so are counted up by one at a time."""
ACCOUNT = b"account-"
"""The numbers in these add up to the same, always."""
ACCOUNTS = 3
TOTAL = 300

EVERYTHING = b"\0"

ROUNDING_S = 1e-6
"""Of virtual time, which is a float. A lease ends a stamp later than its ttl says, so that it never ends early: whole
milliseconds are no excuse."""

_OF_SESSIONS = frozenset({ErrorCode.SESSION_EXPIRED, ErrorCode.SEQUENCE_OUT_OF_WINDOW, ErrorCode.OVERLOADED})
"""What a session says of a sequence that it does not judge: the command was not applied this time."""

Stamp = tuple[int, int]
"""Session and sequence."""

Effect = tuple[bytes, bytes | None, int]
"""What is done to a key: (key, value or None, lease)."""


class Event(NamedTuple):
    """What one revision did to one key, or to one place in a line."""

    revision: int
    key: bytes
    """Empty: a place."""
    pair: KeyValue | None
    """None: deleted."""
    before: KeyValue | None
    lock: bytes = b""
    ticket: int = 0
    place: Place | None = None
    """None: it has gone."""


class Lease:
    """One lease."""

    def __init__(self, ttl_ms: int, deadline_ms: int) -> None:
        self.ttl_ms = ttl_ms
        self.deadline_ms = deadline_ms
        self.promised_until = 0.0
        """By an answer to its owner, in virtual time."""
        self.dead_at: float | None = None
        """Virtual time at which an entry was applied that lies behind its deadline."""


class State:
    """See the module's docstring."""

    def __init__(self, report: Report, now: Callable[[], float]) -> None:
        self._report = report
        self._now = now
        self.revision = 1
        self.time_ms = 0
        self.compacted = 0
        """Where history begins."""
        self.swept = 0
        self.keys: dict[bytes, KeyValue] = {}
        self.events: dict[int, list[Event]] = {}
        """By revision."""
        self.lines = Lines(report)
        self.leases: dict[int, Lease] = {}
        self.ended: dict[int, Lease] = {}
        """Those that were not revoked."""
        self.last_lease = 0
        self.answers: dict[Stamp, Result] = {}
        self._sessions: set[int] = set()
        self._versions: dict[bytes, list[tuple[int, bytes | None]]] = {}
        self._lines_at: dict[bytes, list[tuple[int, dict[int, Place]]]] = {}

    # --- what others look up ------------------------------------------------------------------------------------------

    @property
    def known_keys(self) -> list[bytes]:
        """All keys that ever were."""
        return sorted(self._versions)

    def value_at(self, key: bytes, revision: int) -> tuple[int, bytes] | None:
        """Return (mod_revision, value) of `key` at a revision; None: it does not exist then."""
        versions = self._versions.get(key, [])
        position = bisect_right(versions, revision, key=lambda version: version[0])
        if position == 0:
            return None
        mod_revision, value = versions[position - 1]
        return (mod_revision, value) if value is not None else None

    def state_at(self, revision: int) -> dict[bytes, tuple[int, bytes]]:
        """Return every key that exists at a revision."""
        found = {key: self.value_at(key, revision) for key in sorted(self._versions)}
        return {key: pair for key, pair in found.items() if pair is not None}

    def line_at(self, lock: bytes, revision: int) -> dict[int, Place]:
        """Return who stood in line at a revision."""
        lines = self._lines_at.get(lock, [])
        position = bisect_right(lines, revision, key=lambda line: line[0])
        return lines[position - 1][1] if position else {}

    # --- entries ------------------------------------------------------------------------------------------------------

    def take(
        self, payload: bytes, results: GroupResults, changes: Sequence[Change]
    ) -> Iterator[tuple[Stamp, Command, bool]]:
        """Take in an entry; yield each command that it has applied, and whether it has changed anything.

        The state is that after the command, then.
        """
        batch = decode_batch(payload)
        self.time_ms = max(self.time_ms, batch.time_ms)
        self._look_for_dead_leases()
        rest = deque(changes)
        for group, answers in zip(batch.groups, results, strict=True):
            for command, result in zip(group.commands, answers, strict=True):
                stamp = (group.session, command.sequence)
                if group.session and not self._is_first(stamp, command, result):
                    continue
                took = self._changes_of(command, result, rest)
                expected = self._judge(command, result, took)
                events = [self._write(change) for change in took]
                self._compare(command, result, events, expected)
                yield stamp, command, bool(events)
        if rest:
            self._report(
                f"exactly once: nobody asked for the change of revision {rest[0].revision}: {rest[0].prefix!r}"
            )

    def _is_first(self, stamp: Stamp, command: Command, result: Result) -> bool:
        """Whether a session's command was applied now: not refused by the session, and not answered from memory."""
        if isinstance(result, Rejected) and result.code in _OF_SESSIONS:
            return False
        known = self.answers.get(stamp)
        if known is None:
            self.answers[stamp] = result
            return True
        if known != result:
            self._report(f"exactly once: {stamp}, {command}, was answered {known}, and then {result}")
        return False

    def _changes_of(self, command: Command, result: Result, rest: deque[Change]) -> list[Change]:
        """Take the changes that a command has made."""
        if isinstance(command, Expire):
            took = list(rest)
            rest.clear()
            return took
        if isinstance(result, Rejected | Compacted):
            return []
        stated: int = getattr(result, "revision", 0)
        took = []
        while rest and rest[0].revision == stated:
            took.append(rest.popleft())
        return took

    def _write(self, change: Change) -> Event:
        """Take in a change."""
        revision = change.revision
        if revision != self.revision and revision != self.revision + 1:
            self._report(f"determinism: revision {revision} follows {self.revision}")
        self.revision = revision
        if is_place(change.prefix):
            lock, ticket = lock_of_place(change.prefix), ticket_of(change.prefix)
            place = None if change.row == TOMBSTONE else Place(*decode_place(value_of(change.row)))
            event = Event(revision, b"", None, None, lock, ticket, place)
            self.lines.write(lock, ticket, place, revision)
            history = self._lines_at.setdefault(lock, [])
            if history and history[-1][0] == revision:
                history.pop()
            history.append((revision, dict(self.lines[lock].places)))
        else:
            event = self._write_key(user_key(change.prefix), change)
        self.events.setdefault(revision, []).append(event)
        return event

    def _write_key(self, key: bytes, change: Change) -> Event:
        revision, before = change.revision, self.keys.get(key)
        if change.row == TOMBSTONE:
            self.keys.pop(key, None)
            self._versions.setdefault(key, []).append((revision, None))
            return Event(revision, key, None, before)
        create, version, lease = decode_version(change.row)
        expected = (before.create_revision, before.version + 1) if before is not None else (revision, 1)
        if (create, version) != expected:
            self._report(f"determinism: {key!r} at revision {revision} has {(create, version)}, not {expected}")
        pair = KeyValue(key, create, revision, version, lease, value_of(change.row))
        self.keys[key] = pair
        self._versions.setdefault(key, []).append((revision, pair.value))
        if key.startswith(COUNTER) and int(pair.value) != (int(before.value) if before is not None else 0) + 1:
            self._report(f"totals: {key!r} goes from {before} to {pair}")
        return Event(revision, key, pair, before)

    # --- commands -----------------------------------------------------------------------------------------------------

    def _judge(self, command: Command, result: Result, took: list[Change]) -> list[Effect]:
        """Compare a result with what it must be; return what the command must do to keys."""
        report, keys = self._report, self.keys
        match command, result:
            case Put(_, key, value), Written():
                return [(key, value, 0)]
            case Delete(_, key, range_end), Deleted(_, deleted):
                gone = _within(keys, key, range_end)
                if deleted != len(gone):
                    report(f"determinism: {command} removes {deleted} keys, of {gone}")
                return [(key, None, 0) for key in gone]
            case Txn(), TxnDone(revision, done):
                run = _Run(keys, self.revision + 1)
                for fence in command.fences:
                    if not self.lines.good(fence, self._alive):
                        report(f"fence: {command} was applied, and {fence} is stale: {vars(self.lines[fence.lock])}")
                expected = run.branch(command.branch)
                if done != expected:
                    report(f"transaction: {command} was answered {done}, not {expected}")
                if revision != self.revision + bool(run.written):
                    report(f"transaction: {command} is of revision {revision} after {self.revision}")
                dead = [lease for _, _, lease in run.written if lease and not self._alive(lease)]
                if dead:
                    report(f"lease: {command} attaches keys to {dead}, which have ended")
                return run.written
            case Txn(), Rejected(code, _, number):
                self._judge_refusal(command, code, number)
            case RegisterSession(), SessionRegistered(session):
                if session in self._sessions:
                    report(f"exactly once: session {session} was given twice")
                self._sessions.add(session)
            case Compact(_, wanted), Compacted(revision):
                if revision != wanted or not self.compacted < revision <= self.revision:
                    report(f"compaction: {command} was answered {result}, history began at {self.compacted}")
                self.compacted = revision
            case Compact(_, wanted), Rejected(ErrorCode.COMPACTED, _, number):
                if wanted > self.compacted or number != self.compacted:
                    report(f"compaction: {command} was answered {result}, history begins at {self.compacted}")
            case Sweep(), Swept(versions):
                self.swept += versions
            case CheckState(), StateChecked(revision):
                if revision != self.revision:
                    report(f"check: {command} was answered {result} at revision {self.revision}")
            case _:
                return self._judge_lease(command, result, took)
        return []

    def _judge_refusal(self, txn: Txn, code: ErrorCode, number: int) -> None:
        if code is ErrorCode.STALE_FENCE:
            stale = [fence for fence in txn.fences if not self.lines.good(fence, self._alive)]
            if not stale or number != self.lines[stale[0].lock].newest:
                self._report(f"fence: {txn} was refused with {number}, stale are {stale}")
            return
        leases = [one.lease for one in txn.branch.then if isinstance(one, TxnPut) and one.lease]
        if code is not ErrorCode.LEASE_NOT_FOUND or all(map(self._alive, leases)):
            self._report(f"transaction: {txn} was refused with {code.name}")

    def _judge_lease(self, command: Command, result: Result, took: list[Change]) -> list[Effect]:
        report, now_ms = self._report, self.time_ms
        match command, result:
            case GrantLease(_, 0, ttl_ms), LeaseGranted(lease, granted_ms):
                if lease <= self.last_lease or granted_ms != ttl_ms:
                    report(f"lease: {command} was answered {result} after {self.last_lease}")
                self.last_lease = lease
                self.leases[lease] = Lease(ttl_ms, now_ms + ttl_ms + 1)
                return []
            case KeepAlive(_, leases), KeptAlive(ttls_ms):
                expected = tuple([self.leases[lease].ttl_ms if self._alive(lease) else 0 for lease in leases])
                if ttls_ms != expected:
                    report(f"lease: at {now_ms} ms {command} was answered {ttls_ms}, not {expected}")
                for lease, ttl_ms in zip(leases, ttls_ms, strict=True):
                    if ttl_ms and lease in self.leases:
                        self.leases[lease].deadline_ms = now_ms + ttl_ms + 1
                return []
            case RevokeLease(_, lease), Revoked(_, deleted):
                if not self._alive(lease):
                    report(f"lease: {command} was answered {result}: it had ended before")
                return self._end([lease], deleted)
            case Expire(), Expired(ended):
                due = sorted(self.leases, key=lambda lease: (self.leases[lease].deadline_ms, lease))
                due = [lease for lease in due if not self._alive(lease)]
                if ended != len(due):
                    report(f"lease: at {now_ms} ms {ended} leases are ended, those that are due are {due}")
                    self._report_early_ends(took)
                for lease in due:
                    self.ended[lease] = self.leases[lease]
                return self._end(due, None)
            case Acquire() | Proclaim() | RevokeLease(), Rejected(ErrorCode.LEASE_NOT_FOUND):
                if self._alive(command.lease):
                    report(
                        f"lease: at {now_ms} ms {command} is refused, and it lives: {vars(self.leases[command.lease])}"
                    )
                return []
            case Acquire(), Told(token, ticket):
                self._judge_acquire(command, token, ticket, made=bool(took))
                return []
            case Acquire(wait=False), Rejected(ErrorCode.LOCK_BUSY):
                return []
            case Release(_, lock, lease), Released(held):
                if held != (self._alive(lease) and self.lines[lock].ticket_of(lease) != 0):
                    report(f"line: {command} was answered {result}: {vars(self.lines[lock])}")
                return []
            case Proclaim(_, lock, lease, token), Proclaimed():
                if not self._holds(lock, lease, token):
                    report(f"fence: {command} was done: {vars(self.lines[lock])}")
                return []
            case Proclaim(_, lock, lease, token), Rejected(ErrorCode.STALE_FENCE):
                if self._holds(lock, lease, token):
                    report(f"fence: {command} was refused: {vars(self.lines[lock])}")
                return []
        report(f"determinism: {command} was answered {result}")
        return []

    def _judge_acquire(self, command: Acquire, token: int, ticket: int, *, made: bool) -> None:
        if not self._alive(command.lease):
            self._report(f"lease: {command} is given place {ticket} for a lease that has ended")
        line = self.lines[command.lock]
        has = line.ticket_of(command.lease)
        if made:
            if has:
                self._report(f"line: {command} is given place {ticket}, and has {has}")
        elif ticket != has or line.places[has].token != token:
            self._report(f"line: {command} is given place {ticket} with token {token}: {line.places}")

    def _holds(self, lock: bytes, lease: int, token: int) -> bool:
        place = self.lines[lock].places.get(self.lines[lock].ticket_of(lease))
        return place is not None and place.token == token != 0 and self._alive(lease)

    def _end(self, leases: list[int], deleted: int | None) -> list[Effect]:
        """Leases end; return what that does to keys."""
        gone: list[Effect] = []
        for lease in leases:
            attached = sorted(key for key, pair in self.keys.items() if pair.lease == lease)
            gone += [(key, None, 0) for key in attached]
            self.leases.pop(lease, None)
        if deleted is not None and deleted != len(gone):
            self._report(f"lease: {leases} took {deleted} keys with it, not {gone}")
        return gone

    def _report_early_ends(self, took: list[Change]) -> None:
        for change in took:
            if change.row == TOMBSTONE and change.previous is not None:
                lease = decode_version(header_of(change.previous))[2]
                if self._alive(lease):
                    self._report(f"lease: {lease} ends at {self.time_ms} ms: {vars(self.leases[lease])}")

    def _compare(
        self,
        command: Command,
        result: Result,
        events: list[Event],
        expected: list[Effect],
    ) -> None:
        """Compare what a command did with what it must do."""
        done = [
            (event.key, event.pair.value, event.pair.lease) if event.pair is not None else (event.key, None, 0)
            for event in events
            if event.key
        ]
        if done != expected:
            what = "determinism"
            if isinstance(command, Txn | RevokeLease | Expire):
                what = "transaction" if isinstance(command, Txn) else "lease"
            self._report(f"{what}: {command} did {done}, and was to do {expected}")
        stated = getattr(result, "revision", None)
        if events and not isinstance(command, Expire) and stated != self.revision:
            self._report(f"determinism: {command} is answered with revision {stated}, the log has {self.revision}")
        locks = {event.lock: None for event in events if not event.key}
        if isinstance(command, RevokeLease | Expire):
            locks = dict.fromkeys(self.lines)
        for event in events:
            if not event.key and event.place is None:
                self._judge_leave(command, event)
        for lock in locks:
            stranded = [place for place in self.lines[lock].places.values() if place.lease not in self.leases]
            if stranded:
                self._report(f"lease: {stranded} stand in the line of {lock!r} without a lease")
            self.lines.check(lock, self.revision, self._alive)
        if any(event.key.startswith(ACCOUNT) for event in events):
            numbers = [int(pair.value) for key, pair in self.keys.items() if key.startswith(ACCOUNT)]
            if sum(numbers) != TOTAL:
                self._report(f"totals: at revision {self.revision} the accounts hold {numbers}")

    def _judge_leave(self, command: Command, event: Event) -> None:
        """A place has gone: because its lease gave it back, or has ended."""
        before = self.line_at(event.lock, event.revision - 1).get(event.ticket)
        lease = before.lease if before is not None else 0
        released = isinstance(command, Release) and (command.lock, command.lease) == (event.lock, lease)
        if before is not None and not released and lease in self.leases:
            self._report(f"lease: {command} took the place {before} of {event.lock!r}, whose lease goes on")

    # --- leases in time -----------------------------------------------------------------------------------------------

    def _alive(self, lease: int) -> bool:
        found = self.leases.get(lease)
        return found is not None and self.time_ms < found.deadline_ms

    def _look_for_dead_leases(self) -> None:
        for number, lease in self.leases.items():
            if lease.dead_at is None and self.time_ms >= lease.deadline_ms:
                lease.dead_at = self._now()
                self._compare_with_promise(number, lease)

    def promised(self, number: int, until: float) -> None:
        """Its owner was told that a lease lasts, counted from when it asked, until then (virtual time)."""
        lease = self.leases.get(number) or self.ended.get(number)
        if lease is not None:  # else it was revoked
            lease.promised_until = max(lease.promised_until, until)
            self._compare_with_promise(number, lease)

    def _compare_with_promise(self, number: int, lease: Lease) -> None:
        if lease.dead_at is not None and lease.dead_at < lease.promised_until - ROUNDING_S:
            self._report(
                f"lease in time: lease {number} has ended at {lease.dead_at:.3f} s, its owner was told that it lasts "
                f"until {lease.promised_until:.3f} s"
            )


class _Run:
    """A transaction, worked out."""

    def __init__(self, keys: dict[bytes, KeyValue], revision: int) -> None:
        self._before = dict(keys)
        self._keys = dict(keys)
        self._revision = revision
        self.written: list[Effect] = []

    def branch(self, branch: Branch) -> BranchDone:
        succeeded = all(self._holds(compare) for compare in branch.compares)
        side = branch.then if succeeded else branch.otherwise
        return BranchDone(succeeded, tuple([self._operation(operation) for operation in side]))

    def _holds(self, compare: Compare) -> bool:
        found = [self._before[key] for key in _within(self._before, compare.key, compare.range_end)]
        if not found and not compare.range_end:
            return compare.target != Target.VALUE and _relates(compare.relation, 0, compare.operand)
        return all(_relates(compare.relation, _side(compare.target, pair), compare.operand) for pair in found)

    def _operation(self, operation: TxnOperation) -> OperationDone:
        match operation:
            case Branch():
                return self.branch(operation)
            case TxnPut(key, value, lease, with_previous):
                before = self._keys.get(key)
                created, version = (before.create_revision, before.version) if before is not None else (0, 0)
                pair = KeyValue(key, created or self._revision, self._revision, version + 1, lease, value)
                self._keys[key] = pair
                self.written.append((key, value, lease))
                return PutDone(before if with_previous else None)
            case TxnDelete(key, range_end, with_previous):
                gone = [self._keys.pop(found) for found in _within(self._keys, key, range_end)]
                self.written += [(pair.key, None, 0) for pair in gone]
                return DeleteDone(len(gone), tuple(gone) if with_previous else ())
            case _:
                pairs = tuple([self._keys[key] for key in _within(self._keys, operation.key, operation.range_end)])
                return RangeDone(pairs, False, len(pairs))


def _within(keys: dict[bytes, KeyValue], key: bytes, range_end: bytes) -> list[bytes]:
    """Return the keys of a range that exist, in order."""
    if not range_end:
        return [key] if key in keys else []
    return sorted(one for one in keys if key <= one and (range_end == EVERYTHING or one < range_end))


def _relates(relation: int, side: bytes | int, operand: bytes | int) -> bool:
    if relation == Relation.EQUAL:
        return side == operand
    if relation == Relation.NOT_EQUAL:
        return side != operand
    smaller, larger = (side, operand) if relation == Relation.LESS else (operand, side)
    return smaller < larger  # type: ignore[operator] # both are bytes, or both are numbers


def _side(target: int, pair: KeyValue) -> bytes | int:
    sides = (pair.value, pair.version, pair.create_revision, pair.mod_revision, pair.lease)
    return sides[target]
