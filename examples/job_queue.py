"""A work queue. Each job is completed exactly once, whichever workers die on the way.

    export RAFTKV_ENDPOINTS=127.0.0.1:7001
    python examples/job_queue.py add "mow the lawn" "feed the cat"
    python examples/job_queue.py work --name ann     # as many as you like; until Ctrl-C, or --until-empty

A job is a key under jobs/todo/. A worker claims it with a key on its lease: the claim goes when the worker dies, and
somebody else begins anew. What is completed exactly once is what the last transaction does: it takes the job off the
list and records the result, or, if the claim is not the worker's any more, does nothing. What `perform` does outside
the store may happen twice; a resource that must not see that needs a Fence (see fenced_storage.py).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import uuid

from raftkv.client import AsyncClient, AsyncLease, KeyValue, Order, delete, lease_of, put, version
from raftkv.errors import LeaseExpired, LeaseNotFound, RaftKVError

TODO, CLAIMS, DONE = "jobs/todo/", "jobs/claims/", "jobs/done/"


async def add(client: AsyncClient, texts: list[str]) -> None:
    for text in texts:
        await client.create(f"{TODO}{uuid.uuid4().hex}", text)
    print(f"{len(texts)} jobs added")


async def perform(job: str, name: str, seconds: float) -> str:
    """Do the work. Return what came of it."""
    await asyncio.sleep(seconds)
    return f"{job}: done by {name}"


async def claim(client: AsyncClient, lease: AsyncLease, name: str) -> tuple[KeyValue | None, int, int]:
    """Return the oldest job that nobody has claimed, now ours, or None; the revision looked at; how many are left."""
    jobs = await client.prefix(TODO, order=Order.CREATE_REVISION, limit=100)
    claimed = {pair.key.decode().removeprefix(CLAIMS) async for pair in client.scan(CLAIMS, keys_only=True)}
    for job in jobs.pairs:
        number = job.key.decode().removeprefix(TODO)
        if number in claimed:
            continue
        # Both in one transaction: a job that is gone meanwhile was completed by somebody else.
        won = (
            client.txn()
            .when(version(job.key) > 0, version(CLAIMS + number) == 0)
            .then(put(CLAIMS + number, name, lease=lease))
        )
        if (await won.commit()).succeeded:
            return job, jobs.revision, len(jobs.pairs)
    return None, jobs.revision, len(jobs.pairs)


async def complete(client: AsyncClient, lease: AsyncLease, job: KeyValue, outcome: str) -> bool:
    """Record the outcome. Return whether the job was still ours."""
    number = job.key.decode().removeprefix(TODO)
    finish = (
        client.txn()
        .when(lease_of(CLAIMS + number) == lease, version(job.key) > 0)
        .then(delete(job.key), delete(CLAIMS + number), put(DONE + number, outcome))
    )
    return (await finish.commit()).succeeded


async def work(client: AsyncClient, name: str, ttl: float, seconds: float, *, until_empty: bool) -> None:
    async with client.lease(ttl) as lease:
        while True:
            job, revision, left = await claim(client, lease, name)
            if job is not None:
                text = job.value.decode()
                print(f"{name} begins {text}", flush=True)
                kept = await complete(client, lease, job, await perform(text, name, seconds))
                print(f"{name} {'completed' if kept else 'was too late for'} {text}", flush=True)
                lease.check()
            elif left == 0 and until_empty:
                return
            else:
                # Nothing to do until a job comes, or a claim goes with its worker. From the revision that we looked at:
                # what happened since is told at once.
                async with client.watch(prefix="jobs/", start_revision=revision + 1) as events:
                    await anext(events)


async def main() -> None:
    parser = argparse.ArgumentParser(description="Add jobs, or work on them.")
    commands = parser.add_subparsers(dest="command", required=True)
    adding = commands.add_parser("add")
    adding.add_argument("job", nargs="+")
    working = commands.add_parser("work")
    working.add_argument("--name", default=f"worker-{os.getpid()}")
    working.add_argument("--ttl", type=float, default=10.0, help="seconds until the job of a dead worker is free")
    working.add_argument("--seconds", type=float, default=0.01, help="how long a job takes (default 0.01)")
    working.add_argument("--until-empty", action="store_true", help="end when there is no job left")
    arguments = parser.parse_args()

    async with AsyncClient.from_env() as client:
        if arguments.command == "add":
            await add(client, arguments.job)
        while arguments.command == "work":
            try:
                await work(client, arguments.name, arguments.ttl, arguments.seconds, until_empty=arguments.until_empty)
                return
            except (LeaseExpired, LeaseNotFound):
                print("cut off for too long: our claims are gone, starting over", flush=True)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except RaftKVError as error:
        sys.exit(f"job_queue: {error}")
    except KeyboardInterrupt:
        pass
