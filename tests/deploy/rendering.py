"""What kustomize and helm make of deploy/, as it is committed in testdata/rendered.

The default tests look at what is committed and need no tools. `make deploy-check` renders again and compares; that the
committed files are not older than their sources, a digest says.
"""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from tests.deploy.paths import CHART, GOLDEN, KUBERNETES, ROOT
from tests.deploy.tools import HELM, KUSTOMIZE, get

OLDEST: Final = "1.28"
"""The oldest Kubernetes that supports all that is used: pods have had their ordinal as a label since then."""

OVERLAYS: Final = ("three", "five", "tls")
VALUES: Final = Path(__file__).parent / "testdata" / "values"
SOURCES: Final = GOLDEN / "SOURCES"

Resource = dict[str, Any]


class RenderingFailed(Exception):
    """A tool refused; the message is what it said."""


def names() -> list[str]:
    """Return the names of all that is rendered: kustomize-OVERLAY and helm-VALUES."""
    return [f"kustomize-{one}" for one in OVERLAYS] + [f"helm-{path.stem}" for path in sorted(VALUES.glob("*.yaml"))]


def render(name: str) -> str:
    """Return one of them, fresh."""
    tool, _, what = name.partition("-")
    if tool == "kustomize":
        return run([str(get(KUSTOMIZE)), "build", str(KUBERNETES / "overlays" / what)])
    return helm_template("--values", str(VALUES / f"{what}.yaml"))


def helm_template(*arguments: str, kubernetes: str = OLDEST) -> str:
    where = ["raftkv", str(CHART), "--namespace", "raftkv", "--kube-version", kubernetes]
    return run([str(get(HELM)), "template", *where, *arguments])


def run(command: list[str]) -> str:
    """Return what a command writes. Raises RenderingFailed."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise RenderingFailed(f"{Path(command[0]).name} {command[1]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def golden(name: str) -> Path:
    return GOLDEN / f"{name}.yaml"


@cache
def committed(name: str) -> tuple[Resource, ...]:
    """Return the resources of a committed rendering."""
    return parsed(golden(name).read_text(encoding="utf-8"))


def parsed(text: str) -> tuple[Resource, ...]:
    return tuple(one for one in yaml.load_all(text, Loader=yaml.CSafeLoader) if one)


def digest_of_sources() -> str:
    """Return a digest of all files that renderings are made of."""
    paths = [
        *(path for path in KUBERNETES.rglob("*") if path.suffix in {".yaml", ".env"}),
        *(path for path in CHART.rglob("*") if path.is_file()),
        *VALUES.glob("*.yaml"),
    ]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()
