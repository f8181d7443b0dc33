"""Break the network between real nodes: a proxy on every link of a cluster.

`PeerLinks` puts one Toxiproxy proxy on each ordered pair of nodes and one before each node for its clients, and offers
the faults by name: `isolate`, `block`, `block_one_way`, `partition`, `slow`, `heal`.

What the faults look like to a node:

`blackhole`  connections stay open and new ones are accepted, but no byte arrives: a partition.
`cut`        connections are closed and new ones refused: a crash, or a firewall that rejects.
`reset`      new connections are reset at their first byte; those that exist are closed at their next one.

Healing closes every connection that a black hole held, as the bytes in it are lost. Faults act on connections, not on
packets: there is no loss and no reordering here.

A fault counts only when it is proven: call `verify_blocked` after it, which exchanges real bytes through the proxies.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Literal, Self, TypeVar

from raftkv.errors import RaftKVError
from raftkv.testing.processes import LOOPBACK, free_port
from raftkv.testing.toxiproxy import HEALTHY, ProxyState, Stream, Toxic, ToxiproxyError, ToxiproxyServer

PROBE_S = 0.2

T = TypeVar("T")
How = Literal["blackhole", "cut", "reset"]


class FaultNotProven(RaftKVError):
    """A probe through a proxy did not see what the fault, or its absence, must look like."""


class Probe(Enum):
    """What a new connection through a proxy to a gRPC server met."""

    ALIVE = "answered: bytes pass both ways"
    ONE_WAY = "talked, but did not hear: bytes pass from the server only"
    SILENT = "open, but no byte came"
    CLOSED = "accepted, then closed or reset"
    REFUSED = "refused"


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and an empty SETTINGS frame
_SETTINGS = 4
_ACK = 1


async def probe(address: str, window_s: float = PROBE_S) -> Probe:
    """Dial `address`, say what an HTTP/2 client says first, and report what comes back within `window_s`.

    A gRPC server sends its settings at once and acknowledges those of the client, which proves both directions. It
    must speak plain text.
    """
    host, _, port = address.rpartition(":")
    writer: asyncio.StreamWriter | None = None
    heard = False
    try:
        async with asyncio.timeout(window_s):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(_PREFACE)
            while True:
                head = await reader.readexactly(9)
                heard = True
                if head[3] == _SETTINGS and head[4] & _ACK:
                    return Probe.ALIVE
                await reader.readexactly(int.from_bytes(head[:3]))
    except TimeoutError:
        return Probe.ONE_WAY if heard else Probe.SILENT
    except ConnectionRefusedError:
        return Probe.REFUSED
    except (ConnectionError, asyncio.IncompleteReadError):
        return Probe.CLOSED
    finally:
        if writer is not None:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


def _drop(stream: Stream) -> Toxic:
    return Toxic(kind="timeout", stream=stream, attributes=(("timeout", 0),))


def _reset(stream: Stream) -> Toxic:
    return Toxic(kind="reset_peer", stream=stream, attributes=(("timeout", 0),))


_BOTH: tuple[Stream, Stream] = ("upstream", "downstream")
_FAULTS: dict[How, ProxyState] = {
    "blackhole": ProxyState(toxics=frozenset(map(_drop, _BOTH))),
    "cut": ProxyState(enabled=False),
    "reset": ProxyState(toxics=frozenset(map(_reset, _BOTH))),
}

Link = tuple[int, int]
"""(who dials, who is dialled); CLIENTS dial too."""
CLIENTS = 0


class PeerLinks:
    """A proxy on every ordered pair of nodes, and one before each node for its clients.

    Use it as an asynchronous context manager; the proxies exist inside it, the nodes need not be up. Node `a` must be
    told to dial node `b` at `dial_address(a, b)` (`--peer-dial`), clients dial `client_address(b)`.

    Faults add up until `heal`. A fault has taken effect, by the server's own account, when its call returns; whether
    it has by the account of the bytes is what `verify_blocked` tells. A call that is cancelled may still take effect.
    """

    def __init__(
        self, server: ToxiproxyServer, *, peers: Mapping[int, str], clients: Mapping[int, str], name: str = "links"
    ) -> None:
        """`peers` and `clients`: node id (from 1) to the host:port where the node itself listens for them.

        `name` tells the proxies from those of other PeerLinks on the same server.
        """
        if set(peers) != set(clients) or CLIENTS in peers:
            raise ValueError(f"peers {sorted(peers)} and clients {sorted(clients)} must be the same nodes, from 1")
        self.nodes = tuple(sorted(peers))
        self._server = server
        self._upstream: dict[Link, str] = {(a, b): peers[b] for a in self.nodes for b in self.nodes if a != b}
        self._upstream |= {(CLIENTS, node): clients[node] for node in self.nodes}
        self._name = name
        self._listen: dict[Link, str] = {}
        self._lock = threading.Lock()  # orders what threads do whose callers were cancelled

    # --- life ---

    async def __aenter__(self) -> Self:
        try:
            await asyncio.to_thread(self._create)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self._delete))
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(asyncio.to_thread(self._delete))

    def dial_address(self, src: int, dst: int) -> str:
        """Where `src` reaches the peer address of `dst`."""
        return self._listen[src, dst]

    def client_address(self, node: int) -> str:
        """Where clients reach `node`."""
        return self._listen[CLIENTS, node]

    # --- faults ---

    async def isolate(self, node: int, how: How = "blackhole", *, clients: bool = False) -> None:
        """Part `node` from all other nodes; from its clients only if asked."""
        links = [link for other in self.nodes if other != node for link in ((node, other), (other, node))]
        if clients:
            links.append((CLIENTS, node))
        await self._add(dict.fromkeys(links, _FAULTS[how]))

    async def block(self, a: int, b: int, how: How = "blackhole") -> None:
        """Part two nodes from each other."""
        await self._add(dict.fromkeys([(a, b), (b, a)], _FAULTS[how]))

    async def block_one_way(self, src: int, dst: int) -> None:
        """Lose all bytes from `src` to `dst`: what it sends on its own connections, and answers on those of `dst`."""
        await self._add(
            {
                (src, dst): ProxyState(toxics=frozenset({_drop("upstream")})),
                (dst, src): ProxyState(toxics=frozenset({_drop("downstream")})),
            }
        )

    async def partition(self, *groups: Collection[int], how: How = "blackhole") -> None:
        """Part the groups from each other. A node in two groups is a bridge; a node in none is isolated."""
        together = {(a, b) for group in groups for a in group for b in group}
        apart = [(a, b) for a in self.nodes for b in self.nodes if a != b and (a, b) not in together]
        await self._add(dict.fromkeys(apart, _FAULTS[how]))

    async def slow(self, a: int, b: int, *, latency_ms: int, jitter_ms: int = 0) -> None:
        """Delay every byte between two nodes, either way."""
        attributes = (("jitter", jitter_ms), ("latency", latency_ms))
        toxics = frozenset(Toxic(kind="latency", stream=stream, attributes=attributes) for stream in _BOTH)
        await self._add(dict.fromkeys([(a, b), (b, a)], ProxyState(toxics=toxics)))

    async def heal(self) -> None:
        """Remove every fault. Connections that a black hole held are closed."""
        await self._in_thread(lambda: self._apply(dict.fromkeys(self._listen, HEALTHY)))

    # --- proof ---

    async def probe(self, src: int, dst: int, window_s: float = PROBE_S) -> Probe:
        """See what a new connection from `src` to `dst` meets now."""
        return await probe(self.dial_address(src, dst), window_s)

    async def verify_blocked(self, a: int, b: int) -> None:
        """Raise FaultNotProven unless no byte passes between `a` and `b`, either way, over either's connections.

        Both the state of the proxies and real connections must say so. `b` and `a` must be up and answer otherwise: a
        stopped process looks like a black hole.
        """
        await self._verify((a, b), dropped=_BOTH)
        await self._verify((b, a), dropped=_BOTH)

    async def verify_blocked_one_way(self, src: int, dst: int) -> None:
        """Raise FaultNotProven unless no byte passes from `src` to `dst`, over either's connections."""
        await self._verify((src, dst), dropped=("upstream",))
        await self._verify((dst, src), dropped=("downstream",))

    async def verify_isolated(self, node: int) -> None:
        """Raise FaultNotProven unless `node` is blocked from every other node."""
        async with asyncio.TaskGroup() as probes:
            for other in self.nodes:
                if other != node:
                    probes.create_task(self.verify_blocked(node, other))

    async def verify_open(self, a: int, b: int, timeout_s: float = 5.0) -> None:
        """Wait until bytes pass both ways over the connections of either; raise FaultNotProven after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        for src, dst in ((a, b), (b, a)):
            while (seen := await self.probe(src, dst, window_s=min(1.0, timeout_s))) is not Probe.ALIVE:
                if asyncio.get_running_loop().time() > deadline:
                    raise FaultNotProven(f"link {src} -> {dst} is not open after {timeout_s} s: {seen.value}")
                await asyncio.sleep(0.02)

    async def _verify(self, link: Link, *, dropped: tuple[Stream, ...]) -> None:
        state = await self._in_thread(lambda: self._server.api.state(self._proxy(link)))
        if not state.enabled:
            expected = {Probe.REFUSED}
        elif all(_reset(stream) in state.toxics for stream in dropped):
            expected = {Probe.CLOSED}
        elif all(_drop(stream) in state.toxics for stream in dropped):
            expected = {Probe.SILENT} if "downstream" in dropped else {Probe.SILENT, Probe.ONE_WAY}
        else:
            raise FaultNotProven(f"link {link[0]} -> {link[1]} has no such fault: {state}")
        # Silence takes the whole window to see; anything else ends the probe as soon as it comes.
        seen = await probe(self._listen[link], PROBE_S if Probe.SILENT in expected else 10 * PROBE_S)
        if seen not in expected:
            raise FaultNotProven(f"link {link[0]} -> {link[1]} {seen.value}, though its proxy is {state}")

    # --- in a thread ---

    async def _in_thread(self, work: Callable[[], T]) -> T:
        def locked() -> T:
            with self._lock:
                return work()

        return await asyncio.to_thread(locked)

    async def _add(self, faults: Mapping[Link, ProxyState]) -> None:
        await self._in_thread(lambda: self._apply({link: self._worse(link, fault) for link, fault in faults.items()}))

    def _worse(self, link: Link, fault: ProxyState) -> ProxyState:
        found = self._server.api.state(self._proxy(link))
        kept = {toxic for toxic in found.toxics if toxic.name not in {new.name for new in fault.toxics}}
        return ProxyState(enabled=found.enabled and fault.enabled, toxics=frozenset(kept | fault.toxics))

    def _apply(self, states: Mapping[Link, ProxyState]) -> None:
        for link, state in states.items():
            self._server.api.apply(self._proxy(link), state)

    def _proxy(self, link: Link) -> str:
        src, dst = link
        return f"{self._name}-clients-{dst}" if src == CLIENTS else f"{self._name}-{src}-{dst}"

    def _create(self) -> None:
        with self._lock:
            for link, upstream in self._upstream.items():
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

    def _delete(self) -> None:
        with self._lock:
            for link in tuple(self._listen):
                self._server.api.delete(self._proxy(link))
                del self._listen[link]
