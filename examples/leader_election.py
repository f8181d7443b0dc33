"""Leader election: of several processes one leads, and another one takes over when it is gone.

export RAFTKV_ENDPOINTS=127.0.0.1:7001
python examples/leader_election.py observe
python examples/leader_election.py campaign host-1     # and host-2 elsewhere; then stop or kill the leader
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys

from raftkv.client import AsyncClient
from raftkv.errors import LockLost, RaftKVError

ELECTION = "examples/leader"


async def lead(client: AsyncClient, name: str, ttl: float) -> None:
    """Campaign for ever: lead, and if leadership is lost stand in line again."""
    while True:
        election = client.election(ELECTION, f"{name} starts", ttl=ttl)
        try:
            async with election as led:
                print(f"{name} leads, with token {led.token}", flush=True)
                for round_number in itertools.count(1):
                    # The work of a leader. Its writes carry the fence: were it replaced without having noticed, they
                    # would be refused.
                    await client.put("examples/leader/round", f"{round_number} of {name}", fence=led.fence())
                    await election.proclaim(f"{name} is in round {round_number}")
                    await asyncio.sleep(ttl / 2)
        except LockLost as error:
            print(f"{name} leads no more: {error}", flush=True)


async def observe(client: AsyncClient) -> None:
    async for leader in client.election(ELECTION).observe():
        print("nobody leads" if leader is None else f"{leader.value.decode()} (token {leader.token})", flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Lead, or watch who does, until Ctrl-C.")
    commands = parser.add_subparsers(dest="command", required=True)
    campaigning = commands.add_parser("campaign", help="wait to lead, and lead")
    campaigning.add_argument("name")
    campaigning.add_argument(
        "--ttl", type=float, default=5.0, help="seconds until a dead leader is replaced (default 5)"
    )
    commands.add_parser("observe", help="print every leader and what it proclaims")
    arguments = parser.parse_args()

    async with AsyncClient.from_env() as client:
        if arguments.command == "campaign":
            await lead(client, arguments.name, arguments.ttl)
        else:
            await observe(client)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RaftKVError as error:
        sys.exit(f"leader_election: {error}")
    except KeyboardInterrupt:
        pass
