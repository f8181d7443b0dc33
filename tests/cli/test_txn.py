"""`raftkv txn`, and the documents it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raftkv.cli.txn_document import parse
from raftkv.client import (
    count,
    create_revision,
    delete,
    get,
    get_range,
    lease_of,
    mod_revision,
    put,
    value,
    version,
    when,
)
from tests.cli.conftest import Cli, without_receipt


def test_a_document_says_what_the_builder_says() -> None:
    document = {
        "when": [
            {"key": "a", "version": 0},
            {"key": "b", "value": {"!=": "x"}, "mod_revision": {">=": 3, "<": 9}},
            {"prefix": "c/", "lease": 0},
            {"start": "d", "end": "e", "create_revision": {">": 1}},
            {"start": "f", "value": {"base64": "/w=="}},
        ],
        "then": [
            {"put": "a", "value": {"base64": "AP8="}, "lease": 7, "previous": True},
            {"when": [{"key": "n", "version": 0}], "then": [{"put": "n", "value": ""}]},
        ],
        "otherwise": [
            {"get": "a", "revision": 4},
            {"count": "c/"},
            {"get_range": ["d", None], "limit": 2, "keys_only": True},
            {"delete": "a"},
        ],
    }
    expected = (
        when(
            version("a") == 0,
            value("b") != "x",
            mod_revision("b") >= 3,
            mod_revision("b") < 9,
            lease_of(prefix="c/") == 0,
            create_revision(start="d", end="e") > 1,
            value(start="f") == b"\xff",
        )
        .then(put("a", b"\x00\xff", lease=7, previous=True), when(version("n") == 0).then(put("n", "")))
        .otherwise(get("a", revision=4), count("c/"), get_range("d", None, limit=2, keys_only=True), delete("a"))
    )
    assert parse(json.dumps(document).encode()) == expected


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("\udcff", "not JSON"),
        ('{"when": [], "when": []}', "twice"),
        ("[]", "not an object"),
        ('{"if": []}', "'if'"),
        ('{"then": {}}', "'then' of the transaction is not an array"),
        ('{"when": ["a"]}', "condition 0"),
        ('{"when": [{"version": 0}]}', 'one of "key"'),
        ('{"when": [{"key": "a", "prefix": "b", "version": 0}]}', 'one of "key"'),
        ('{"when": [{"key": "a", "end": "b", "version": 0}]}', 'one of "key"'),
        ('{"when": [{"key": "a"}]}', "says nothing"),
        ('{"when": [{"key": "a", "size": 3}]}', "'size'"),
        ('{"when": [{"key": "a", "version": "0"}]}', "not a number"),
        ('{"when": [{"key": "a", "version": -1}]}', "not a number"),
        ('{"when": [{"key": "a", "version": true}]}', "not a number"),
        ('{"when": [{"key": "a", "version": {"~": 3}}]}', "'~'"),
        ('{"when": [{"key": "a", "version": {">=": 0}}]}', "always holds"),
        ('{"when": [{"key": "a", "value": {"<=": "x"}}]}', "'<='"),
        ('{"when": [{"key": "a", "value": 3}]}', "neither text"),
        ('{"then": ["get"]}', "operation 0"),
        ('{"then": [{"increment": "a"}]}', "needs one of put"),
        ('{"then": [{"get": "a", "put": "b"}]}', "needs one of put"),
        ('{"then": [{"put": "a"}]}', 'no "value"'),
        ('{"then": [{"put": "a", "value": "1", "ttl": 3}]}', "'ttl'"),
        ('{"then": [{"put": "a", "value": "1", "previous": 1}]}', "true nor false"),
        ('{"then": [{"put": "a", "value": {"base64": "?"}}]}', "not base64"),
        ('{"then": [{"put": "a", "value": "\\ud800"}]}', "half a character"),
        ('{"then": [{"get_range": "a"}]}', '["START", "END"]'),
        ('{"then": [{"get_range": ["b", "a"]}]}', "end"),
        (json.dumps({"then": [{"get": "a"}] * 129}), "129 operations, at most 128"),
        ("nested", "at most 8"),
    ],
    ids=lambda one: one[:50],
)
def test_documents_that_make_no_sense(cli: Cli, document: str, said: str) -> None:
    if document == "nested":
        nested: dict[str, Any] = {"then": [{"get": "a"}]}
        for _ in range(8):
            nested = {"then": [nested]}
        document = json.dumps(nested)
    # Nobody is asked: nobody is there.
    result = cli("txn", "--endpoints", "127.0.0.1:1", stdin=document.encode(errors="surrogateescape"))
    assert said in result.error
    assert result.code == 2


def test_a_file_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    result = cli("txn", str(tmp_path / "none"))
    assert result.code == 1
    assert "No such file" in result.error


@pytest.mark.processes
@pytest.mark.usefixtures("cluster")
def test_what_it_did(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "create.json"
    file.write_text(
        '{"when": [{"key": "txn/a", "version": 0}],'
        ' "then": [{"put": "txn/a", "value": "1", "previous": true}, {"get": "txn/a"}, {"count": "txn/"}],'
        ' "otherwise": [{"get_prefix": "txn/"}, {"when": [{"key": "txn/none", "version": 1}],'
        ' "otherwise": [{"get": "txn/none"}, {"delete": "txn/a", "previous": true}]}]}'
    )
    done = cli("txn", str(file), "-o", "json")
    assert done.code == 0
    revision = done.json["revision"]
    pair = {"key": "txn/a", "value": "1", "create_revision": revision, "mod_revision": revision, "version": 1}
    pair |= {"lease": None, "guarantee": "linearizable"}
    assert without_receipt(done.json) == {
        "revision": revision, "succeeded": True, "results": [{"put": {"previous": None}}, pair, {"count": 1}],
    }  # fmt: skip
    other = cli("txn", str(file), "-o", "json")
    assert other.code == 4
    assert not other.err
    nested = {"succeeded": False, "results": [None, {"deleted": 1, "previous": [pair]}]}
    assert without_receipt(other.json) == {
        "revision": revision + 1, "succeeded": False, "results": [{"pairs": [pair], "more": False}, nested],
    }  # fmt: skip
    assert cli("txn", stdin=file.read_bytes()).text.splitlines() == [
        f"the conditions hold, revision {revision + 2}",
        "put",
        f"got txn/a 1 (revision {revision + 2})",
        "counted 1",
    ]
    other = cli("txn", str(file))
    assert other.code == 4
    assert other.text.splitlines() == [
        f"the conditions do not hold, revision {revision + 3}",
        "got 1 keys",
        f"  txn/a 1 (revision {revision + 2})",
        "the conditions do not hold",
        "  got nothing: no such key",
        "  deleted 1",
        f"    previous txn/a 1 (revision {revision + 2})",
    ]


@pytest.mark.processes
@pytest.mark.usefixtures("cluster")
def test_what_the_store_refuses(cli: Cli) -> None:
    twice = cli("txn", stdin=b'{"then": [{"put": "txn/t", "value": "1"}, {"put": "txn/t", "value": "2"}]}')
    assert twice.code == 2
    assert "txn/t" in twice.error
    lease = cli("txn", stdin=b'{"then": [{"put": "txn/t", "value": "1", "lease": 4611686018427387904}]}')
    assert lease.code == 3
    future = cli("txn", stdin=b'{"then": [{"get": "txn/t", "revision": 999999999}]}')
    assert future.code == 1
    assert "future" in future.error
    assert cli("get", "txn/t").code == 3
