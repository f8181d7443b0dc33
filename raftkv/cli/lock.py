"""`raftkv lock`: run a command while a lock is held."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from raftkv.cli.exits import Exit, fail
from raftkv.cli.hold import DEFAULT_TTL_S, Grace, Holding, NoWait, Wait, run_holding
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Format,
    OperationTimeout,
    Output,
    Ttl,
)
from raftkv.cli.output import json_bytes, print_json, print_json_line, print_line_now, print_table, printable
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient, AsyncHeld, AsyncLock, Contender, LockKind, LockState


def lock(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the lock: 1 to 200 bytes.", show_default=False)],
    *,
    ttl: Ttl = DEFAULT_TTL_S,
    wait: Wait = None,
    no_wait: NoWait = False,
    shared: Annotated[bool, typer.Option("--shared", help="Share a read-write lock with other readers.")] = False,
    exclusive: Annotated[bool, typer.Option("--exclusive", help="Have a read-write lock alone, as a writer.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", min=1, metavar="N", help="A semaphore, which N at a time may hold.", show_default=False
        ),
    ] = None,
    grace: Grace = None,
    show: Annotated[bool, typer.Option("--show", help="Only show who holds it, and who waits.")] = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: OperationTimeout = DEFAULT_TIMEOUT_S,
) -> int:
    """Run COMMAND while the lock NAME is held: raftkv lock jobs/reindex --wait 60 -- ./reindex --all

    First come, first served. COMMAND finds RAFTKV_FENCING_TOKEN, RAFTKV_LOCK, RAFTKV_LEASE and RAFTKV_ENDPOINTS in its
    environment, so that it can have its writes refused when it is late: raftkv put KEY VALUE --fence
    "$RAFTKV_LOCK:$RAFTKV_FENCING_TOKEN". Its exit code is passed on (128 plus the signal that ended it; 126 or 127
    when it cannot be run or is not there). SIGTERM, SIGINT and SIGHUP are forwarded to its process group.

    When the lock cannot be kept, COMMAND and all of its process group get SIGTERM, and SIGKILL --grace seconds later:
    before anybody else can have the lock, unless somebody has revoked the lease, or this process itself was stopped (by
    SIGSTOP, or with the machine): then only --fence helps. The exit code is then 4, as when the lock is not to be had
    in time.

    Without COMMAND the fencing token is printed, and the lock held until Ctrl-C or SIGTERM.

    All who use a lock at a time must agree on what it is: a mutex, a read-write lock (--shared, --exclusive) or a
    semaphore (--limit).
    """
    if shared + exclusive + (limit is not None) > 1:
        fail("--shared, --exclusive and --limit exclude each other", Exit.USAGE)
    name_bytes = os.fsencode(name)
    if show:
        if context.args:
            fail("--show runs no command", Exit.USAGE)
        _show(run_with_client(endpoints, timeout, lambda client: client.lock_state(name_bytes)), name_bytes, output)
        return Exit.OK

    def contend(client: AsyncClient) -> AsyncLock:
        if limit is not None:
            return client.semaphore(name_bytes, limit=limit, ttl=ttl)
        if shared or exclusive:
            both = client.rwlock(name_bytes, ttl=ttl)
            return both.reader() if shared else both.writer()
        return client.lock(name_bytes, ttl=ttl)

    def announce(held: AsyncHeld) -> None:
        if context.args:
            return
        if output is Output.JSON:
            print_json_line({"lock": json_bytes(name_bytes), "token": held.token, "lease": held.lease_id})
        else:
            print_line_now(str(held.token))

    holding = Holding(
        what=f"lock {printable(name_bytes)!r}",
        command=context.args,
        endpoints=endpoints,
        timeout=timeout,
        wait=wait,
        no_wait=no_wait,
        ttl=ttl,
        grace=grace,
    )
    return run_holding(holding, contend, announce)


def _show(state: LockState, name: bytes, output: Output) -> None:
    if output is Output.JSON:
        print_json(
            {
                "lock": json_bytes(name),
                "newest_token": state.newest_token or None,
                "contenders": [_described(one) for one in state.contenders],
                "more": state.more,
                "revision": state.revision,
            }
        )
    elif state.contenders:
        print_table(
            ("STATE", "TOKEN", "TICKET", "LEASE", "KIND", "VALUE"),
            (
                (
                    "holds" if one.token else "waits",
                    one.token or None,
                    one.ticket,
                    one.lease,
                    _kind(one),
                    printable(one.value) or None,
                )
                for one in state.contenders
            ),
            right=("TOKEN", "TICKET", "LEASE"),
            cut="VALUE",
        )


def _kind(one: Contender) -> str:
    match one.kind:
        case LockKind.READ_WRITE:
            return "exclusive" if one.exclusive else "shared"
        case LockKind.SEMAPHORE:
            return f"semaphore of {one.limit}"
        case _:
            return one.kind.name.lower()


def _described(one: Contender) -> dict[str, object]:
    return {
        "holds": bool(one.token),
        "token": one.token or None,
        "ticket": one.ticket,
        "lease": one.lease,
        "kind": one.kind.name.lower(),
        "exclusive": one.exclusive,
        "limit": one.limit or None,
        "value": json_bytes(one.value),
    }
