"""A program that follows its configuration: all of it at the start, then every change, none missed in between.

export RAFTKV_ENDPOINTS=127.0.0.1:7001
python examples/config_watch.py config/     # in another terminal: raftkv put config/rate 100
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from raftkv.client import AsyncClient, EventKind
from raftkv.errors import Compacted, RaftKVError


async def load(client: AsyncClient, prefix: str) -> tuple[dict[str, str], int]:
    """Return what is configured, and the revision of which that is."""
    page = await client.prefix(prefix)
    pairs = list(page.pairs)
    while page.more:
        page = await client.prefix(prefix, cursor=page.cursor, revision=page.revision)
        pairs += page.pairs
    return {pair.key.decode(): pair.value.decode() for pair in pairs}, page.revision


async def follow(client: AsyncClient, prefix: str) -> None:
    while True:
        config, revision = await load(client, prefix)
        print(f"loaded {config} at revision {revision}", flush=True)
        try:
            async with client.watch(prefix=prefix, start_revision=revision + 1) as events:
                async for event in events:
                    name = event.key.decode()
                    if event.kind is EventKind.PUT:
                        config[name] = event.value.decode()
                        print(f"{name} = {config[name]}", flush=True)
                    else:
                        config.pop(name, None)
                        print(f"{name} is gone", flush=True)
        except Compacted:
            # We were cut off for longer than history is kept: what happened meanwhile cannot be told any more.
            print("changes were missed; loading anew", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Print a configuration and its changes, until Ctrl-C.")
    parser.add_argument("prefix", nargs="?", default="config/")
    async with AsyncClient.from_env() as client:
        await follow(client, parser.parse_args().prefix)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RaftKVError as error:
        sys.exit(f"config_watch: {error}")
    except KeyboardInterrupt:
        pass
