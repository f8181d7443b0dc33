"""The search for a server, with stand-ins for go, docker and the release: no network, no build."""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from raftkv.testing import toxiproxy_install as install
from raftkv.testing.toxiproxy_install import (
    Attempt,
    Origin,
    ToxiproxyBinary,
    ToxiproxyImage,
    ToxiproxyUnavailable,
    find_toxiproxy,
)

SERVER = "#!/bin/sh\necho toxiproxy-server version 2.12.0\n"


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with only a shell: no server, no go, no docker, and no release at its address."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sh", "sleep", "cp", "chmod", "cat"):
        found = next(Path(place) / name for place in ("/bin", "/usr/bin") if (Path(place) / name).exists())
        (directory / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("RAFTKV_TOXIPROXY", raising=False)
    monkeypatch.delenv("RAFTKV_REQUIRE_TOXIPROXY", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(install, "RELEASE_URL", "http://127.0.0.1:1")  # nobody listens on the first port
    return directory


@pytest.fixture
def release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Path) -> Iterator[Path]:
    """A directory served as the release."""
    directory = tmp_path / "release"
    directory.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(install, "RELEASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    yield directory
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_explicit_path_wins(tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = script(tmp_path / "mine", SERVER)
    script(programs / "toxiproxy-server", SERVER)
    monkeypatch.setenv("RAFTKV_TOXIPROXY", str(mine))
    assert find_toxiproxy(tmp_path / "cache") == ToxiproxyBinary(path=mine.resolve(), origin=Origin.ENVIRONMENT)


def test_a_wrong_explicit_path_is_not_passed_over(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(programs / "toxiproxy-server", SERVER)
    monkeypatch.setenv("RAFTKV_TOXIPROXY", str(tmp_path / "absent"))
    with pytest.raises(ToxiproxyUnavailable, match=r"RAFTKV_TOXIPROXY: .*absent is no file"):
        find_toxiproxy(tmp_path / "cache")


def test_path_comes_before_the_cache(tmp_path: Path, programs: Path) -> None:
    script(tmp_path / "cache" / "toxiproxy-server-2.12.0", SERVER)
    assert str(find_toxiproxy(tmp_path / "cache")).endswith("(cache)")
    on_path = script(programs / "toxiproxy-server", SERVER)
    assert find_toxiproxy(tmp_path / "cache") == ToxiproxyBinary(path=on_path.resolve(), origin=Origin.PATH)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("#!/bin/sh\necho something else\n", "not a Toxiproxy server"),
        ("#!/bin/sh\necho broken >&2; exit 3\n", "status 3: broken"),
        ("not a program", "Exec format error"),
    ],
)
def test_a_program_that_is_no_server_is_passed_over(tmp_path: Path, programs: Path, text: str, reason: str) -> None:
    script(programs / "toxiproxy-server", text)
    with pytest.raises(ToxiproxyUnavailable) as caught:
        find_toxiproxy(tmp_path / "cache")
    assert caught.value.attempts[0].origin is Origin.PATH
    assert reason in caught.value.attempts[0].reason


def test_without_any_way_each_is_named_with_its_reason(tmp_path: Path, programs: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ToxiproxyUnavailable) as caught:
        find_toxiproxy(tmp_path / "cache")
    assert time.monotonic() - started < 60
    origins = [attempt.origin for attempt in caught.value.attempts]
    assert origins == [Origin.PATH, Origin.CACHE, Origin.GO_INSTALL, Origin.RELEASE, Origin.DOCKER]
    assert len(str(caught.value).splitlines()) == 1 + len(origins)
    assert Attempt(origin=Origin.GO_INSTALL, reason="no go on PATH") in caught.value.attempts
    assert "refused" in str(caught.value.attempts[3])


def test_processes_that_need_a_build_at_once_build_once(tmp_path: Path, programs: Path) -> None:
    script(programs / "server-source", SERVER)
    builds = tmp_path / "builds"
    script(
        programs / "go",
        f'#!/bin/sh\necho "$@" >> {builds}\nsleep 0.2\ncp {programs / "server-source"} "$GOBIN/server"\n',
    )
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: find_toxiproxy(tmp_path / "cache"), range(4)))
    assert builds.read_text() == f"install {install.GO_PACKAGE}\n"
    assert {one.path for one in found if isinstance(one, ToxiproxyBinary)} == {
        tmp_path / "cache" / "toxiproxy-server-2.12.0"
    }
    assert sorted(str(one).split("(")[1] for one in found) == ["cache)", "cache)", "cache)", "go install)"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["lock", "toxiproxy-server-2.12.0"]


def test_a_build_that_hangs_is_killed_with_its_children(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = tmp_path / "child"
    script(programs / "go", f"#!/bin/sh\nsleep 60 &\necho $! > {child}\nwait\n")
    monkeypatch.setattr(install, "GO_INSTALL_TIMEOUT_S", 2.0)
    with pytest.raises(ToxiproxyUnavailable, match=r"go install: .*not done after"):
        find_toxiproxy(tmp_path / "cache")
    assert ended(int(child.read_text()))


def ended(pid: int, timeout_s: float = 60.0) -> bool:
    """Whether a process ends within the time, or is a zombie."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


def test_a_release_is_taken_when_its_checksum_fits(release: Path, tmp_path: Path) -> None:
    (release / "toxiproxy-server-linux-amd64").write_text(SERVER)
    digest = hashlib.sha256(SERVER.encode()).hexdigest()
    (release / "checksums.txt").write_text(f"{'0' * 64}  other\n{digest}  toxiproxy-server-linux-amd64\n")
    found = find_toxiproxy(tmp_path / "cache")
    assert found == ToxiproxyBinary(path=tmp_path / "cache" / "toxiproxy-server-2.12.0", origin=Origin.RELEASE)


@pytest.mark.parametrize(
    ("checksums", "reason"),
    [
        (f"{'0' * 64}  toxiproxy-server-linux-amd64\n", "does not match its checksum"),
        (f"{'0' * 64}  toxiproxy-server-linux-arm64\n", "does not name toxiproxy-server-linux-amd64"),
        ("", "does not name toxiproxy-server-linux-amd64"),
    ],
)
def test_a_release_is_refused_without_its_checksum(release: Path, tmp_path: Path, checksums: str, reason: str) -> None:
    (release / "toxiproxy-server-linux-amd64").write_text(SERVER)
    (release / "checksums.txt").write_text(checksums)
    with pytest.raises(ToxiproxyUnavailable, match=f"release download: .*{reason}"):
        find_toxiproxy(tmp_path / "cache")
    assert not (tmp_path / "cache" / "toxiproxy-server-2.12.0").exists()


def test_docker_is_last_and_only_with_a_daemon(tmp_path: Path, programs: Path) -> None:
    docker = script(programs / "docker", "#!/bin/sh\n[ $1 = info ] && echo no daemon >&2 && exit 1\nexit 0\n")
    with pytest.raises(ToxiproxyUnavailable, match=r"docker: docker info .*no daemon"):
        find_toxiproxy(tmp_path / "cache")
    script(docker, "#!/bin/sh\nexit 0\n")
    assert find_toxiproxy(tmp_path / "cache") == ToxiproxyImage(docker=docker, image=install.IMAGE)


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(("required", "status"), [("", 0), ("0", 0), ("1", 1)])
def test_the_command_fails_only_where_a_server_is_required(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    required: str,
    status: int,
) -> None:
    monkeypatch.setattr(install, "default_cache", lambda: tmp_path / "cache")
    monkeypatch.setenv("RAFTKV_REQUIRE_TOXIPROXY", required)
    assert install.main() == status
    said = capsys.readouterr().out
    assert "no go on PATH" in said
    assert ("WILL BE SKIPPED" in said) is (status == 0)


def test_a_source_tree_caches_in_itself() -> None:
    assert install.default_cache() == Path(__file__).parents[2] / ".cache" / "toxiproxy"
