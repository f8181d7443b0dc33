"""Docker Compose, from where it is to be had: version 2, as docker-compose.yml is written for it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from tests.deploy.compose.shell import CommandFailed, NotPossible, run, say

VERSION = "2.40.3"
LEAST = (2, 20)
BUILD_S = 2400.0
_MODULE = "github.com/docker/compose/v2"


def find_compose(cache: Path) -> list[str]:
    """Return the command. Raises NotPossible.

    RAFTKV_COMPOSE=/path, `docker compose`, `docker-compose`, or one that is built with Go once (minutes: it is large).
    """
    explicit = os.environ.get("RAFTKV_COMPOSE")
    if explicit:
        return _new_enough([explicit])
    cached = cache / f"docker-compose-{VERSION}"
    refusals = []
    for command in (["docker", "compose"], ["docker-compose"], [str(cached)]):
        try:
            return _new_enough(command)
        except NotPossible as refusal:
            refusals.append(str(refusal))
    try:
        _build(cached)
    except (NotPossible, CommandFailed) as refusal:
        raise NotPossible("no Docker Compose: " + "; ".join([*refusals, str(refusal)])) from None
    return _new_enough([str(cached)])


def _new_enough(command: list[str]) -> list[str]:
    shown = " ".join(command)
    if shutil.which(command[0]) is None:
        raise NotPossible(f"no {command[0]}")
    try:
        said = run([*command, "version", "--short"], 30).stdout.strip()
    except CommandFailed:
        raise NotPossible(f"{shown} does not work") from None
    found = re.search(r"(\d+)\.(\d+)", said)
    if found is None:
        # A binary that Go built knows no version of its own: it is the one that was asked for.
        if command[0].endswith(f"docker-compose-{VERSION}"):
            return command
        raise NotPossible(f"{shown} has no version: {said!r}")
    if (int(found.group(1)), int(found.group(2))) < LEAST:
        raise NotPossible(f"{shown} is {found.group()}, older than {'.'.join(map(str, LEAST))}")
    return command


def _build(target: Path) -> None:
    """`go install` refuses it, as it has replace directives: so it is built as a dependency of an empty module."""
    if shutil.which("go") is None:
        raise NotPossible("and no Go to build it with")
    say(f"building Docker Compose {VERSION} with Go, once: this takes minutes")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="raftkv-compose-") as directory:
        module = Path(directory)
        (module / "go.mod").write_text("module compose\n\ngo 1.24\n")
        run(["go", "get", f"{_MODULE}/cmd@v{VERSION}"], BUILD_S, cwd=module)
        flag = f"-X {_MODULE}/internal.Version=v{VERSION}"
        run(["go", "build", "-ldflags", flag, "-o", "docker-compose", f"{_MODULE}/cmd"], BUILD_S, cwd=module)
        partial = target.with_suffix(f".{os.getpid()}")
        shutil.copy2(module / "docker-compose", partial)
        partial.replace(target)
