"""Why endpoints cannot be reached: gRPC's words, put into better ones where TLS is at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from raftkv.client.tls import Tls
from raftkv.client.tls_trouble import explained, probed, worth_a_probe


class Reasons:
    """What is known of the trouble with each endpoint of one client.

    Where gRPC does not say what is wrong, the endpoint is asked once, beside everything else; again after it was well.
    """

    def __init__(self, tls: Tls | None, heard: Callable[[str, str], None]) -> None:
        """`heard` is told address and reason when a probe has found one."""
        self._tls = tls
        self._heard = heard
        self._probes: dict[str, asyncio.Task[str | None]] = {}

    def of(self, address: str, said: str) -> str:
        """Return the reason in the best words at hand. `said` is what gRPC says, after the address."""
        found = explained(address, said, self._tls)
        if found is not None or not worth_a_probe(said):
            return found or said
        probe = self._probe(address)
        known = probe.result() if probe.done() and not probe.cancelled() else None
        return known or said

    async def told(self, address: str, said: str) -> str:
        """Return the same, and wait for a probe where one is needed."""
        found = self.of(address, said)
        if found is said and worth_a_probe(said):
            return await asyncio.shield(self._probe(address)) or said
        return found

    def well(self, address: str) -> None:
        """An endpoint has answered: what was wrong with it is over."""
        probe = self._probes.get(address)
        if probe is not None and probe.done():
            del self._probes[address]

    async def close(self) -> None:
        """End what is under way."""
        for probe in self._probes.values():
            probe.cancel()
        await asyncio.gather(*self._probes.values(), return_exceptions=True)

    def _probe(self, address: str) -> asyncio.Task[str | None]:
        probe = self._probes.get(address)
        if probe is None:
            probe = self._probes[address] = asyncio.ensure_future(self._ask(address))
        return probe

    async def _ask(self, address: str) -> str | None:
        found = await asyncio.to_thread(probed, address, self._tls)
        if found is not None:
            self._heard(address, found)
        return found
