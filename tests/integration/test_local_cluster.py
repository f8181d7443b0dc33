"""The harness itself: the ports of its nodes, and that it sees what it must see."""

from __future__ import annotations

import socket

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.cluster import ClusterError, LocalCluster
from raftkv.testing.processes import LOOPBACK, port_of, reserve_port

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]


async def test_a_reserved_port_is_given_to_nobody_else_but_a_server_may_listen_on_it() -> None:
    with reserve_port() as reservation, socket.socket() as other, socket.socket() as server:
        address = (LOOPBACK, port_of(reservation))
        with pytest.raises(OSError, match="in use"):
            other.bind(address)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen()
        with socket.create_connection(address):
            pass


async def test_contents_are_those_of_one_node_page_by_page(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    value = b"x" * (400 << 10)  # a page of 1 MiB holds two
    keys = [f"{prefix}{number}".encode() for number in range(5)]
    for key in keys:
        await client.put(key, value)
    await client.put(prefix.replace("/", "0"), "the key after the prefix")
    await cluster.converged()
    for node in cluster.nodes:
        held = await cluster.contents(node.id, prefix)
        assert {key: pair.value for key, pair in held.items()} == dict.fromkeys(keys, value)


async def test_a_node_that_is_down_or_behind_has_not_converged(cluster: LocalCluster) -> None:
    leader = await cluster.leader()
    follower = next(node for node in cluster.nodes if node.id != leader)
    follower.pause()
    with pytest.raises(ClusterError, match=f"node {follower.id}: no answer"):
        await cluster.converged(timeout_s=3.0)
    follower.resume()
    assert len((await cluster.converged()).hash) > 0
