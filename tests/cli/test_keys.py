"""put, get, del and ls against a cluster."""

from __future__ import annotations

import pytest

from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli, without_receipt

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("cluster")]


def test_put_get_del(cli: Cli) -> None:
    put = cli("put", "a", "first")
    assert put.code == 0
    assert put.text.startswith("revision ")
    assert cli("get", "a").out == b"first"
    deleted = cli("del", "a")
    assert deleted.code == 0
    assert deleted.text.startswith("deleted 1 key, revision ")
    gone = cli("get", "a")
    assert (gone.code, gone.error) == (3, "key 'a' not found")
    again = cli("del", "a")
    assert (again.code, again.error) == (3, "no key 'a'")


def test_json(cli: Cli) -> None:
    revision = cli("put", "json", "first", "-o", "json").json["revision"]
    second = cli("put", "json", "second", "-o", "json").json
    assert without_receipt(second) == {"key": "json", "revision": revision + 1}
    expected = {
        "key": "json",
        "value": "second",
        "create_revision": revision,
        "mod_revision": revision + 1,
        "version": 2,
        "lease": None,
        "guarantee": "linearizable",
    }
    assert without_receipt(cli("get", "json", "-o", "json").json) == expected
    assert cli("get", "json", "--revision", str(revision)).out == b"first"
    assert cli("get", "json", "--read", "local", "-o", "json").json["guarantee"] == "stale_prefix"
    assert cli("ls", "json", "--values", "-o", "json").json == [expected]
    del expected["value"]
    assert cli("ls", "json", "-o", "json").json == [expected]
    deleted = cli("del", "json", "-o", "json")
    assert without_receipt(deleted.json) == {"deleted": 1, "revision": revision + 2}
    gone = cli("del", "json", "-o", "json")
    assert (gone.code, without_receipt(gone.json)) == (3, {"deleted": 0, "revision": revision + 2})
    assert cli("get", "json", "-o", "json").error == "key 'json' not found"


def test_bytes_go_through_unchanged(cli: Cli) -> None:
    value = bytes(range(256)) + b"\r\n"
    assert cli("put", "bytes", "-", stdin=value).code == 0
    assert cli("get", "bytes").out == value
    assert cli("get", "--hex", b"bytes".hex()).text == value.hex() + "\n"
    assert cli("put", "--hex", "ff00", "00fe").code == 0
    assert cli("get", "--hex", "ff00").text == "00fe\n"
    assert cli("get", "--hex", "ff00", "-o", "json").json["key"] == {"base64": "/wA="}
    assert cli("get", "--hex", "ff00", "-o", "json").json["value"] == {"base64": "AP4="}
    assert cli("ls", "--hex", "ff").text == "ff00\n"
    # As a shell passes on bytes that are no text.
    assert cli("get", "\udcff\udc80").error == r"key '\\xff\\x80' not found"


def test_text_that_is_no_ascii(cli: Cli) -> None:
    assert cli("put", "schlüssel", "wert ✓").code == 0
    assert cli("get", "schlüssel").text == "wert ✓"
    assert cli("get", "schlüssel", "-o", "json").json["value"] == "wert ✓"
    assert cli("ls", "schl").text == "schlüssel\n"


def test_ls(cli: Cli) -> None:
    for number in range(5):
        cli("put", f"ls/{number}", f"v{number}")
    assert cli("ls", "ls/").text.split() == [f"ls/{number}" for number in range(5)]
    assert cli("ls", "ls/", "--count").text == "5\n"
    assert without_receipt(cli("ls", "ls/", "--count", "-o", "json").json) == {"count": 5}
    limited = cli("ls", "ls/", "--limit", "2")
    assert limited.text.split() == ["ls/0", "ls/1"]
    assert limited.err == "raftkv: there are more keys than --limit 2\n"
    exact = cli("ls", "ls/", "--limit", "5")
    assert len(exact.text.split()) == 5
    assert not exact.err
    table = cli("ls", "ls/", "--values").text.splitlines()
    assert table[0].split() == ["KEY", "REVISION", "VERSION", "VALUE"]
    assert [(row.split()[0], row.split()[3]) for row in table[1:]] == [(f"ls/{n}", f"v{n}") for n in range(5)]
    assert cli("ls", "ls/none").out == b""
    assert cli("ls", "ls/none", "-o", "json").json == []
    assert cli("del", "ls/", "--prefix").text.startswith("deleted 5 keys, revision ")
    assert cli("del", "ls/", "--prefix").error == "no key begins with 'ls/'"


def test_ls_in_other_orders(cli: Cli) -> None:
    for key, value in (("c", "1"), ("a", "3"), ("b", "2"), ("a", "3")):
        cli("put", f"order/{key}", value)
    found = cli("ls", "order/", "-o", "json").json
    revisions = {one["key"][-1]: one["mod_revision"] for one in found}

    def keys(*flags: str) -> str:
        return "".join(line[-1] for line in cli("ls", "order/", *flags).text.split())

    assert keys("--descending") == "cba"
    assert keys("--order", "value") == "cba"
    assert keys("--order", "modified", "--descending") == "abc"
    assert keys("--order", "create") == "cab"
    assert keys("--order", "version", "--descending", "--limit", "1") == "a"
    assert keys("--min-mod-revision", str(revisions["b"])) == "ab"
    assert keys("--max-mod-revision", str(revisions["b"])) == "bc"
    assert keys("--min-create-revision", str(revisions["c"] + 1)) == "ab"
    assert keys("--max-create-revision", str(revisions["c"])) == "c"


def test_what_is_stored_moves_no_cursor_and_is_no_markup(cli: Cli) -> None:
    cli("put", "evil/\x1b[2J[red]", "line\nline :smile:")
    assert cli("ls", "evil/").text == "evil/\\x1b[2J[red]\n"
    assert cli("ls", "evil/", "--values").text.splitlines()[1].endswith("line\\nline :smile:")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("", "v", "empty"), ("k" * 501, "v", "at most 500"), ("k", "v" * ((1 << 20) + 1), "at most 1048576")],
    ids=["no key", "long key", "large value"],
)
def test_limits_are_named(cli: Cli, key: str, value: str, said: str) -> None:
    result = cli("put", key, "-", stdin=value.encode())
    assert result.code == 2
    assert said in result.error


def test_a_revision_in_the_future(cli: Cli) -> None:
    result = cli("get", "a", "--revision", "999999999")
    assert result.code == 1
    assert "999999999" in result.error


def test_any_one_endpoint_will_do(cli: Cli, cluster: RunningCluster) -> None:
    for endpoint in cluster.endpoints:
        assert cli("put", "one", endpoint, "--endpoints", endpoint).code == 0
        assert cli("get", "one", "--endpoints", f"raftkv://127.0.0.1:1,{endpoint}").text == endpoint
