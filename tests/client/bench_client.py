# ruff: noqa: N802 - the methods are named by the protocol
"""What the client itself costs: puts against a server in another process that answers at once and does nothing.

    python -m tests.client.bench_client [--tasks 256] [--seconds 5] [--profile]

Prints operations a second of wall time, and the client process's CPU time for each, which is what limits it where the
server is on another machine.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import sys
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from typing import Any

import grpc
import uvloop

from raftkv.client import AsyncClient
from raftkv.v1 import common_pb2, kv_pb2, kv_pb2_grpc


class InstantNode(kv_pb2_grpc.KVServicer):
    """Answers every operation at once."""

    async def Put(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    Range = Delete = Txn = Compact = RegisterSession = LogEnd = Put

    async def Pipeline(self, request_iterator: Any, context: Any) -> AsyncIterator[kv_pb2.BatchResponse]:
        await context.send_initial_metadata((("raftkv-member-id", "1"),))
        header = common_pb2.ResponseHeader(member_id=1, leader_id=1, raft_term=1)
        async for batch in request_iterator:
            response = kv_pb2.BatchResponse(header=header)
            for operation in batch.operations:
                result = response.results.add(id=operation.id)
                if operation.HasField("register_session"):
                    result.register_session.session = 1
                    result.register_session.window = 16_384
                else:
                    result.put.revision = 1
            yield response


async def serve() -> None:
    server = grpc.aio.server()
    kv_pb2_grpc.add_KVServicer_to_server(InstantNode(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent is gone
    await server.stop(None)


async def measure(tasks: int, seconds: float, profile: bool) -> None:
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __spec__.name, "--serve", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    if server.stdout is None or server.stdin is None:
        raise RuntimeError("the server has no pipes")
    port = int(await server.stdout.readline())
    value = b"v" * 128
    done = 0

    async def writer(client: AsyncClient, number: int, until: float) -> None:
        nonlocal done
        key = b"key-%012d" % number
        while time.perf_counter() < until:
            await client.put(key, value)
            done += 1

    async with AsyncClient([f"127.0.0.1:{port}"]) as client:
        await client.put(b"warm", b"up")
        profiler = cProfile.Profile()
        with profiler if profile else nullcontext():
            cpu, wall = time.process_time(), time.perf_counter()
            await asyncio.gather(*(writer(client, number, wall + seconds) for number in range(tasks)))
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    server.stdin.close()
    await server.wait()
    print(f"{tasks} tasks: {done / wall:,.0f} puts/s of wall time, {cpu / done * 1e6:.1f} us of client CPU a put")  # noqa: T201
    if profile:
        pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--tasks", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    work = serve() if options.serve else measure(options.tasks, options.seconds, options.profile)
    uvloop.run(work)


if __name__ == "__main__":
    main()
