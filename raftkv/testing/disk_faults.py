"""A node whose disk fails on request, in the kernel's calls: `faults.c`, compiled and preloaded into the process."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from raftkv.errors import RaftKVError
from raftkv.testing.cluster import NodeProcess

SOURCE: Final = Path(__file__).parent / "faults.c"
RULES: Final = "DISK_FAULTS"
"""The variable of the environment that names the file of rules."""


class DiskFaultsUnavailable(RaftKVError):
    """Disks cannot be made to fail on this machine. The message says what is missing."""


def why_unavailable() -> str:
    """Say what is missing for disks that fail; empty: nothing."""
    if sys.platform != "linux":
        return f"disks that fail on request take Linux; this is {sys.platform}"
    if _compiler() is None:
        return "disks that fail on request take a C compiler: no cc or gcc is on the PATH. The way out: install one"
    return ""


@functools.cache
def library() -> Path:
    """Compile it, once a process; it is gone with this process. Raises DiskFaultsUnavailable."""
    problem = why_unavailable()
    compiler = _compiler()
    if problem or compiler is None:
        raise DiskFaultsUnavailable(problem)
    path = Path(_directory().name) / "faults.so"
    compiled = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(path), str(SOURCE), "-ldl"],
        check=False,
        capture_output=True,
        text=True,
    )
    if compiled.returncode != 0:
        raise DiskFaultsUnavailable(f"{compiler} cannot compile {SOURCE} (Linux with glibc): {compiled.stderr.strip()}")
    return path


def environment(rules: Path) -> dict[str, str]:
    """Return what the process must find in its environment to heed the file `rules`. Raises DiskFaultsUnavailable."""
    preloaded = " ".join(filter(None, (str(library()), os.environ.get("LD_PRELOAD"))))
    return {"LD_PRELOAD": preloaded, RULES: str(rules)}


class Rules:
    """The rules for the calls of one process. Every call that a rule met is counted.

    Several parties may have rules of their own; of those that meet the same call, the first one counts.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hits = path.with_name(path.name + ".hits")
        self._rules: dict[str, tuple[str, ...]] = {}

    def fail(self, *rules: str) -> None:
        """See `faults.c` for what a rule is. These take the place of everybody's, and nothing was hit yet."""
        self._hits.unlink(missing_ok=True)
        self._rules = {"": rules}
        self._write()

    def heal(self) -> None:
        """Take everybody's rules away."""
        self._rules.clear()
        self._write()

    def add(self, party: str, *rules: str) -> None:
        """Let these rules, which take the place of the party's, be heeded too. What was hit stays."""
        self._rules[party] = rules
        self._write()

    def drop(self, party: str) -> None:
        """Take the rules of one party away."""
        self._rules.pop(party, None)
        self._write()

    def hits(self) -> list[str]:
        """Return the calls that met a rule, each as `OPERATION PATH`."""
        return self._hits.read_text().splitlines() if self._hits.exists() else []

    def _write(self) -> None:
        if not self._rules:
            self.path.unlink(missing_ok=True)
            return
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("".join(rule + "\n" for rules in self._rules.values() for rule in rules))
        temporary.replace(self.path)


class FaultyDisk(Rules):
    """Rules for one node, from its next start on."""

    def __init__(self, node: NodeProcess) -> None:
        path = node.data_dir.with_name(f"faults-{node.id}")
        super().__init__(path)
        node.environment |= environment(path)


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


@functools.cache
def _directory() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="raftkv-faults-")
