"""`raftkv config check`: what `serve` would take, where from, and what looks wrong."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from raftkv.server.cluster import founded_by
from raftkv.server.settings import ServerSettings, load_settings
from raftkv.storage.data_dir import open_data_dir
from raftkv.tls.authority import Issued
from tests.cli.conftest import Cli
from tests.pki import Pki

MEMBERS = ("--member", "1=10.0.0.1:7101", "--member", "2=10.0.0.2:7101", "--member", "3=10.0.0.3:7101")


def node(data_dir: Path, *more: str) -> tuple[str, ...]:
    """The peers' port is on loopback, as behind a proxy: else plain text would be refused."""
    peers = ("--peer-listen", "127.0.0.1:7101")
    return ("config", "check", "--id", "1", "--data-dir", str(data_dir), *MEMBERS, *peers, *more)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


def hints(cli: Cli, data_dir: Path, *more: str) -> str:
    result = cli(*node(data_dir, *more), "-o", "json")
    assert result.code == 0, result.err
    return "\n".join(result.json["hints"])


def test_every_setting_is_shown_with_its_source(
    cli: Cli, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "raftkv.toml"
    file.write_text("election_ms = 400\n")
    monkeypatch.setenv("RAFTKV_HEARTBEAT_MS", "60")
    told = cli(*node(data_dir, "--config", str(file), "--store-map-size", str(4 << 20)), "-o", "json").json["settings"]
    assert told.keys() == ServerSettings.model_fields.keys()
    assert told["election_ms"] == {"value": 400, "source": "file", "from": str(file)}
    assert told["heartbeat_ms"] == {"value": 60, "source": "environment", "from": "RAFTKV_HEARTBEAT_MS"}
    assert told["id"] == {"value": 1, "source": "flag", "from": "--id"}
    assert told["tick_ms"] == {"value": 10, "source": "default", "from": None}
    assert told["quota_bytes"]["value"] == 3 << 20, "as it is in force"
    assert told["advertise"]["value"] == "127.0.0.1:7001"
    rows = [line.split() for line in cli(*node(data_dir, "--election-ms", "300")).text.splitlines()]
    assert ["--election-ms", "300", "ms", "flag", "--election-ms"] in rows
    assert ["--wal-segment-bytes", "64", "MiB", "default"] in rows
    assert not data_dir.exists(), "nothing is made"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--election-ms", "60"), "--election-ms (60) must exceed twice --heartbeat-ms (50)"),
        (("--disk-reserve-bytes", str(1 << 60)), "exceeds the size of the disk"),
        (("--config", "/nowhere.toml"), "/nowhere.toml: No such file"),
        (("--id", "4"), "node 4 (id) is not among the members"),
        (("--bogus",), "no such option: --bogus"),
        (("--listen", "0.0.0.0:7001"), "0.0.0.0:7001 (for clients) can be reached by other machines"),
        (("--http-listen", "[::]:7201"), "[::]:7201 (for HTTP) can be reached by other machines"),
        (("--peer-listen", "10.0.0.1:7101"), "10.0.0.1:7101 (for peers) can be reached by other machines"),
    ],
)
def test_what_serve_would_refuse(cli: Cli, data_dir: Path, flags: tuple[str, ...], said: str) -> None:
    result = cli(*node(data_dir, *flags))
    assert result.code == 2
    assert said in result.error


@pytest.mark.parametrize("flag", ["--tls", "--peer-tls"])
def test_certificates_that_serve_would_refuse(cli: Cli, data_dir: Path, tmp_path: Path, pki: Pki, flag: str) -> None:
    def files(issued: Issued) -> tuple[str, ...]:
        cert, key = pki.put(issued, tmp_path)
        asked = ("--tls-client-auth",) if flag == "--tls" else ()
        return (f"{flag}-cert", str(cert), f"{flag}-key", str(key), f"{flag}-ca", str(pki.ca), *asked)

    good = files(pki.nodes[1])
    key = tmp_path / "node.key"
    key.chmod(0o640)
    assert hints(cli, data_dir, *good) == ""
    key.chmod(0o644)
    assert f"{flag}-key {key}: everybody on this machine can read it" in hints(cli, data_dir, *good)
    result = cli(*node(data_dir, *files(pki.expired)))
    assert result.code == 2
    assert f"{flag}-cert" in result.error
    assert "expired" in result.error


def test_the_address_for_peers_is_that_of_the_member_unless_another_is_given(cli: Cli, data_dir: Path) -> None:
    result = cli("config", "check", "--id", "1", "--data-dir", str(data_dir), *MEMBERS)
    assert result.code == 2
    assert "10.0.0.1:7101 (for peers)" in result.error


def test_a_variable_that_is_almost_a_setting(cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTKV_FAVOURITE_COLOUR", "red")
    assert "RAFTKV_FAVOURITE_COLOUR is no setting of a node" in hints(cli, data_dir)
    monkeypatch.setenv("RAFTKV_ELECTON_MS", "300")
    result = cli(*node(data_dir))
    assert result.code == 2
    assert "RAFTKV_ELECTON_MS is no setting of a node; did you mean RAFTKV_ELECTION_MS?" in result.error


def test_there_is_nothing_to_say_of_settings_that_are_well(cli: Cli, data_dir: Path) -> None:
    assert hints(cli, data_dir, "--rtt-ms", "2") == ""


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--member", "4=10.0.0.4:7101"), "4 founding members survive the loss of 1, as 3 would"),
        (("--rtt-ms", "60"), "--election-ms 250 is less than 10 round trips of 60 ms"),
        (("--rtt-ms", "60"), "--heartbeat-ms 50 is less than one round trip of 60 ms"),
        (("--election-ms", "255"), "--election-ms 255 is 250 in ticks of 10 ms"),
        (("--tls-cert", "/nowhere.crt", "--tls-key", "/nowhere.key"), "--tls-key /nowhere.key: there is no such file"),
        (
            ("--tls-cert", "/no.crt", "--tls-key", "/no.key", "--tls-ca", "/no-ca.crt"),
            "--tls-ca without --tls-client-auth: clients are asked for no certificate",
        ),
        (("--write-concern", "4"), "no write would reach it"),
        (("--write-concern", "1"), "less than a majority of 3"),
        (("--write-concern", "all"), "with one voter down"),
        (("--listen", "0.0.0.0:7001", "--insecure"), "clients are told to use 0.0.0.0:7001"),
        (("--member", "5=127.0.0.1:1"), "--member address of node 5 is on loopback"),
    ],
)
def test_what_is_allowed_and_probably_not_meant(cli: Cli, data_dir: Path, flags: tuple[str, ...], said: str) -> None:
    assert said in hints(cli, data_dir, *flags)


def test_the_disk(cli: Cli, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = SimpleNamespace(total=4 << 30, free=1 << 20)
    monkeypatch.setattr("shutil.disk_usage", lambda path: small)
    told = hints(cli, data_dir)
    assert "the quota (8 GiB) is more than the disk" in told
    assert "less than the reserve (256 MiB)" in told


def test_a_data_directory_of_another_node_or_cluster(cli: Cli, data_dir: Path) -> None:
    flags = {"id": 2, "data_dir": data_dir, "member": [part for part in MEMBERS if part != "--member"]}
    cluster = founded_by(load_settings(flags))
    open_data_dir(data_dir, cluster_id=cluster.cluster_id, node_id=cluster.node_id, members=cluster.members).close()
    assert f"{data_dir} belongs to node 2, not 1" in hints(cli, data_dir)
    assert "belongs to cluster" in hints(cli, data_dir, "--id", "2", "--cluster-name", "other")
    assert hints(cli, data_dir, "--id", "2") == ""


def test_members_are_dialled_when_that_is_asked_for(cli: Cli, data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        reached, silent = f"127.0.0.1:{server.getsockname()[1]}", "127.0.0.1:1"
        dial = ("--peer-dial", f"2={reached}", "--peer-dial", f"3={silent}")
        assert "does not answer" not in hints(cli, data_dir, *dial)
        told = hints(cli, data_dir, *dial, "--dial")
    assert f"node 3 does not answer at {silent}: " in told
    assert "node 2" not in told
