"""`raftkv serve` told what it cannot do: one line, exit code 2; a data directory it may not use: exit code 1."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from raftkv.testing.processes import free_port
from tests.cli.conftest import Cli
from tests.cli.processes import finished, started

MEMBER = ("--member", "1=127.0.0.1:7101")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "id is missing: give --id or RAFTKV_ID"),
        (("--bogus",), "no such option: --bogus"),
        (("--id", "one"), "'--id'"),
        (("--id", "2", "--data-dir", "x", *MEMBER), "node 2 (id) is not among the members (1)"),
        (("--id", "1", "--data-dir", "x", "--member", "1"), "'1' is not ID=HOST:PORT"),
        (("--id", "1", "--data-dir", "x", "--member", "1=nowhere"), "'nowhere' is not HOST:PORT"),
        (("--id", "1", "--data-dir", "x", *MEMBER, *MEMBER), "node 1 is named twice"),
        (("--id", "1", "--data-dir", "x", *MEMBER, "--listen", "7001"), "'7001' is not HOST:PORT"),
        (("--id", "1", "--data-dir", "x", *MEMBER, "--peer-dial", "1=h:1"), "node 1, which is this node"),
        (("--id", "1", "--data-dir", "x", *MEMBER, "--join", "h:1"), "give one of them"),
        (("--id", "1", "--data-dir", "x", "--join", "nowhere"), "'nowhere' is not HOST:PORT"),
        (("--id", "1", "--data-dir", "x", *MEMBER, "--log-level", "loud"), "log-level"),
        (("--id", "1", "--data-dir", "x", *MEMBER, "--heartbeat-ms", "900"), "must exceed twice --heartbeat-ms (900)"),
        (
            ("--id", "1", "--data-dir", "x", *MEMBER, "--disk-reserve-bytes", str(1 << 60)),
            f"--disk-reserve-bytes ({1 << 60}) exceeds the size of the disk of x, ",
        ),
        (("--config", "/nowhere.toml"), "/nowhere.toml: No such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_settings(cli: Cli, flags: tuple[str, ...], said: str) -> None:
    result = cli("serve", *flags)
    assert result.code == 2
    assert said in result.error


def test_an_unknown_setting_in_the_file(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "raftkv.toml"
    path.write_text("colour = 'red'\n")
    result = cli("serve", "--id", "1", "--data-dir", "x", *MEMBER, "--config", str(path))
    assert result.code == 2
    assert "unknown setting 'colour'" in result.error


@pytest.mark.parametrize("variable", ["RAFTKV_TLS_CLIENT_ATH", "RAFTKV_PEER_TLS_CERTS", "RAFTKV_INSECURES"])
def test_a_misspelt_guard_in_the_environment(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    """Other names that are none are a warning; with these, a node would stand open without a word."""
    monkeypatch.setenv(variable, "yes")
    taken = tmp_path / "file"
    taken.write_text("a node that goes on ends here")
    result = cli("serve", "--id", "1", "--data-dir", str(taken), *MEMBER)
    assert result.code == 2
    assert f"{variable} is no setting of a node; did you mean RAFTKV_" in result.error


def node(data_dir: Path, *, peers: int, clients: int, node_id: int = 1) -> tuple[str, ...]:
    return (
        *("serve", "--id", str(node_id), "--data-dir", str(data_dir), "--log-level", "error"),
        *("--member", f"{node_id}=127.0.0.1:{peers}", "--listen", f"127.0.0.1:{clients}"),
    )


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a node that runs in this process leave the process's logging alone."""
    monkeypatch.setattr("raftkv.cli.node.configure_logging", lambda *flags, **more: None)


@pytest.mark.usefixtures("own_logging")
def test_a_new_node_that_is_told_of_no_cluster(cli: Cli, tmp_path: Path) -> None:
    result = cli("serve", "--id", "1", "--data-dir", str(tmp_path / "new"))
    assert result.code == 2
    assert "give --member for every founding member, or --join" in result.error


@pytest.mark.usefixtures("own_logging")
def test_nobody_to_join_answers(cli: Cli, tmp_path: Path) -> None:
    result = cli("serve", "--id", "5", "--data-dir", str(tmp_path / "new"), "--join", "127.0.0.1:1")
    assert result.code == 5, "as everywhere when nobody is reached"
    assert "no member of the cluster lets node 5 in: 127.0.0.1:1: UNAVAILABLE" in result.error


@pytest.mark.processes
@pytest.mark.parametrize("taken", ["peers", "clients"])
def test_a_port_in_use(tmp_path: Path, taken: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ports = {"peers": free_port(), "clients": free_port()} | {taken: port}
        result = finished(tmp_path, *node(tmp_path / "data", **ports))
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port} (for {taken})" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.processes
def test_a_data_directory_that_is_in_use_or_anothers(tmp_path: Path, cli: Cli) -> None:
    data_dir = tmp_path / "data"
    peers, clients = free_port(), free_port()
    with started(tmp_path, *node(data_dir, peers=peers, clients=clients)) as running:
        assert cli("put", "k", "v", "--endpoints", f"127.0.0.1:{clients}", "--timeout", "30").code == 0
        elsewhere = ("--peer-listen", f"127.0.0.1:{free_port()}")
        held = finished(tmp_path, *node(data_dir, peers=peers, clients=free_port()), *elsewhere)
        assert held.returncode == 1
        assert f"held by process {running.pid}" in held.stderr
        assert len(held.stderr.splitlines()) == 1
        running.terminate()
        assert running.wait(30) == 0
    for strange in (
        node(data_dir, peers=peers, clients=clients, node_id=2),
        node(data_dir, peers=free_port(), clients=clients),
    ):
        refused = finished(tmp_path, *strange)
        assert refused.returncode == 1
        assert "belongs to node 1 of cluster" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
