"""The faults of PeerLinks, as real connections through a real Toxiproxy meet them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc.aio
import pytest
import requests

from raftkv.testing import toxiproxy
from raftkv.testing.links import FaultNotProven, How, PeerLinks, Probe, probe
from raftkv.testing.processes import free_port
from raftkv.testing.toxiproxy import ToxiproxyServer

pytestmark = pytest.mark.toxiproxy

NODES = (1, 2, 3)
HOWS: tuple[How, ...] = ("blackhole", "cut", "reset")


@asynccontextmanager
async def grpc_node() -> AsyncIterator[str]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


@asynccontextmanager
async def echo_node() -> AsyncIterator[str]:
    """Sends back each line, and a greeting first."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            writer.write(b"hello\n")
            while line := await reader.readline():
                writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


@pytest.fixture
async def links(toxiproxy_server: ToxiproxyServer) -> AsyncIterator[PeerLinks]:
    """Three nodes that speak gRPC, all links healthy."""
    async with AsyncExitStack() as stack:
        peers = {node: await stack.enter_async_context(grpc_node()) for node in NODES}
        yield await stack.enter_async_context(PeerLinks(toxiproxy_server, peers=peers, clients=peers))


class Line:
    """A connection that was there before the fault."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def dial(cls, address: str) -> Line:
        host, _, port = address.rpartition(":")
        line = cls(*await asyncio.open_connection(host, int(port)))
        assert await line.hears(b"hello\n")
        return line

    async def echoes(self, text: bytes, within_s: float = 2.0) -> bool:
        self.writer.write(text)
        return await self.hears(text, within_s)

    async def hears(self, text: bytes, within_s: float = 2.0) -> bool:
        """Whether the next line is `text`; False when none comes in time. Raises when the connection is closed."""
        try:
            async with asyncio.timeout(within_s):
                got = await self.reader.readline()
        except TimeoutError:
            return False
        if not got:
            raise ConnectionError("closed")
        return got == text

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


@pytest.fixture
async def echo_links(toxiproxy_server: ToxiproxyServer) -> AsyncIterator[PeerLinks]:
    async with AsyncExitStack() as stack:
        peers = {node: await stack.enter_async_context(echo_node()) for node in NODES}
        yield await stack.enter_async_context(PeerLinks(toxiproxy_server, peers=peers, clients=peers))


async def test_there_is_a_proxy_for_each_ordered_pair_and_each_node(
    toxiproxy_server: ToxiproxyServer, links: PeerLinks
) -> None:
    addresses = [links.dial_address(a, b) for a in NODES for b in NODES if a != b]
    addresses += [links.client_address(node) for node in NODES]
    assert len(set(addresses)) == len(addresses) == 9
    assert len(toxiproxy_server.api.names()) == 9
    for address in addresses:
        assert await probe(address, 2.0) is Probe.ALIVE


async def test_the_proxies_go_with_the_links(toxiproxy_server: ToxiproxyServer) -> None:
    peers = {1: "127.0.0.1:1", 2: "127.0.0.1:2"}
    async with (
        PeerLinks(toxiproxy_server, peers=peers, clients=peers, name="x"),
        PeerLinks(toxiproxy_server, peers=peers, clients=peers, name="y"),
    ):
        assert len(toxiproxy_server.api.names()) == 8
    assert toxiproxy_server.api.names() == frozenset()


async def test_a_dead_node_is_not_mistaken_for_a_partition(toxiproxy_server: ToxiproxyServer) -> None:
    peers = {node: f"127.0.0.1:{free_port()}" for node in (1, 2)}
    async with PeerLinks(toxiproxy_server, peers=peers, clients=peers) as links:
        assert await links.probe(1, 2, window_s=2.0) is Probe.CLOSED
        await links.block(1, 2)
        with pytest.raises(FaultNotProven, match="accepted, then closed"):
            await links.verify_blocked(1, 2)


@pytest.mark.parametrize(
    ("how", "seen"), [("blackhole", Probe.SILENT), ("cut", Probe.REFUSED), ("reset", Probe.CLOSED)]
)
async def test_block_parts_two_nodes_and_no_others(links: PeerLinks, how: How, seen: Probe) -> None:
    with pytest.raises(FaultNotProven, match="no such fault"):
        await links.verify_blocked(1, 2)
    await links.block(1, 2, how)
    await links.verify_blocked(1, 2)
    window_s = 0.2 if seen is Probe.SILENT else 2.0
    assert await links.probe(1, 2, window_s) is await links.probe(2, 1, window_s) is seen
    await links.verify_open(1, 3)
    await links.verify_open(2, 3)
    with pytest.raises(FaultNotProven, match="is not open"):
        await links.verify_open(1, 2, timeout_s=0.3)
    await links.heal()
    await links.verify_open(1, 2)
    with pytest.raises(FaultNotProven, match="no such fault"):
        await links.verify_blocked(1, 2)


@pytest.mark.parametrize("how", HOWS)
async def test_isolate_parts_a_node_from_all_others_but_not_from_its_clients(links: PeerLinks, how: How) -> None:
    await links.isolate(1, how)
    await links.verify_isolated(1)
    await links.verify_open(2, 3)
    assert await probe(links.client_address(1), 2.0) is Probe.ALIVE
    await links.isolate(1, how, clients=True)
    assert await probe(links.client_address(1)) is not Probe.ALIVE
    assert await probe(links.client_address(2), 2.0) is Probe.ALIVE
    await links.heal()
    for other in (2, 3):
        await links.verify_open(1, other)
    assert await probe(links.client_address(1), 2.0) is Probe.ALIVE


async def test_one_way_loses_only_what_goes_that_way(links: PeerLinks) -> None:
    await links.block_one_way(1, 2)
    await links.verify_blocked_one_way(1, 2)
    assert await links.probe(1, 2, window_s=1.0) is Probe.ONE_WAY  # hears the server's settings, gets no answer
    assert await links.probe(2, 1) is Probe.SILENT  # is heard, hears nothing
    with pytest.raises(FaultNotProven, match="no such fault"):
        await links.verify_blocked(1, 2)
    with pytest.raises(FaultNotProven, match="no such fault"):
        await links.verify_blocked_one_way(2, 1)
    await links.block_one_way(2, 1)
    await links.verify_blocked(1, 2)
    await links.heal()
    await links.verify_open(1, 2)


async def test_a_bridge_hears_both_sides(links: PeerLinks) -> None:
    await links.partition({1, 2}, {2, 3})
    await links.verify_blocked(1, 3)
    await links.verify_open(1, 2)
    await links.verify_open(2, 3)


async def test_faults_add_up_until_healed(links: PeerLinks) -> None:
    await links.block(1, 2)
    await links.block(1, 2)
    await links.isolate(1)
    await links.isolate(2, "cut")
    await links.slow(1, 2, latency_ms=10)
    await links.slow(1, 2, latency_ms=20, jitter_ms=5)
    await links.verify_isolated(1)
    await links.verify_isolated(2)
    assert await links.probe(1, 2) is Probe.REFUSED
    assert await links.probe(1, 3) is Probe.SILENT
    await links.heal()
    await asyncio.gather(links.verify_open(1, 2), links.verify_open(2, 3), links.verify_open(3, 1))


async def test_a_fault_that_was_switched_off_behind_our_back_is_not_proven(
    toxiproxy_server: ToxiproxyServer, links: PeerLinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    await links.block(1, 2)
    believed = toxiproxy_server.api.state("links-1-2")
    await links.heal()
    monkeypatch.setattr(toxiproxy_server.api, "state", lambda name: believed)
    with pytest.raises(FaultNotProven, match="answered: bytes pass both ways, though its proxy is"):
        await links.verify_blocked(1, 2)


async def test_a_black_hole_keeps_connections_open_and_loses_their_bytes(echo_links: PeerLinks) -> None:
    line = await Line.dial(echo_links.dial_address(1, 2))
    assert await line.echoes(b"before\n")
    await echo_links.block(1, 2)
    assert not await line.echoes(b"lost\n", within_s=0.2)
    assert not line.reader.at_eof()
    await echo_links.heal()
    with pytest.raises(ConnectionError):  # what was lost is not sent later
        await line.hears(b"lost\n")
    await line.close()
    again = await Line.dial(echo_links.dial_address(1, 2))
    assert await again.echoes(b"after\n")
    await again.close()


async def test_a_cut_closes_connections(echo_links: PeerLinks) -> None:
    line = await Line.dial(echo_links.dial_address(1, 2))
    bystander = await Line.dial(echo_links.dial_address(1, 3))
    await echo_links.block(1, 2, "cut")
    with pytest.raises(ConnectionError):
        await line.hears(b"")
    assert await bystander.echoes(b"still here\n")
    await line.close()
    await bystander.close()


async def test_a_reset_closes_connections_that_are_used(echo_links: PeerLinks) -> None:
    line = await Line.dial(echo_links.dial_address(1, 2))
    await echo_links.block(1, 2, "reset")
    with pytest.raises(ConnectionError):
        await line.echoes(b"used\n")
    await line.close()


async def test_one_way_on_a_connection_that_exists(echo_links: PeerLinks) -> None:
    forth = await Line.dial(echo_links.dial_address(1, 2))
    back = await Line.dial(echo_links.dial_address(2, 1))
    await echo_links.block_one_way(1, 2)
    assert not await forth.echoes(b"question\n", within_s=0.2)
    assert not await back.echoes(b"answer\n", within_s=0.2)
    await echo_links.heal()
    await forth.close()
    await back.close()


async def test_a_slow_link_delays_both_ways(echo_links: PeerLinks) -> None:
    line = await Line.dial(echo_links.dial_address(1, 2))
    loop = asyncio.get_running_loop()
    await echo_links.slow(1, 2, latency_ms=100)
    started = loop.time()
    assert await line.echoes(b"slow\n", within_s=5.0)
    assert loop.time() - started >= 0.2
    await echo_links.heal()
    quickest = 1.0
    for _ in range(5):
        started = loop.time()
        assert await line.echoes(b"quick\n", within_s=5.0)
        quickest = min(quickest, loop.time() - started)
    assert quickest < 0.2
    await line.close()


async def test_faults_do_not_hold_up_the_loop(links: PeerLinks, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[threading.Thread] = set()
    call = toxiproxy._Transport._call

    def watched(self: toxiproxy._Transport, method: str, url: str, **arguments: Any) -> requests.Response:
        threads.add(threading.current_thread())
        return call(self, method, url, **arguments)

    monkeypatch.setattr(toxiproxy._Transport, "_call", watched)
    await links.isolate(1)
    await links.verify_isolated(1)
    await links.heal()
    assert threads
    assert threading.current_thread() not in threads


async def test_a_node_that_is_added_later_has_links_and_is_struck_by_what_strikes_everybody(
    toxiproxy_server: ToxiproxyServer, links: PeerLinks
) -> None:
    await links.isolate(1)
    await links.block(2, 3)
    before = toxiproxy_server.api.names()
    async with grpc_node() as address:
        await links.add(4, address, address)
        assert (links.nodes, links.founders) == ((1, 2, 3, 4), (1, 2, 3))
        assert len(toxiproxy_server.api.names() - before) == 7
        await links.verify_isolated(1)
        await links.verify_open(2, 4)
        assert await probe(links.client_address(4), 2.0) is Probe.ALIVE
        with pytest.raises(ValueError, match="has links already"):
            await links.add(4, address, address)
        await links.heal()
        await links.verify_open(1, 4)
        await links.isolate(4)
        await links.remove(4)
        await links.remove(4)
    assert toxiproxy_server.api.names() == before
    assert links.nodes == (1, 2, 3)
    await links.verify_open(1, 2)


async def test_a_node_that_cannot_be_added_leaves_nothing(
    toxiproxy_server: ToxiproxyServer, links: PeerLinks, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = toxiproxy_server.api.names()
    create = toxiproxy_server.api.create

    def failing(name: str, *, listen: str, upstream: str) -> None:
        if name.endswith("4-2"):
            raise toxiproxy.ToxiproxyError("no")
        create(name, listen=listen, upstream=upstream)

    monkeypatch.setattr(toxiproxy_server.api, "create", failing)
    with pytest.raises(toxiproxy.ToxiproxyError):
        await links.add(4, "127.0.0.1:1", "127.0.0.1:2")
    assert toxiproxy_server.api.names() == before
    assert links.nodes == (1, 2, 3)


async def test_an_isolation_that_leaks_is_not_proven(links: PeerLinks) -> None:
    await links.block(1, 2)
    with pytest.raises(FaultNotProven, match="no such fault"):
        await links.verify_isolated(1)


def test_nodes_and_addresses_must_fit() -> None:
    server = ToxiproxyServer()
    with pytest.raises(ValueError, match="same nodes"):
        PeerLinks(server, peers={1: "a:1", 2: "a:2"}, clients={1: "a:1"})
    with pytest.raises(ValueError, match="from 1"):
        PeerLinks(server, peers={0: "a:1"}, clients={0: "a:1"})
