"""`make compose-test`: the image and docker-compose.yml on a real Docker engine.

Exit code 0: all passed. 1: something is wrong. 77: this machine cannot run it, and said why; with
RAFTKV_REQUIRE_DOCKER=1 that is a failure too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from raftkv.errors import RaftKVError
from tests.deploy.compose import scenarios
from tests.deploy.compose.compose_binary import find_compose
from tests.deploy.compose.engine import docker_engine
from tests.deploy.compose.images import CACHE, NODE_IMAGE, ROOT, base_image, build_node_image, build_toxiproxy_image
from tests.deploy.compose.project import Project
from tests.deploy.compose.shell import CommandFailed, NotPossible, run, say

SKIPPED = 77
SCENARIO_S = 1200.0

Scenario = Callable[[Project], Awaitable[None]]
TLS = ("--file", "docker-compose.yml", "--file", "deploy/compose/tls.yml")
CHAOS = ("--env-file", "deploy/compose/chaos.env")
SCENARIOS: dict[str, tuple[Scenario, int, tuple[str, ...]]] = {
    "three": (scenarios.three, 3, ()),
    "five": (scenarios.five, 5, ("--profile", "five")),
    "chaos": (scenarios.chaos, 3, CHAOS),
    "tls": (scenarios.tls, 3, TLS),
    "chaos-five": (scenarios.chaos, 5, (*CHAOS, "--profile", "chaos", "--profile", "five")),
}


def main(arguments: Sequence[str]) -> int:
    """Run the scenarios and return the exit code."""
    parser = argparse.ArgumentParser(prog="make compose-test", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; default: all")
    chosen = parser.parse_args(arguments).scenarios or list(SCENARIOS)
    unknown = [name for name in chosen if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}: there are {', '.join(SCENARIOS)}")
    try:
        with docker_engine():
            compose = find_compose(CACHE)
            base = base_image()
            build_node_image(base)
            if any(name.startswith("chaos") for name in chosen):
                build_toxiproxy_image(base)
            for name in chosen:
                _run(compose, name)
    except NotPossible as reason:
        required = os.environ.get("RAFTKV_REQUIRE_DOCKER", "") not in {"", "0"}
        say(f"{'FAILED' if required else 'SKIPPED'}: {reason}")
        return 1 if required else SKIPPED
    except (CommandFailed, RaftKVError) as error:
        say(f"FAILED: {error}")
        return 1
    except KeyboardInterrupt:
        say("interrupted; everything was removed")
        return 130
    say(f"passed: {', '.join(chosen)}")
    return 0


def _run(compose: Sequence[str], name: str) -> None:
    scenario, nodes, options = SCENARIOS[name]
    say(f"=== {name}")
    with _certificates() if options == TLS else nullcontext() as certs:
        _play(scenario, Project(compose, name, nodes, *options, certs=certs), name)


@contextmanager
def _certificates() -> Iterator[Path]:
    """Make them as deploy/compose/tls.yml says."""
    with tempfile.TemporaryDirectory(prefix="raftkv-certs-") as directory:
        certs = Path(directory) / "certs"
        clients = ["--client", "client", "--client", "operator"]
        run([sys.executable, "-m", "raftkv.cli", "certs", "init", certs, *clients], 120, cwd=ROOT)
        Path(directory).chmod(0o755)
        keys = [f"/certs/{name}.key" for name in ("client", *(f"node-{node}" for node in range(1, 6)))]
        # In a container, since whoever runs this need not be root.
        as_root = ["docker", "run", "--rm", "--user", "0", "--entrypoint", "chown", "-v", f"{certs}:/certs", NODE_IMAGE]
        run([*as_root, "10001", *keys], 60)
        yield certs


def _play(scenario: Scenario, project: Project, name: str) -> None:

    async def bounded() -> None:
        async with asyncio.timeout(SCENARIO_S):
            await scenario(project)

    try:
        asyncio.run(bounded())
    except TimeoutError:
        raise CommandFailed(f"{name}: not done after {SCENARIO_S:.0f} s\n{project.state()}") from None
    except (CommandFailed, RaftKVError) as error:
        raise CommandFailed(f"{name}: {error}\n{project.state()}") from error
    finally:
        project.down()


if __name__ == "__main__":
    # As Ctrl-C: it ends the test the way an error does, and everything that was started is removed.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
