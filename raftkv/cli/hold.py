"""Holding a lock for a command: nobody works on without the lock.

The command is told to stop (SIGTERM) `grace` seconds before the lock must be taken for lost, and killed when it is: it
has ended before the store can grant the lock to anybody else. That cannot be had where the store itself ends the lease
(somebody revoked it), nor when this machine sleeps or this process is stopped while the command is not: then it is told
as soon as we know, and its writes are to be fenced.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

import typer

from raftkv.cli.child import Child, CommandError
from raftkv.cli.exits import Exit, complain, fail, say
from raftkv.cli.output import printable
from raftkv.cli.session import catch_signals, run_with_client
from raftkv.cli.tls_flags import tls_environment
from raftkv.client import AsyncClient, AsyncHeld, AsyncLock
from raftkv.errors import DeadlineExceeded, FailedPrecondition

LOOK_S: Final = 1.0
"""How often what remains is looked at, at least: timers stand still while the machine sleeps."""
ASK_S: Final = 2.0

DEFAULT_TTL_S: Final = 10.0
GRACE_SHARE: Final = 0.25
MAX_GRACE_SHARE: Final = 0.5

Wait = Annotated[
    float | None,
    typer.Option(
        "--wait", metavar="SECONDS", help="Wait for it so long at most, then exit code 4.", show_default="for ever"
    ),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait at all: exit code 4 unless it is to be had now.")]
Grace = Annotated[
    float | None,
    typer.Option(
        "--grace",
        min=0,
        metavar="SECONDS",
        help="What COMMAND is given to end after SIGTERM, before SIGKILL; at most half of --ttl.",
        show_default="a quarter of --ttl",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """What a lock is held for."""

    what: str
    """What messages call it."""
    command: Sequence[str]
    """Empty: until somebody stops us."""
    endpoints: str
    timeout: float
    wait: float | None
    no_wait: bool
    ttl: float
    grace: float | None

    def check(self) -> None:
        """Raise typer.BadParameter for what does not go together."""
        if self.no_wait and self.wait is not None:
            raise typer.BadParameter("--wait and --no-wait exclude each other")
        if self.grace is not None and self.grace > self.ttl * MAX_GRACE_SHARE:
            raise typer.BadParameter(
                f"{self.grace:g} is more than half of --ttl ({self.ttl:g})", param_hint="'--grace'"
            )

    @property
    def grace_s(self) -> float:
        """Seconds from SIGTERM to SIGKILL."""
        return self.ttl * GRACE_SHARE if self.grace is None else self.grace


def run_holding(
    holding: Holding, contend: Callable[[AsyncClient], AsyncLock], announce: Callable[[AsyncHeld], None]
) -> int:
    """Hold what `contend` makes, say so by `announce`, run the command, release. Return the exit code."""
    holding.check()

    async def hold(client: AsyncClient) -> int:
        lock = contend(client)
        held = await _acquired(client, lock, holding)
        released = lost = False
        try:
            announce(held)
            if not holding.command:
                await held.lost.wait()
                held.check()
            code = await _run_command(held, holding)
        finally:
            lost = held.remaining() <= 0
            released = await lock.release()
        if not released and not lost:
            say(f"{holding.what} could not be released: it goes in {holding.ttl:g} s at most, with its lease")
        return code

    return run_with_client(holding.endpoints, holding.timeout, hold, writes=True)


async def _acquired(client: AsyncClient, lock: AsyncLock, holding: Holding) -> AsyncHeld:
    try:
        return await lock.acquire(timeout=holding.wait, wait=not holding.no_wait)
    except FailedPrecondition as error:
        # The others in line use it as another kind of lock: they were first.
        fail(error.message, Exit.CONFLICT)
    except DeadlineExceeded:
        if holding.wait is None:
            raise
        # Somebody has it, or nobody can be asked? The latter raises here.
        state = await client.lock_state(lock.name, limit=1, timeout=min(holding.timeout, ASK_S))
        holders = [one.token for one in state.contenders if one.token]
        whose = f" (token {holders[0]} holds it)" if holders else ""
        fail(f"{holding.what} was not to be had within {holding.wait:g} s{whose}", Exit.CONFLICT)


async def _run_command(held: AsyncHeld, holding: Holding) -> int:
    try:
        child = Child.start(holding.command, _environment(held, holding))
    except CommandError as error:
        complain(error.message, "COMMAND")
        return error.code
    catch_signals(child.signal)
    try:
        if await _ended_in_time(held, child, holding.grace_s):
            return await child.ended
        token = held.grant.token
        why = held.grant.lost().message if held.remaining() <= 0 else "it could not be renewed and is about to be lost"
        ended = printable(os.fsencode(holding.command[0]))
        complain(f"{holding.what} (token {token}) is lost: {why}; {ended} is ended", "LOCK_LOST")
        await child.end(holding.grace_s)
        return Exit.CONFLICT
    finally:
        if not child.ended.done():
            await child.end(0)


async def _ended_in_time(held: AsyncHeld, child: Child, grace_s: float) -> bool:
    """Wait for the end of the command, or until there is only so much time left to end it. Return whether it ended."""
    lost = asyncio.create_task(held.lost.wait())
    try:
        while not child.ended.done():
            spare_s = held.remaining() - grace_s
            if spare_s <= 0:
                return False
            waited_for: set[asyncio.Task[int] | asyncio.Task[bool]] = {child.ended, lost}
            await asyncio.wait(waited_for, timeout=min(spare_s, LOOK_S), return_when=asyncio.FIRST_COMPLETED)
        return held.remaining() > 0
    finally:
        lost.cancel()


def _environment(held: AsyncHeld, holding: Holding) -> dict[bytes, bytes]:
    return {
        b"RAFTKV_FENCING_TOKEN": b"%d" % held.token,
        b"RAFTKV_LOCK": held.name,
        b"RAFTKV_LEASE": b"%d" % held.lease_id,
        b"RAFTKV_ENDPOINTS": os.fsencode(holding.endpoints),
        **tls_environment(),
    }
