"""The best answer that is to be had without waiting for anything: every node is asked for what it holds itself."""

from __future__ import annotations

import asyncio

from raftkv.client.dispatcher import Dispatcher
from raftkv.client.results import ReadLevel
from raftkv.client.unary import answer_of
from raftkv.client.wire_quorum import fill_level
from raftkv.errors import RaftKVError
from raftkv.v1 import kv_pb2


async def local_read(
    dispatcher: Dispatcher, request: kv_pb2.RangeRequest, deadline: float
) -> kv_pb2.RangeResponse | None:
    """Return the answer of the node that had applied most, of those that answer by `deadline`; None: no node did.

    Half of the time is for all of them to answer; after that the first one is taken.
    """
    local = kv_pb2.RangeRequest()
    local.CopyFrom(request)
    fill_level(local, ReadLevel.LOCAL, None)
    left_s = max(deadline - dispatcher.loop.time(), 0.0)

    async def ask(address: str) -> kv_pb2.RangeResponse | None:
        try:
            return await answer_of(address, dispatcher.connections.get(address).kv.Range(local, timeout=left_s))
        except RaftKVError:
            return None  # why there is no better answer is told by the error that led here

    asked = {asyncio.create_task(ask(address)) for address in dispatcher.router.known_addresses()}
    if not asked:
        return None
    try:
        done, waiting = await asyncio.wait(asked, timeout=left_s / 2)
        found = _best(done)
        while found is None and waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            found = _best(done)
        return found
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


def _best(done: set[asyncio.Task[kv_pb2.RangeResponse | None]]) -> kv_pb2.RangeResponse | None:
    answers = [answer for task in done if (answer := task.result()) is not None]
    return max(answers, key=lambda answer: answer.receipt.applied_index, default=None)
