"""The reference table of docs/configuration.md, made from the declarations of the settings.

python -m raftkv.server.settings_reference docs/configuration.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raftkv.server.setting_facts import Fact, Kind, facts

BEGIN: Final = "<!-- made by `make settings` from raftkv/server/settings.py: begin -->"
END: Final = "<!-- end -->"

_KINDS: Final = {
    Kind.NUMBER: "integer",
    Kind.FRACTION: "number",
    Kind.SWITCH: "boolean",
    Kind.TEXT: "text",
    Kind.PATH: "path",
    Kind.LIST: "list",
    Kind.MAP: "map",
}


def reference() -> str:
    """Return the table of all settings, in groups."""
    return "\n".join(_lines())


def renewed(document: str) -> str:
    """Return the document with its table made anew. Raises ValueError where it has no place for one."""
    before, begun, rest = document.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"the document has no {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{reference()}\n{END}{after}"


def _lines() -> Iterator[str]:
    group = ""
    for fact in facts():
        if fact.group != group:
            group = fact.group
            yield f"\n### {group}\n"
            yield "| flag, variable, TOML key | value | default | all members? | other value at a restart? | meaning |"
            yield "|---|---|---|---|---|---|"
        cells = (_names(fact), _value(fact), _default(fact), _agree(fact), fact.about.restart or "yes", fact.help)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _names(fact: Fact) -> str:
    return f"`{fact.flag}` `{fact.variable}` `{fact.name}`"


def _value(fact: Fact) -> str:
    if fact.kind is Kind.CHOICE:
        return " or ".join(f"`{choice}`" for choice in fact.choices)
    told = [_KINDS[fact.kind]]
    if fact.unit:
        told.append(fact.unit)
    elif fact.kind in (Kind.TEXT, Kind.LIST, Kind.MAP) and fact.metavar != "TEXT":
        told.append(f"`{fact.metavar}`")
    return ", ".join([*told, *([fact.range_text] if fact.range_text else [])])


def _default(fact: Fact) -> str:
    return "must be given" if fact.required else fact.default_text or "none"


def _agree(fact: Fact) -> str:
    if fact.about.agree:
        return f"should: {fact.about.agree}"
    return "must: nodes of another name are refused" if fact.name == "cluster_name" else ""


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text()))
