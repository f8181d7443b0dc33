"""Writes the table of metrics into docs/metrics.md: `python -m raftkv.server.metrics.document`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from raftkv.server.metrics.names import METRICS, Presence

DOCUMENT: Final = "docs/metrics.md"
BEGIN: Final = "<!-- the table: python -m raftkv.server.metrics.document -->\n"
END: Final = "<!-- end of the table -->\n"

_WHEN: Final = {
    Presence.ALWAYS: "",
    Presence.LEADER: "leader",
    Presence.TRANSFER: "while a checkpoint is on its way",
    Presence.TLS: "with certificates",
    Presence.DRIFT: "while settings differ",
}


def table() -> str:
    """Return the table of all metrics, between its marks."""
    rows = "".join(
        f"| `{metric.name}` | {metric.kind} | {', '.join(f'`{label}`' for label in metric.labels)} | "
        f"{_WHEN[metric.presence]} | {metric.help} |\n"
        for metric in METRICS.values()
    )
    return f"{BEGIN}| metric | type | labels | only | |\n|---|---|---|---|---|\n{rows}{END}"


def main() -> None:
    """Renew the table in the document, which is below the working directory."""
    path = Path(DOCUMENT)
    text = path.read_text()
    before, _, rest = text.partition(BEGIN)
    path.write_text(before + table() + rest.partition(END)[2])


if __name__ == "__main__":
    main()
