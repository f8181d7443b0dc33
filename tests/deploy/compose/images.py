"""The images of the test: a base that needs no hub, the node's, Toxiproxy's."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

from raftkv.testing.toxiproxy_install import ToxiproxyBinary, find_toxiproxy
from tests.deploy.compose.shell import CommandFailed, NotPossible, run, say

ROOT: Final = Path(__file__).resolve().parents[3]
CACHE: Final = ROOT / ".cache" / "docker"
USUAL_BASE: Final = "python:3.13-slim"
OWN_BASE: Final = "raftkv-test-base:bookworm"
NODE_IMAGE: Final = "raftkv-test:local"
TOXIPROXY_IMAGE: Final = "raftkv-test-toxiproxy:local"
SUITE: Final = "bookworm"
_LEFT_OUT: Final = ("./proc/*", "./sys/*", "./dev/*", "./tmp/*", "./var/cache/apt/*", "./var/lib/apt/lists/*")


def base_image() -> str:
    """Return an image with Python: RAFTKV_BASE_IMAGE, the usual one if it is here or can be had, or one of our own."""
    explicit = os.environ.get("RAFTKV_BASE_IMAGE")
    if explicit:
        return explicit
    for image in (USUAL_BASE, OWN_BASE):
        if run(["docker", "image", "inspect", image], 30, check=False).returncode == 0:
            return image
    try:
        run(["docker", "pull", "--quiet", USUAL_BASE], 120)
    except CommandFailed as error:
        say(f"{USUAL_BASE} cannot be pulled: {str(error).splitlines()[-1].strip()}")
    else:
        return USUAL_BASE
    archive = CACHE / f"base-{SUITE}.tar"
    if not archive.is_file():
        _debootstrap(archive)
    say(f"importing {archive.name} as the base image")
    run(["docker", "import", archive, OWN_BASE], 300)
    return OWN_BASE


def _debootstrap(archive: Path) -> None:
    if shutil.which("debootstrap") is None:
        raise NotPossible("no base image can be pulled, and there is no `debootstrap` to make one (apt-get install it)")
    if os.geteuid() != 0:
        raise NotPossible("no base image can be pulled, and only root can make one with debootstrap")
    say(f"making a base image with debootstrap ({SUITE}), once: this takes minutes")
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="raftkv-base-") as directory:
        system = Path(directory) / "system"
        try:
            run(["debootstrap", "--variant=minbase", "--include=python3,ca-certificates", SUITE, system], 1800)
        finally:
            for inside in ("proc", "sys"):  # it may leave them mounted, and tar and rmtree would go there
                run(["umount", "-l", system / inside], 30, check=False)
        partial = archive.with_suffix(f".{os.getpid()}")
        left_out = [f"--exclude={pattern}" for pattern in _LEFT_OUT]
        run(["tar", "--one-file-system", *left_out, "--numeric-owner", "-C", system, "-cf", partial, "."], 300)
        partial.replace(archive)


def build_node_image(base: str) -> None:
    """Build the image of a node, from this source tree, without network: as deploy/docker/Dockerfile describes."""
    said = run(["docker", "run", "--rm", "--entrypoint", "python3", base, "--version"], 60).stdout
    version = re.search(r"3\.\d+", said)
    if version is None:
        raise CommandFailed(f"python3 of {base} says {said!r}")
    wheels = _wheels(version.group())
    with tempfile.TemporaryDirectory(prefix="raftkv-context-") as directory:
        context = Path(directory)
        for name in (".dockerignore", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
            shutil.copy2(ROOT / name, context / name)
        shutil.copytree(ROOT / "raftkv", context / "raftkv", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "deploy" / "docker", context / "deploy" / "docker")
        for wheel in wheels.glob("*.whl"):
            shutil.copy2(wheel, context / "deploy" / "docker" / "wheels" / wheel.name)
        say(f"building the image of a node on {base}")
        _build(context / "deploy" / "docker" / "Dockerfile", NODE_IMAGE, base, context)


def build_toxiproxy_image(base: str) -> None:
    """Build an image of Toxiproxy around the program that the tests use."""
    found = find_toxiproxy()
    if not isinstance(found, ToxiproxyBinary):
        run(["docker", "tag", found.image, TOXIPROXY_IMAGE], 30)
        return
    with tempfile.TemporaryDirectory(prefix="raftkv-context-") as directory:
        shutil.copy2(found.path, Path(directory) / "toxiproxy-server")
        say("building an image of Toxiproxy")
        _build(ROOT / "deploy" / "docker" / "toxiproxy.Dockerfile", TOXIPROXY_IMAGE, base, Path(directory))


def _build(dockerfile: Path, tag: str, base: str, context: Path) -> None:
    # Without the plugin, a new command line refuses to build with BuildKit; the old builder is in every engine.
    kit = run(["docker", "buildx", "version"], 30, check=False).returncode == 0
    run(
        ["docker", "build", "--build-arg", f"BASE_IMAGE={base}", "-f", dockerfile, "-t", tag, context],
        900,
        environment={"DOCKER_BUILDKIT": "1" if kit else "0"},
    )


def _wheels(python: str) -> Path:
    """Return a directory with the wheels of all that a node needs, and of what builds and installs it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    needed = [
        *project["project"]["dependencies"],
        *extras["server"],
        *(requirement for requirement in extras["cli"] if not requirement.startswith("raftkv[")),
        *project["build-system"]["requires"],
        "pip",
    ]
    constraints = ROOT / "constraints.txt"
    key = hashlib.sha256("\n".join([python, constraints.read_text(), *needed]).encode()).hexdigest()[:16]
    target = CACHE / f"wheels-{key}"
    if target.is_dir():
        return target
    say(f"downloading the wheels of {len(needed)} requirements and what they need, for Python {python}, once")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new-", dir=target.parent) as directory:
        partial = Path(directory) / "wheels"
        selection = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
        run(
            [sys.executable, "-m", "pip", "download", "-q", *selection, "-c", constraints, "-d", partial, *needed],
            1200,
        )
        if not target.exists():
            partial.replace(target)
    return target
