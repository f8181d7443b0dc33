"""A node whose disk fails on request, in the kernel's calls: `faults.c`, compiled and preloaded into the process."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

from raftkv.testing.cluster import NodeProcess

SOURCE: Final = Path(__file__).parent / "faults.c"


@functools.cache
def library() -> Path:
    """Compile it. Skips the test that asks where that is not possible."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("NO DISK FAULTS UNDER REAL NODES WERE TESTED: that takes Linux and a C compiler (cc)")
    path = Path(tempfile.mkdtemp(prefix="raftkv-faults-")) / "faults.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(path), str(SOURCE), "-ldl"], check=True, capture_output=True
    )
    return path


class FaultyDisk:
    """Rules for the calls of one node, from its next start on. Every call that a rule met is counted."""

    def __init__(self, node: NodeProcess) -> None:
        self._rules = node.data_dir.with_name(f"faults-{node.id}")
        self._hits = node.data_dir.with_name(f"faults-{node.id}.hits")
        node.environment |= {"LD_PRELOAD": str(library()), "DISK_FAULTS": str(self._rules)}

    def fail(self, *rules: str) -> None:
        """See `faults.c` for what a rule is. These take the place of earlier ones, and nothing was hit yet."""
        self._hits.unlink(missing_ok=True)
        temporary = self._rules.with_suffix(".tmp")
        temporary.write_text("".join(rule + "\n" for rule in rules))
        temporary.replace(self._rules)

    def heal(self) -> None:
        self._rules.unlink(missing_ok=True)

    def hits(self) -> list[str]:
        return self._hits.read_text().splitlines() if self._hits.exists() else []
