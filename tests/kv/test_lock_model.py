"""Leases and locks against a model so plain that it is right: dicts of lists, walked from the front each time."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from raftkv.errors import ErrorCode
from raftkv.kv.commands import (
    Expired,
    FenceMode,
    KeptAlive,
    LeaseGranted,
    LockKind,
    Place,
    Proclaimed,
    Rejected,
    Released,
    Revoked,
)
from raftkv.kv.line import Contender, LockState

from .lock_host import LockHost

MUTEX, READ_WRITE, SEMAPHORE, ELECTION = LockKind
NAMES = [b"a", b"a\0"]
KEYS = [b"k", b"\0\1a"]
ADMISSIONS = st.sampled_from(
    [(MUTEX, True, 0), (ELECTION, True, 0), (SEMAPHORE, False, 1), (SEMAPHORE, False, 2)] + [(READ_WRITE, True, 0)] * 3
)
VALUES = st.sampled_from([b"", b"1", b"2"])
SLOTS = st.integers(0, 6)


@dataclass
class Somebody:
    lease: int
    kind: int
    exclusive: bool
    limit: int
    value: bytes
    ticket: int
    token: int = 0


@dataclass
class Lock:
    line: list[Somebody] = field(default_factory=list)
    grants: list[tuple[int, int, bool]] = field(default_factory=list)
    """(token, kind, exclusive) of all grants ever."""

    @property
    def newest(self) -> int:
        return self.grants[-1][0] if self.grants else 0

    @property
    def floor(self) -> int:
        floor, before = 0, None
        for token, kind, exclusive in self.grants:
            if exclusive or before != (kind, False):
                floor = token
            before = (kind, exclusive)
        return floor


class Model:
    def __init__(self) -> None:
        self.now = 0
        self.revision = 1
        self.last_lease = 0
        self.last_token = 0
        self.leases: dict[int, tuple[int, int]] = {}
        """Deadline (when it is dead) and ttl."""
        self.keys: dict[bytes, int] = {}
        self.locks = {name: Lock() for name in NAMES}

    def alive(self, lease: int) -> bool:
        return lease in self.leases and self.now < self.leases[lease][0]

    def due(self) -> list[int]:
        return sorted((one for one in self.leases if not self.alive(one)), key=lambda one: (self.leases[one][0], one))

    def place(self, name: bytes, lease: int) -> Somebody | None:
        return next((one for one in self.locks[name].line if one.lease == lease), None)

    def serve(self, name: bytes) -> None:
        """Grant from the front, until somebody does not fit beside those who hold."""
        line = self.locks[name].line
        for one in line:
            if one.token:
                continue
            holders = [other for other in line if other.token]
            alone = not holders
            shares = not one.exclusive and not any(other.exclusive for other in holders)
            full = one.kind == SEMAPHORE and len(holders) >= one.limit
            if not self.alive(one.lease) or not (alone or (shares and not full)):
                return
            self.last_token += 1
            one.token = self.last_token
            self.locks[name].grants.append((one.token, one.kind, one.exclusive))

    def end(self, lease: int) -> int:
        gone = [key for key, owner in self.keys.items() if owner == lease]
        left = [name for name in NAMES if self.place(name, lease)]
        for key in gone:
            del self.keys[key]
        for name in sorted(left):
            self.leave(name, lease)
        self.revision += bool(gone or left)
        del self.leases[lease]
        return len(gone)

    def leave(self, name: bytes, lease: int) -> None:
        self.locks[name].line = [one for one in self.locks[name].line if one.lease != lease]
        self.serve(name)


class LocksAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.host = LockHost()
        self.model = Model()

    def pick(self, slot: int) -> int:
        """One of the leases, dead or alive, or one that does not exist."""
        leases = [*sorted(self.model.leases), 99]
        return leases[slot % len(leases)]

    @initialize()
    def begin_with_some(self) -> None:
        for ttl_ms in (500, 600, 5_000, 5_000, 5_000):
            self.grant(0, ttl_ms)

    def refused(self, result: object, code: ErrorCode) -> None:
        assert isinstance(result, Rejected), result
        assert result.code is code

    @rule(given=st.integers(0, 8), ttl_ms=st.sampled_from([500, 510, 2_000]))
    def grant(self, given: int, ttl_ms: int) -> None:
        model = self.model
        result = self.host.grant(given, ttl_ms)
        if model.alive(given):
            self.refused(result, ErrorCode.LEASE_EXISTS)
            return
        if given in model.leases:
            model.end(given)
        lease = given or model.last_lease + 1
        model.last_lease = max(model.last_lease, lease)
        model.leases[lease] = (model.now + ttl_ms + 1, ttl_ms)
        assert result == LeaseGranted(lease, ttl_ms)

    @rule(step_ms=st.sampled_from([1, 10, 250]), expire=st.booleans())
    def time_passes(self, step_ms: int, expire: bool) -> None:
        self.model.now = self.host.now = self.host.now + step_ms
        if expire:
            due = self.model.due()
            for lease in due:
                self.model.end(lease)
            assert self.host.expire() == Expired(len(due))

    @rule(slots=st.lists(SLOTS, min_size=1, max_size=4))
    def keep_alive(self, slots: list[int]) -> None:
        model = self.model
        leases = [self.pick(slot) for slot in slots]
        ttls_ms = tuple(model.leases[one][1] if model.alive(one) else 0 for one in leases)
        for one in leases:
            if model.alive(one):
                model.leases[one] = (model.now + model.leases[one][1] + 1, model.leases[one][1])
        assert self.host.keep_alive(*leases) == KeptAlive(ttls_ms)

    @rule(slot=SLOTS)
    def revoke(self, slot: int) -> None:
        lease = self.pick(slot)
        result = self.host.revoke(lease)
        if not self.model.alive(lease):
            self.refused(result, ErrorCode.LEASE_NOT_FOUND)
            return
        deleted = self.model.end(lease)
        assert result == Revoked(self.model.revision, deleted)

    @rule(key=st.sampled_from(KEYS), slot=SLOTS)
    def put(self, key: bytes, slot: int) -> None:
        lease = self.pick(slot)
        if not self.model.alive(lease):
            lease = 0
        self.host.put(key, lease)
        self.model.keys[key] = lease
        self.model.revision += 1

    @rule(
        name=st.sampled_from(NAMES),
        slots=st.lists(SLOTS, min_size=1, max_size=4, unique=True),
        admission=ADMISSIONS,
        readers=st.integers(0, 15),
        fitting=st.booleans(),
        wait=st.sampled_from([True, True, False]),
    )
    def crowd(
        self,
        *,
        name: bytes,
        slots: list[int],
        admission: tuple[int, bool, int],
        readers: int,
        fitting: bool,
        wait: bool,
    ) -> None:
        """Several ask for a lock, one after the other, mostly for the kind that it is of."""
        for position, slot in enumerate(slots):
            line = self.model.locks[name].line
            kind, exclusive, limit = (line[0].kind, line[0].exclusive, line[0].limit) if line and fitting else admission
            if kind == READ_WRITE:
                exclusive = not readers >> position & 1
            self.acquire(name, slot, (kind, exclusive, limit), b"%d" % position, wait)

    def acquire(self, name: bytes, slot: int, admission: tuple[int, bool, int], value: bytes, wait: bool) -> None:
        model = self.model
        lease = self.pick(slot)
        kind, exclusive, limit = admission
        result = self.host.acquire(name, lease, kind, exclusive=exclusive, limit=limit, value=value, wait=wait)
        if not model.alive(lease):
            self.refused(result, ErrorCode.LEASE_NOT_FOUND)
            return
        line = model.locks[name].line
        mine = model.place(name, lease)
        if line and (line[0].kind, line[0].limit) != (kind, limit):
            self.refused(result, ErrorCode.FAILED_PRECONDITION)
            return
        if mine is not None and mine.exclusive != exclusive:
            self.refused(result, ErrorCode.FAILED_PRECONDITION)
            return
        if mine is None:
            # Nobody but the newcomer may be granted by this, so a try that fails is taken back.
            mine = Somebody(lease, kind, exclusive, limit, value, model.revision + 1)
            line.append(mine)
            model.serve(name)
            if not mine.token and not wait:
                line.remove(mine)
            else:
                model.revision += 1
        if not mine.token and not wait:
            self.refused(result, ErrorCode.LOCK_BUSY)
            return
        assert result == Place(mine.token, mine.ticket, model.revision)

    @rule(name=st.sampled_from(NAMES), slot=SLOTS)
    def release(self, name: bytes, slot: int) -> None:
        model = self.model
        lease = self.pick(slot)
        held = model.alive(lease) and model.place(name, lease) is not None
        result = self.host.release(name, lease)
        if held:
            model.leave(name, lease)
            model.revision += 1
        assert result == Released(held, model.revision)

    @rule(name=st.sampled_from(NAMES), slot=SLOTS, back=st.integers(0, 1), value=VALUES)
    def proclaim(self, name: bytes, slot: int, back: int, value: bytes) -> None:
        model = self.model
        lease = self.pick(slot)
        mine = model.place(name, lease)
        token = max((mine.token if mine else 0) - back, 1)
        result = self.host.proclaim(name, lease, token, value)
        if not model.alive(lease):
            self.refused(result, ErrorCode.LEASE_NOT_FOUND)
        elif mine is None or mine.token != token:
            self.refused(result, ErrorCode.STALE_FENCE)
            assert isinstance(result, Rejected)
            assert result.number == model.locks[name].newest
        else:
            mine.value = value
            model.revision += 1
            assert result == Proclaimed(model.revision)

    @invariant()
    def fences(self) -> None:
        for name in NAMES:
            self.fence(name)

    def fence(self, name: bytes) -> None:
        model = self.model
        held = model.locks[name]
        for token in range(max(1, model.last_token - 8), model.last_token + 2):
            holds = any(one.token == token and model.alive(one.lease) for one in held.line)
            assert (self.host.check(name, token) is None) == holds
            seen = self.host.check(name, token, FenceMode.MAX_SEEN)
            if held.grants and held.grants[-1][1] == SEMAPHORE:
                self.refused(seen, ErrorCode.FAILED_PRECONDITION)
            else:
                assert (seen is None) == (bool(held.grants) and held.floor <= token <= held.newest)
                assert seen is None or seen.number == held.newest

    @rule()
    def reopen(self) -> None:
        self.host.reopen()

    @invariant()
    def the_same(self) -> None:
        model, host = self.model, self.host
        host.validate()
        assert (host.revision, host.counters.last_token) == (model.revision, model.last_token)
        assert host.counters.last_lease == model.last_lease
        assert {key for key in KEYS if host.has(key)} == set(model.keys)
        for name, held in model.locks.items():
            contenders = tuple(
                Contender(one.ticket, one.token, one.lease, one.kind, one.exclusive, one.limit, one.value)
                for one in held.line
            )
            assert host.query(name) == LockState(contenders, False, held.newest, held.floor)


TestLocksAgainstModel = LocksAgainstModel.TestCase
TestLocksAgainstModel.settings = settings(max_examples=100, stateful_step_count=50)
