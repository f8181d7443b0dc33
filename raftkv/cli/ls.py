"""`raftkv ls`: which keys there are."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import typer

from raftkv.cli.exits import Exit, fail, say
from raftkv.cli.levels import LINEARIZABLE, FallbackOption, ReadOption, Verbose, fallback_of, level_of
from raftkv.cli.options import (
    DEFAULT_ENDPOINTS,
    DEFAULT_TIMEOUT_S,
    Endpoints,
    Format,
    Hex,
    Output,
    Revision,
    Timeout,
    to_bytes,
)
from raftkv.cli.output import print_json, print_line, printable
from raftkv.cli.pairs import described, print_pairs
from raftkv.cli.receipts import described_read, say_read
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient, KeyValue, Order, ReadReceipt
from raftkv.client.spans import Pages

PAGE: Final = 1000
SORTED_PAGE: Final = 2000
"""The largest there is: in another order than that of the keys, each page costs a read of the whole range."""


class OrderBy(StrEnum):
    """What keys are sorted by."""

    KEY = "key"
    VERSION = "version"
    CREATE = "create"
    MODIFIED = "modified"
    VALUE = "value"


_ORDERS: Final = {
    OrderBy.KEY: Order.KEY,
    OrderBy.VERSION: Order.VERSION,
    OrderBy.CREATE: Order.CREATE_REVISION,
    OrderBy.MODIFIED: Order.MOD_REVISION,
    OrderBy.VALUE: Order.VALUE,
}

Bound = Annotated[int, typer.Option(min=0, metavar="REVISION", help="0: no bound.", show_default=False)]


def ls(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Keys that begin with this; without it, all.")] = "",
    *,
    keys_only: Annotated[bool, typer.Option("--keys-only/--values", help="Keys alone, one a line, or a table.")] = True,
    limit: Annotated[int, typer.Option(min=0, help="At most so many keys; 0: all.")] = 0,
    count: Annotated[bool, typer.Option("--count", help="Only how many keys there are.")] = False,
    order: Annotated[OrderBy, typer.Option(help="What to sort by.")] = OrderBy.KEY,
    descending: Annotated[bool, typer.Option("--descending", help="The last ones first.")] = False,
    min_mod_revision: Bound = 0,
    max_mod_revision: Bound = 0,
    min_create_revision: Bound = 0,
    max_create_revision: Bound = 0,
    revision: Revision = 0,
    read: ReadOption = LINEARIZABLE,
    fallback: FallbackOption = None,
    verbose: Verbose = False,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """List the keys that begin with PREFIX, in order, as they are at one revision.

    The five that were written last: raftkv ls --order modified --descending --limit 5
    """
    prefix_bytes = to_bytes(prefix, hexadecimal=hexadecimal)
    level, weaker = level_of(read), fallback_of(fallback)
    if count:
        if min_mod_revision or max_mod_revision or min_create_revision or max_create_revision:
            fail("--count counts all keys under PREFIX: it takes no bounds of revisions", Exit.USAGE)
        found = run_with_client(
            endpoints,
            timeout,
            lambda client: client.count(prefix_bytes, revision=revision, level=level, fallback=weaker),
        )
        if output is Output.JSON:
            print_json({"count": found, "receipt": described_read(found.receipt)})
            return
        say_read(found.receipt, verbose=verbose)
        print_line(str(found))
        return
    most = PAGE if order is OrderBy.KEY and not descending else SORTED_PAGE

    async def scan(client: AsyncClient) -> tuple[list[KeyValue], ReadReceipt, bool]:
        pages = Pages(prefix_bytes, min(limit + 1, most) if limit else most, revision)
        pairs: list[KeyValue] = []
        receipt: ReadReceipt | None = None
        while True:
            page = await client.range(
                pages.start,
                pages.end,
                limit=pages.size,
                revision=pages.revision,
                keys_only=keys_only,
                order=_ORDERS[order],
                descending=descending,
                min_mod_revision=min_mod_revision,
                max_mod_revision=max_mod_revision,
                min_create_revision=min_create_revision,
                max_create_revision=max_create_revision,
                cursor=pages.cursor,
                level=level,
                fallback=weaker,
            )
            # The first page settles the revision; the others show that, whoever answers them.
            receipt = receipt or page.receipt
            pairs += pages.take(page)
            if limit and len(pairs) > limit:
                return pairs[:limit], receipt, True
            if pages.done:
                return pairs, receipt, False

    pairs, receipt, more = run_with_client(endpoints, timeout, scan)
    say_read(receipt, verbose=verbose)
    if output is Output.JSON:
        print_json([described(pair, with_value=not keys_only) for pair in pairs])
    elif keys_only:
        for pair in pairs:
            print_line(printable(pair.key, hexadecimal=hexadecimal))
    else:
        print_pairs(pairs, hexadecimal=hexadecimal)
    if more:
        say(f"there are more keys than --limit {limit}")
