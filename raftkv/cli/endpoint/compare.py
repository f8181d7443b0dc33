"""`raftkv endpoint compare`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from raftkv.cli.exits import Exit, fail, say
from raftkv.cli.options import DEFAULT_ENDPOINTS, Endpoints, Format, Output, Timeout
from raftkv.cli.output import print_json, print_table
from raftkv.cli.session import run_with_client
from raftkv.client import StateComparison

COMPARE_TIMEOUT_S: Final = 300.0
"""A state of gigabytes is read once by every node."""


def compare(
    *,
    endpoints: Endpoints = DEFAULT_ENDPOINTS,
    output: Format = Output.TABLE,
    timeout: Timeout = COMPARE_TIMEOUT_S,
) -> None:
    """Have the members compare their whole states, now, at one entry of the log; they serve meanwhile.

    A node whose state is not that of a majority goes out of service: `raftkv repair` brings it back. Exit code 1 when
    states differ.
    """
    found = run_with_client(endpoints, timeout, lambda client: client.compare_states(timeout=timeout))
    if output is Output.JSON:
        print_json({"equal": not found.differ, **asdict(found), "hash": found.hash.hex()})
    else:
        print_table(("ID", "STATE", "INDEX", "HASH"), _rows(found), right=("ID", "INDEX"))
    if found.differ and found.hash:
        fail(
            f"states differ: nodes {_listed(found.differ)} have another one than a majority, and are out of service. "
            "The way out: `raftkv repair` for each",
            Exit.ERROR,
        )
    if found.differ:
        fail(
            "states differ, and no majority says which one is right: the nodes go on serving. The way out: find out "
            "which one is (`raftkv endpoint hash`, the alarms), and `raftkv repair` the others",
            Exit.ERROR,
        )
    if found.silent:
        say(f"not compared: nodes {_listed(found.silent)} did not tell the hash of their state")


def _rows(found: StateComparison) -> list[tuple[object, ...]]:
    right = found.hash.hex() or None
    rows: list[tuple[object, ...]] = [(node, "agrees", found.index, right) for node in found.agreed]
    rows += [(node, "DIFFERS", found.index, None) for node in found.differ]
    rows += [(node, "silent", None, None) for node in found.silent]
    return sorted(rows, key=lambda row: int(str(row[0])))


def _listed(nodes: tuple[int, ...]) -> str:
    return ", ".join(str(node) for node in nodes)
