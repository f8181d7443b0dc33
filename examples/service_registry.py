"""Service discovery: instances that are found as long as they live.

export RAFTKV_ENDPOINTS=127.0.0.1:7001
python examples/service_registry.py watch api
python examples/service_registry.py register api 10.0.0.7:8000 zone=a     # elsewhere, until Ctrl-C
python examples/service_registry.py list api
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from raftkv.client import AsyncClient, AsyncService
from raftkv.errors import RaftKVError


async def register(service: AsyncService, address: str, meta: dict[str, str], ttl: float) -> None:
    async with service.register(address, meta, ttl=ttl) as registration:
        print(f"registered {address} as {registration.instance_id}", flush=True)
        await asyncio.Event().wait()  # the work of the instance; leaving the block takes it off the list


async def show(service: AsyncService) -> None:
    for instance in await service.instances():
        print(instance.address, *(f"{name}={text}" for name, text in instance.meta.items()))


async def watch(service: AsyncService) -> None:
    async for event in service.watch():
        print(event.kind.value, event.instance.address, flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Register an instance of a service, or look for them.")
    commands = parser.add_subparsers(dest="command", required=True)
    registering = commands.add_parser("register", help="be found until Ctrl-C")
    for command in (registering, commands.add_parser("list"), commands.add_parser("watch")):
        command.add_argument("service")
    registering.add_argument("address")
    registering.add_argument("meta", nargs="*", metavar="NAME=TEXT")
    registering.add_argument("--ttl", type=float, default=10.0, help="seconds until it is gone if we die (default 10)")
    arguments = parser.parse_args()

    async with AsyncClient.from_env() as client:
        service = client.service(arguments.service)
        if arguments.command == "register":
            meta = dict(one.split("=", 1) for one in arguments.meta)
            await register(service, arguments.address, meta, arguments.ttl)
        elif arguments.command == "list":
            await show(service)
        else:
            await watch(service)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RaftKVError as error:
        sys.exit(f"service_registry: {error}")
    except KeyboardInterrupt:
        pass
