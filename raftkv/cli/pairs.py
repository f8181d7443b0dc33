"""Keys and values as results show them."""

from __future__ import annotations

from collections.abc import Sequence

from raftkv.cli.output import json_bytes, print_table, printable
from raftkv.client import KeyValue


def described(pair: KeyValue, *, with_value: bool = True) -> dict[str, object]:
    """Return a pair as JSON shows it."""
    found: dict[str, object] = {"key": json_bytes(pair.key)}
    if with_value:
        found["value"] = json_bytes(pair.value)
    return found | {
        "create_revision": pair.create_revision,
        "mod_revision": pair.mod_revision,
        "version": pair.version,
        "lease": pair.lease or None,
        "guarantee": pair.guarantee.name.lower(),
    }


def print_pairs(pairs: Sequence[KeyValue], *, hexadecimal: bool) -> None:
    """Write pairs as a table; nothing for none. Leases have a column where there is one."""
    if not pairs:
        return
    leased = any(pair.lease for pair in pairs)
    print_table(
        ("KEY", "REVISION", "VERSION", *(("LEASE",) if leased else ()), "VALUE"),
        (
            (
                printable(pair.key, hexadecimal=hexadecimal),
                pair.mod_revision,
                pair.version,
                *((pair.lease or None,) if leased else ()),
                printable(pair.value, hexadecimal=hexadecimal),
            )
            for pair in pairs
        ),
        right=("REVISION", "VERSION", "LEASE"),
        cut="VALUE",
    )
