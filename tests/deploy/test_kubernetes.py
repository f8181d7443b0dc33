"""The manifests, as kustomize and helm render them: valid, of one piece, and with what a cluster of raftkv needs.

What is looked at is committed (testdata/rendered); that it is what the tools make, `make deploy-check` says.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import typer.main

from raftkv.cli.app import app
from raftkv.server.settings import ServerSettings
from tests.deploy.rendering import SOURCES, Resource, committed, digest_of_sources, names
from tests.deploy.schemas import VERSIONS, complaint

OF_THE_CLIENT: Final = {"RAFTKV_ENDPOINTS", "RAFTKV_CACERT", "RAFTKV_CERT", "RAFTKV_KEY"}
NAMES: Final = names()
WITH_TLS: Final = [name for name in NAMES if "tls" in name]
WITHOUT_TLS: Final = [name for name in NAMES if "tls" not in name]


def the(kind: str, name: str) -> Resource:
    (found,) = (one for one in committed(name) if one["kind"] == kind)
    return found


def every(kind: str, name: str) -> list[Resource]:
    return [one for one in committed(name) if one["kind"] == kind]


def pod(name: str) -> Any:
    return the("StatefulSet", name)["spec"]["template"]["spec"]


def container(name: str) -> Any:
    (found,) = pod(name)["containers"]
    return found


def environment(name: str, node: int) -> dict[str, str]:
    """Return what the container of a pod has in its environment, as the kubelet makes it."""
    found = dict(the("ConfigMap", name)["data"])
    called = the("StatefulSet", name)["metadata"]["name"]
    of_the_pod = {
        "metadata.name": f"{called}-{node}",
        "metadata.namespace": "raftkv",
        "metadata.labels['apps.kubernetes.io/pod-index']": str(node),
    }
    for one in container(name)["env"]:
        text = one["value"] if "value" in one else of_the_pod[one["valueFrom"]["fieldRef"]["fieldPath"]]
        found[one["name"]] = re.sub(r"\$\((\w+)\)", lambda reference: found[reference.group(1)], text)
    return found


def nodes(name: str) -> range:
    return range(1, the("StatefulSet", name)["spec"]["replicas"] + 1)


def started(name: str, node: int, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    """Run the container's own command with a raftkv that tells what it was called with."""
    fake = tmp_path / "raftkv"
    fake.write_text('#!/bin/sh\necho "$@"\nexec env\n')
    fake.chmod(0o755)
    command = [*container(name)["command"], *container(name)["args"]]
    given = {**environment(name, node), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout.splitlines()
    return said[0].split(), dict(line.split("=", 1) for line in said[1:] if "=" in line)


def test_what_is_committed_is_not_older_than_its_sources() -> None:
    assert SOURCES.read_text().strip() == digest_of_sources(), (
        "render again and read the diff: make deploy-check CHECK_ARGS=--rewrite-golden"
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_resource_is_valid_in_the_oldest_and_the_newest_kubernetes(name: str) -> None:
    found = {
        (one["kind"], one["metadata"]["name"], version): said
        for one in committed(name)
        for version in VERSIONS
        if (said := complaint(one, version))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("StatefulSet", ("spec", "template", "spec", "containers", 0, "livenessprobe"), {}),
        ("StatefulSet", ("spec", "replicas"), "3"),
        ("PodDisruptionBudget", ("spec", "maxunavailable"), 1),
        ("NetworkPolicy", ("spec", "ingress", 0, "ports", 0, "ports"), 1),
        ("ServiceMonitor", ("spec", "endpoints", 0, "relabelings", 0, "target"), "job"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "for"), "soon"),
        ("Certificate", ("spec", "duration"), "soon"),
        ("Issuer", ("spec", "selfsigned"), {}),
    ],
)
def test_what_is_wrong_is_found(kind: str, path: tuple[str | int, ...], value: Any) -> None:
    def changed(within: Any, steps: tuple[str | int, ...]) -> Any:
        step, rest = steps[0], steps[1:]
        new = list(within) if isinstance(within, list) else dict(within)
        new[step] = changed(within[step], rest) if rest else value  # type: ignore[index]
        return new

    resource = every(kind, "kustomize-tls")[0]
    for version in VERSIONS:
        assert complaint(resource, version) is None
        assert complaint(changed(resource, path), version) is not None


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_is_given_settings_that_a_node_takes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for node in nodes(name):
        called, given = started(name, node, tmp_path)
        assert called == ["serve"]
        ours = {key: value for key, value in given.items() if key.startswith("RAFTKV_")}
        known = {f"RAFTKV_{field.upper()}" for field in ServerSettings.model_fields}
        assert ours.keys() <= known | OF_THE_CLIENT
        for key, value in ours.items():
            monkeypatch.setenv(key, value)
        for key in known - ours.keys():
            monkeypatch.delenv(key, raising=False)
        settings = ServerSettings()  # type: ignore[call-arg]  # from the environment
        assert settings.id == node
        assert bool(settings.member) is (node in settings.member)
        assert bool(settings.member) is not bool(settings.join)
        for member, address in settings.member.items():
            assert address == peer_address(name, member)


def peer_address(name: str, node: int) -> str:
    """Return what Kubernetes calls a pod, within its namespace."""
    stateful_set = the("StatefulSet", name)
    return f"{stateful_set['metadata']['name']}-{node}.{stateful_set['spec']['serviceName']}:7101"


@pytest.mark.parametrize(
    ("name", "founders"), [("kustomize-three", 3), ("kustomize-five", 5), ("helm-three", 3), ("helm-custom", 3)]
)
def test_pods_that_the_founders_do_not_know_join_them(name: str, founders: int, tmp_path: Path) -> None:
    for node in range(1, 8):
        _, given = started(name, node, tmp_path)
        if node <= founders:
            assert len(given["RAFTKV_MEMBER"].split(",")) == founders
            assert "RAFTKV_JOIN" not in given
        else:
            assert "RAFTKV_MEMBER" not in given
            assert given["RAFTKV_JOIN"] == "raftkv.raftkv.svc:7001"


@pytest.mark.parametrize("name", NAMES)
def test_pods_begin_together_at_one_and_no_variable_of_kubernetes_is_taken_for_a_setting(name: str) -> None:
    spec = the("StatefulSet", name)["spec"]
    assert spec["podManagementPolicy"] == "Parallel"
    assert spec["ordinals"] == {"start": 1}
    # A Service named raftkv makes variables RAFTKV_PORT, RAFTKV_SERVICE_HOST, ... otherwise.
    assert pod(name)["enableServiceLinks"] is False
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}


@pytest.mark.parametrize("name", NAMES)
def test_everything_that_selects_the_pods_finds_them(name: str) -> None:
    stateful_set = the("StatefulSet", name)
    labels = stateful_set["spec"]["template"]["metadata"]["labels"]
    selectors = [one["spec"]["selector"] for one in every("Service", name)]
    selectors += [one["spec"]["selector"]["matchLabels"] for one in every("PodDisruptionBudget", name)]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in every("NetworkPolicy", name)]
    selectors += [one["labelSelector"]["matchLabels"] for one in pod(name)["topologySpreadConstraints"]]
    selectors.append(stateful_set["spec"]["selector"]["matchLabels"])
    selectors += [term["labelSelector"]["matchLabels"] for term in anti_affinity(name)]
    assert len(selectors) >= 6
    assert all(selector.items() <= labels.items() and selector for selector in selectors)


def anti_affinity(name: str) -> list[Any]:
    rule = pod(name)["affinity"]["podAntiAffinity"]
    required = rule.get("requiredDuringSchedulingIgnoredDuringExecution", [])
    preferred = rule.get("preferredDuringSchedulingIgnoredDuringExecution", [])
    return [*required, *(one["podAffinityTerm"] for one in preferred)]


@pytest.mark.parametrize("name", NAMES)
def test_nodes_are_apart_and_no_more_than_one_is_taken_away(name: str) -> None:
    assert [term["topologyKey"] for term in anti_affinity(name)] == ["kubernetes.io/hostname"]
    spread = [one["topologyKey"] for one in pod(name)["topologySpreadConstraints"]]
    assert spread == ["topology.kubernetes.io/zone", "kubernetes.io/hostname"]
    budgets = [one["spec"]["maxUnavailable"] for one in every("PodDisruptionBudget", name)]
    assert budgets == ([] if name == "helm-custom" else [1])


@pytest.mark.parametrize("name", NAMES)
def test_ports_are_those_of_the_settings_under_one_name_everywhere(name: str) -> None:
    ports = {one["name"]: one["containerPort"] for one in container(name)["ports"]}
    data = the("ConfigMap", name)["data"]
    listens = {"clients": "RAFTKV_LISTEN", "peers": "RAFTKV_PEER_LISTEN", "http": "RAFTKV_HTTP_LISTEN"}
    assert ports == {port: int(data[setting].rpartition(":")[2]) for port, setting in listens.items()}
    for service in every("Service", name):
        for one in service["spec"]["ports"]:
            assert (one["name"], one["port"]) == (one["targetPort"], ports[one["name"]])
    for policy in every("NetworkPolicy", name):
        assert {one["port"] for rule in policy["spec"]["ingress"] for one in rule["ports"]} == ports.keys()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "helm-custom"])
def test_only_nodes_reach_the_peers_port(name: str) -> None:
    labels = the("StatefulSet", name)["spec"]["template"]["metadata"]["labels"]
    for rule in the("NetworkPolicy", name)["spec"]["ingress"]:
        (origin,) = rule["from"]
        open_to = {one["port"] for one in rule["ports"]}
        if "peers" in open_to:
            assert origin["podSelector"]["matchLabels"].items() <= labels.items()
            assert origin.keys() == {"podSelector"}
        else:
            assert origin["namespaceSelector"]["matchLabels"]


@pytest.mark.parametrize("name", NAMES)
def test_peers_find_each_other_before_they_are_ready_and_clients_find_who_is(name: str) -> None:
    services = {one["metadata"]["name"]: one["spec"] for one in every("Service", name)}
    governing = services.pop(the("StatefulSet", name)["spec"]["serviceName"])
    assert (governing["clusterIP"], governing["publishNotReadyAddresses"]) == ("None", True)
    ((called, clients),) = services.items()
    assert not clients.get("publishNotReadyAddresses")
    assert [one["name"] for one in clients["ports"]] == ["clients"]
    assert environment(name, 1)["JOIN_AT"] == f"{called}.raftkv.svc:7001"


@pytest.mark.parametrize("name", WITHOUT_TLS)
def test_probes_are_grpc_and_liveness_is_local(name: str) -> None:
    found = container(name)
    asked = {one: found[one]["grpc"] for one in ("startupProbe", "readinessProbe", "livenessProbe")}
    local, cluster = {"port": 7001, "service": ""}, {"port": 7001, "service": "raftkv.v1.KV"}
    assert asked == {"startupProbe": local, "readinessProbe": cluster, "livenessProbe": local}


@pytest.mark.parametrize("name", WITH_TLS)
def test_with_tls_probes_are_https_since_the_kubelets_grpc_cannot(name: str) -> None:
    found = container(name)
    asked = {one: found[one]["httpGet"] for one in ("startupProbe", "readinessProbe", "livenessProbe")}
    local, cluster = ({"scheme": "HTTPS", "port": "http", "path": path} for path in ("/livez", "/readyz"))
    assert asked == {"startupProbe": local, "readinessProbe": cluster, "livenessProbe": local}
    assert not any("grpc" in found[probe] for probe in asked)


@pytest.mark.parametrize("name", NAMES)
def test_a_start_has_half_an_hour_and_a_stop_has_time_to_hand_over(name: str) -> None:
    probe = container(name)["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 1800
    script = container(name)["lifecycle"]["preStop"]["exec"]["command"][-1]
    before = sum(float(number) for number in re.findall(r"(?:--timeout|sleep) (\d+)", script))
    stopping = 3 * ServerSettings.model_fields["shutdown_timeout_s"].default
    assert pod(name)["terminationGracePeriodSeconds"] >= 1.5 * (before + stopping)


def pre_stop(name: str) -> list[str]:
    command: list[str] = container(name)["lifecycle"]["preStop"]["exec"]["command"]
    return command


def test_before_it_stops_a_leader_hands_over_by_a_command_that_exists() -> None:
    (script,) = {pre_stop(name)[-1] for name in NAMES}
    words = script.split(";")[0].split()
    assert words[:3] == ["raftkv", "leader", "transfer"]
    transfer = typer.main.get_command(app).commands["leader"].commands["transfer"]  # type: ignore[attr-defined]
    context = transfer.make_context("transfer", words[3:])
    assert (context.params["if_leading"], context.params["target"]) == (True, 0)


@pytest.mark.parametrize("status", [0, 5])
def test_the_pod_stays_for_a_while_either_way_and_a_failure_is_told(status: int, tmp_path: Path) -> None:
    for program, text in {"raftkv": f"exit {status}", "sleep": 'echo slept "$@"'}.items():
        (tmp_path / program).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / program).chmod(0o755)
    command = pre_stop("kustomize-three")
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, "slept 5\n")


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_restricted(name: str) -> None:
    """As the namespace demands (Pod Security Standards, restricted), and a bit more."""
    found, own = pod(name), container(name)["securityContext"]
    assert found["securityContext"]["runAsNonRoot"] is True
    assert found["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert found["automountServiceAccountToken"] is False
    assert the("ServiceAccount", name)["automountServiceAccountToken"] is False
    assert "cpu" not in container(name)["resources"].get("limits", {})


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_written_to_volumes(name: str) -> None:
    mounts = {one["mountPath"]: one["name"] for one in container(name)["volumeMounts"]}
    claims = {one["metadata"]["name"] for one in the("StatefulSet", name)["spec"]["volumeClaimTemplates"]}
    assert set(mounts.values()) == claims | {one["name"] for one in pod(name)["volumes"]}
    data_dir = Path(the("ConfigMap", name)["data"]["RAFTKV_DATA_DIR"])
    assert mounts[str(data_dir.parent)] in claims


def mounted_files(name: str) -> set[str]:
    """Return the names of the files in the directory of certificates, as far as the manifests say."""
    (volume,) = (one for one in pod(name)["volumes"] if one["name"] == "tls")
    if "secret" in volume:  # as `raftkv certs init` makes them
        return {"ca.crt"} | {f"node-{node}.{kind}" for node in nodes(name) for kind in ("crt", "key")}
    return {item["path"] for source in volume["projected"]["sources"] for item in source["secret"]["items"]}


@pytest.mark.parametrize("name", WITH_TLS)
def test_every_certificate_that_a_setting_names_is_mounted_whole(name: str) -> None:
    for node in nodes(name):
        found = environment(name, node)
        files = [Path(value) for value in found.values() if value.startswith("/etc/raftkv/tls/")]
        assert {file.name for file in files} == {"ca.crt", f"node-{node}.crt", f"node-{node}.key"}
        assert {file.name for file in files} <= mounted_files(name)
        assert found["RAFTKV_INSECURE"] == "false"
    assert not any("subPath" in one or "subPathExpr" in one for one in container(name)["volumeMounts"])


@pytest.mark.parametrize("name", ["kustomize-tls", "helm-tls-cert-manager"])
def test_certificates_have_the_names_that_are_dialled_and_one_peer_each(name: str) -> None:
    certificates = {one["spec"]["secretName"]: one["spec"] for one in every("Certificate", name)}
    (volume,) = (one for one in pod(name)["volumes"] if one["name"] == "tls")
    for source in volume["projected"]["sources"]:
        (node,) = {
            int(found.group(1))
            for item in source["secret"]["items"]
            if (found := re.match(r"node-(\d+)", item["path"]))
        }
        spec = certificates[source["secret"]["name"]]
        given = environment(name, node)
        dialled = {given[one].rpartition(":")[0] for one in ("RAFTKV_ADVERTISE", "JOIN_AT", "RAFTKV_ENDPOINTS")}
        assert dialled < set(spec["dnsNames"])
        peers = [one for one in spec["dnsNames"] if ".peer." in one]
        assert peers == [f"node-{node}.peer.{given['RAFTKV_CLUSTER_NAME']}"]
        assert {"server auth", "client auth"} <= set(spec["usages"])
        for monitor in every("ServiceMonitor", name):
            assert monitor["spec"]["endpoints"][0]["tlsConfig"]["serverName"] in spec["dnsNames"]


@pytest.mark.parametrize("name", [name for name in NAMES if every("ServiceMonitor", name)])
def test_prometheus_scrapes_unready_nodes_too_over_the_scheme_that_they_speak(name: str) -> None:
    monitor = the("ServiceMonitor", name)["spec"]
    selected = [one for one in every("Service", name) if matches(monitor["selector"]["matchLabels"], one)]
    assert [one["spec"].get("publishNotReadyAddresses") for one in selected] == [True]
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {one["name"] for one in selected[0]["spec"]["ports"]}
    assert endpoint.get("scheme", "http") == ("https" if name in WITH_TLS else "http")
    job = {one["targetLabel"]: one.get("replacement") for one in endpoint["relabelings"]}["job"]
    assert re.fullmatch("raftkv(/.+)?", job)


def matches(selector: Mapping[str, str], resource: Resource) -> bool:
    labels: Mapping[str, str] = resource["metadata"]["labels"]
    return selector.items() <= labels.items()


@pytest.mark.parametrize(
    ("overlay", "values"),
    [("kustomize-three", "helm-three"), ("kustomize-five", "helm-five"), ("kustomize-tls", "helm-tls-cert-manager")],
)
def test_the_chart_and_the_kustomization_say_the_same(overlay: str, values: str) -> None:
    """But for what only one of them has: labels of helm, hashes in names, the namespace, the issuer."""
    assert dict(comparable(overlay)) == dict(comparable(values))


def comparable(name: str) -> Iterator[tuple[tuple[str, str], Any]]:
    for resource in committed(name):
        kind, called = resource["kind"], resource["metadata"]["name"]
        if kind in {"Namespace", "Issuer"} or (kind == "Certificate" and "-node-" not in called):
            continue
        if kind == "PrometheusRule" and "tls" in name:
            continue
        body = {key: value for key, value in resource.items() if key != "metadata"}
        yield (kind, "SETTINGS" if kind == "ConfigMap" else called), _normal(body)


def _normal(value: Any) -> Any:
    if isinstance(value, dict):
        found = {key: _normal(one) for key, one in value.items() if key != "checksum/settings"}
        for unordered in found.keys() & {"volumes", "volumeMounts"}:
            found[unordered] = sorted(found[unordered], key=lambda one: str(one["name"]))
        if "issuerRef" in found:
            found["issuerRef"] = found["issuerRef"]["name"]
        if "configMapRef" in found:
            found["configMapRef"] = "SETTINGS"
        return found
    return [_normal(one) for one in value] if isinstance(value, list) else value
