"""Why endpoints cannot be reached: gRPC's words, put into better ones where TLS is at fault."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from raftkv.client.tls import Tls
from raftkv.client.tls_trouble import explained, probed, worth_a_probe

OLD_S: Final = 5.0
"""After so long, an endpoint that still cannot be reached is asked again."""


class Reasons:
    """What is known of the trouble with each endpoint of one client.

    Where gRPC does not say what is wrong, the endpoint is asked, beside everything else; again after it was well, and
    when the answer is old.
    """

    def __init__(self, tls: Tls | None, heard: Callable[[str, str], None]) -> None:
        """`heard` is told address and reason when a probe has found one."""
        self._tls = tls
        self._heard = heard
        self._probes: dict[str, asyncio.Task[str | None]] = {}
        self._asked_at: dict[str, float] = {}

    def of(self, address: str, said: str) -> str:
        """Return the reason in the best words at hand. `said` is what gRPC says, after the address."""
        found = explained(address, said, self._tls)
        if found is not None or not worth_a_probe(said):
            return found or said
        last = self._probes.get(address)
        self._probe(address)
        known = last.result() if last is not None and last.done() and not last.cancelled() else None
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
        now = asyncio.get_running_loop().time()
        if probe is None or (probe.done() and now - self._asked_at[address] > OLD_S):
            probe = self._probes[address] = asyncio.ensure_future(self._ask(address))
            self._asked_at[address] = now
        return probe

    async def _ask(self, address: str) -> str | None:
        found = await asyncio.to_thread(probed, address, self._tls)
        if found is not None:
            self._heard(address, found)
        return found
