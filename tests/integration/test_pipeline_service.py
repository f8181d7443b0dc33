"""The pipeline's service when the code behind it fails: no batch is left without an answer or the end of its stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raftkv.server.requests import Requests
from raftkv.server.services.kv import KvService
from raftkv.v1 import common_pb2, kv_pb2


class Broken:
    """Stands in for `Requests`: fails at every second batch."""

    def __init__(self) -> None:
        self.asked = 0

    def header(self) -> common_pb2.ResponseHeader:
        return common_pb2.ResponseHeader(cluster_id=1)

    async def run(self, batch: kv_pb2.BatchRequest, *, forwarded: bool) -> kv_pb2.BatchResponse:
        self.asked += 1
        if self.asked % 2 == 0:
            raise RuntimeError("a bug")
        return kv_pb2.BatchResponse()


async def batches_of_a_client_that_stays() -> AsyncIterator[kv_pb2.BatchRequest]:
    for _ in range(2):
        yield kv_pb2.BatchRequest()
    await asyncio.Event().wait()


async def test_a_batch_that_hits_a_bug_ends_the_stream() -> None:
    service = KvService(cast(Requests, Broken()), member_id=1)

    async def send_initial_metadata(metadata: object) -> None:
        pass

    context = cast(Any, SimpleNamespace(send_initial_metadata=send_initial_metadata))
    answers = service.Pipeline(batches_of_a_client_that_stays(), context)
    async with asyncio.timeout(60):
        assert await anext(answers) == kv_pb2.BatchResponse()
        with pytest.raises(RuntimeError, match="a bug"):
            await anext(answers)
        await service.drain()
