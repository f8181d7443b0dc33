"""Whatever is wrong with a command line: one line, and the exit code that scripts rely on."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import typer

import raftkv
from raftkv.cli import app, exits
from raftkv.cli.exits import Exit, exit_code
from raftkv.errors import (
    Compacted,
    ConfigurationError,
    ConnectionFailed,
    DeadlineExceeded,
    InvalidArgument,
    LeaseExists,
    LeaseNotFound,
    LockBusy,
    LockLost,
    NoLeader,
    Overloaded,
    QuorumUnavailable,
    RaftKVError,
    RevisionMismatch,
    StaleFence,
    TokenOutOfRange,
    TooStale,
    WriteLost,
)
from tests.cli.conftest import Cli

NOBODY = "127.0.0.1:1"


def test_version(cli: Cli) -> None:
    result = cli("--version")
    assert (result.code, result.text) == (0, f"raftkv {raftkv.__version__}\n")


@pytest.mark.parametrize(
    "command",
    [
        (),
        *(
            (one,)
            for one in (
                "serve", "put", "get", "del", "ls", "txn", "watch", "lock", "elect", "compact", "lease", "endpoint",
                "leader", "quorum", "demo", "bench",
            )
        ),
        *(("endpoint", one) for one in ("status", "health", "hash", "compare")),
        *(("lease", one) for one in ("grant", "list", "ttl", "keepalive", "revoke")),
        ("leader", "transfer"),
        ("quorum", "explain"),
        *(("bench", one) for one in ("put", "get", "txn", "lock", "watch", "failover")),
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_command_has_help(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli(*command, "--help")
    assert result.code == 0
    assert " ".join(["raftkv", *command]) in result.text
    assert not result.err


CLIENT_COMMANDS = (
    ("put", "k", "v"), ("get", "k"), ("del", "k"), ("ls",), ("endpoint", "status"), ("endpoint", "health"),
    ("endpoint", "hash"), ("endpoint", "compare"),
    ("leader", "transfer"), ("bench", "put"), ("bench", "get"), ("compact", "1"),
    ("watch", "k"), ("lock", "l", "--no-wait"), ("lock", "l", "--show"), ("elect", "e", "--leader"),
    ("elect", "e", "v"), ("lease", "grant", "9"), ("lease", "list"), ("lease", "ttl", "1"), ("lease", "keepalive", "1"),
    ("lease", "revoke", "1"), ("bench", "lock"),
)  # fmt: skip


@pytest.mark.parametrize("command", CLIENT_COMMANDS, ids=" ".join)
@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--bogus",), "--bogus"),
        (("--output", "xml"), "'xml' is not one of 'table', 'json'"),
        (("--timeout", "soon"), "'--timeout'"),
        (("--timeout", "0"), "'--timeout'"),
        (("--timeout", "nan"), ""),
        (("--endpoints", "http://h:1"), "raftkv://host1:7001,host2:7001"),
        (("--endpoints", "raftkv://"), "raftkv://host1:7001,host2:7001"),
        (("--endpoints", "host"), "'host' has no port"),
        (("--endpoints", "host:99999"), "99999"),
        (("--endpoints", "a:1,,b:2"), "an endpoint is empty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_flags_of_client_commands(cli: Cli, command: tuple[str, ...], flags: tuple[str, ...], said: str) -> None:
    result = cli(*command, *flags)
    assert said in result.error
    assert result.code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gte", "k"], "'get'"),
        (["get"], "missing argument 'KEY'"),
        (["put", "k"], "missing argument 'VALUE'"),
        (["get", "k", "v"], "unexpected extra argument"),
        (["get", "k", "--revision", "-1"], "'--revision'"),
        (["get", "xyz", "--hex"], "'xyz' is not hexadecimal"),
        (["ls", "--limit", "-1"], "'--limit'"),
        (["get", "k", "--read", "newest"], "'newest': linearizable, lease, local, quorum, quorum:R, bounded:TIME and"),
        (["get", "k", "--read", ""], "are known"),
        (["get", "k", "--read", "local:2"], "are known"),
        (["get", "k", "--read", "quorum:0"], "R is a number of voters, 1 to N"),
        (["get", "k", "--read", "quorum:-1"], "R is a number of voters, 1 to N"),
        (["get", "k", "--read", "quorum:"], "R is a number of voters, 1 to N"),
        (["get", "k", "--read", "quorum:two"], "R is a number of voters, 1 to N"),
        (["get", "k", "--read", "quorum:4294967296"], "R is a number of voters, 1 to N"),
        (["get", "k", "--read", "bounded"], "are known"),
        (["get", "k", "--read", "bounded:500"], "TIME is from 1ms to 1193h, in ms, s, m or h"),
        (["get", "k", "--read", "bounded:0ms"], "TIME is from 1ms to 1193h"),
        (["get", "k", "--read", "bounded:1200h"], "TIME is from 1ms to 1193h"),
        (["get", "k", "--read", "bounded:-1s"], "TIME is from 1ms to 1193h, in ms, s, m or h"),
        (["get", "k", "--read", "at-least:7"], "CLUSTER-TERM-INDEX"),
        (["get", "k", "--read", "at-least:1f-7-0"], "index of a token is 0"),
        (["ls", "--read", "quorum:0"], "R is a number of voters, 1 to N"),
        (["ls", "--count", "--read", "newest"], "are known"),
        (["get", "k", "--fallback", "none"], "'none' is not"),
        (["put", "k", "v", "--write", "0"], "'0': leader, majority, all, or 1 to N voters"),
        (["put", "k", "v", "--write", "-1"], "'-1': leader, majority, all, or 1 to N voters"),
        (["put", "k", "v", "--write", "most"], "'most': leader, majority, all, or 1 to N voters"),
        (["put", "k", "v", "--write", "2147483648"], "1 to N voters"),
        (["del", "k", "--write", "0"], "1 to N voters"),
        (["txn", "--write", "0"], "1 to N voters"),
        (["bench", "get", "--level", "local,newest"], "'newest': linearizable"),
        (["bench", "get", "--level", "local,local"], "comes twice"),
        (["bench", "get", "--level", "local,"], "is empty"),
        (["bench", "put", "--write", "all,0"], "1 to N voters"),
        (["bench", "put", "--write", "all,all"], "comes twice"),
        (["del", "--prefix", ""], "--force"),
        (["leader", "transfer", "two"], "'ID'"),
        (["put", "k", "v", "--create", "--if-revision", "4"], "exclude each other"),
        (["put", "k", "v", "--create", "--previous"], "exclude each other"),
        (["put", "k", "v", "--if-revision", "0"], "'--if-revision'"),
        (["put", "k", "v", "--lease", "0"], "'--lease'"),
        (["put", "k", "v", "--lease", str(2**64)], "not a lease"),
        (["put", "k", "v", "--fence", "jobs"], "'jobs' is not LOCK:TOKEN"),
        (["put", "k", "v", "--fence", ":3"], "':3' is not LOCK:TOKEN"),
        (["put", "k", "v", "--fence", "jobs:-3"], "'jobs:-3' is not LOCK:TOKEN"),
        (["put", "k", "v", "--fence", "jobs:3:always"], "'jobs:3:always' is not LOCK:TOKEN"),
        (["put", "k", "v", "--fence", "jobs:0"], "token is 0"),
        (["put", "k", "v", "--fence", f"jobs:{2**64}"], "token is"),
        (["put", "k", "v", *["--fence", "jobs:3"] * 17], "at most 16"),
        (["del", "k", "--prefix", "--if-revision", "3"], "--if-revision is for one key"),
        (["ls", "--order", "size"], "'size' is not one of"),
        (["ls", "--count", "--min-mod-revision", "3"], "--count"),
        (["compact", "0"], "'REVISION'"),
        (["watch"], "KEY, --prefix and --from"),
        (["watch", "k", "--prefix", "p"], "KEY, --prefix and --from"),
        (["watch", "--to", "z"], "KEY, --prefix and --from"),
        (["watch", "k", "--to", "z"], "--to goes with --from"),
        (["watch", "k", "--count", "-1"], "'--count'"),
        (["watch", "k", "--"], "no command after --"),
        (["watch", "xyz", "--hex"], "'xyz' is not hexadecimal"),
        (["lease", "grant", "-1"], "no such option"),
        (["lease", "grant", "--", "-1"], "ttl is -1.0 s, not from 0.5 s to"),
        (["lease", "grant", "1e9"], "365 days"),
        (["lease", "grant", "nan"], "ttl is nan"),
        (["lease", "grant", "soon"], "'TTL'"),
        (["lease", "revoke", "0"], "'ID'"),
        (["lock", "l", "--"], "no command after --"),
        (["lock", "l", "--", ""], "no command after --"),
        (["lock", "l", "sleep", "5"], "unexpected extra argument"),
        (["lock", "--", "sleep", "5"], "missing argument 'NAME'"),
        (["lock", "l", "--wait", "5", "--no-wait"], "exclude each other"),
        (["lock", "l", "--wait", "0"], "timeout is 0.0 s"),
        (["lock", "l", "--shared", "--limit", "3"], "exclude each other"),
        (["lock", "l", "--shared", "--exclusive"], "exclude each other"),
        (["lock", "l", "--limit", "0"], "'--limit'"),
        (["lock", "l", "--ttl", "-1"], "ttl is -1.0 s"),
        (["lock", "l", "--ttl", "4", "--grace", "3"], "more than half of --ttl"),
        (["lock", "l", "--show", "--", "true"], "--show runs no command"),
        (["lock", ""], "name"),
        (["lock", "l" * 201], "200"),
        (["elect", "e"], "'VALUE'"),
        (["elect", "e", "--", "true"], "'VALUE'"),
        (["elect", "e", "--leader", "--observe"], "exclude each other"),
        (["elect", "e", "v", "--observe"], "do not campaign"),
        (["elect", "e", "v" * 65_537], "65536"),
        (["bench", "lock", "--locks", "0"], "'--locks'"),
        (["bench", "watch", "--rate", "0"], "'--rate'"),
        (["bench", "watch", "--directory", "x"], "--local"),
        (["demo", "--nodes", "4"], "'4' is not one of '3', '5'"),
        (["demo", "--seconds", "0"], "'--seconds'"),
        (["demo", "--directory", "/etc/passwd"], "/etc/passwd is not an empty directory"),
        (["bench", "put", "--total", "0"], "'--total'"),
        (["bench", "put", "--inflight", "many"], "'--inflight'"),
        (["bench", "put", "--total", "1001", "--key-size", "3"], "at least 4"),
        (["bench", "put", "--directory", "x"], "--local"),
        (["bench", "failover", "--local", "2"], "'--local'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_command_lines(cli: Cli, arguments: list[str], said: str) -> None:
    result = cli(*arguments)
    assert said in result.error
    assert result.code == 2


@pytest.mark.parametrize("arguments", [(), ("endpoint",), ("leader",), ("lease",), ("quorum",), ("bench",)])
def test_a_command_without_its_subcommand_shows_help(cli: Cli, arguments: tuple[str, ...]) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert "--help" in result.text
    assert not result.err


def test_a_bad_url_in_the_environment(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTKV_ENDPOINTS", "etcd://h:2379")
    result = cli("get", "k")
    assert result.code == 2
    assert "etcd" in result.error


@pytest.mark.parametrize("command", [*CLIENT_COMMANDS[:4], *CLIENT_COMMANDS[7:]], ids=" ".join)
def test_nobody_there(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli(*command, "--endpoints", NOBODY, "--timeout", "0.2", "-o", "json")
    assert NOBODY in result.error
    assert result.code == 5


@pytest.mark.parametrize("command", CLIENT_COMMANDS[4:7], ids=" ".join)
def test_nobody_there_is_a_row_of_a_table_too(cli: Cli, command: tuple[str, ...]) -> None:
    result = cli(*command, "--endpoints", NOBODY, "--timeout", "0.2")
    assert result.code == 5
    assert NOBODY in result.text
    assert result.err.startswith("raftkv: 0 of 1 ")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "writes", "expected"),
    [
        (ConfigurationError("x"), True, Exit.USAGE),
        (InvalidArgument("x"), True, Exit.USAGE),
        (NoLeader("x"), True, Exit.UNREACHABLE),
        (ConnectionFailed("x"), True, Exit.UNREACHABLE),
        (ConnectionFailed("x", ambiguous=True), True, Exit.UNKNOWN_OUTCOME),
        (ConnectionFailed("x", ambiguous=True), False, Exit.UNREACHABLE),
        (DeadlineExceeded("x", ambiguous=True), True, Exit.UNKNOWN_OUTCOME),
        (DeadlineExceeded("x"), True, Exit.UNREACHABLE),
        (DeadlineExceeded("x", ambiguous=True), False, Exit.UNREACHABLE),
        (Overloaded("x"), True, Exit.ERROR),
        (TooStale("x"), False, Exit.UNREACHABLE),
        (QuorumUnavailable("x"), False, Exit.UNREACHABLE),
        (WriteLost("x"), False, Exit.ERROR),
        (TokenOutOfRange("x"), False, Exit.ERROR),
        (Compacted("x"), False, Exit.ERROR),
        (RevisionMismatch(b"x", 1, None), True, Exit.CONFLICT),
        (StaleFence("x"), True, Exit.CONFLICT),
        (LockBusy("x"), True, Exit.CONFLICT),
        (LockLost("x"), True, Exit.CONFLICT),
        (LeaseExists("x"), True, Exit.CONFLICT),
        (LeaseNotFound("x"), True, Exit.NOT_FOUND),
    ],
)
def test_exit_codes(error: RaftKVError, writes: bool, expected: Exit) -> None:
    assert exit_code(error, writes=writes) is expected


def test_exit_codes_are_promised() -> None:
    assert {code.name: int(code) for code in exits.Exit} == {
        "OK": 0, "ERROR": 1, "USAGE": 2, "NOT_FOUND": 3, "CONFLICT": 4, "UNREACHABLE": 5, "UNKNOWN_OUTCOME": 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (KeyboardInterrupt(), 130, ""),
        (ZeroDivisionError("by\nzero"), 1, "raftkv: internal error, please report it: ZeroDivisionError: by zero "),
        (PermissionError(13, "Permission denied", "/x"), 1, "raftkv: /x: Permission denied\n"),
        (OSError(28, "No space left on device"), 1, "raftkv: cannot write the output: No space left on device\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_nothing_ends_in_a_stack_trace(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, raised: BaseException, code: int, said: str
) -> None:
    broken = typer.Typer(pretty_exceptions_enable=False)

    @broken.command()
    def command() -> None:
        raise raised

    monkeypatch.setattr(app, "app", broken)
    result = cli()
    assert result.code == code
    assert result.err.startswith(said)
    assert "Traceback" not in result.err
    assert len(result.err.splitlines()) == (1 if said else 0)


def test_the_entry_point_reports_exit_codes() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "raftkv.cli", "get", "k", "--endpoints", NOBODY, "--timeout", "0.2"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LANG": "C"},
    )
    assert found.returncode == 5
    assert found.stdout == ""
    assert found.stderr.startswith("raftkv: ")
    assert len(found.stderr.splitlines()) == 1
