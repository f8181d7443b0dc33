"""Services of a compose file, by a docker that only notes what it was told."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path

import pytest

from raftkv.drill.compose import ComposeNodes, Service, service_at, services_of
from raftkv.drill.faults import NotOurs
from raftkv.drill.measure.record import How
from raftkv.errors import RaftKVError

ONE = {"Service": "raftkv-1", "Name": "demo-raftkv-1-1", "Publishers": [{"PublishedPort": 17001, "TargetPort": 7001}]}
TWO = {"Service": "raftkv-2", "Name": "demo-raftkv-2-1", "Publishers": [{"PublishedPort": 0}, {"PublishedPort": 17002}]}
HIDDEN = {"Service": "prometheus", "Name": "demo-prometheus-1", "Publishers": None}


class Told:
    """What docker was told."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._notes = directory / "notes"

    def lines(self) -> list[str]:
        return self._notes.read_text().splitlines()

    def install(self, name: str, version: str = "2.40.3", refuses: str = "") -> None:
        """Put a program on the PATH that notes its name, project and arguments; `refuses`: what it fails with."""
        program = self._directory / name
        answer = "\n".join(json.dumps(one) for one in (ONE, TWO, HIDDEN))
        program.write_text(
            f"#!{sys.executable}\n"
            "import os, sys\n"
            f"line = [os.environ['COMPOSE_PROJECT_NAME'], {name!r}, *sys.argv[1:]]\n"
            f"open({str(self._notes)!r}, 'a').write(' '.join(line) + '\\n')\n"
            f"sys.exit({refuses!r}) if {refuses!r} else None\n"
            f"print({version!r}) if 'version' in sys.argv else None\n"
            f"print({answer!r}) if 'ps' in sys.argv else None\n"
            "sys.exit('no such service' if 'raftkv-2' in sys.argv else 0)\n"
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """A PATH with nothing on it, but what is installed there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("COMPOSE_PROJECT_NAME", "demo")
    return Told(tmp_path)


@pytest.fixture
def told(bare: Told) -> Told:
    """A docker on the PATH, with the plugin."""
    bare.install("docker")
    return bare


@pytest.mark.parametrize(
    "text", [json.dumps([ONE, TWO]), "\n".join(json.dumps(one) for one in (ONE, TWO))], ids=["array", "lines"]
)
def test_services_are_read_from_what_either_version_prints(text: str) -> None:
    assert services_of(text) == [
        Service(name="raftkv-1", container="demo-raftkv-1-1", ports=frozenset({17001})),
        Service(name="raftkv-2", container="demo-raftkv-2-1", ports=frozenset({17002})),
    ]


def test_what_is_no_json_is_told() -> None:
    with pytest.raises(RaftKVError, match="answered what is no JSON: warning"):
        services_of("warning: no such thing")


def test_a_port_that_no_service_publishes() -> None:
    with pytest.raises(NotOurs, match=r"none publishes that port: raftkv-1 \(17001\)"):
        service_at(services_of(json.dumps(ONE)), "127.0.0.1:7001", 1)


def test_a_project_of_which_nothing_runs() -> None:
    with pytest.raises(NotOurs, match=r"nothing runs of this project.*COMPOSE_PROJECT_NAME"):
        service_at([], "127.0.0.1:17001", 1)


def test_a_port_that_two_services_publish() -> None:
    with pytest.raises(NotOurs, match="more than one publishes that port"):
        service_at(services_of(json.dumps([ONE, ONE])), "127.0.0.1:17001", 1)


@pytest.mark.parametrize("endpoint", ["10.0.0.7:17001", "node1:17001", "[fd00::1]:17001", "0.0.0.0:17001"])
def test_a_node_elsewhere_is_not_the_service_here_that_has_its_port(endpoint: str) -> None:
    with pytest.raises(NotOurs, match=r"no loopback address.*or use --transfer"):
        service_at(services_of(json.dumps(ONE)), endpoint, 1)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:17001", "localhost:17001", "[::1]:17001"])
def test_a_node_on_the_loopback_is(endpoint: str) -> None:
    assert service_at(services_of(json.dumps(ONE)), endpoint, 1).name == "raftkv-1"


@pytest.mark.parametrize(("how", "strike", "undo"), [(How.KILL, "kill", "start"), (How.PAUSE, "pause", "unpause")])
async def test_the_service_behind_the_port_is_struck_and_put_right(
    told: Told, how: How, strike: str, undo: str
) -> None:
    fault = await ComposeNodes(Path("c.yml")).aim(how, 1, "127.0.0.1:17001")
    assert fault.text == f"docker compose {strike} raftkv-1 (node 1, container demo-raftkv-1-1)"
    await fault.end()  # nothing was done yet
    await fault.begin()
    await fault.end()
    await fault.end()
    assert told.lines() == [
        "demo docker compose version --short",
        "demo docker compose --file c.yml ps --format json",
        f"demo docker compose --file c.yml {strike} raftkv-1",
        f"demo docker compose --file c.yml {undo} raftkv-1",
    ]


async def test_without_the_plugin_the_program_of_its_own_is_found_once(bare: Told) -> None:
    bare.install("docker", refuses="docker: 'compose' is not a docker command.")
    bare.install("docker-compose", version="dev")  # as one that was built from its source says
    nodes = ComposeNodes(Path("c.yml"))
    for _ in range(2):
        fault = await nodes.aim(How.KILL, 1, "127.0.0.1:17001")
    assert fault.text == "docker-compose kill raftkv-1 (node 1, container demo-raftkv-1-1)"
    await fault.begin()
    await fault.end()
    assert bare.lines() == [
        "demo docker compose version --short",
        "demo docker-compose version --short",
        "demo docker-compose --file c.yml ps --format json",
        "demo docker-compose --file c.yml ps --format json",
        "demo docker-compose --file c.yml kill raftkv-1",
        "demo docker-compose --file c.yml start raftkv-1",
    ]


async def test_the_compose_of_old_is_told(bare: Told) -> None:
    bare.install("docker-compose", version="1.29.2")
    with pytest.raises(NotOurs, match=r"docker is not installed here; docker-compose is version 1\.29\.2, too old"):
        await ComposeNodes(Path("c.yml")).aim(How.KILL, 1, "127.0.0.1:17001")


async def test_docker_without_any_compose_is_told(bare: Told) -> None:
    bare.install("docker", refuses="docker: unknown command: docker compose")
    with pytest.raises(
        NotOurs,
        match=r"docker: unknown command: docker compose; docker-compose is not installed here.*or use --transfer",
    ):
        await ComposeNodes(Path("c.yml")).aim(How.KILL, 1, "127.0.0.1:17001")


@pytest.mark.usefixtures("told")
async def test_what_docker_refuses_is_told() -> None:
    fault = await ComposeNodes(Path("c.yml")).aim(How.KILL, 2, "127.0.0.1:17002")
    with pytest.raises(RaftKVError, match=r"compose --file c\.yml kill raftkv-2: no such service"):
        await fault.begin()


@pytest.mark.usefixtures("bare")
async def test_without_docker() -> None:
    with pytest.raises(NotOurs, match="docker is not installed here; docker-compose is not installed here"):
        await ComposeNodes(Path("c.yml")).aim(How.KILL, 1, "127.0.0.1:17001")
