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

    def __init__(self, notes: Path) -> None:
        self._notes = notes

    def lines(self) -> list[str]:
        return self._notes.read_text().splitlines()


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """A docker on the PATH, and nothing else there, that notes its arguments."""
    notes = tmp_path / "notes"
    docker = tmp_path / "docker"
    answer = "\n".join(json.dumps(one) for one in (ONE, TWO, HIDDEN))
    docker.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        f"open({str(notes)!r}, 'a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        f"print({answer!r}) if 'ps' in sys.argv else None\n"
        "sys.exit('no such service' if 'raftkv-2' in sys.argv else 0)\n"
    )
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    return Told(notes)


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
        "compose --file c.yml ps --format json",
        f"compose --file c.yml {strike} raftkv-1",
        f"compose --file c.yml {undo} raftkv-1",
    ]


@pytest.mark.usefixtures("told")
async def test_what_docker_refuses_is_told() -> None:
    fault = await ComposeNodes(Path("c.yml")).aim(How.KILL, 2, "127.0.0.1:17002")
    with pytest.raises(RaftKVError, match=r"compose --file c\.yml kill raftkv-2: no such service"):
        await fault.begin()


async def test_without_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotOurs, match="docker is not installed here"):
        await ComposeNodes(Path("c.yml")).aim(How.KILL, 1, "127.0.0.1:17001")
