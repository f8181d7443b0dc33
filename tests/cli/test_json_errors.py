"""What goes wrong under -o json: one JSON object on stderr, and the exit codes of old."""

from __future__ import annotations

import json
from typing import Any

import pytest
import typer

from raftkv.cli import app as command_tree
from raftkv.cli.exits import Exit, asks_for_json, complain, errors_as, fail
from raftkv.client import Guarantee, KeyValue
from raftkv.errors import (
    ERROR_TYPES,
    ConnectionFailed,
    DeadlineExceeded,
    KeyExists,
    NoLeader,
    RaftKVError,
    SequenceOutOfWindow,
)
from tests.cli.conftest import Cli

NOBODY = ("--endpoints", "127.0.0.1:1", "--timeout", "0.05")


@pytest.mark.parametrize(
    "command",
    [
        ("put", "k", "v"),
        ("get", "k"),
        ("del", "k"),
        ("ls",),
        ("watch", "k"),
        ("compact", "7"),
        ("lock", "l", "--", "true"),
        ("lock", "l", "--show"),
        ("elect", "e", "v", "--", "true"),
        ("elect", "e", "--leader"),
        ("elect", "e", "--observe"),
        ("lease", "grant", "60"),
        ("lease", "list"),
        ("lease", "ttl", "7"),
        ("lease", "revoke", "7"),
        ("endpoint", "status"),
        ("endpoint", "hash"),
        ("leader", "transfer"),
        ("member", "list"),
        ("member", "remove", "7"),
    ],
    ids=" ".join,
)
def test_nobody_can_be_reached(cli: Cli, command: tuple[str, ...]) -> None:
    dashes = command.index("--") if "--" in command else len(command)
    told = {}
    for output in ("table", "json"):
        result = cli(*command[:dashes], *NOBODY, "-o", output, *command[dashes:])
        assert result.code == Exit.UNREACHABLE
        told[output] = result
    assert told["table"].err.startswith("raftkv: ")
    error = told["json"].json_error
    assert error["code"] in ("CONNECTION_FAILED", "UNREACHABLE")
    assert (error["retryable"], error["ambiguous"]) == (True, False)
    assert not told["json"].out or json.loads(told["json"].out) is not None


@pytest.mark.parametrize(
    "arguments",
    [
        ("get", "-o", "json"),
        ("get", "-o", "json", "k", "--nonsense"),
        ("get", "k", "--timeout", "never", "--output", "json"),
        ("get", "k", "--timeout", "0", "--output=json"),
        ("put", "k", "v", "--create", "--previous", "-ojson"),
        ("lock", "l", "-o", "json", "--"),
        ("ls", "-o", "table", "-o", "json", "--endpoints", "no endpoint"),
        ("nonsense", "-o", "json"),
    ],
    ids=" ".join,
)
def test_the_command_line_is_wrong(cli: Cli, arguments: tuple[str, ...]) -> None:
    """The parser's errors too, however the flag is written and wherever it stands."""
    result = cli(*arguments)
    assert result.code == Exit.USAGE
    assert not result.out
    error = result.json_error
    assert error["code"] in ("USAGE", "CONFIGURATION_ERROR", "INVALID_ARGUMENT")
    assert (error["retryable"], error["ambiguous"]) == (False, False)


def test_an_error_of_ours(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> Any:
        raise ZeroDivisionError("oh\nno")

    monkeypatch.setattr(command_tree, "_tree", broken)
    result = cli("get", "k", "-o", "json")
    assert (result.code, result.json_error["code"]) == (Exit.ERROR, "INTERNAL")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["get", "k"], False),
        (["get", "-o", "json"], True),
        (["get", "-o=json"], True),
        (["get", "-o"], False),
        (["get", "json"], False),
        (["get", "-o", "json", "--output", "table"], False),
        (["lock", "l", "--", "kubectl", "get", "-o", "json"], False),
        (["lock", "l", "-o", "json", "--", "kubectl", "-o", "yaml"], True),
    ],
)
def test_whether_json_is_asked_for(arguments: list[str], expected: bool) -> None:
    assert asks_for_json(arguments) is expected


PAIR = KeyValue(b"k", b"v", 2, 2, 1, Guarantee.LINEARIZABLE)


@pytest.mark.parametrize(
    ("error", "writes", "expected"),
    [
        (KeyExists(PAIR), True, ("KEY_EXISTS", False, False)),
        (NoLeader("x"), True, ("NO_LEADER", True, False)),
        (ConnectionFailed("x", ambiguous=True), True, ("CONNECTION_FAILED", True, True)),
        (DeadlineExceeded("x", ambiguous=True), True, ("DEADLINE_EXCEEDED", False, True)),
        (DeadlineExceeded("x", ambiguous=True), False, ("DEADLINE_EXCEEDED", False, False)),
        (SequenceOutOfWindow("x"), True, ("SEQUENCE_OUT_OF_WINDOW", False, False)),
        (RaftKVError("x"), True, ("ERROR", False, False)),
        ("x", True, ("ERROR", False, False)),
    ],
)
def test_what_is_told_of_an_error(
    capsys: pytest.CaptureFixture[str], error: RaftKVError | str, writes: bool, expected: tuple[str, bool, bool]
) -> None:
    with errors_as(as_json=True), pytest.raises(typer.Exit):
        fail(error, Exit.ERROR, writes=writes)
    told = json.loads(capsys.readouterr().err)["error"]
    assert (told["code"], told["retryable"], told["ambiguous"]) == expected
    complain(error, "ERROR", writes=writes)
    assert capsys.readouterr().err.startswith("raftkv: ")


def test_errors_of_the_wire_have_their_names_of_the_wire(capsys: pytest.CaptureFixture[str]) -> None:
    with errors_as(as_json=True):
        for code, kind in ERROR_TYPES.items():
            complain(kind("x"), "ERROR")
            assert json.loads(capsys.readouterr().err)["error"]["code"] == code.name
