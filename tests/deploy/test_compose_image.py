"""What must be true of the image's Dockerfile without building it, and of its health check."""

from __future__ import annotations

import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "deploy/docker"


def stages() -> list[list[str]]:
    """The instructions of each stage, comments and continuations resolved."""
    text = re.sub(r"(?m)^#.*\n", "", (DOCKER / "Dockerfile").read_text()).replace("\\\n", " ")
    found: list[list[str]] = [[]]
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("FROM "):
            found.append([])
        found[-1].append(re.sub(r"\s+", " ", line))
    return found[1:]


def test_both_stages_start_from_the_image_that_is_given() -> None:
    build, final = stages()
    assert build[0] == "FROM ${BASE_IMAGE} AS build"
    assert final[0] == "FROM ${BASE_IMAGE}"


def test_the_final_stage_installs_nothing() -> None:
    _, final = stages()
    runs = [line for line in final if line.startswith("RUN ")]
    assert runs == ["RUN sh /tmp/prepare.sh && rm /tmp/prepare.sh"]
    commands = re.sub(r"(?m)^#.*$", "", (DOCKER / "prepare.sh").read_text())
    assert not re.search(r"apt|apk|-m pip|install|curl|wget", commands)


def test_nodes_are_not_root_and_are_process_1() -> None:
    _, final = stages()
    assert [line for line in final if line.startswith("USER ")] == ["USER 10001:10001"]
    assert 'ENTRYPOINT ["raftkv"]' in final
    assert "STOPSIGNAL SIGTERM" in final
    assert "VOLUME /data" in final
    assert "EXPOSE 7001 7101 7201" in final
    assert final.index("USER 10001:10001") > max(n for n, line in enumerate(final) if line.startswith(("RUN", "COPY")))


def test_the_health_check_of_the_image_asks_this_node_alone() -> None:
    _, final = stages()
    check = next(line for line in final if line.startswith("HEALTHCHECK"))
    assert check.endswith('"/opt/raftkv/healthcheck.py", "/livez"]')  # never readiness: engines may restart for it


def test_the_image_is_built_from_what_is_pinned() -> None:
    script = (DOCKER / "install.sh").read_text()
    assert "PIP_CONSTRAINT=$PWD/constraints.txt" in script
    assert "PIP_BUILD_CONSTRAINT=$PIP_CONSTRAINT" in script


def test_the_context_holds_what_is_copied_and_little_else() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert ignored[0] == "*"
    kept = {line[1:] for line in ignored if line.startswith("!")}
    build, final = stages()
    for line in [line for line in build + final if line.startswith("COPY ") and "--from" not in line]:
        for source in line.split()[1:-1]:
            path = source.replace("${WHEELS}", "deploy/docker/wheels")
            assert any(path == one or path.startswith(f"{one}/") for one in kept), path
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (404, 1)])
def test_health_check_says_what_the_node_says(status: int, code: int) -> None:
    with _answering(status) as port:
        done = _check(port)
    assert (done.returncode, done.stdout) == (code, "what is wrong\n")


def test_health_check_of_a_node_that_does_not_answer() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler, bind_and_activate=False) as server:
        server.server_bind()  # bound, and refusing
        done = _check(server.server_address[1])
    assert done.returncode == 1
    assert done.stdout.startswith("no answer on port")


def _check(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-S", DOCKER / "healthcheck.py", "/livez"],
        env={"RAFTKV_HTTP_LISTEN": f"0.0.0.0:{port}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@contextmanager
def _answering(status: int) -> Iterator[int]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/livez"
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"what is wrong")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class names it
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            thread.join()
