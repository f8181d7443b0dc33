"""The rounds, in order; however they end, what was done to the cluster is put right."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from raftkv.client import Alarm, AsyncClient, EndpointFailure, MemberKind, Role, Status
from raftkv.drill.faults import Fault, Refused, Transfer, Way
from raftkv.drill.ledger import audited, sweep
from raftkv.drill.load import Load
from raftkv.drill.lookout import Lookout
from raftkv.drill.measure.fitness import Follower, Picture, Voter, absences, objections
from raftkv.drill.measure.record import Fault as Struck
from raftkv.drill.measure.record import How, Outcome, Record
from raftkv.drill.measure.rounds import last_sign_of_life, measured
from raftkv.drill.measure.verdict import Audit, Result, judged
from raftkv.errors import ConnectionFailed, NoLeader, RaftKVError

POLL_S: Final = 0.02
STEADY_WRITES: Final = 50
"""Acknowledged before and after each round, so that there is something to lose and something to see."""
HOLD_S: Final = 1.0
"""How long a node stays paused after another one has taken over: it must come back to a world that went on."""
ASK_S: Final = 2.0
LOOK_S = 2.0
"""How long it is asked again before a cluster is found unfit: a busy node may let a first connection time out."""
SETTLE_S: Final = 10.0
"""How long a cluster may take to be fit for the next round."""
SWEEP_S: Final = 10.0

Connect = Callable[[], AsyncClient]
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done."""

    how: How
    times: int
    writers: int = 4
    rate: float = 200.0
    """Writes a second, of all writers together."""
    patience_s: float = 60.0
    """For each thing that has to come about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A cluster as its nodes describe it."""

    picture: Picture
    endpoints: dict[int, str]
    """Of the members that answered, by id."""
    term: int


async def look(client: AsyncClient) -> Seen:
    """Ask every node. Raises ConnectionFailed when none answers."""
    answers = await client.statuses(timeout=ASK_S)
    statuses = [one for one in answers if isinstance(one, Status)]
    failures = {one.endpoint: one.error for one in answers if isinstance(one, EndpointFailure)}
    if not statuses:
        raise ConnectionFailed("no endpoint answers: " + "; ".join(one.message for one in failures.values()))
    leaders = [one for one in statuses if one.role is Role.LEADER]
    leader = max(leaders, key=lambda one: one.term, default=None)
    chief = leader or max(statuses, key=lambda one: one.term)
    known = {one.member_id: one for one in statuses if one.cluster_id == chief.cluster_id}
    voters = [
        Voter(
            id=member.id,
            witness=member.kind is MemberKind.WITNESS,
            unreachable="" if member.id in known else _why(member.client_address, failures),
        )
        for member in chief.members
        if member.kind in (MemberKind.VOTER, MemberKind.WITNESS)
    ]
    picture = Picture(
        leader=chief.member_id if leader is not None else 0,
        last_index=chief.last_index,
        voters=voters,
        followers={
            one.id: Follower(match=one.match_index, active=one.recently_active, in_step=one.state == "replicate")
            for one in chief.progress
        },
        alarms=[
            f"node {one.member_id} raises {raised.alarm.name if raised.alarm else Alarm.UNSPECIFIED.name}"
            for one in known.values()
            for raised in one.alarms
        ],
        changing=any(member.leaving for member in chief.members),
        strangers=[
            f"{one.endpoint} is a node of another cluster" for one in statuses if one.cluster_id != chief.cluster_id
        ],
    )
    return Seen(picture=picture, endpoints={one.member_id: one.endpoint for one in known.values()}, term=chief.term)


def _why(address: str, failures: Mapping[str, RaftKVError]) -> str:
    if not address:
        return "no node that answered knows where clients reach it"
    error = failures.get(address.lower())
    return error.message if error is not None else f"{address} was not asked, or is another node"


def require_fit(seen: Seen) -> None:
    """Raise NoLeader or ConnectionFailed when something is not there, Refused for what else forbids a round."""
    missing = absences(seen.picture)
    if missing:
        error = ConnectionFailed if seen.picture.leader else NoLeader
        raise error(f"not fit for a drill: {'; '.join(missing)}")
    found = objections(seen.picture)
    if found:
        raise Refused(f"not fit for a drill: {'; '.join(found)}")


async def fit(client: AsyncClient, patience_s: float) -> Seen:
    """Wait until the cluster can be drilled. Raises what forbids it, after `patience_s`."""
    loop = asyncio.get_running_loop()
    last = loop.time() + patience_s
    while True:
        seen = await look(client)
        try:
            require_fit(seen)
        except RaftKVError:
            if loop.time() >= last:
                raise
            await asyncio.sleep(POLL_S)
        else:
            return seen


async def aim(client: AsyncClient, how: How, seen: Seen, way: Way | None) -> Fault:
    """Prepare a round's fault. Raises NotOurs. `way` is not needed for a transfer."""
    leader = seen.picture.leader
    if how is How.TRANSFER or way is None:
        return Transfer(client, leader)
    return await way.aim(how, leader, seen.endpoints[leader])


class Drill:
    """One run of `raftkv drill`."""

    def __init__(self, plan: Plan, connect: Connect, way: Way | None, run: str, say: Say) -> None:
        """`connect` makes clients of the cluster. `run` names this run: its keys are below raftkv-drill/<run>/."""
        self._plan = plan
        self._connect = connect
        self._way = way
        self._run = run
        self._say = say
        self._began = time.monotonic()
        self.record = Record()
        self._load: Load | None = None

    async def play(self, unwinding: Callable[[], None] = lambda: None) -> Result:
        """Play all rounds, read back, sweep up. Raises RaftKVError only while nothing has been done yet.

        `unwinding` is called when it is cancelled, before what takes time then: putting right and sweeping up.
        """
        plan = self._plan
        troubles: list[str] = []
        audit: Audit | None = None
        async with AsyncExitStack() as clients:
            asking, looking, reading = [await clients.enter_async_context(self._connect()) for _ in range(3)]
            writing = [await clients.enter_async_context(self._connect()) for _ in range(plan.writers)]
            seen = await fit(asking, LOOK_S)
            try:
                async with (
                    Lookout(looking, seen.endpoints, self.record, self._clock),
                    Load(self._run, self.record, self._clock, writing, reading, rate=plan.rate) as self._load,
                ):
                    await self._rounds(asking, troubles, unwinding)
                self._say("reading back what was acknowledged")
                audit = await self._audited(reading, troubles)
            except asyncio.CancelledError:
                unwinding()
                raise
            finally:
                if self._load is not None:
                    await self._load.end()  # before the sweep: nothing is to be written behind it
                await self._sweep(asking)
        return judged(self.record, plan.how, plan.times, audit, troubles)

    async def _rounds(self, client: AsyncClient, troubles: list[str], unwinding: Callable[[], None]) -> None:
        plan = self._plan
        for number in range(1, plan.times + 1):
            try:
                await self._more_writes(STEADY_WRITES)
                seen = await fit(client, LOOK_S if number == 1 else SETTLE_S)
                fault = await aim(client, plan.how, seen, self._way)
                self._say(f"round {number} of {plan.times}: {fault.text}")
                await self._round(number, seen, fault, unwinding)
                await self._more_writes(STEADY_WRITES)
            except TimeoutError as error:
                troubles.append(f"round {number}: not after {plan.patience_s:g} s: {error}")
                return
            except RaftKVError as error:
                troubles.append(f"round {number}: {error.message}")
                return

    async def _round(self, number: int, seen: Seen, fault: Fault, unwinding: Callable[[], None]) -> None:
        struck = Struck(round=number, how=self._plan.how, node=seen.picture.leader, term=seen.term, at=self._clock())
        self.record.faults.append(struck)
        try:
            await fault.begin()
            if struck.how is How.TRANSFER:
                struck.undone = self._clock()
            else:
                struck.at = last_sign_of_life(self.record, struck)
            await self._until("another leader", lambda: measured(self.record, struck).election_s is not None)
            await self._until("a write that it took", lambda: measured(self.record, struck).first_write_s is not None)
            if struck.how is How.PAUSE:
                await asyncio.sleep(HOLD_S)  # what is measured is a node that was away, and finds itself deposed
        except asyncio.CancelledError:
            unwinding()
            raise
        finally:
            if struck.how is not How.TRANSFER:
                struck.undone = self._clock()
            await fault.end()
        await self._until(
            f"node {struck.node} as a member that has caught up",
            lambda: measured(self.record, struck).mttr_s is not None,
        )
        now = measured(self.record, struck)
        self._say(f"node {now.new_leader} leads; node {now.old_leader} has caught up")

    async def _more_writes(self, number: int) -> None:
        writes = self.record.writes
        begun = len(writes)
        await self._until(
            f"{number} acknowledged writes",
            lambda: sum(1 for one in writes[begun:] if one.outcome is Outcome.OK) >= number,
        )

    async def _until(self, what: str, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(self._plan.patience_s):
                while not holds():
                    if self._load is not None:
                        self._load.raise_errors()
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise TimeoutError(what) from None

    async def _audited(self, client: AsyncClient, troubles: list[str]) -> Audit | None:
        try:
            return await audited(client, self._run, self.record.writes)
        except RaftKVError as error:
            troubles.append(f"reading back: {error.message}")
            return None

    async def _sweep(self, client: AsyncClient) -> None:
        """Delete the drill's keys; if that is not possible, say how it is done by hand."""
        try:
            async with asyncio.timeout(SWEEP_S):
                await sweep(client, self._run)
        except (RaftKVError, TimeoutError) as error:
            why = error.message if isinstance(error, RaftKVError) else f"not done after {SWEEP_S:g} s"
            self._say(f"the keys of this drill are still there ({why}): raftkv del raftkv-drill/{self._run}/ --prefix")

    def _clock(self) -> float:
        return time.monotonic() - self._began
