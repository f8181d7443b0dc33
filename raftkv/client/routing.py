"""Where to send the next operation: the state of every endpoint, and who leads. Pure: time and chance are injected.

    IDLE ---opening--> CONNECTING ---ready--> READY
      ^                    |                    |
      +---- `breaker` -----+------ failed ------+        (DOWN until it allows a try)

Operations go to READY endpoints only: nodes that have themselves answered since the stream was opened. So an operation
that was never sent provably had no effect, and an endpoint that is dead or hangs is tried again without risking one.

All configured endpoints are kept open. The others are what a failover goes to without connecting first, and their
answers tell which node each one is: a leader named by id is reached through the endpoint that the user configured
(a proxy, a NAT'd address), and by the address it announces only when no configured endpoint can be it. The other
members are connected to only when the endpoints at hand cannot serve: those may have left the cluster, one and all.

Writes, and reads that the leader answers, go where `choose` says. What a node answers from its own state goes where
`choose_reader` says: it may be any node but a witness, and the breaker of one that is reachable, but came to no answer
to such reads lately, keeps them away from it. One that says that it cannot answer (it is far behind) is in health.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import Final

from raftkv.client.breaker import Breaker, BreakerState
from raftkv.client.nearness import Nearness
from raftkv.client.urls import parse_endpoint
from raftkv.errors import ConfigurationError


class Health(Enum):
    """What is known of an endpoint."""

    IDLE = auto()
    CONNECTING = auto()
    READY = auto()
    DOWN = auto()


@dataclass(slots=True)
class Endpoint:
    """One address and what is known of it."""

    address: str
    configured: bool
    """The user named it. Otherwise the leader announced it."""
    health: Health = Health.IDLE
    member_id: int = 0
    """Which node answers there; 0 until it has said so. Kept while the endpoint is down."""
    breaker: Breaker = field(default_factory=Breaker)
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class EndpointState:
    """What a client knows of an endpoint."""

    endpoint: str
    member_id: int
    """Which node answers there; 0: it has not said so yet."""
    breaker: BreakerState
    connected: bool
    """A stream to it is open, and it has answered on it."""
    leads: bool
    """The client believes that this is the leader."""
    failures: int
    """In a row."""
    retry_in: float
    """Seconds until an open breaker lets a try through."""
    latency: float | None
    """Seconds from a question to its answer; None: not measured, as only clients with ReadFrom.NEAREST do it."""
    last_error: str
    """What the last failure was; empty: there was none."""


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, as far as this client knows."""

    term: int
    id: int
    address: str


NO_LEADER: Final = Leader(0, 0, "")


class Router:
    """Endpoint states and the leader cache."""

    __slots__ = (
        "_dial_learned",
        "_endpoints",
        "_members",
        "_nearness",
        "_random",
        "_searching",
        "_turn",
        "_witnesses",
        "leader",
    )

    def __init__(self, addresses: Sequence[str], random: Random, *, dial_learned: bool = True) -> None:
        """`dial_learned` False: only configured endpoints are ever connected to."""
        self.leader = NO_LEADER
        self._random = random
        self._dial_learned = dial_learned
        self._endpoints = {address: Endpoint(address, configured=True) for address in addresses}
        self._members: dict[int, str] = {}
        """Where the members are that some node has named, by id."""
        self._witnesses: frozenset[int] = frozenset()
        """Which of them answer no reads."""
        self._nearness = Nearness()
        self._searching = False
        """No leader was found among the endpoints at hand."""
        self._turn = 0

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """All endpoints, configured ones first."""
        return tuple(self._endpoints.values())

    def health(self, address: str) -> Health:
        """Return the health of an endpoint, DOWN if there is none of that address."""
        endpoint = self._endpoints.get(address)
        return Health.DOWN if endpoint is None else endpoint.health

    def any_ready(self) -> bool:
        """Whether some endpoint takes operations."""
        return any(endpoint.health is Health.READY for endpoint in self._endpoints.values())

    def all_ready(self) -> bool:
        """Whether no endpoint needs to be opened or waited for."""
        return all(endpoint.health is Health.READY for endpoint in self._endpoints.values())

    def to_open(self, now: float) -> tuple[str, ...]:
        """Return the endpoints to connect to at `now`. Answer with `opening` for each."""
        self._learn_address()
        if self._searching or not self.any_ready():
            at_hand = {endpoint.member_id for endpoint in self._endpoints.values()}
            for member, address in self._members.items():
                if member not in at_hand and address not in self._endpoints:
                    self._endpoints[address] = Endpoint(address, configured=False)
        return tuple(
            endpoint.address
            for endpoint in self._endpoints.values()
            if endpoint.health is Health.IDLE or (endpoint.health is Health.DOWN and endpoint.breaker.allows(now))
        )

    def opening(self, address: str, now: float) -> None:
        """A stream to it is being opened."""
        endpoint = self._endpoints[address]
        endpoint.health = Health.CONNECTING
        endpoint.breaker.trying(now, self._random)

    def ready(self, address: str, member_id: int) -> None:
        """The node at the other end has answered; `member_id` 0: it did not say who it is."""
        endpoint = self._endpoints[address]
        endpoint.health = Health.READY
        endpoint.breaker.succeeded()
        endpoint.member_id = member_id

    def failed(self, address: str, now: float, error: str) -> None:
        """The stream broke, could not be opened, or was given up. A learned endpoint that fails is forgotten."""
        endpoint = self._endpoints[address]
        endpoint.last_error = error
        self._nearness.forget(address)
        if not endpoint.configured and self.leader.address != address and not self._is_member(address):
            # It comes back when a leader announces it again. That of the leader believed in stays, with its back-off:
            # every answer names it, and forgetting it would dial it anew each time.
            del self._endpoints[address]
            return
        endpoint.health = Health.DOWN
        endpoint.breaker.broke(now, self._random)

    def explained(self, address: str, error: str) -> None:
        """What makes an endpoint unreachable is known better by now."""
        endpoint = self._endpoints.get(address)
        if endpoint is not None and endpoint.health is not Health.READY:
            endpoint.last_error = error

    def heard_leader(self, leader: Leader) -> bool:
        """Take a node's word on who leads; return True when that changes what this client believes.

        A node that was cut off names an old one: while a leader is believed in, lower terms are not listened to.
        """
        if leader.id == 0 or leader.term < self.leader.term or leader == self.leader:
            return False
        self.leader = leader
        return True

    def heard_members(self, addresses: Mapping[int, str], witnesses: frozenset[int] = frozenset()) -> None:
        """A node has named the members of the cluster, as far as it knows where they are."""
        self._witnesses = witnesses
        if self._dial_learned and addresses:
            parsed = {member: _parsed(address) for member, address in addresses.items()}
            self._members = {member: address for member, address in parsed.items() if address is not None}

    def found_no_leader(self) -> None:
        """All endpoints at hand have refused an operation for want of a leader: look further."""
        self._searching = True

    def found_leader(self) -> None:
        """A leader has answered."""
        self._searching = False

    def _is_member(self, address: str) -> bool:
        return address in self._members.values()

    def not_leader(self, address: str) -> None:
        """The node there does not lead: stop believing so."""
        found = self._leader_endpoint()
        if found is not None and found.address == address:
            self.leader = NO_LEADER

    def choose(self, avoid: Collection[str] = ()) -> str | None:
        """Return where to send the next operation: the leader, else any READY endpoint; None: there is none.

        Endpoints in `avoid` are left out. Without a leader the choice is the same until something changes, so that
        calls keep together in messages; `turn` moves it on.
        """
        leader = self._leader_endpoint()
        if leader is not None and leader.health is Health.READY and leader.address not in avoid:
            return leader.address
        ready = [
            address
            for address, endpoint in self._endpoints.items()
            if endpoint.health is Health.READY and address not in avoid
        ]
        return ready[self._turn % len(ready)] if ready else None

    def choose_reader(self, avoid: Collection[str], now: float, *, nearest: bool) -> str | None:
        """Return where to send a read that its node answers from its own state; None: there is nobody but `avoid`.

        `nearest`: the endpoint that answers soonest, else the leader, as for everything. Endpoints whose breakers are
        not closed are taken when they are due for a try, or when there are no others.
        """
        able = self._readers(avoid)
        if not able:
            return None
        for endpoint in able:
            if endpoint.breaker.state is not BreakerState.CLOSED and endpoint.breaker.allows(now):
                endpoint.breaker.trying(now, self._random)
                return endpoint.address
        trusted = [endpoint.address for endpoint in able if endpoint.breaker.state is BreakerState.CLOSED]
        addresses = trusted or [endpoint.address for endpoint in able]
        if nearest:
            return self._nearness.nearest(addresses)
        leader = self._leader_endpoint()
        if leader is not None and leader.address in addresses:
            return leader.address
        return addresses[self._turn % len(addresses)]

    def trusts_readers(self) -> bool:
        """Whether every breaker is closed: no endpoint waits for a try, and what `choose_reader` says holds until
        something is heard or measured.
        """
        return all(endpoint.breaker.state is BreakerState.CLOSED for endpoint in self._readers(()))

    def has_reader(self, avoid: Collection[str]) -> bool:
        """Whether `choose_reader` would find one."""
        return bool(self._readers(avoid))

    def _readers(self, avoid: Collection[str]) -> list[Endpoint]:
        return [
            endpoint
            for address, endpoint in self._endpoints.items()
            if endpoint.health is Health.READY and address not in avoid and endpoint.member_id not in self._witnesses
        ]

    def measured(self, address: str, seconds: float) -> None:
        """An endpoint took so long from a question to its answer."""
        self._nearness.measured(address, seconds)

    def read_answered(self, address: str) -> None:
        """A node has answered from its own state."""
        endpoint = self._endpoints.get(address)
        if endpoint is not None and endpoint.health is Health.READY:
            endpoint.breaker.succeeded()

    def read_failed(self, address: str, now: float, error: str) -> None:
        """A node that is reachable came to no answer from its own state in time. A refusal is an answer."""
        endpoint = self._endpoints.get(address)
        if endpoint is not None and endpoint.health is Health.READY:
            endpoint.last_error = error
            endpoint.breaker.failed(now, self._random)

    def unknown_members(self, members: Collection[int], answered: Collection[str] = ()) -> frozenset[int]:
        """Return which of `members` are at none of the known addresses.

        `answered`: endpoints of which it is known otherwise who is there. None is sure to be unknown while nobody can
        tell who is at some endpoint.
        """
        if any(not one.member_id and one.address not in answered for one in self._endpoints.values()):
            return frozenset()
        at_hand = {endpoint.member_id for endpoint in self._endpoints.values()}
        return frozenset(members) - at_hand - self._members.keys()

    def known_addresses(self) -> tuple[str, ...]:
        """Return every address at which a member may be reached, each member once."""
        at_hand = {endpoint.member_id for endpoint in self._endpoints.values()}
        others = (address for member, address in self._members.items() if member not in at_hand)
        return tuple(dict.fromkeys((*self._endpoints, *others)))

    def states(self, now: float) -> tuple[EndpointState, ...]:
        """Return what is known of every endpoint, configured ones first."""
        leader = self._leader_endpoint()
        return tuple(
            EndpointState(
                address,
                endpoint.member_id,
                endpoint.breaker.state,
                endpoint.health is Health.READY,
                endpoint is leader,
                endpoint.breaker.failures,
                max(0.0, endpoint.breaker.retry_at - now) if endpoint.breaker.state is BreakerState.OPEN else 0.0,
                self._nearness.latency_s(address),
                endpoint.last_error,
            )
            for address, endpoint in self._endpoints.items()
        )

    def turn(self) -> None:
        """Let the next choice without a leader begin at another endpoint."""
        self._turn += 1

    def why_unreachable(self) -> str:
        """Say of each endpoint why it takes no operations; once for all of which the same is to be said."""
        found: dict[str, list[str]] = {}
        for endpoint in self._endpoints.values():
            if endpoint.health is not Health.READY:
                reason = endpoint.last_error.removeprefix(f"{endpoint.address}: ") or "no answer yet"
                found.setdefault(reason, []).append(endpoint.address)
        return "; ".join(f"{', '.join(addresses)}: {reason}" for reason, addresses in found.items())

    def _leader_endpoint(self) -> Endpoint | None:
        leader = self.leader
        if leader.id == 0:
            return None
        for endpoint in self._endpoints.values():
            if endpoint.member_id == leader.id:
                return endpoint
        by_address = self._endpoints.get(leader.address)
        return by_address if by_address is not None and by_address.member_id == 0 else None

    def _learn_address(self) -> None:
        """Add the leader's own address, once it is sure that no configured endpoint is that leader."""
        leader = self.leader
        if not (self._dial_learned and leader.id and leader.address) or leader.address in self._endpoints:
            return
        for endpoint in self._endpoints.values():
            unknown = endpoint.member_id == 0 and endpoint.health in (Health.IDLE, Health.CONNECTING)
            if endpoint.member_id == leader.id or unknown:
                return
        address = _parsed(leader.address)
        if address is not None:
            self._endpoints.setdefault(address, Endpoint(address, configured=False))


def _parsed(address: str) -> str | None:
    """Return an address that a node announces; None for nonsense: its administrator's mistake, not the caller's."""
    try:
        return parse_endpoint(address)
    except ConfigurationError:
        return None
