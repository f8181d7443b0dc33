"""Levels, concerns and tokens that make no sense, asked of real nodes: each error names what would."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest
import pytest_asyncio

from raftkv.client import AsyncClient, AtLeast, Bounded, FencingToken, Quorum, ReadToken, put
from raftkv.errors import ClusterMismatch, InvalidArgument, TokenOutOfRange, TooStale
from raftkv.testing.cluster import LocalCluster

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

BAD_CONCERNS: Final[list[tuple[Any, str]]] = [
    (0, "write concern 0 is none of leader, majority, all, or a number of voters from 1 on"),
    (-1, "write concern -1 is none of leader, majority, all, or a number of voters from 1 on"),
    ("most", "write concern 'most' is none of leader, majority, all, or a number of voters from 1 on"),
    (4, "write concern 4 is not possible: 1 to 3 voters, or leader, majority, all"),
]
TOO_MANY: Final = "write concern 4 is not possible for this write: 2 to 3 voters, or majority, all"

Write = Callable[[AsyncClient, str, Any], Awaitable[object]]

PLAIN: Final[dict[str, Write]] = {
    "put": lambda client, key, concern: client.put(key, "v", concern=concern),
    "delete": lambda client, key, concern: client.delete(key, concern=concern),
}
NEED_A_MAJORITY: Final[dict[str, Write]] = {
    "txn": lambda client, key, concern: client.txn().then(put(key, "v")).commit(concern=concern),
    "create": lambda client, key, concern: client.create(key, "v", concern=concern),
    "update": lambda client, key, concern: client.update(key, "v", if_revision=1, concern=concern),
    "put of a lease": lambda client, key, concern: client.put(key, "v", lease=5, concern=concern),
    "put that returns the pair before": lambda client, key, concern: client.put(
        key, "v", previous=True, concern=concern
    ),
    "fenced put": lambda client, key, concern: client.put(key, "v", fence=FencingToken(b"lock", 1), concern=concern),
    "fenced delete": lambda client, key, concern: client.delete(key, fence=FencingToken(b"lock", 1), concern=concern),
    "delete that returns the pair before": lambda client, key, concern: client.delete(
        key, previous=True, concern=concern
    ),
    "delete of a revision": lambda client, key, concern: client.delete(key, if_revision=1, concern=concern),
    "delete of a prefix": lambda client, key, concern: client.delete_prefix(key, concern=concern),
}


@pytest_asyncio.fixture(loop_scope="package")
async def token(client: AsyncClient, prefix: str) -> ReadToken:
    written = await client.put(f"{prefix}written", "v")
    assert written.receipt.token is not None
    return written.receipt.token


@pytest.mark.parametrize(("concern", "says"), BAD_CONCERNS)
async def test_concerns_out_of_range(client: AsyncClient, prefix: str, concern: Any, says: str) -> None:
    key = f"{prefix}key"
    for name, write in (PLAIN | NEED_A_MAJORITY).items():
        with pytest.raises(InvalidArgument) as refused:
            await write(client, key, concern)
        assert (TOO_MANY if concern == 4 and name in NEED_A_MAJORITY else says) in refused.value.message, name
        assert not refused.value.ambiguous, name
    assert await client.get(key) is None, "a write that was refused took effect"


@pytest.mark.parametrize("concern", ["leader", 1])
async def test_what_needs_a_majority(client: AsyncClient, prefix: str, concern: Any) -> None:
    key = f"{prefix}key"
    for name, write in NEED_A_MAJORITY.items():
        with pytest.raises(InvalidArgument) as refused:
            await write(client, key, concern)
        assert "Possible here: 2 to 3 voters, or majority, all" in refused.value.message, name
        assert not refused.value.ambiguous, name
    assert await client.get(key) is None, "a write that was refused took effect"


async def test_quorums_out_of_range(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    for wrong in (0, -1, 2**32):
        with pytest.raises(InvalidArgument, match="not a number from 1 to the number of voters, or None"):
            Quorum(wrong)
    for level in (Quorum(4), Quorum(4, coordinator="client")):
        with pytest.raises(InvalidArgument, match=r"QUORUM\(4\) is not possible: 1 to 3 voters"):
            await client.get(f"{prefix}key", level=level)
    for node in cluster.nodes:
        with pytest.raises(InvalidArgument, match=r"QUORUM\(4\) is not possible: 1 to 3 voters"):
            await client.get(f"{prefix}key", level=Quorum(4), endpoint=node.client_address)


async def test_names_and_bounds_that_are_none(client: AsyncClient, prefix: str) -> None:
    wrong: Any
    for wrong in ("newest", "linearizable", 7, None):
        with pytest.raises(InvalidArgument, match=r"not one of ReadLevel \(LINEARIZABLE, LOCAL, LEASE\), AtLeast"):
            await client.get(f"{prefix}key", level=wrong)
    for wrong in (0, -1, 2**32, "1s"):
        with pytest.raises(InvalidArgument, match=r"not seconds from 0\.001 to"):
            await client.get(f"{prefix}key", level=Bounded(wrong))
    with pytest.raises(InvalidArgument, match='neither "stale" nor None'):
        await client.get(f"{prefix}key", fallback="local")  # type: ignore[arg-type]


async def test_a_token_of_another_cluster(
    cluster: LocalCluster, client: AsyncClient, prefix: str, token: ReadToken
) -> None:
    other = ReadToken(token.cluster_id ^ 1, token.term, token.index)
    both = f"{other.cluster_id:016x}.*{token.cluster_id:016x}"
    with pytest.raises(ClusterMismatch, match=both):
        await client.get(f"{prefix}key", level=AtLeast(other))
    for node in cluster.nodes:  # a client that has heard of no cluster yet asks the node
        async with AsyncClient([node.client_address], dial_learned=False) as stranger:
            with pytest.raises(ClusterMismatch, match=both):
                await stranger.get(f"{prefix}key", level=AtLeast(other))


async def test_a_token_of_the_future(cluster: LocalCluster, client: AsyncClient, prefix: str, token: ReadToken) -> None:
    future = ReadToken(token.cluster_id, token.term, token.index + 1_000_000)
    leader = await cluster.leader()
    address = cluster.node(leader).client_address
    last = (await client.status(address)).last_index
    with pytest.raises(TokenOutOfRange, match=rf"entry {future.index} .* nobody has written: entries 0 to {last}$"):
        await client.get(f"{prefix}key", level=AtLeast(future), endpoint=address)
    # For all that a follower knows, it lags.
    follower = next(node for node in cluster.nodes if node.id != leader)
    with pytest.raises(TooStale, match=rf"has applied entry \d+ .* asks for entry {future.index} "):
        await client.get(f"{prefix}key", level=AtLeast(future), endpoint=follower.client_address, timeout=0.5)
