"""Break the network between real nodes: a proxy on every link of a cluster.

`PeerLinks` puts one Toxiproxy proxy on each ordered pair of nodes and one before each node for its clients, and offers
the faults by name: `isolate`, `block`, `block_one_way`, `block_clients`, `partition`, `slow`, `narrow`, `slice`,
`heal`. Each of several parties that break the same network takes a `layer` of its own, and heals no more than that.

What the faults look like to a node:

`blackhole`  connections stay open and new ones are accepted, but no byte arrives: a partition.
`cut`        connections are closed and new ones refused: a crash, or a firewall that rejects.
`reset`      new connections are reset at their first byte; those that exist are closed at their next one.

Healing closes every connection that a black hole held, as the bytes in it are lost. Faults act on connections, not on
packets: there is no loss and no reordering here.

A fault counts only when it is proven: call `verify_blocked`, or `verify` of a layer, after it, which exchange real
bytes through the proxies.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Self, TypeVar

from raftkv.errors import RaftKVError
from raftkv.testing.gathering import all_of
from raftkv.testing.link_faults import (
    BLOCKED,
    BOTH,
    How,
    attribute,
    combine,
    delayed,
    drop,
    dropping,
    narrowed,
    reset,
    sliced,
)
from raftkv.testing.link_probe import PROBE_S, Line, Probe, probe
from raftkv.testing.processes import LOOPBACK, free_port
from raftkv.testing.toxiproxy import ProxyState, Stream, ToxiproxyError, ToxiproxyServer

__all__ = ["CLIENTS", "FaultNotProven", "How", "Layer", "Link", "PeerLinks", "Probe", "probe"]

T = TypeVar("T")

Link = tuple[int, int]
"""(who dials, who is dialled); CLIENTS dial too."""
CLIENTS = 0

Fault = Callable[[Collection[int]], Mapping[Link, ProxyState]]
"""What is wrong with which links, given all nodes: of a node that is added later it says so then."""

MEASURE_S = 10.0
ROUND_TRIPS = 40
PIECES = 1000


class FaultNotProven(RaftKVError):
    """A probe through a proxy did not see what the fault, or its absence, must look like."""


class _Faults(ABC):
    """The faults by name. They add up until they are healed."""

    @abstractmethod
    async def _add(self, fault: Fault) -> None: ...

    async def isolate(self, node: int, how: How = "blackhole", *, clients: bool = False) -> None:
        """Part `node` from all other nodes, those to come included; from its clients only if asked."""

        def fault(nodes: Collection[int]) -> Mapping[Link, ProxyState]:
            links = [link for other in nodes if other != node for link in ((node, other), (other, node))]
            return dict.fromkeys([*links, (CLIENTS, node)] if clients else links, BLOCKED[how])

        await self._add(fault)

    async def block(self, a: int, b: int, how: How = "blackhole") -> None:
        """Part two nodes from each other."""
        await self._add(lambda _: dict.fromkeys([(a, b), (b, a)], BLOCKED[how]))

    async def block_one_way(self, src: int, dst: int) -> None:
        """Lose all bytes from `src` to `dst`: what it sends on its own connections, and answers on those of `dst`."""
        await self._add(lambda _: {(src, dst): dropping("upstream"), (dst, src): dropping("downstream")})

    async def block_clients(self, node: int, how: How = "blackhole") -> None:
        """Part `node` from its clients, and from nobody else."""
        await self._add(lambda _: {(CLIENTS, node): BLOCKED[how]})

    async def partition(self, *groups: Collection[int], how: How = "blackhole") -> None:
        """Part the groups from each other. A node in two groups is a bridge; a node in none is isolated."""
        together = {(a, b) for group in groups for a in group for b in group}

        def fault(nodes: Collection[int]) -> Mapping[Link, ProxyState]:
            apart = [(a, b) for a in nodes for b in nodes if a != b and (a, b) not in together]
            return dict.fromkeys(apart, BLOCKED[how])

        await self._add(fault)

    async def slow(self, a: int, b: int, *, latency_ms: int, jitter_ms: int = 0) -> None:
        """Delay every byte between two nodes, either way."""
        await self._add(lambda _: dict.fromkeys([(a, b), (b, a)], delayed(latency_ms, jitter_ms)))

    async def narrow(self, a: int, b: int, *, kilobytes_per_s: int) -> None:
        """Let no more than so many bytes pass between two nodes, each way, on each connection."""
        await self._add(lambda _: dict.fromkeys([(a, b), (b, a)], narrowed(kilobytes_per_s)))

    async def slice(self, a: int, b: int, *, average_bytes: int, variation_bytes: int, pause_us: int) -> None:
        """Pass what is sent between two nodes on in small pieces, with a pause after each."""
        await self._add(lambda _: dict.fromkeys([(a, b), (b, a)], sliced(average_bytes, variation_bytes, pause_us)))


class PeerLinks(_Faults):
    """A proxy on every ordered pair of nodes, and one before each node for its clients.

    Use it as an asynchronous context manager; the proxies exist inside it, the nodes need not be up. Node `a` must be
    told to dial node `b` at `dial_address(a, b)` (`--peer-dial`), clients dial `client_address(b)`.

    A fault has taken effect, by the server's own account, when its call returns; whether it has by the account of the
    bytes is what `verify_blocked` tells. A call that is cancelled may still take effect.
    """

    def __init__(
        self, server: ToxiproxyServer, *, peers: Mapping[int, str], clients: Mapping[int, str], name: str = "links"
    ) -> None:
        """`peers` and `clients`: node id (from 1) to the host:port where the node itself listens for them.

        `name` tells the proxies from those of other PeerLinks on the same server.
        """
        if set(peers) != set(clients) or CLIENTS in peers:
            raise ValueError(f"peers {sorted(peers)} and clients {sorted(clients)} must be the same nodes, from 1")
        self.founders = tuple(sorted(peers))
        """The nodes that were there from the start."""
        self._server = server
        self._peers = dict(peers)
        self._clients = dict(clients)
        self._name = name
        self._listen: dict[Link, str] = {}
        self._layers: list[Layer] = []
        self._own = self.layer()
        self._lock = threading.Lock()  # orders what threads do whose callers were cancelled; guards the faults too

    @property
    def nodes(self) -> tuple[int, ...]:
        """All nodes that have proxies, or will."""
        return tuple(sorted(self._peers))

    # --- life ---

    async def __aenter__(self) -> Self:
        try:
            await self._in_thread(lambda: self._create(self._upstreams()))
        except BaseException:
            await asyncio.shield(self._in_thread(lambda: self._delete(self._listen)))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self._in_thread(lambda: self._delete(self._listen)))

    async def add(self, node: int, peer_address: str, client_address: str) -> None:
        """Put proxies on the links of one more node, between it and every other, either way, and before it.

        Faults that concern whoever is there (`isolate`, `partition`) strike the new links at once.
        """

        def work() -> None:
            if node in self._peers or node == CLIENTS:
                raise ValueError(f"node {node} has links already")
            before = set(self._upstreams())
            self._peers[node], self._clients[node] = peer_address, client_address
            new = {link: upstream for link, upstream in self._upstreams().items() if link not in before}
            try:
                self._create(new)
                self._settle(new)
            except BaseException:
                self._forget(node)
                raise

        await self._in_thread(work)

    async def remove(self, node: int) -> None:
        """Take the proxies of a node away. Does nothing when it has none."""
        await self._in_thread(lambda: self._forget(node))

    def dial_address(self, src: int, dst: int) -> str:
        """Where `src` reaches the peer address of `dst`."""
        return self._listen[src, dst]

    def client_address(self, node: int) -> str:
        """Where clients reach `node`."""
        return self._listen[CLIENTS, node]

    # --- faults ---

    def layer(self) -> Layer:
        """Return a set of faults that is healed on its own, whatever else is wrong with the same links."""
        layer = Layer(self)
        self._layers.append(layer)
        return layer

    async def _add(self, fault: Fault) -> None:
        await self._own._add(fault)

    async def heal(self) -> None:
        """Remove every fault, of every layer. Connections that a black hole held are closed."""

        def work() -> None:
            for layer in self._layers:
                layer._faults.clear()
            self._settle(self._listen)

        await self._in_thread(work)

    # --- proof ---

    async def probe(self, src: int, dst: int, window_s: float = PROBE_S) -> Probe:
        """See what a new connection from `src` to `dst` meets now."""
        return await probe(self.dial_address(src, dst), window_s)

    async def verify_blocked(self, a: int, b: int) -> None:
        """Raise FaultNotProven unless no byte passes between `a` and `b`, either way, over either's connections.

        Both the state of the proxies and real connections must say so. `b` and `a` must be up and answer otherwise: a
        stopped process looks like a black hole.
        """
        await all_of([self._verify_dropped((a, b), BOTH), self._verify_dropped((b, a), BOTH)])

    async def verify_blocked_one_way(self, src: int, dst: int) -> None:
        """Raise FaultNotProven unless no byte passes from `src` to `dst`, over either's connections."""
        await self._verify_dropped((src, dst), ("upstream",))
        await self._verify_dropped((dst, src), ("downstream",))

    async def verify_isolated(self, node: int) -> None:
        """Raise FaultNotProven unless `node` is blocked from every other node."""
        await all_of(self.verify_blocked(node, other) for other in self.nodes if other != node)

    async def verify_open(self, a: int, b: int, timeout_s: float = 5.0) -> None:
        """Wait until bytes pass both ways over the connections of either; raise FaultNotProven after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        for src, dst in ((a, b), (b, a)):
            while (seen := await self.probe(src, dst, window_s=min(1.0, timeout_s))) is not Probe.ALIVE:
                if asyncio.get_running_loop().time() > deadline:
                    raise FaultNotProven(f"link {src} -> {dst} is not open after {timeout_s} s: {seen.value}")
                await asyncio.sleep(0.02)

    async def state(self, link: Link) -> ProxyState:
        """Return what the server itself says of a proxy."""
        return await self._in_thread(lambda: self._server.api.state(self._proxy(link)))

    async def _verify_dropped(self, link: Link, dropped: Iterable[Stream]) -> None:
        state = await self.state(link)
        names = {toxic.name for toxic in state.toxics}
        if not state.enabled:
            expected = {Probe.REFUSED}
        elif not all({drop(stream).name, reset(stream).name} & names for stream in dropped):
            raise FaultNotProven(f"link {link[0]} -> {link[1]} has no such fault: {state}")
        elif any(reset(stream).name in names for stream in BOTH):
            expected = {Probe.CLOSED}
        else:
            expected = {Probe.SILENT} if "downstream" in dropped else {Probe.SILENT, Probe.ONE_WAY}
        # Silence takes the whole window to see; anything else ends the probe as soon as it comes.
        window_s = PROBE_S if Probe.SILENT in expected else 10 * PROBE_S
        delay_ms = attribute(state, "latency", "latency") + attribute(state, "latency", "jitter")
        seen = await probe(self._listen[link], window_s + 2 * delay_ms / 1000)
        if seen not in expected:
            raise FaultNotProven(f"link {link[0]} -> {link[1]} {seen.value}, though its proxy is {state}")

    # --- in a thread ---

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._lock:
                return work()

        return await asyncio.to_thread(locked)

    def _settle(self, links: Iterable[Link]) -> None:
        """Bring each link into the state that all layers together ask for; those after one that fails too."""
        faults = [fault(self.nodes) for layer in self._layers for fault in layer._faults]
        failures: list[ToxiproxyError] = []
        for link in links:
            if link not in self._listen:
                continue
            try:
                self._server.api.apply(self._proxy(link), combine(fault[link] for fault in faults if link in fault))
            except ToxiproxyError as failure:
                failures.append(failure)
        if failures:
            raise failures[0]

    def _proxy(self, link: Link) -> str:
        src, dst = link
        return f"{self._name}-clients-{dst}" if src == CLIENTS else f"{self._name}-{src}-{dst}"

    def _upstreams(self) -> dict[Link, str]:
        upstreams = {(a, b): self._peers[b] for a in self.nodes for b in self.nodes if a != b}
        return upstreams | {(CLIENTS, node): self._clients[node] for node in self.nodes}

    def _create(self, upstreams: Mapping[Link, str]) -> None:
        for link, upstream in upstreams.items():
            self._listen[link] = self._create_on_free_port(self._proxy(link), upstream)

    def _create_on_free_port(self, name: str, upstream: str) -> str:
        for _ in range(10):
            listen = f"{LOOPBACK}:{free_port()}"
            try:
                self._server.api.create(name, listen=listen, upstream=upstream)
            except ToxiproxyError as error:
                if "address already in use" not in error.message:
                    raise
            else:
                return listen
        raise ToxiproxyError(f"every port chosen for proxy {name} was taken")

    def _forget(self, node: int) -> None:
        self._delete([link for link in self._listen if node in link])
        self._peers.pop(node, None)
        self._clients.pop(node, None)

    def _delete(self, links: Iterable[Link]) -> None:
        for link in tuple(links):
            self._server.api.delete(self._proxy(link))
            del self._listen[link]


class Layer(_Faults):
    """Faults of one party. Where others break the same link, it is as bad as the worst of them."""

    def __init__(self, links: PeerLinks) -> None:
        self._links = links
        self._faults: list[Fault] = []
        self._touched: set[Link] = set()

    async def _add(self, fault: Fault) -> None:
        def work() -> None:
            struck = fault(self._links.nodes)
            self._faults.append(fault)
            self._touched |= struck.keys()
            self._links._settle(struck)

        await self._links._in_thread(work)

    async def heal(self) -> None:
        """Remove the faults of this layer. Connections that a black hole held are closed. May be repeated."""

        def work() -> None:
            struck = self._touched | self.struck().keys()
            self._faults.clear()
            self._links._settle(struck)
            self._touched.clear()

        await self._links._in_thread(work)

    def struck(self) -> dict[Link, ProxyState]:
        """Return what this layer asks for, by link that there is."""
        faults = [fault(self._links.nodes) for fault in self._faults]
        links = {link for fault in faults for link in fault if link in self._links._listen}
        return {link: combine(fault[link] for fault in faults if link in fault) for link in links}

    async def verify(self, *, down: Collection[int] = ()) -> None:
        """Raise FaultNotProven unless each fault of this layer is seen on each of its links, by probes.

        Links of nodes that are `down` (dead or paused) are left out: nobody uses them, and to such a node they cannot
        be told from broken ones. So are delays on a link that somebody else has blocked. If nothing is left, nothing
        is proven.
        """
        struck = {link: state for link, state in self.struck().items() if not {*link} & {*down}}
        seen = await all_of(self._seen(link, state) for link, state in sorted(struck.items(), key=lambda item: item[0]))
        if not any(seen):
            raise FaultNotProven("no link is broken whose nodes are up")

    async def _seen(self, link: Link, asked: ProxyState) -> bool:
        names = {toxic.name for toxic in asked.toxics}
        dropped = [stream for stream in BOTH if {drop(stream).name, reset(stream).name} & names or not asked.enabled]
        if dropped:
            await self._links._verify_dropped(link, dropped)
            return True
        state = await self._links.state(link)
        found = {toxic.name for toxic in state.toxics}
        if not state.enabled or any({drop(stream).name, reset(stream).name} & found for stream in BOTH):
            return False
        if not names <= found:
            raise FaultNotProven(f"link {link[0]} -> {link[1]} has no such fault: {state}")
        try:
            async with asyncio.timeout(MEASURE_S), await Line.dial(self._links._listen[link]) as line:
                await line.acknowledged()
                await _measure(line, asked, state)
        except (OSError, asyncio.IncompleteReadError, FaultNotProven) as error:
            why = str(error) or type(error).__name__
            raise FaultNotProven(f"link {link[0]} -> {link[1]}: {why}; its proxy is {state}") from error
        return True


async def _measure(line: Line, asked: ProxyState, state: ProxyState) -> None:
    """Raise FaultNotProven unless the line is as slow as asked. What else is wrong with it, says `state`."""
    kinds = {toxic.kind for toxic in asked.toxics}
    if "latency" in kinds:
        await _measure_latency(line, state, jitter=attribute(asked, "latency", "jitter") > 0)
    if "bandwidth" in kinds:
        rate = 1000 * attribute(asked, "bandwidth", "rate")
        delay_ms = attribute(state, "latency", "latency") - attribute(state, "latency", "jitter")
        took = await line.round_trip(rate // 2)
        if took < 0.4 + 2 * max(0, delay_ms) / 1000:
            raise FaultNotProven(f"{rate // 2} bytes passed in {took:.3f} s at {rate} bytes a second")
    if "slicer" in kinds:
        largest = attribute(asked, "slicer", "average_size") + attribute(asked, "slicer", "size_variation")
        at_least = PIECES * attribute(asked, "slicer", "delay") / 1e6
        if (took := await line.round_trip(PIECES * largest)) < at_least:
            raise FaultNotProven(f"{PIECES} pieces passed in {took:.3f} s, with pauses of {at_least} s in all")


async def _measure_latency(line: Line, state: ProxyState, *, jitter: bool) -> None:
    latency, spread = attribute(state, "latency", "latency") / 1000, attribute(state, "latency", "jitter") / 1000
    took: list[float] = []
    for _ in range(ROUND_TRIPS if jitter else 1):
        took.append(await line.round_trip())
        if took[-1] < 2 * (latency - spread):
            raise FaultNotProven(f"answered in {took[-1]:.3f} s, which is less than twice {latency} - {spread} s")
        if max(took) - min(took) >= spread / 2:
            return
    raise FaultNotProven(f"all of {len(took)} answers took {min(took):.3f} to {max(took):.3f} s")
