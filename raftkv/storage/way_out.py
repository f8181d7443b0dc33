"""How an operator gets a node back whose data directory is damaged. Said wherever one is refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Final

REPAIR: Final = "raftkv repair --data-dir DATA_DIR --endpoints HOST:PORT --yes"
"""The command, as far as it is known where the damage is found; whoever knows more makes it exact (`exact`)."""

REPAIR_NODE: Final = f"The way out: `{REPAIR}`"

INTERRUPTED_NAME: Final = "repair.json"
"""In a data directory whose repair began and has not come to its end."""


def command(data_dir: Path, endpoints: Iterable[str] = (), *, node_id: int | None = None) -> str:
    """Return the command that repairs `data_dir`. With `node_id`: it must be told whose it is."""
    whose = f" --id {node_id}" if node_id is not None else ""
    known = ",".join(endpoints) or "HOST:PORT"
    return f"raftkv repair --data-dir {shlex.quote(str(data_dir.absolute()))}{whose} --endpoints {known} --yes"


def exact(message: str, data_dir: Path, endpoints: Iterable[str] = (), *, node_id: int | None = None) -> str:
    """Put into `message` what `REPAIR` leaves open."""
    known = tuple(endpoints)
    whole = message.replace(REPAIR, command(data_dir, known, node_id=node_id))
    if whole != message and not known:
        whole += " (HOST:PORT: the client address of a node that is well)"
    return whole


_COMMAND = re.compile(r"(?:,? or )?`raftkv repair [^`]*`(?: \(HOST:PORT: [^)]*\))?")


def without_command(message: str) -> str:
    """Return `message` without the command that repairs, for those who are running it. Other ways out stay."""
    return _COMMAND.sub("", message).removesuffix(" The way out: ")
