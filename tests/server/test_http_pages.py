"""Health, metrics and state over HTTP: of a node, from before it runs until it stops."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from google.protobuf import json_format
from prometheus_client.parser import text_string_to_metric_families

from raftkv.errors import ConfigurationError, NoLeader, StorageError
from raftkv.raft import MembershipChange
from raftkv.server import app
from raftkv.server.app import serve
from raftkv.server.cluster import Cluster, find_cluster
from raftkv.server.http import health
from raftkv.server.http.health import Confirmation, Health, passed
from raftkv.server.http.no_site import NoSite
from raftkv.server.http.pages import PATHS
from raftkv.server.http.site import Site, http_site
from raftkv.server.metrics.names import METRICS, Presence
from raftkv.server.settings import ServerSettings, load_settings
from raftkv.storage.corrupt_mark import CorruptMark
from raftkv.testing.processes import LOOPBACK, free_port
from raftkv.v1 import cluster_pb2 as pb
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until

NEVER = 3600.0


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: dict[str, str]


async def ask(address: str, path: str, method: str = "GET", accept: str = "*/*") -> Answer:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, f"http://{address}{path}", headers={"Accept": accept}) as response,
    ):
        return Answer(response.status, await response.text(), dict(response.headers))


async def becomes_ready(address: str) -> None:
    async with asyncio.timeout(30):
        while (await ask(address, "/readyz")).status != 200:  # noqa: ASYNC110 - a probe, as Kubernetes does it
            await asyncio.sleep(0.01)


def settings(tmp_path: Path, **more: object) -> ServerSettings:
    return load_settings(
        {
            "id": 1,
            "data_dir": tmp_path / "node",
            "member": [f"1={LOOPBACK}:{free_port()}"],
            "listen": f"{LOOPBACK}:{free_port()}",
            "http_listen": f"{LOOPBACK}:{free_port()}",
            "wal_segment_bytes": 1 << 20,
            "shutdown_timeout_s": 1.0,
            **more,
        }
    )


@asynccontextmanager
async def running(node: ServerSettings) -> AsyncIterator[str]:
    """A node that serves; yields where its pages are."""
    stop, started = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(serve(node, stop, started=started.set))
    waiting = asyncio.create_task(started.wait())
    try:
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert node.http_listen is not None
        await becomes_ready(node.http_listen)
        yield node.http_listen
    finally:
        waiting.cancel()
        stop.set()
        await task


# --- one node, by itself ----------------------------------------------------------------------------------------------


async def test_a_node_that_serves(tmp_path: Path) -> None:
    async with running(settings(tmp_path)) as at:
        assert (await ask(at, "/livez")).text == "ok\n"
        assert (await ask(at, "/livez?verbose")).text == "[+]loop ok\n[+]disk ok\nlivez check passed\n"
        ready = await ask(at, "/readyz?verbose")
        assert ready.status == 200
        names = ("running", "disk", "state", "member", "leader", "read-index")
        assert ready.text == "".join(f"[+]{name} ok\n" for name in names) + "readyz check passed\n"
        assert (await ask(at, "/readyz")).text == "ok\n"

        found = await ask(at, "/metrics")
        assert found.headers["Content-Type"].startswith("text/plain")
        told = {sample.name for family in text_string_to_metric_families(found.text) for sample in family.samples}
        wanted = {name for name, metric in METRICS.items() if metric.presence in (Presence.ALWAYS, Presence.LEADER)} - {
            name for name in METRICS if name.startswith("raftkv_peer_")
        }  # it has no peers
        assert not {name for name in wanted if name not in told and f"{name}_count" not in told}
        assert {"process_open_fds", "python_info"} <= told
        other = await ask(at, "/metrics", accept="application/openmetrics-text;version=1.0.0")
        assert other.headers["Content-Type"].startswith("application/openmetrics-text")
        assert other.text.endswith("# EOF\n")

        state = await ask(at, "/api/v1/state")
        assert state.headers["Content-Type"].startswith("application/json")
        status = json_format.Parse(state.text, pb.StatusResponse())
        assert (status.role, status.header.member_id, status.http_address) == (pb.LEADER, 1, at)
        assert '"commit_index": "' in state.text, "64-bit numbers are strings, names are the proto's"
        assert '"quota_bytes"' in state.text

        for path in PATHS:
            head, get = await ask(at, path, "HEAD"), await ask(at, path)
            assert (head.status, head.text, head.headers["Content-Type"]) == (200, "", get.headers["Content-Type"])
            assert get.headers["Server"] == "raftkv"
            assert get.headers["Cache-Control"] == "no-store"
            for method in ("POST", "PUT", "DELETE", "OPTIONS"):
                refused = await ask(at, path, method)
                assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
        for path in ("/", "/readyz/", "/metrics/x", "/api/v1", "/%00%ff", "/livez%3Fverbose"):
            missing = await ask(at, path)
            assert missing.status == 404
            assert all(known in missing.text for known in PATHS)


async def test_a_port_in_use_is_a_configuration_error_and_nothing_is_begun(tmp_path: Path) -> None:
    node = settings(tmp_path)
    assert node.http_listen is not None
    async with http_site(node.http_listen, lambda: None):
        with pytest.raises(ConfigurationError, match=rf"cannot listen on {node.http_listen} \(for HTTP\)"):
            await serve(node, asyncio.Event())
    assert not node.data_dir.exists()


async def test_no_address_no_server(tmp_path: Path) -> None:
    async with app._site(settings(tmp_path).model_copy(update={"http_listen": None}), None) as site:
        assert isinstance(site, NoSite)
        assert not isinstance(site, Site)


def test_a_node_loads_neither_http_nor_tls_before_it_has_them() -> None:
    """They would take a quarter of the time in which a node starts."""
    loaded = "import sys, raftkv.cli.node; print(*{'aiohttp', 'cryptography', 'prometheus_client'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert found.stdout == "\n"


async def test_before_it_runs_a_node_is_alive_and_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that waits for the cluster it is to join."""
    go_on = asyncio.Event()

    async def slowly(node: ServerSettings) -> Cluster:
        await go_on.wait()
        return await find_cluster(node)

    monkeypatch.setattr(app, "find_cluster", slowly)
    node = settings(tmp_path)
    stop = asyncio.Event()
    task = asyncio.create_task(serve(node, stop))
    at = node.http_listen
    assert at is not None
    await asyncio.sleep(0)
    while True:
        try:
            assert (await ask(at, "/livez")).status == 200
            break
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0.01)
    ready = await ask(at, "/readyz")
    assert (ready.status, "[-]running failed: the node starts" in ready.text) == (503, True)
    assert (await ask(at, "/metrics")).status == (await ask(at, "/api/v1/state")).status == 503
    go_on.set()
    await becomes_ready(at)
    stop.set()
    await task
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(at, "/livez")


async def test_a_node_that_stops_says_so_before_it_hands_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else load balancers send it clients until the very end."""
    seen: dict[str, Answer] = {}
    hand_over = app._Parts.hand_over
    node = settings(tmp_path)
    at = node.http_listen
    assert at is not None

    async def watched(self: app._Parts, timeout_s: float) -> None:
        assert self.node.is_leader
        for path in PATHS:
            seen[path] = await ask(at, path)
        await hand_over(self, timeout_s)

    monkeypatch.setattr(app._Parts, "hand_over", watched)
    async with running(node):
        pass
    assert {path: answer.status for path, answer in seen.items()} == {
        "/livez": 200,
        "/readyz": 503,
        "/metrics": 200,
        "/api/v1/state": 200,
    }
    assert "[-]running failed: the node is stopping" in seen["/readyz"].text
    assert "raftkv_ready 0.0" in seen["/metrics"].text


# --- health, over nodes in memory -------------------------------------------------------------------------------------


def health_of(member: MemoryNode) -> Health:
    found = Health()
    found.begin(member.node, member.requests.reads.confirm)
    return found


async def problems(of: Health) -> dict[str, str]:
    return {check.name: check.problem for check in await of.ready() if check.problem}


async def test_every_member_with_a_majority_is_ready_and_none_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONFIRMED_S", 0.0)
    async with MemoryCluster(3, witnesses=[3]) as cluster:
        leader = await cluster.leader()
        every = {member.id: health_of(member) for member in cluster.nodes.values()}
        for found in every.values():
            await until_ready(found)
        cluster.isolate(leader.id)
        # It takes itself for the leader still, and is not: nobody confirms it.
        assert leader.node.is_leader
        assert (await problems(every[leader.id])).keys() & {"read-index", "leader"}
        await until(lambda: leader.node.leader is None)
        assert "leader" in await problems(every[leader.id])
        assert passed(every[leader.id].live()), "alive all the same"
        cluster.heal()
        for found in every.values():
            await until_ready(found)


async def until_ready(found: Health) -> None:
    async with asyncio.timeout(20):
        while await problems(found):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)


async def test_a_node_whose_state_is_not_to_be_trusted_is_not_ready() -> None:
    async with MemoryCluster(3) as cluster:
        follower = cluster.follower(await cluster.leader())
        found = health_of(follower)
        await until_ready(found)
        await follower.node.condemn(CorruptMark(1, b"\1", b"\2", (1, 2), 0.0))
        assert "out of service" in (await problems(found))["state"]
        assert passed(found.live())


async def test_a_node_that_was_removed_is_not_ready() -> None:
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        gone = cluster.follower(leader)
        found = health_of(gone)
        await until_ready(found)
        leader.node.change_membership(MembershipChange(remove=frozenset({gone.id})))
        await until(lambda: gone.node.was_removed)
        assert "removed" in (await problems(found))["member"]


async def test_a_node_that_has_failed_is_not_alive() -> None:
    async with MemoryCluster(1) as cluster:
        member = await cluster.leader()
        found = health_of(member)
        member.node.on_failure(StorageError("the disk is gone"))
        (check,) = [check for check in found.live() if check.problem]
        assert (check.name, "the disk is gone" in check.problem) == ("disk", True)
        assert "disk" in await problems(found)
        with pytest.raises(StorageError):
            member.node.failure.result()


# --- one confirmation for many ----------------------------------------------------------------------------------------


class Leader:
    """Counts who asks, and answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer = asyncio.Event()
        self.refusal: NoLeader | None = None

    async def __call__(self, timeout_s: float) -> None:
        self.asked += 1
        await self.answer.wait()
        if self.refusal is not None:
            raise self.refusal


async def test_all_who_ask_within_a_second_share_one_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONFIRMED_S", NEVER)
    leader = Leader()
    confirmation = Confirmation(leader)
    probes = [asyncio.create_task(confirmation.problem()) for _ in range(50)]
    await until(lambda: leader.asked)
    probes[0].cancel()  # whose client has gone away; the others get their answer
    leader.answer.set()
    assert await asyncio.gather(*probes[1:]) == [""] * 49
    assert await confirmation.problem() == ""
    assert leader.asked == 1


async def test_an_old_confirmation_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONFIRMED_S", 0.0)
    leader = Leader()
    leader.answer.set()
    confirmation = Confirmation(leader)
    assert await confirmation.problem() == ""
    leader.refusal = NoLeader("nobody leads")
    assert await confirmation.problem() == "nobody leads"
    assert leader.asked == 2


async def test_a_failure_is_asked_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONFIRMED_S", NEVER)
    leader = Leader()
    leader.answer.set()
    leader.refusal = NoLeader("nobody leads")
    confirmation = Confirmation(leader)
    assert await confirmation.problem() == "nobody leads"
    leader.refusal = None
    assert await confirmation.problem() == ""


async def test_a_leader_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "CONFIRM_S", 0.05)
    confirm: Callable[[float], Awaitable[None]] = Leader()
    assert "not confirmed within 0.05 s" in await Confirmation(confirm).problem()
