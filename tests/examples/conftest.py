"""One cluster for everything that is shown to users: documents, docstrings, example programs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from raftkv.client import AsyncClient
from raftkv.testing.cluster import LocalCluster


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def cluster() -> AsyncIterator[LocalCluster]:
    async with LocalCluster(3) as cluster:
        await cluster.leader()
        yield cluster


@pytest_asyncio.fixture(loop_scope="package")
async def client(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A client of a store without keys, which RAFTKV_ENDPOINTS names; what is written beside it goes to `tmp_path`."""
    monkeypatch.setenv("RAFTKV_ENDPOINTS", cluster.url)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.chdir(tmp_path)
    async with AsyncClient(cluster.url, timeout=60.0) as client:
        await client.delete_prefix("")
        yield client
