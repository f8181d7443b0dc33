"""What can be done to a running node from outside: its clock, its disk, the machine's boot. Moved through files.

The other end is in `raftkv.jepsen.node`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

PROGRAM: Final = (sys.executable, "-m", "raftkv.jepsen.node")
"""A node that obeys; takes the flags of `raftkv serve`."""
LEVERS: Final = "RAFTKV_JEPSEN_LEVERS"
SABOTAGE: Final = "RAFTKV_JEPSEN_SABOTAGE"
LOSSY: Final = "RAFTKV_JEPSEN_LOSSY_DISK"


class Levers:
    """Those of one node. `directory` is shared with the process of the node."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def environment(self, *, lossy: bool, failing: bool, sabotage: str) -> dict[str, str]:
        """Return what the node's process must find in its environment."""
        found = {LEVERS: str(self.directory)}
        if lossy:
            found[LOSSY] = "1"
        if sabotage:
            found[SABOTAGE] = sabotage
        return found
