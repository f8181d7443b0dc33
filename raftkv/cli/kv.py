"""`raftkv put`, `get`, `del`, `ls`: keys and values."""

from __future__ import annotations

from typing import Annotated

import typer

from raftkv.cli.exits import Exit, fail, say
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Format,
    Hex,
    Output,
    Read,
    ReadOption,
    Timeout,
    level_of,
    read_stdin,
    to_bytes,
)
from raftkv.cli.output import json_bytes, print_bytes, print_json, print_line, print_table, printable
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient, KeyValue

Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False)]
Revision = Annotated[int, typer.Option(min=0, help="As of this revision of the store; 0: now.")]


def put(
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The value; - reads it from stdin.")],
    *,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Set KEY to VALUE. Returns once the write is committed.

    A VALUE that begins with a dash goes after two dashes: raftkv put -- KEY -5
    """
    key_bytes = to_bytes(key, hexadecimal=hexadecimal)
    value_bytes = read_stdin() if value == "-" else to_bytes(value, hexadecimal=hexadecimal)
    done = run_with_client(endpoints, timeout, lambda client: client.put(key_bytes, value_bytes), writes=True)
    if output is Output.JSON:
        print_json({"key": json_bytes(key_bytes), "revision": done.revision})
    else:
        print_line(f"revision {done.revision}")


def get(
    key: Key,
    *,
    revision: Revision = 0,
    read: ReadOption = Read.LINEARIZABLE,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Write the value of KEY to stdout, byte for byte. Exit code 3 when there is no such key."""
    key_bytes = to_bytes(key, hexadecimal=hexadecimal)
    pair = run_with_client(
        endpoints, timeout, lambda client: client.get(key_bytes, revision=revision, level=level_of(read))
    )
    if pair is None:
        fail(f"key {printable(key_bytes)!r} not found", Exit.NOT_FOUND)
    if output is Output.JSON:
        print_json(_described(pair, with_value=True))
    elif hexadecimal:
        print_line(pair.value.hex())
    else:
        print_bytes(pair.value)


def delete(
    key: Key,
    *,
    prefix: Annotated[bool, typer.Option("--prefix", help="Remove all keys that begin with KEY, at one revision.")] = (
        False
    ),
    force: Annotated[bool, typer.Option("--force", help='Let --prefix "" remove every key of the store.')] = False,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Remove KEY. Exit code 3 when there was nothing to remove."""
    key_bytes = to_bytes(key, hexadecimal=hexadecimal)
    if prefix and not key_bytes and not force:
        fail("an empty prefix would remove every key; --force does it", Exit.USAGE)
    done = run_with_client(
        endpoints,
        timeout,
        lambda client: client.delete_prefix(key_bytes) if prefix else client.delete(key_bytes),
        writes=True,
    )
    if output is Output.JSON:
        print_json({"deleted": done.deleted, "revision": done.revision})
    elif done.deleted:
        print_line(f"deleted {done.deleted} key{'s' if done.deleted > 1 else ''}, revision {done.revision}")
    if not done.deleted:
        what = "no key begins with" if prefix else "no key"
        fail(f"{what} {printable(key_bytes)!r}", Exit.NOT_FOUND)


def ls(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Keys that begin with this; without it, all.")] = "",
    *,
    keys_only: Annotated[bool, typer.Option("--keys-only/--values", help="Keys alone, one a line, or a table.")] = True,
    limit: Annotated[int, typer.Option(min=0, help="At most so many keys; 0: all.")] = 0,
    count: Annotated[bool, typer.Option("--count", help="Only how many keys there are.")] = False,
    revision: Revision = 0,
    read: ReadOption = Read.LINEARIZABLE,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """List the keys that begin with PREFIX, in order, as they are at one revision."""
    prefix_bytes = to_bytes(prefix, hexadecimal=hexadecimal)
    level = level_of(read)
    if count:
        found = run_with_client(
            endpoints, timeout, lambda client: client.count(prefix_bytes, revision=revision, level=level)
        )
        if output is Output.JSON:
            print_json({"count": found})
        else:
            print_line(str(found))
        return

    async def scan(client: AsyncClient) -> tuple[list[KeyValue], bool]:
        pairs: list[KeyValue] = []
        page = min(limit + 1, 1000) if limit else 1000
        async for pair in client.scan(prefix_bytes, page=page, revision=revision, keys_only=keys_only, level=level):
            if limit and len(pairs) == limit:
                return pairs, True
            pairs.append(pair)
        return pairs, False

    pairs, more = run_with_client(endpoints, timeout, scan)
    if output is Output.JSON:
        print_json([_described(pair, with_value=not keys_only) for pair in pairs])
    elif keys_only:
        for pair in pairs:
            print_line(printable(pair.key, hexadecimal=hexadecimal))
    elif pairs:
        print_table(
            ("KEY", "REVISION", "VERSION", "VALUE"),
            (
                (
                    printable(pair.key, hexadecimal=hexadecimal),
                    pair.mod_revision,
                    pair.version,
                    printable(pair.value, hexadecimal=hexadecimal),
                )
                for pair in pairs
            ),
            right=("REVISION", "VERSION"),
            cut="VALUE",
        )
    if more:
        say(f"there are more keys than --limit {limit}")


def _described(pair: KeyValue, *, with_value: bool) -> dict[str, object]:
    described: dict[str, object] = {"key": json_bytes(pair.key)}
    if with_value:
        described["value"] = json_bytes(pair.value)
    return described | {
        "create_revision": pair.create_revision,
        "mod_revision": pair.mod_revision,
        "version": pair.version,
        "guarantee": pair.guarantee.name.lower(),
    }
