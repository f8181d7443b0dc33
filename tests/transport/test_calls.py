"""Unary calls to peers, when their channel is closed under them."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from raftkv.transport.calls import unless_cancelled


async def closed() -> None:
    raise asyncio.CancelledError


async def test_a_call_whose_channel_is_closed_has_failed_and_its_caller_goes_on() -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await unless_cancelled(closed())
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_whoever_is_cancelled_itself_is_cancelled() -> None:
    waiting = asyncio.create_task(unless_cancelled(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
