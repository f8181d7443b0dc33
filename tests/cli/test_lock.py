"""`raftkv lock`: a lock that is held for a command."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.cluster_process import RunningCluster
from tests.cli.conftest import Cli
from tests.cli.processes import interruptible, started

pytestmark = [pytest.mark.processes, pytest.mark.usefixtures("cluster")]

PATIENCE_S = 60
DEAF = "trap '' TERM; sleep 1000 & echo $! $$; while :; do sleep 0.05; done"
"""Ignores SIGTERM, and so does what it has started; says who they are."""


@contextmanager
def locking(directory: Path, cluster: RunningCluster, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with interruptible(), started(directory, "lock", "--endpoints", cluster.url, *arguments) as process:
        yield process


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().rstrip()


def gone(*pids: int) -> bool:
    """Wait until these processes have ended."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def free(cli: Cli, name: str) -> bool:
    return not cli("lock", name, "--show", "-o", "json").json["contenders"]


def test_what_the_command_finds(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    found = tmp_path / "found"
    script = f'echo "$RAFTKV_LOCK $RAFTKV_FENCING_TOKEN $RAFTKV_LEASE $RAFTKV_ENDPOINTS" > {found}; exit 7'
    assert cli("lock", "lock/environment", "--", "sh", "-c", script).code == 7
    name, token, lease, endpoints = found.read_text().split()
    assert (name, endpoints) == ("lock/environment", cluster.url)
    assert int(lease) > 0
    assert free(cli, name)
    assert cli("lock", name, "--show", "-o", "json").json["newest_token"] == int(token)
    assert cli("put", "lock/late", "x", "--fence", f"{name}:{token}").code == 4
    assert cli("put", "lock/late", "x", "--fence", f"{name}:{token}:max_seen").code == 0


def test_the_token_is_good_while_the_command_runs(cli: Cli) -> None:
    script = f'{sys.executable} -m raftkv.cli put lock/fenced x --fence "$RAFTKV_LOCK:$RAFTKV_FENCING_TOKEN"'
    assert cli("lock", "lock/fenced", "--", "sh", "-c", script).code == 0


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("sh", "-c", "exit 4"), 4),
        (("sh", "-c", "kill -KILL $$"), 128 + 9),
        (("no-such-command",), 127),
        (("/no/such/command",), 127),
        (("/etc/passwd",), 126),
    ],
    ids=str,
)
def test_exit_codes(cli: Cli, command: tuple[str, ...], code: int) -> None:
    result = cli("lock", "lock/codes", "--", *command)
    assert result.code == code
    assert len(result.err.splitlines()) == (1 if code in (126, 127) else 0)
    assert free(cli, "lock/codes")


def test_a_script_that_no_kernel_can_run(cli: Cli, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("no interpreter is named here")
    script.chmod(0o755)
    assert cli("lock", "lock/codes", "--", str(script)).code == 126


def test_busy(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    with locking(tmp_path, cluster, "lock/busy") as process:
        token = line(process)
        busy = cli("lock", "lock/busy", "--no-wait", "--", "true")
        assert busy.code == 4
        assert "lock/busy" in busy.error
        late = cli("lock", "lock/busy", "--wait", "0.9", "--", "true")
        assert (late.code, late.error) == (
            4,
            f"lock 'lock/busy' was not to be had within 0.9 s (token {token} holds it)",
        )
        table = cli("lock", "lock/busy", "--show").text.splitlines()
        assert table[0].split() == ["STATE", "TOKEN", "TICKET", "LEASE", "KIND", "VALUE"]
        assert [(row.split()[:2], row.split()[4]) for row in table[1:]] == [(["holds", token], "mutex")]
        for other in (["--shared"], ["--exclusive"], ["--limit", "2"]):
            mismatch = cli("lock", "lock/busy", *other, "--", "true")
            assert mismatch.code == 4
            assert "is in use as a mutex" in mismatch.error
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (130, "", "")
    assert cli("lock", "lock/busy", "--no-wait", "--", "true").code == 0
    assert cli("lock", "lock/busy", "--show").text == ""


def test_whoever_waits_is_next(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    with locking(tmp_path, cluster, "lock/next", "-o", "json") as first:
        assert '"lock": "lock/next"' in line(first)
        with locking(tmp_path, cluster, "lock/next", "--", "echo", "mine") as second:
            deadline = time.monotonic() + PATIENCE_S
            while len(cli("lock", "lock/next", "--show").text.splitlines()) < 3:
                assert time.monotonic() < deadline
            first.terminate()
            assert first.wait(PATIENCE_S) == 143
            assert line(second) == "mine"
            assert second.wait(PATIENCE_S) == 0


def test_shared_and_limited(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    with locking(tmp_path, cluster, "lock/rw", "--shared") as reader:
        line(reader)
        assert cli("lock", "lock/rw", "--shared", "--no-wait", "--", "true").code == 0
        assert cli("lock", "lock/rw", "--exclusive", "--no-wait", "--", "true").code == 4
    with (
        locking(tmp_path, cluster, "lock/two", "--limit", "2") as one,
        locking(tmp_path, cluster, "lock/two", "--limit", "2") as two,
    ):
        line(one)
        line(two)
        assert cli("lock", "lock/two", "--limit", "2", "--no-wait", "--", "true").code == 4
        assert "semaphore of 2" in cli("lock", "lock/two", "--show").text
        mismatch = cli("lock", "lock/two", "--limit", "3", "--no-wait", "--", "true")
        assert mismatch.code == 4
        assert "in use as a semaphore of 2, not as a semaphore of 3" in mismatch.err
        assert "in use as a semaphore of 2, not as a semaphore of 3" in mismatch.err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_go_to_the_command(cli: Cli, cluster: RunningCluster, tmp_path: Path, number: signal.Signals) -> None:
    script = f"trap 'echo heard; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.05; done"
    with locking(tmp_path, cluster, "lock/signals", "--", "bash", "-c", script) as process:
        assert line(process) == "ready"
        process.send_signal(number)
        out, _ = process.communicate(timeout=PATIENCE_S)  # a shell may say that its sleep was hung up
    assert (process.returncode, out) == (9, "heard\n")
    assert free(cli, "lock/signals")


def test_a_lock_that_is_lost_ends_the_command(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    with locking(tmp_path, cluster, "lock/lost", "--ttl", "3", "--grace", "0.1", "--", "sh", "-c", DEAF) as process:
        pids = [int(pid) for pid in line(process).split()]
        lease = cli("lock", "lock/lost", "--show", "-o", "json").json["contenders"][0]["lease"]
        assert cli("lease", "revoke", str(lease)).code == 0
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4
    assert err.startswith("raftkv: lock 'lock/lost' (token ")
    assert "is lost" in err
    assert len(err.splitlines()) == 1
    assert gone(*pids)


def test_a_lost_lock_that_nobody_uses(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    with locking(tmp_path, cluster, "lock/idle", "--ttl", "3") as process:
        line(process)
        lease = cli("lock", "lock/idle", "--show", "-o", "json").json["contenders"][0]["lease"]
        assert cli("lease", "revoke", str(lease)).code == 0
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4
    assert "is not held any more" in err


def test_a_lock_that_cannot_be_kept_ends_the_command(cli: Cli, cluster: RunningCluster, tmp_path: Path) -> None:
    script = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    with locking(tmp_path, cluster, "lock/cut", "--ttl", "1.5", "--", "sh", "-c", script) as process:
        assert line(process) == "ready"
        for node in (1, 2, 3):
            cluster.signal(node, signal.SIGSTOP)
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            for node in (1, 2, 3):
                cluster.signal(node, signal.SIGCONT)
    assert (process.returncode, out) == (4, "told\n")
    assert "is about to be lost" in err
    assert cli("lock", "lock/cut", "--timeout", "30", "--", "true").code == 0


def test_a_killed_holder_takes_its_command_along(cluster: RunningCluster, tmp_path: Path) -> None:
    with locking(tmp_path, cluster, "lock/killed", "--", "sh", "-c", "echo $$; exec sleep 1000") as process:
        pid = int(line(process))
        assert alive(pid)
        process.kill()
        assert gone(pid)


@pytest.mark.parametrize(
    ("pipeline", "expected"),
    [
        # Ctrl-Z, as `kill` has it, does not put it to sleep with the lock in its hands.
        ("raftkv sh -c 'echo begin; read line; echo \"got $line\"; kill -TSTP $$; echo awake'", "got words awake"),
        (
            "mkfifo told; raftkv sh -c 'echo begin; cat told' | "
            '{ read line; echo $line; read line < /dev/tty; echo "got $line" | tee told; cat; }',
            "got words got words",
        ),
    ],
    ids=["the command", "its reader"],
)
def test_who_reads_the_terminal(cluster: RunningCluster, tmp_path: Path, pipeline: str, expected: str) -> None:
    on_a_terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    locked = f'"{sys.executable}" -m raftkv.cli lock lock/terminal --endpoints {cluster.url} --'
    with subprocess.Popen(
        [sys.executable, "-c", on_a_terminal, "sh", "-c", pipeline.replace("raftkv", locked)],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdin is not None
            while line(process) != "begin":
                assert process.poll() is None
            process.stdin.write("words\n")
            process.stdin.flush()
            assert process.wait(PATIENCE_S) == 0
            assert process.stdout is not None
            assert process.stdout.read().split()[-len(expected.split()) :] == expected.split()
        finally:
            process.kill()


def test_the_command_finds_signals_as_they_usually_are(cli: Cli, tmp_path: Path) -> None:
    """Python ignores SIGPIPE; what it starts must not."""
    found = tmp_path / "found"
    script = f"grep SigIgn /proc/self/status > {found}"
    assert cli("lock", "lock/pipe", "--", "sh", "-c", script).code == 0
    ignored = int(found.read_text().split()[1], 16)
    assert not ignored >> (signal.SIGPIPE - 1) & 1
