"""What the HTTP server answers, path by path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from google.protobuf import json_format
from prometheus_client import Metric

from raftkv.server.http.health import Check, Health, passed
from raftkv.server.metrics.exposition import encode
from raftkv.v1 import cluster_pb2 as pb

PATHS: Final = {
    "/livez": "whether the process does its work, whatever the others do",
    "/readyz": "whether the node can serve linearizable reads (?verbose: every check)",
    "/metrics": "numbers for Prometheus",
    "/api/v1/state": "what the node knows of itself and its cluster, as JSON",
}
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Server": "raftkv"}


@dataclass(frozen=True, slots=True)
class Source:
    """A node that runs, as the pages see it."""

    status: Callable[[], pb.StatusResponse]
    families: Callable[[bool], Iterable[Metric]]
    """All metrics but the library's own, given whether the node is ready."""


class Pages:
    """The pages of one node; `source` is None before it runs, and when it does no more."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self.source: Source | None = None
        self._pages: dict[str, Callable[[web.BaseRequest], Awaitable[web.Response]]] = {
            "/livez": self._live,
            "/readyz": self._ready,
            "/metrics": self._metrics,
            "/api/v1/state": self._state,
        }

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; its connection ends with that."""
        page = self._pages.get(request.path)
        if page is None:
            listed = "".join(f"{path:15}{what}\n" for path, what in PATHS.items())
            response = _text(404, f"there is no such path. These are:\n{listed}")
        elif request.method not in ("GET", "HEAD"):
            response = _text(405, "only GET and HEAD: nothing can be changed here\n")
            response.headers["Allow"] = "GET, HEAD"
        else:
            response = await page(request)
        response.headers.update(_HEADERS)
        response.force_close()
        return response

    async def _live(self, request: web.BaseRequest) -> web.Response:
        return _verdict("livez", self._health.live(), verbose="verbose" in request.query)

    async def _ready(self, request: web.BaseRequest) -> web.Response:
        return _verdict("readyz", await self._health.ready(), verbose="verbose" in request.query)

    async def _metrics(self, request: web.BaseRequest) -> web.Response:
        ready = passed(await self._health.ready())
        source = self.source
        if source is None:
            return _text(503, "the node does not run yet, or no more: it has no numbers\n")
        # The numbers are read here, at one moment; writing them down takes longer, and nobody has to wait for that.
        families = list(source.families(ready))
        body, content_type = await asyncio.to_thread(encode, families, request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def _state(self, request: web.BaseRequest) -> web.Response:
        source = self.source
        if source is None:
            return _text(503, "the node does not run yet, or no more: it has no state to tell\n")
        text = await asyncio.to_thread(state_json, source.status())
        return web.Response(text=text, content_type="application/json")


def state_json(status: pb.StatusResponse) -> str:
    """Return a status as JSON, with the names of the proto, and 64-bit numbers as strings.

    That is protobuf's own mapping: a cluster's id takes all 64 bits, and readers that know only floating point numbers
    (JavaScript, jq) would round it.
    """
    return (
        json_format.MessageToJson(
            status, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=2
        )
        + "\n"
    )


def _verdict(name: str, checks: list[Check], *, verbose: bool) -> web.Response:
    well = passed(checks)
    if well and not verbose:
        return _text(200, "ok\n")
    lines = [f"[-]{check.name} failed: {check.problem}" if check.problem else f"[+]{check.name} ok" for check in checks]
    lines.append(f"{name} check {'passed' if well else 'failed'}")
    return _text(200 if well else 503, "\n".join(lines) + "\n")


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text)
