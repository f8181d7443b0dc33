"""`raftkv watch`: what changes, as it changes."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from raftkv.cli.child import Child, CommandError
from raftkv.cli.exits import Exit, complain, fail, say
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Format,
    Hex,
    Output,
    to_bytes,
)
from raftkv.cli.output import json_bytes, print_json_line, print_line_now, printable
from raftkv.cli.pairs import described
from raftkv.cli.session import run_with_client
from raftkv.cli.tls_flags import tls_environment
from raftkv.client import AsyncClient, Event, EventKind
from raftkv.errors import Compacted

GRACE_S: Final = 2.0
"""What a command is given to end when the watch is interrupted."""
MAX_ENVIRONMENT_BYTES: Final = 100_000
"""The kernel takes no variable of 128 KiB or more."""


def watch(
    context: typer.Context,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="This key alone.", show_default=False)] = None,
    *,
    prefix: Annotated[
        str | None, typer.Option(metavar="PREFIX", help='Keys that begin with this; "": all.', show_default=False)
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", metavar="START", help="Keys from this one on.", show_default=False)
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", metavar="END", help="With --from: keys before this one.", show_default=False)
    ] = None,
    revision: Annotated[int, typer.Option(min=0, help="Begin with this revision, past or to come; 0: now.")] = 0,
    previous: Annotated[bool, typer.Option("--previous", help="Show what was there before, too.")] = False,
    puts: Annotated[bool, typer.Option("--puts", help="Only puts.")] = False,
    deletes: Annotated[bool, typer.Option("--deletes", help="Only deletes.")] = False,
    count: Annotated[int, typer.Option(min=0, metavar="N", help="End after so many events; 0: never.")] = 0,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0.001, max=86_400, metavar="SECONDS", help="For its beginning.")
    ] = DEFAULT_TIMEOUT_S,
) -> int:
    """Show every change of a key, a prefix or a range, as it is committed: raftkv watch --prefix jobs/

    One event a line, at once: revision, kind, key and value; with -o json an object. No change is missed or shown
    twice, whatever becomes of leaders and nodes. Ends with Ctrl-C.

    With COMMAND, it is run for each event, one after the other, instead: raftkv watch config -- ./reload. It finds
    RAFTKV_WATCH_KIND (put or delete), RAFTKV_WATCH_KEY, RAFTKV_WATCH_VALUE and RAFTKV_WATCH_REVISION in its environment
    (not a value that is longer than 100,000 bytes, or has a byte 0), and the event as JSON on its standard input. When
    it fails, the watch ends with its exit code.
    """
    if sum(one is not None for one in (key, prefix, start)) != 1:
        fail("one of KEY, --prefix and --from says what to watch", Exit.USAGE)
    if end is not None and start is None:
        fail("--to goes with --from", Exit.USAGE)
    key_bytes, prefix_bytes, start_bytes, end_bytes = (
        None if text is None else to_bytes(text, hexadecimal=hexadecimal) for text in (key, prefix, start, end)
    )
    both = puts == deletes
    command = context.args

    async def follow(client: AsyncClient) -> int:
        shown = 0
        next_revision = revision
        try:
            async with client.watch(
                key_bytes,
                prefix=prefix_bytes,
                start=start_bytes,
                end=end_bytes,
                start_revision=revision,
                previous=previous,
                puts=puts or both,
                deletes=deletes or both,
            ) as events:
                async for event in events:
                    next_revision = event.revision
                    if command:
                        code = await _run(command, event, endpoints, previous=previous)
                        if code != 0:
                            say(f"{command[0]} ended with code {code}; to go on: --revision {event.revision}")
                            return code
                    elif output is Output.JSON:
                        print_json_line(_described(event, previous=previous))
                    else:
                        print_line_now(_line(event, previous=previous, hexadecimal=hexadecimal))
                    shown += 1
                    if shown == count:
                        break
        except Compacted as error:
            begins = error.compacted_revision
            message = (
                f"changes from revision {next_revision} on are compacted away: history begins at {begins}; "
                f"read the keys as they are now, and go on with --revision {begins}"
            )
            fail(Compacted(message, number=begins), Exit.ERROR)
        return Exit.OK

    return run_with_client(endpoints, timeout, follow)


def _line(event: Event, *, previous: bool, hexadecimal: bool) -> str:
    words = [str(event.revision), event.kind.value, printable(event.key, hexadecimal=hexadecimal)]
    if event.kind is EventKind.PUT:
        words.append(printable(event.value, hexadecimal=hexadecimal))
    if previous:
        before = event.previous
        words.append(f"(before: {printable(before.value, hexadecimal=hexadecimal) if before else 'nothing known'})")
    return " ".join(words)


def _described(event: Event, *, previous: bool) -> dict[str, object]:
    found: dict[str, object] = {
        "kind": event.kind.value,
        "revision": event.revision,
        "key": json_bytes(event.key),
    }
    if event.pair is not None:
        found |= {
            "value": json_bytes(event.value),
            "create_revision": event.pair.create_revision,
            "version": event.pair.version,
            "lease": event.pair.lease or None,
        }
    if previous:
        found["previous"] = described(event.previous) if event.previous else None
    return found


async def _run(command: Sequence[str], event: Event, endpoints: str, *, previous: bool) -> int:
    environment = {
        b"RAFTKV_WATCH_KIND": event.kind.value.encode(),
        b"RAFTKV_WATCH_REVISION": b"%d" % event.revision,
        b"RAFTKV_ENDPOINTS": os.fsencode(endpoints),
        **tls_environment(),
    }
    texts = {b"RAFTKV_WATCH_KEY": event.key, b"RAFTKV_WATCH_VALUE": event.value}
    environment |= {
        name: data for name, data in texts.items() if b"\0" not in data and len(data) <= MAX_ENVIRONMENT_BYTES
    }
    with tempfile.TemporaryFile() as stdin:  # not a pipe: nobody has to read it
        stdin.write(json.dumps(_described(event, previous=previous)).encode() + b"\n")
        stdin.seek(0)
        try:
            child = Child.start(command, environment, stdin=stdin.fileno())
        except CommandError as error:
            complain(error.message, "COMMAND")
            raise typer.Exit(error.code) from None
    try:
        await asyncio.shield(child.ended)
    finally:
        if not child.ended.done():
            await child.end(GRACE_S)
    return child.ended.result()
