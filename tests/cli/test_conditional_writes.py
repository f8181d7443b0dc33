"""put and del that depend on what is there, on locks and on leases."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Cli

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("cluster")]


def test_create(cli: Cli) -> None:
    assert cli("put", "cond/new", "first", "--create").code == 0
    again = cli("put", "cond/new", "second", "--create")
    assert again.code == 4
    assert "b'cond/new' exists" in again.error
    assert cli("get", "cond/new").out == b"first"


def test_if_revision(cli: Cli) -> None:
    revision = cli("put", "cond/cas", "first", "-o", "json").json["revision"]
    assert cli("put", "cond/cas", "second", "--if-revision", str(revision)).code == 0
    late = cli("put", "cond/cas", "third", "--if-revision", str(revision))
    assert late.code == 4
    assert f"is at revision {revision + 1}, not at {revision}" in late.error
    late = cli("del", "cond/cas", "--if-revision", str(revision))
    assert late.code == 4
    assert cli("get", "cond/cas").out == b"second"
    assert cli("del", "cond/cas", "--if-revision", str(revision + 1)).code == 0
    gone = cli("put", "cond/cas", "x", "--if-revision", str(revision + 1))
    assert gone.code == 4
    assert "does not exist" in gone.error


def test_previous(cli: Cli) -> None:
    assert cli("put", "cond/previous", "1", "--previous", "-o", "json").json["previous"] is None
    revision = cli("get", "cond/previous", "-o", "json").json["mod_revision"]
    before = cli("put", "cond/previous", "2", "--previous", "-o", "json").json["previous"]
    assert (before["value"], before["mod_revision"]) == ("1", revision)
    assert cli("put", "cond/previous", "3", "--previous").text.splitlines()[1] == (
        f"previous cond/previous 2 (revision {revision + 1})"
    )
    deleted = cli("del", "cond/prev", "--prefix", "--previous", "-o", "json").json
    assert [one["value"] for one in deleted["previous"]] == ["3"]


def test_a_key_goes_with_its_lease(cli: Cli) -> None:
    lease = cli("lease", "grant", "60").text.strip()
    assert cli("put", "cond/leased", "here", "--lease", lease).code == 0
    cli("put", "cond/lasting", "here")
    assert cli("get", "cond/leased", "-o", "json").json["lease"] == int(lease)
    assert cli("get", "cond/lasting", "-o", "json").json["lease"] is None
    table = [line.split() for line in cli("ls", "cond/l", "--values").text.splitlines()]
    assert table[0] == ["KEY", "REVISION", "VERSION", "LEASE", "VALUE"]
    assert [(row[0], row[3]) for row in table[1:]] == [("cond/lasting", "-"), ("cond/leased", lease)]
    assert cli("lease", "revoke", lease).text == "revoked, with 1 key\n"
    assert cli("get", "cond/leased").code == 3
    late = cli("put", "cond/leased", "late", "--lease", lease)
    assert late.code == 3
    assert late.error.startswith(f"lease {lease} is unknown")


@pytest.mark.parametrize("command", [("put", "cond/fenced", "v"), ("del", "cond/fenced"), ("txn",)], ids=" ".join)
def test_a_fence_that_is_stale(cli: Cli, command: tuple[str, ...]) -> None:
    document = b'{"then": [{"put": "cond/fenced", "value": "v"}]}'
    for fence in ("cond:lock:7", "cond:lock:7:max_seen", "cond:lock:7:holder"):
        stale = cli(*command, "--fence", fence, stdin=document)
        assert stale.code == 4
        assert "b'cond:lock' was never granted" in stale.error
    assert cli("get", "cond/fenced").code == 3
