"""kustomize, helm and promtool: built with Go, of pinned versions, into .cache/deploy-tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.deploy.paths import ROOT

CACHE: Final = ROOT / ".cache" / "deploy-tools"
BUILD_TIMEOUT_S: Final = 3600.0


class ToolUnavailable(Exception):
    """Neither in the cache nor to be built; the message says why."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program that Go can build."""

    name: str
    version: str
    package: str
    tags: str = ""

    @property
    def path(self) -> Path:
        return CACHE / f"{self.name}-{self.version}"


KUSTOMIZE: Final = Tool("kustomize", "v5.8.2", "sigs.k8s.io/kustomize/kustomize/v5")
HELM: Final = Tool("helm", "v3.22.0", "helm.sh/helm/v3/cmd/helm")
PROMTOOL: Final = Tool(
    "promtool",
    "v0.315.0",
    "github.com/prometheus/prometheus/cmd/promtool",
    # Without discovery in other people's clouds: one of their libraries takes longer to compile than all the rest.
    tags="remove_all_sd enable_dns_sd",
)
"""Prometheus 3.15: its modules are numbered without the 3."""
TOOLS: Final = (KUSTOMIZE, HELM, PROMTOOL)


def get(tool: Tool) -> Path:
    """Return the program's path; build it if it is not there yet. Raises ToolUnavailable."""
    if tool.path.is_file():
        return tool.path
    go = shutil.which("go")
    if go is None:
        raise ToolUnavailable(
            f"{tool.name} {tool.version}: not in {CACHE.relative_to(ROOT)}, and no Go to build it with"
        )
    CACHE.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    sys.stdout.write(f"building {tool.name} {tool.version}, once; this takes minutes\n")
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="new-") as scratch:
        # In a module of its own: `go install package@version` refuses modules with replace or exclude directives, as
        # promtool's is.
        _run([go, "mod", "init", "tools"], scratch, tool)
        _run([go, "get", "-tool", f"{tool.package}@{tool.version}"], scratch, tool)
        _run([go, "build", "-tags", tool.tags, "-o", tool.name, tool.package], scratch, tool)
        (Path(scratch) / tool.name).replace(tool.path)
    sys.stdout.write(f"built {tool.name} in {time.monotonic() - began:.0f} s\n")
    return tool.path


def _run(command: list[str], directory: str, tool: Tool) -> None:
    environment = {**os.environ, "GOFLAGS": "-mod=mod -buildvcs=false"}
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=BUILD_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise ToolUnavailable(
            f"{tool.name}: {' '.join(command[1:3])}: not done after {BUILD_TIMEOUT_S:.0f} s"
        ) from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if not line.startswith("go: downloading")]
        raise ToolUnavailable(f"{tool.name}: {' '.join(command[1:3])}: " + "\n  ".join(said[-5:]))
