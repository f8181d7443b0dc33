from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.client.fake import FakeCluster, fake_cluster


@pytest.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    """Three nodes; node 1 leads."""
    async with fake_cluster(3) as running:
        yield running


@pytest.fixture
async def single() -> AsyncIterator[FakeCluster]:
    """One node."""
    async with fake_cluster(1) as running:
        yield running
