"""A pytest plugin: a real three-node cluster for your own tests.

    pip install "raftkv[testing]"

and nothing else; pytest finds the plugin by itself (entry point `raftkv`; `-p no:raftkv` turns it off).

    @pytest.mark.asyncio  # not needed in pytest-asyncio's auto mode
    async def test_what_i_store(raftkv_client):
        await raftkv_client.put("k", "v")

    def test_my_program(raftkv_cluster):
        subprocess.run(["my-program", "--store", raftkv_cluster.url], check=True)

`raftkv_cluster`  three nodes, each a process, on free loopback ports and a temporary directory; started for the first
                  test that asks, shared by the whole run, killed at its end. A `RaftkvCluster`: `url`, `endpoints`,
                  `client()`, and `kill_leader()` for tests of what your program does then.
`raftkv_client`   an `AsyncClient` of it, for one asynchronous test.
`raftkv_sync_client`  its synchronous twin, for one test.

The tests share one store: give each keys of its own, or delete what it wrote. The cluster lives on a thread with an
event loop of its own, so it suits tests of every kind, whatever loop they run on.

Importing this module imports pytest alone; the rest is imported by the first test that asks.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

if TYPE_CHECKING:
    from raftkv.client import AsyncClient, Client
    from raftkv.testing.cluster import LocalCluster

try:
    from pytest_asyncio import fixture as _async_fixture
except ImportError:  # then only the synchronous fixtures work
    _async_fixture = pytest.fixture  # type: ignore[assignment]

T = TypeVar("T")


class RaftkvCluster:
    """A running cluster, for tests on any event loop or on none."""

    def __init__(self, cluster: LocalCluster, loop: asyncio.AbstractEventLoop) -> None:
        self._cluster = cluster
        self._loop = loop

    @property
    def url(self) -> str:
        """raftkv://host:port,... of all nodes."""
        return self._cluster.url

    @property
    def endpoints(self) -> list[str]:
        """host:port of each node."""
        return self._cluster.endpoints

    def client(self) -> Client:
        """Return a synchronous client; close it, or use it in a `with` statement."""
        from raftkv.client import Client  # noqa: PLC0415

        return Client(self.url)

    def kill_leader(self) -> int:
        """SIGKILL the leader; return its id once another node leads. `restore` starts it again."""

        async def kill() -> int:
            leader = await self._cluster.leader()
            await self._cluster.node(leader).kill()
            await self._cluster.leader(other_than=leader)
            return leader

        return self._run(kill())

    def restore(self) -> None:
        """Start every node that is down; return when all hold the same state."""

        async def restore() -> None:
            for node in self._cluster.nodes:
                if not node.running:
                    await node.start()
            await self._cluster.converged()

        self._run(restore())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@pytest.fixture(scope="session")
def raftkv_cluster() -> Iterator[RaftkvCluster]:
    """Three real nodes that have elected a leader, for the whole run."""
    from raftkv.testing.cluster import LocalCluster  # noqa: PLC0415

    loop = asyncio.new_event_loop()
    # Nodes die with the thread that started them (raftkv.testing.processes), so it lives as long as they.
    thread = threading.Thread(target=loop.run_forever, name="raftkv-cluster", daemon=True)
    thread.start()
    cluster = LocalCluster(3)

    def run(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result()

    try:
        run(cluster.start())
        run(cluster.leader())
        yield RaftkvCluster(cluster, loop)
    finally:
        run(cluster.close())
        run(loop.shutdown_default_executor())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@_async_fixture
async def raftkv_client(raftkv_cluster: RaftkvCluster) -> AsyncIterator[AsyncClient]:
    """An AsyncClient of `raftkv_cluster`."""
    from raftkv.client import AsyncClient  # noqa: PLC0415

    async with AsyncClient(raftkv_cluster.url) as client:
        yield client


@pytest.fixture
def raftkv_sync_client(raftkv_cluster: RaftkvCluster) -> Iterator[Client]:
    """A synchronous Client of `raftkv_cluster`."""
    with raftkv_cluster.client() as client:
        yield client
