"""Layers of faults on the same links: each is healed on its own, and proven by what a probe sees of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from raftkv.testing.link_faults import BLOCKED, attribute, combine, delayed, drop, dropping, narrowed, reset, sliced
from raftkv.testing.links import FaultNotProven, Layer, PeerLinks, Probe
from raftkv.testing.toxiproxy import HEALTHY, ProxyState, ToxiproxyError, ToxiproxyServer
from tests.testing.test_links import grpc_node

pytestmark = pytest.mark.toxiproxy


@pytest.fixture
async def links(toxiproxy_server: ToxiproxyServer) -> AsyncIterator[PeerLinks]:
    async with AsyncExitStack() as stack:
        peers = {node: await stack.enter_async_context(grpc_node()) for node in (1, 2, 3)}
        yield await stack.enter_async_context(PeerLinks(toxiproxy_server, peers=peers, clients=peers))


async def test_healing_one_layer_leaves_the_others(links: PeerLinks) -> None:
    cut, hole, slow = links.layer(), links.layer(), links.layer()
    await cut.isolate(1, "cut")
    await hole.block(1, 2)
    await slow.slow(1, 3, latency_ms=20)
    await links.block(2, 3, "reset")
    await cut.verify()
    await hole.verify()
    assert await links.probe(1, 2) is Probe.REFUSED
    await cut.heal()
    await cut.heal()
    assert await links.probe(1, 2) is Probe.SILENT
    await hole.verify()
    await slow.verify()
    await links.verify_open(1, 3)
    with pytest.raises(FaultNotProven, match="no link is broken"):
        await cut.verify()
    await hole.heal()
    await links.verify_open(1, 2)
    await links.verify_blocked(2, 3)
    await slow.heal()
    await links.heal()
    for link in ((1, 2), (1, 3), (2, 3), (3, 1)):
        assert await links.state(link) == HEALTHY


async def test_healing_everything_takes_all_layers(links: PeerLinks) -> None:
    layer = links.layer()
    await layer.block(1, 2)
    await links.heal()
    await links.verify_open(1, 2)
    await layer.block(1, 3)
    await links.verify_open(1, 2)  # what was healed does not come back
    await layer.verify()
    await layer.heal()


async def test_nothing_is_proven_on_links_of_nodes_that_are_down(links: PeerLinks) -> None:
    layer = links.layer()
    await layer.isolate(1)
    await layer.verify(down={2})
    for down in ({1}, {2, 3}):
        with pytest.raises(FaultNotProven, match="no link is broken whose nodes are up"):
            await layer.verify(down=down)


async def test_a_fault_of_links_that_are_taken_away_is_not_proven_and_can_be_healed(links: PeerLinks) -> None:
    layer = links.layer()
    async with grpc_node() as address:
        await links.add(4, address, address)
        await layer.block(1, 4)
        await layer.verify()
        await links.remove(4)
        with pytest.raises(FaultNotProven, match="no link is broken"):
            await layer.verify()
        await layer.heal()
        await links.add(4, address, address)
        await links.verify_open(1, 4)


async def test_a_delay_on_a_link_that_is_blocked_is_not_proven(links: PeerLinks) -> None:
    slow, cut = links.layer(), links.layer()
    await slow.slow(1, 2, latency_ms=5)
    await slow.verify()
    await cut.block(1, 2, "cut")
    with pytest.raises(FaultNotProven, match="no link is broken"):
        await slow.verify()
    await slow.slow(1, 3, latency_ms=5)
    await slow.verify()  # the other link tells


async def test_a_heal_that_fails_can_be_repeated(links: PeerLinks, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = links.layer()
    await layer.isolate(1)

    def fails(name: str, wanted: ProxyState) -> None:
        if name == "links-1-2":
            raise ToxiproxyError("no")
        apply(name, wanted)

    apply = links._server.api.apply
    with monkeypatch.context() as broken:
        broken.setattr(links._server.api, "apply", fails)
        with pytest.raises(ToxiproxyError):
            await layer.heal()
    await links.verify_open(1, 3)  # the others were healed all the same
    assert await links.probe(1, 2) is Probe.SILENT
    await layer.heal()
    await links.verify_open(1, 2)


BAD: dict[str, tuple[Callable[[Layer], Awaitable[None]], str]] = {
    "slow": (lambda layer: layer.slow(1, 2, latency_ms=200), "which is less than twice 0.2"),
    "jitter": (lambda layer: layer.slow(1, 2, latency_ms=500, jitter_ms=500), "all of 40 answers took"),
    "narrow": (lambda layer: layer.narrow(1, 2, kilobytes_per_s=32), "bytes passed in"),
    "slice": (
        lambda layer: layer.slice(1, 2, average_bytes=16, variation_bytes=8, pause_us=100),
        "pieces passed in",
    ),
    "one-way": (lambda layer: layer.block_one_way(1, 2), "answered: bytes pass both ways"),
    "clients": (lambda layer: layer.block_clients(1), "answered: bytes pass both ways"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_fault_is_not_proven_when_the_server_says_so_and_the_bytes_do_not(
    links: PeerLinks, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    strike, why = BAD[name]
    layer = links.layer()
    await strike(layer)
    api = links._server.api
    believed = {proxy: api.state(proxy) for proxy in api.names()}
    for proxy in believed:
        api.apply(proxy, HEALTHY)
    monkeypatch.setattr(api, "state", believed.__getitem__)
    with pytest.raises(FaultNotProven, match=why):
        await layer.verify()


@pytest.mark.parametrize("name", [name for name in BAD if name != "jitter"])
async def test_a_fault_is_proven_while_it_is_on(links: PeerLinks, name: str) -> None:
    layer = links.layer()
    await BAD[name][0](layer)
    await layer.verify()
    await layer.heal()
    await links.verify_open(1, 2)


async def test_jitter_is_proven_by_answers_that_differ(links: PeerLinks) -> None:
    layer = links.layer()
    await layer.slow(1, 2, latency_ms=50, jitter_ms=50)
    await layer.verify()


def test_several_faults_of_one_link_are_as_bad_as_the_worst() -> None:
    assert combine([]) == HEALTHY
    assert not combine([HEALTHY, BLOCKED["cut"], delayed(10, 0)]).enabled
    slow = combine([delayed(100, 0), delayed(50, 40)])
    assert (attribute(slow, "latency", "latency"), attribute(slow, "latency", "jitter")) == (100, 40)
    assert combine([narrowed(64), narrowed(16)]) == narrowed(16)
    assert combine([sliced(8, 4, 10), sliced(64, 4, 10)]) == sliced(8, 4, 10)
    assert combine([dropping("upstream"), dropping("downstream")]) == BLOCKED["blackhole"]
    both = combine([BLOCKED["blackhole"], ProxyState(toxics=frozenset({reset("upstream")}))])
    assert both.toxics == {reset("upstream"), drop("downstream")}
    assert attribute(HEALTHY, "latency", "latency") == 0
