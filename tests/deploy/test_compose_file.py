"""What must be true of docker-compose.yml without running it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from raftkv.cli.certs import COMPOSE_NODES
from raftkv.server.settings import ServerSettings, parse_addresses

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = {int(name.removeprefix("node")): service for name, service in SERVICES.items() if name.startswith("node")}
PROXIES = {proxy["name"]: proxy for proxy in json.loads((ROOT / "deploy/compose/toxiproxy.json").read_text())}

own = pytest.mark.parametrize("node", NODES)
any_service = pytest.mark.parametrize("name", SERVICES)


def test_three_nodes_by_default_and_two_more_with_five() -> None:
    assert [node for node, service in NODES.items() if "profiles" not in service] == [1, 2, 3]
    assert [node for node, service in NODES.items() if service.get("profiles") == ["five"]] == [4, 5]
    assert {
        service: SERVICES[service]["profiles"] for service in SERVICES if service not in {"node1", "node2", "node3"}
    } == {
        "node4": ["five"],
        "node5": ["five"],
        "grow": ["five"],
        "toxiproxy": ["chaos"],
        "client": ["chaos"],
        "prometheus": ["observe"],
        "grafana": ["observe"],
    }


def test_no_version_which_compose_ignores_and_warns_about() -> None:
    assert "version" not in COMPOSE


@own
def test_nodes_differ_in_nothing_but_who_they_are(node: int) -> None:
    def common(service: dict[str, Any]) -> dict[str, Any]:
        return {
            key: value
            for key, value in service.items()
            if key not in {"environment", "volumes", "networks", "ports", "profiles"}
        }

    assert common(NODES[node]) == common(NODES[1])
    assert NODES[node]["volumes"] == [f"node{node}:/data"]
    assert NODES[node]["networks"] == {"clients": {}, "peers": {"aliases": [f"peer{node}"]}}
    own_environment = {"RAFTKV_ID", "RAFTKV_ADVERTISE", "RAFTKV_PEER_DIAL"}
    environment = {key: value for key, value in NODES[node]["environment"].items() if key not in own_environment}
    assert environment == {
        key: value for key, value in NODES[1 if node <= 3 else 4]["environment"].items() if key not in own_environment
    }
    assert NODES[node]["environment"]["RAFTKV_ID"] == str(node)
    assert NODES[node]["environment"]["RAFTKV_ADVERTISE"] == f"node{node}:7001"


@own
def test_every_variable_is_a_setting_and_a_node_starts_with_them(node: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**_image_environment(), **NODES[node]["environment"]}.items():
        assert name.removeprefix("RAFTKV_").lower() in ServerSettings.model_fields, name
        monkeypatch.setenv(name, "" if value.startswith("${CHAOS:+") else value)
    settings = ServerSettings()  # type: ignore[call-arg]
    assert settings.id == node
    assert settings.insecure
    assert settings.peer_dial == {}
    if node <= 3:
        assert settings.member == {1: "peer1:7101", 2: "peer2:7101", 3: "peer3:7101"}
    else:
        assert settings.join == ("node1:7001", "node2:7001", "node3:7001")


@own
def test_with_chaos_every_ordered_pair_has_its_proxy(node: int) -> None:
    written = NODES[node]["environment"]["RAFTKV_PEER_DIAL"]
    found = re.fullmatch(r"\$\{CHAOS:\+(.*)\}", written)
    assert found, written
    dialled = parse_addresses(found.group(1))
    assert isinstance(dialled, dict)
    assert sorted(dialled) == sorted(set(NODES) - {node})
    for other, address in dialled.items():
        host, _, port = address.partition(":")
        assert host == "toxiproxy"
        assert PROXIES[f"{node}-to-{other}"] == {
            "name": f"{node}-to-{other}",
            "listen": f"0.0.0.0:{port}",
            "upstream": f"peer{other}:7101",
            "enabled": True,
        }


def test_there_is_no_other_proxy_and_no_port_twice() -> None:
    assert set(PROXIES) == {f"{a}-to-{b}" for a, b in itertools.permutations(NODES, 2)}
    assert len({proxy["listen"] for proxy in PROXIES.values()}) == len(PROXIES)


@any_service
def test_ports_are_published_on_the_loopback_only(name: str) -> None:
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z0-9_]+:-\d+\}:\d+", port), port


def test_no_published_port_is_used_twice() -> None:
    ports = [re.search(r":-(\d+)", port) for service in SERVICES.values() for port in service.get("ports", [])]
    numbers = [port.group(1) for port in ports if port]
    assert len(numbers) == len(set(numbers)) == 5 * 2 + 3


@any_service
def test_only_clients_depend_on_anything(name: str) -> None:
    if name in {"grow", "client"}:
        assert SERVICES[name]["depends_on"] == {f"node{node}": {"condition": "service_healthy"} for node in (1, 2, 3)}
    else:
        assert "depends_on" not in SERVICES[name]


@own
def test_nodes_are_watched_and_given_time_to_hand_over(node: int) -> None:
    assert NODES[node]["healthcheck"]["test"][-1] == "/readyz"
    assert NODES[node]["restart"] == "unless-stopped"
    grace = NODES[node]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > 3 * ServerSettings.model_fields["shutdown_timeout_s"].default


@any_service
def test_containers_have_no_rights_that_they_do_not_need(name: str) -> None:
    assert SERVICES[name]["cap_drop"] == ["ALL"]
    assert SERVICES[name]["security_opt"] == ["no-new-privileges:true"]
    assert not SERVICES[name].get("privileged")


@own
def test_nodes_write_to_their_volume_only(node: int) -> None:
    assert NODES[node]["read_only"]
    assert NODES[node]["tmpfs"] == ["/tmp"]
    assert f"node{node}" in COMPOSE["volumes"]


def test_raft_traffic_has_a_network_of_its_own() -> None:
    assert COMPOSE["networks"]["peers"] == {"internal": True}
    users = {name for name, service in SERVICES.items() if "peers" in service["networks"]}
    assert users == {*(f"node{node}" for node in NODES), "toxiproxy"}


@any_service
def test_what_is_mounted_from_the_repository_is_there_and_read_only(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, _, target = volume.partition(":")
        if source.startswith("./"):
            assert target.endswith(":ro"), volume
            if name not in {"prometheus", "grafana"}:
                assert (ROOT / source).exists(), volume
        else:
            assert source in COMPOSE["volumes"]


def test_nobody_can_log_in_to_grafana_with_the_password_that_everybody_knows() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false", "its API takes the password without a form"
    assert (environment["GF_AUTH_ANONYMOUS_ENABLED"], environment["GF_AUTH_ANONYMOUS_ORG_ROLE"]) == ("true", "Viewer")


def test_chaos_env_switches_on_both_halves() -> None:
    lines = (ROOT / "deploy/compose/chaos.env").read_text().splitlines()
    said = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    assert said == {"COMPOSE_PROFILES": "chaos", "CHAOS": "1"}


def test_certificates_are_made_for_these_nodes_and_mounted_where_they_are_looked_for() -> None:
    assert tuple(f"{node}=node{node}" for node in NODES) == COMPOSE_NODES
    services = yaml.safe_load((ROOT / "deploy/compose/tls.yml").read_text())["services"]
    assert set(services) == {*(f"node{node}" for node in NODES), "grow", "client"}
    for node in NODES:
        environment = services[f"node{node}"]["environment"]
        for name in environment:
            assert name.removeprefix("RAFTKV_").lower() in ServerSettings.model_fields, name
        assert environment["RAFTKV_INSECURE"] == "false"
        for purpose in ("TLS", "PEER_TLS"):
            assert environment[f"RAFTKV_{purpose}_CERT"] == f"/certs/node-{node}.crt"
            assert environment[f"RAFTKV_{purpose}_KEY"] == f"/certs/node-{node}.key"
            assert environment[f"RAFTKV_{purpose}_CA"] == "/certs/ca.crt"
        assert services[f"node{node}"]["volumes"] == ["${CERTS:-./deploy/compose/certs}:/certs:ro"]


def _image_environment() -> dict[str, str]:
    """What the Dockerfile sets: nodes have it too."""
    return dict(re.findall(r"(RAFTKV_[A-Z_]+)=(\S+)", (ROOT / "deploy/docker/Dockerfile").read_text()))
