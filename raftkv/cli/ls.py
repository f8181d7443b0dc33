"""`raftkv ls`: which keys there are."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

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
    Revision,
    Timeout,
    level_of,
    to_bytes,
)
from raftkv.cli.output import print_json, print_line, printable
from raftkv.cli.pairs import described, print_pairs
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient, KeyValue, Order

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
    read: ReadOption = Read.LINEARIZABLE,
    hexadecimal: Hex = False,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = DEFAULT_TIMEOUT_S,
) -> None:
    """List the keys that begin with PREFIX, in order, as they are at one revision.

    The five that were written last: raftkv ls --order modified --descending --limit 5
    """
    prefix_bytes = to_bytes(prefix, hexadecimal=hexadecimal)
    level = level_of(read)
    if count:
        if min_mod_revision or max_mod_revision or min_create_revision or max_create_revision:
            fail("--count counts all keys under PREFIX: it takes no bounds of revisions", Exit.USAGE)
        found = run_with_client(
            endpoints, timeout, lambda client: client.count(prefix_bytes, revision=revision, level=level)
        )
        if output is Output.JSON:
            print_json({"count": found})
        else:
            print_line(str(found))
        return
    most = PAGE if order is OrderBy.KEY and not descending else SORTED_PAGE

    async def scan(client: AsyncClient) -> tuple[list[KeyValue], bool]:
        pairs: list[KeyValue] = []
        async for pair in client.scan(
            prefix_bytes,
            page=min(limit + 1, most) if limit else most,
            revision=revision,
            keys_only=keys_only,
            order=_ORDERS[order],
            descending=descending,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
            level=level,
        ):
            if limit and len(pairs) == limit:
                return pairs, True
            pairs.append(pair)
        return pairs, False

    pairs, more = run_with_client(endpoints, timeout, scan)
    if output is Output.JSON:
        print_json([described(pair, with_value=not keys_only) for pair in pairs])
    elif keys_only:
        for pair in pairs:
            print_line(printable(pair.key, hexadecimal=hexadecimal))
    else:
        print_pairs(pairs, hexadecimal=hexadecimal)
    if more:
        say(f"there are more keys than --limit {limit}")
