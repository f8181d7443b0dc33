"""`raftkv lease`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli
from tests.cli.processes import interruptible, started

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("cluster")]

UNKNOWN = "4611686018427387904"


def test_life_of_a_lease(cli: Cli) -> None:
    granted = cli("lease", "grant", "300", "-o", "json").json
    assert granted["ttl"] == 300
    lease = str(granted["id"])
    cli("put", "lease/b", "x", "--lease", lease)
    cli("put", "lease/a", "x", "--lease", lease)
    known = cli("lease", "ttl", lease, "--keys", "-o", "json").json
    assert (known["id"], known["ttl"], known["keys"]) == (granted["id"], 300, ["lease/a", "lease/b"])
    assert 0 < known["remaining"] <= 300
    text = cli("lease", "ttl", lease, "--keys").text.splitlines()
    assert text[0].endswith("s of 300 s left")
    assert text[1:] == ["lease/a", "lease/b"]
    assert lease in cli("lease", "list").text.split()
    assert granted["id"] in cli("lease", "list", "-o", "json").json["leases"]
    assert cli("lease", "keepalive", lease, "--once").text == "renewed for 300 s\n"
    assert cli("lease", "keepalive", lease, "--once", "-o", "json").json == {"id": granted["id"], "ttl": 300}
    assert cli("lease", "revoke", lease, "-o", "json").json == {"id": granted["id"], "deleted": 2}
    assert lease not in cli("lease", "list").text.split()
    assert not cli("ls", "lease/").text


def test_an_id_of_ones_own(cli: Cli) -> None:
    assert cli("lease", "grant", "300", "--id", "777777").text == "777777\n"
    taken = cli("lease", "grant", "300", "--id", "777777")
    assert taken.code == 4
    assert "777777" in taken.error
    assert cli("lease", "revoke", "777777").text == "revoked, with 0 keys\n"


@pytest.mark.parametrize("command", ["ttl", "keepalive", "revoke"])
def test_a_lease_that_is_not_there(cli: Cli, command: str) -> None:
    result = cli("lease", command, UNKNOWN)
    assert result.code == 3
    assert UNKNOWN in result.error


def test_keepalive_goes_on_until_the_lease_is_gone(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    lease = cli("lease", "grant", "6").text.strip()  # it takes a slow machine seconds to start a process
    with interruptible(), started(tmp_path, "lease", "keepalive", lease, "--endpoints", cluster.url) as process:
        assert process.stdout is not None
        # Longer, in all, than it would last by itself.
        assert [process.stdout.readline() for _ in range(5)] == ["renewed for 6 s\n"] * 5
        assert cli("lease", "revoke", lease).code == 0
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err == f"raftkv: lease {lease} not found\n"


@pytest.mark.slow
def test_keepalive_survives_what_the_lease_survives(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    lease = cli("lease", "grant", "6").text.strip()
    where = ("--endpoints", cluster.url, "--timeout", "1")
    with interruptible(), started(tmp_path, "lease", "keepalive", lease, *where) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "renewed for 6 s\n"
        for node in (1, 2, 3):
            cluster.signal(node, signal.SIGSTOP)
        try:
            assert process.stderr.readline().endswith("; trying again\n")
        finally:
            for node in (1, 2, 3):
                cluster.signal(node, signal.SIGCONT)
        assert process.stdout.readline() == "renewed for 6 s\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert cli("lease", "revoke", lease).code == 0
