"""`raftkv certs`, and the flags of TLS on the commands of clients."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from raftkv.tls.authority import Authority
from raftkv.tls.directory import CertificateDirectory
from raftkv.tls.material import CertificateFiles, load_material
from raftkv.tls.names import peer_name
from tests.cli.conftest import Cli
from tests.pki import CLUSTER_NAME, LONG_AGO, Pki


def test_init_makes_what_nodes_and_clients_need(cli: Cli, tmp_path: Path) -> None:
    where = tmp_path / "tls"
    made = cli(
        "certs", "init", str(where), "--node", "1=kv1,10.0.0.1", "--node", "7=kv7", "--client", "app", "-o", "json"
    )
    assert made.code == 0
    assert made.json == [str(where / f"{name}.crt") for name in ("ca", "node-1", "node-7", "app")]
    for node in (1, 7):
        name = f"node-{node}"
        files = CertificateFiles(
            purpose="peers",
            cert=where / f"{name}.crt",
            key=where / f"{name}.key",
            ca=where / "ca.crt",
            name=peer_name(node, CLUSTER_NAME),
            dials=True,
            own_authority=True,
        )
        assert load_material(files).subject == f"CN=node-{node}"
    assert {path.stat().st_mode & 0o777 for path in where.glob("*.key")} == {0o600}
    shown = {Path(one["file"]).stem: one for one in cli("certs", "show", str(where), "-o", "json").json}
    assert shown["node-1"]["names"] == ["node-1.peer.raftkv", "kv1", "localhost", "10.0.0.1", "127.0.0.1", "::1"]
    assert shown["node-1"]["issuer"] == shown["ca"]["subject"] == "CN=raftkv authority"
    assert shown["app"]["names"] == []
    days = {name: round((one["not_after"] - datetime.now(UTC).timestamp()) / 86_400) for name, one in shown.items()}
    assert days == {"ca": 3650, "node-1": 365, "node-7": 365, "app": 365}


def test_without_nodes_it_is_for_the_compose_file(cli: Cli, tmp_path: Path) -> None:
    assert cli("certs", "init", str(tmp_path)).code == 0
    table = cli("certs", "show", str(tmp_path)).text
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        "ca.crt", "client.crt", *(f"node-{node}.crt" for node in range(1, 6)),
    ]  # fmt: skip
    assert "node-5.peer.raftkv, node5, localhost" in table


def test_nothing_is_overwritten_unless_it_is_said(cli: Cli, tmp_path: Path) -> None:
    cli("certs", "init", str(tmp_path), "--node", "1=a")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    refused = cli("certs", "init", str(tmp_path), "--node", "1=a")
    assert refused.code == 2
    assert "ca.crt exists" in refused.error
    assert "certs renew" in refused.error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert cli("certs", "init", str(tmp_path), "--node", "1=a", "--force").code == 0
    assert all(path.read_bytes() != content for path, content in before.items())


def test_renew_keeps_the_authority_and_the_names(cli: Cli, tmp_path: Path) -> None:
    where = CertificateDirectory(tmp_path)
    authority = Authority.new(CLUSTER_NAME, datetime.now(UTC) - LONG_AGO)
    where.init(CLUSTER_NAME, {1: ["kv1"], 2: ["kv2"]}, ["client"], datetime.now(UTC) - LONG_AGO)
    ended = cli("certs", "show", str(tmp_path), "-o", "json")
    assert ended.code == 1
    assert [one["valid"] for one in ended.json] == [True, False, False, False]
    ca = where.cert("ca").read_bytes()
    renewed = cli("certs", "renew", str(tmp_path), "node-1")
    assert renewed.text.count("\n") == 1
    shown = {Path(one["file"]).stem: one for one in cli("certs", "show", str(tmp_path), "-o", "json").json}
    assert [name for name, one in shown.items() if one["valid"]] == ["ca", "node-1"]
    assert cli("certs", "renew", str(tmp_path)).code == 0
    again = {Path(one["file"]).stem: one for one in cli("certs", "show", str(tmp_path), "-o", "json").json}
    assert all(one["valid"] for one in again.values())
    assert [again[name]["names"] for name in again] == [one["names"] for one in ended.json]
    assert where.cert("ca").read_bytes() == ca != authority.cert_pem


def test_who_could_read_a_key_can_read_the_new_one(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the `chown` for containers, whose user is another one."""
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "fchown", lambda _descriptor, user, group: given.append((user, group)))
    cli("certs", "init", str(tmp_path), "--node", "1=a")
    key = tmp_path / "node-1.key"
    key.chmod(0o640)
    mine, real = key.stat(), Path.stat
    theirs = os.stat_result((mine.st_mode, mine.st_ino, mine.st_dev, 1, 10001, 10002, *mine[6:]))
    monkeypatch.setattr(Path, "stat", lambda path, **more: theirs if path == key else real(path, **more))
    assert cli("certs", "renew", str(tmp_path), "node-1").code == 0
    assert given == [(10001, 10002)]
    assert real(key).st_mode & 0o777 == 0o640

    def refused(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refused)
    before = key.read_bytes()
    result = cli("certs", "renew", str(tmp_path), "node-1")
    assert result.code == 2
    assert "belongs to user 10001 and group 10002" in result.error
    assert key.read_bytes() == before


def test_renew_makes_the_certificate_of_a_further_node_and_leaves_the_others(cli: Cli, tmp_path: Path) -> None:
    cli("certs", "init", str(tmp_path), "--node", "1=a")
    first = (tmp_path / "node-1.crt").read_bytes()
    made = cli("certs", "renew", str(tmp_path), "--node", "4=kv4", "--client", "backup", "-o", "json")
    assert made.json == [str(tmp_path / f"{name}.crt") for name in ("node-4", "backup")]
    assert (tmp_path / "node-1.crt").read_bytes() == first


def test_renew_makes_no_certificate_that_the_other_nodes_would_refuse(cli: Cli, tmp_path: Path) -> None:
    cli("certs", "init", str(tmp_path), "--node", "1=a", "--cluster-name", "Shop")
    refused = cli("certs", "renew", str(tmp_path), "--node", "4=d")
    assert refused.code == 2
    assert "is of cluster shop, not raftkv" in refused.error
    assert "--cluster-name shop" in refused.error
    assert not (tmp_path / "node-4.crt").exists()
    assert cli("certs", "renew", str(tmp_path), "--client", "backup").code == 0, "a client is of no cluster"
    assert cli("certs", "renew", str(tmp_path), "--node", "4=d", "--cluster-name", "shop").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("init", "DIR", "--node", "x=a"), "'x=a' is not ID=HOST"),
        (("init", "DIR", "--node", "1"), "'1' is not ID=HOST"),
        (("init", "DIR", "--node", "1=a", "--node", "1=b"), "node 1 is named twice"),
        (("init", "DIR", "--node", "1=a b"), "'a b' is neither a host name nor an address"),
        (("init", "DIR", "--node", "1="), "'' is neither a host name nor an address"),
        (("init", "DIR", "--client", "../x"), "'../x' cannot be a client's name"),
        (("init", "DIR", "--client", "ca"), "'ca' cannot be a client's name"),
        (("init", "DIR", "--cluster-name", "a.b"), "'a.b' is no part of a DNS name"),
        (("renew", "DIR"), "ca.crt: No such file or directory"),
        (("show", "DIR"), "holds no certificate"),
        (("show", "/dev/null"), "/dev/null holds no certificate in PEM"),
    ],
)
def test_bad_input(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    refused = cli("certs", *(str(tmp_path) if one == "DIR" else one for one in arguments))
    assert refused.code == 2
    assert said in refused.error
    assert not list(tmp_path.iterdir())


def test_renew_of_what_is_not_there(cli: Cli, tmp_path: Path) -> None:
    cli("certs", "init", str(tmp_path), "--node", "1=a")
    refused = cli("certs", "renew", str(tmp_path), "node-2")
    assert refused.code == 2
    assert "no certificate node-2 (there are: client, node-1)" in refused.error


# --- the flags --------------------------------------------------------------------------------------------------------


@pytest.fixture
def port(pki: Pki) -> Iterator[int]:
    """Something that speaks TLS, and answers no call: a node beside the command line would take a second event loop."""
    server = grpc.server(ThreadPoolExecutor(1))
    pair = [(pki.nodes[1].key_pem, pki.nodes[1].cert_pem)]
    credentials = grpc.ssl_server_credentials(pair, pki.ca.read_bytes(), require_client_auth=True)
    found = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    yield found
    server.stop(None).wait()


def test_each_trouble_is_one_line_with_exit_code_5(cli: Cli, port: int, pki: Pki, tmp_path: Path) -> None:
    cert, key = pki.put(pki.client, tmp_path)
    where = ("--endpoints", f"127.0.0.1:{port}", "--timeout", "1")
    ca, shown = ("--cacert", str(pki.ca)), ("--cert", str(cert), "--key", str(key))
    for flags, said in (
        ((), "the node speaks TLS there, and this client plain text"),
        (ca, "demands a client certificate"),
        ((*ca, *shown), "not a client address"),  # it got in: there is nothing but the connection
    ):
        refused = cli("get", "k", *where, *flags)
        assert (refused.code, said in refused.error) == (5, True), refused.err
        assert f"127.0.0.1:{port}" in refused.error
    refused = cli("endpoint", "status", *where, "-o", "json")
    assert refused.code == 5
    assert "plain text" in json.loads(refused.err)["error"]["message"]


def test_files_of_no_use_are_a_usage_error(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = cli("get", "k", "--cacert", str(tmp_path / "none"))
    assert refused.code == 2
    assert "none: No such file" in refused.error
    monkeypatch.setenv("RAFTKV_CERT", "a.crt")
    refused = cli("ls")
    assert refused.code == 2
    assert "cert is given without key" in refused.error


def test_every_command_of_a_client_has_the_flags(cli: Cli) -> None:
    for command in (("get",), ("bench", "watch"), ("endpoint", "status"), ("lock",), ("jepsen",), ("snapshot", "save")):
        shown = cli(*command, "--help").text
        assert all(flag in shown for flag in ("--cacert", "--cert", "--key", "--tls-server-name")), command
    assert "--cacert" not in cli("certs", "show", "--help").text
