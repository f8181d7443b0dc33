"""Settings that should be the same on all members and are not, as `raftkv endpoint status` shows them."""

from __future__ import annotations

from collections.abc import Sequence

from raftkv.cli.output import print_line, print_table
from raftkv.cli.view import MemberView


def print_drift(views: Sequence[MemberView]) -> None:
    """Write a table of them, if there are any: each setting, and what which node was given."""
    found: dict[str, dict[int, str]] = {}
    for view in views:
        for one in view.status.drift if view.status is not None else ():
            values = found.setdefault(one.setting, {})
            values.setdefault(one.peer, one.there)
            if view.id is not None:
                values[view.id] = one.here  # nobody knows better than the node itself
    if found:
        print_line("")
        print_table(("SETTINGS THAT DIFFER", "VALUES"), [(_flag(name), _told(found[name])) for name in sorted(found)])


def _flag(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def _told(values: dict[int, str]) -> str:
    nodes: dict[str, list[int]] = {}
    for node, value in sorted(values.items()):
        nodes.setdefault(value, []).append(node)
    return "; ".join(
        f"{value or 'unset'} on node{'s' if len(on) > 1 else ''} {', '.join(map(str, on))}"
        for value, on in nodes.items()
    )
