"""A counter that many change at a time: read, change, write if nobody was faster, else start over.

export RAFTKV_ENDPOINTS=127.0.0.1:7001
python examples/counter.py visits --tasks 4 --times 25
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from raftkv.client import AsyncClient
from raftkv.errors import Conflict, RaftKVError


async def add(client: AsyncClient, key: str, amount: int) -> tuple[int, int]:
    """Add to the number at `key`. Return the sum, and how often somebody else was faster."""
    conflicts = 0
    while True:
        pair = await client.get(key)
        try:
            if pair is None:
                await client.create(key, str(amount))
                return amount, conflicts
            total = int(pair.value) + amount
            await client.update(key, str(total), if_revision=pair.mod_revision)
            return total, conflicts
        except Conflict:  # this attempt had no effect, so the next one may not count twice
            conflicts += 1


async def main() -> None:
    parser = argparse.ArgumentParser(description="Count with several tasks at a time.")
    parser.add_argument("key", nargs="?", default="counter")
    parser.add_argument("--tasks", type=int, default=4, help="how many count at a time (default 4)")
    parser.add_argument("--times", type=int, default=25, help="how often each of them counts (default 25)")
    arguments = parser.parse_args()

    async with AsyncClient.from_env() as client:

        async def count() -> int:
            return sum([(await add(client, arguments.key, 1))[1] for _ in range(arguments.times)])

        conflicts = sum(await asyncio.gather(*(count() for _ in range(arguments.tasks))))
        pair = await client.get(arguments.key)
        assert pair is not None
        print(f"{arguments.key} is {int(pair.value)}; {conflicts} attempts came too late and were made again")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RaftKVError as error:
        sys.exit(f"counter: {error}")
