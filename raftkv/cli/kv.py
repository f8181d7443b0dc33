"""`raftkv put`, `get`, `del`, `compact`: keys and values."""

from __future__ import annotations

from typing import Annotated

import typer

from raftkv.cli.exits import Exit, fail
from raftkv.cli.fences import fences_of
from raftkv.cli.levels import (
    LINEARIZABLE,
    FallbackOption,
    ReadOption,
    Verbose,
    WriteOption,
    concern_of,
    fallback_of,
    level_of,
)
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Fence,
    Format,
    Hex,
    Output,
    Revision,
    Timeout,
    read_stdin,
    to_bytes,
)
from raftkv.cli.output import json_bytes, print_bytes, print_json, print_line, printable
from raftkv.cli.pairs import described
from raftkv.cli.receipts import described_read, described_write, say_read, say_write, weaker
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient, DeleteResult, KeyValue, PutResult, WriteReceipt

Key = Annotated[str, typer.Argument(metavar="KEY", show_default=False)]
IfRevision = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="REVISION",
        help="Only if KEY was last written at this revision; else exit code 4.",
        show_default=False,
    ),
]
Previous = Annotated[bool, typer.Option("--previous", help="Show what was there before, too.")]


def put(
    key: Key,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="The value; - reads it from stdin.")],
    *,
    lease: Annotated[
        int | None, typer.Option(min=1, metavar="ID", help="The key goes with this lease.", show_default=False)
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Only if there is no such key; else exit code 4.")] = False,
    if_revision: IfRevision = None,
    fence: Fence = None,
    previous: Previous = False,
    write: WriteOption = None,
    verbose: Verbose = False,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Set KEY to VALUE. Returns once the write is committed, or as --write says.

    A VALUE that begins with a dash goes after two dashes: raftkv put -- KEY -5

    Only as long as a lock is held: raftkv put KEY VALUE --fence jobs/reindex:17
    """
    if create + previous + (if_revision is not None) > 1:
        fail("--create, --if-revision and --previous exclude each other", Exit.USAGE)
    key_bytes = to_bytes(key, hexadecimal=hexadecimal)
    fences, concern = fences_of(fence), concern_of(write)
    value_bytes = read_stdin() if value == "-" else to_bytes(value, hexadecimal=hexadecimal)

    async def perform(client: AsyncClient) -> PutResult:
        if create:
            return await client.create(key_bytes, value_bytes, lease=lease, fence=fences, concern=concern)
        if if_revision is not None:
            return await client.update(
                key_bytes, value_bytes, if_revision=if_revision, lease=lease, fence=fences, concern=concern
            )
        return await client.put(key_bytes, value_bytes, lease=lease, fence=fences, previous=previous, concern=concern)

    done = run_with_client(endpoints, timeout, perform, writes=True)
    if output is Output.JSON:
        before = {"previous": described(done.previous) if done.previous else None} if previous else {}
        receipt = {"receipt": described_write(done.receipt)}
        print_json({"key": json_bytes(key_bytes), "revision": done.revision or None, **before, **receipt})
    else:
        _print_write(f"revision {done.revision}", done.receipt, asked=write is not None)
        if done.previous is not None:
            _print_previous(done.previous, hexadecimal=hexadecimal)
    say_write(done.receipt, asked=write, verbose=verbose)


def get(
    key: Key,
    *,
    revision: Revision = 0,
    read: ReadOption = LINEARIZABLE,
    fallback: FallbackOption = None,
    verbose: Verbose = False,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Write the value of KEY to stdout, byte for byte. Exit code 3 when there is no such key.

    What the answer is worth goes to stderr, unless it is linearizable; -o json has all of it.
    """
    key_bytes = to_bytes(key, hexadecimal=hexadecimal)
    level = level_of(read)
    found = run_with_client(
        endpoints,
        timeout,
        lambda client: client.read(key_bytes, revision=revision, level=level, fallback=fallback_of(fallback)),
    )
    pair, receipt = found.pair, found.receipt
    if pair is None:
        fail(f"key {printable(key_bytes)!r} not found{weaker(receipt)}", Exit.NOT_FOUND)
    if output is Output.JSON:
        print_json(described(pair) | {"receipt": described_read(receipt)})
        return
    say_read(receipt, verbose=verbose)
    if hexadecimal:
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
    if_revision: IfRevision = None,
    fence: Fence = None,
    previous: Previous = False,
    write: WriteOption = None,
    verbose: Verbose = False,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Remove KEY. Exit code 3 when there was nothing to remove.

    Only if nobody has changed it meanwhile: raftkv del KEY --if-revision 42
    """
    key_bytes = to_bytes(key, hexadecimal=hexadecimal)
    fences, concern = fences_of(fence), concern_of(write)
    if prefix and not key_bytes and not force:
        fail("an empty prefix would remove every key; --force does it", Exit.USAGE)
    if prefix and if_revision is not None:
        fail("--if-revision is for one key, not for a --prefix", Exit.USAGE)

    async def remove(client: AsyncClient) -> DeleteResult:
        if prefix:
            return await client.delete_prefix(key_bytes, fence=fences, previous=previous, concern=concern)
        return await client.delete(key_bytes, if_revision=if_revision, fence=fences, previous=previous, concern=concern)

    done = run_with_client(endpoints, timeout, remove, writes=True)
    if output is Output.JSON:
        before = {"previous": [described(pair) for pair in done.previous]} if previous else {}
        receipt = {"receipt": described_write(done.receipt)}
        print_json({"deleted": done.deleted, "revision": done.revision or None, **before, **receipt})
    elif done.deleted != 0:
        number = f"{done.deleted} key{'s' if done.deleted != 1 else ''}"
        _print_write(f"deleted {number}, revision {done.revision}", done.receipt, asked=write is not None)
        for pair in done.previous:
            _print_previous(pair, hexadecimal=hexadecimal)
    say_write(done.receipt, asked=write, verbose=verbose)
    if done.deleted == 0:
        what = "no key begins with" if prefix else "no key"
        fail(f"{what} {printable(key_bytes)!r}", Exit.NOT_FOUND)


def compact(
    revision: Annotated[int, typer.Argument(metavar="REVISION", min=1, help="The first one that is kept.")],
    *,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """Give up the history before REVISION: earlier versions of keys can be read no more. Keys stay as they are.

    Nodes do this by themselves, too: raftkv serve --auto-compaction-mode. By hand: raftkv compact 1000
    """
    begins = run_with_client(endpoints, timeout, lambda client: client.compact(revision), writes=True)
    if output is Output.JSON:
        print_json({"compacted_revision": begins})
    else:
        print_line(f"history begins at revision {begins}")


def _print_write(done: str, receipt: WriteReceipt, *, asked: bool) -> None:
    """Write what a write did, if that is known yet, and how it was acknowledged where somebody asked or must know."""
    if not receipt.committed:
        print_line(f"{receipt.words}; token {receipt.token}")
    else:
        print_line(f"{done}, {receipt.words}" if asked else done)


def _print_previous(pair: KeyValue, *, hexadecimal: bool) -> None:
    key, value = (printable(data, hexadecimal=hexadecimal) for data in (pair.key, pair.value))
    print_line(f"previous {key} {value} (revision {pair.mod_revision})")
