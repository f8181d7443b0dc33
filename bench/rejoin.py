"""A node that lost its disk rejoins a full cluster under load: does anybody else notice?

    python bench/rejoin.py --mib 1024

Three nodes are filled. Then, after a while of load alone, node 3 is killed and its directory deleted; it is removed, a
new id added with an empty directory, caught up by a checkpoint, and promoted. Writers go on all the time, at a fixed
rate. What is said of the time alone and of the rejoining comes from one run, so a busy machine shows in both.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from functools import partialmethod
from pathlib import Path
from tempfile import TemporaryDirectory

from raftkv.client import AsyncClient, MemberKind
from raftkv.errors import RaftKVError
from raftkv.kv.codec import encode_batch
from raftkv.kv.commands import Batch, Group, Put
from raftkv.kv.machine import AppliedEntry, StateMachine
from raftkv.raft import Configuration, Index, NodeId, Term
from raftkv.raft.membership import encode_configuration
from raftkv.server.disk import inspect_state
from raftkv.server.settings import founded_cluster_id
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.data_dir import open_data_dir
from raftkv.storage.lmdb_store import LmdbEngine
from raftkv.testing.cluster import LocalCluster, NodeProcess

VALUE_BYTES = 3900
"""With its key it takes a page of the store."""
BATCH = 200
STALL_S = 0.1
PROBE_S = 0.02


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Times:
    """How long something took, again and again."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.stalls: list[tuple[float, float]] = []
        """When, in seconds since the first, and how long."""
        self._begin = time.perf_counter()

    def note(self, begin: float) -> None:
        taken = time.perf_counter() - begin
        self.taken.append(taken)
        if taken > STALL_S:
            self.stalls.append((begin - self._begin, taken))

    def __str__(self) -> str:
        if not self.taken:
            return "nothing"
        taken = sorted(self.taken)
        middle, high = taken[len(taken) // 2], taken[int(len(taken) * 0.99)]
        return (
            f"{len(taken):7d} done, p50 {middle * 1e3:6.1f} ms, p99 {high * 1e3:6.1f} ms, "
            f"longest {taken[-1] * 1e3:6.1f} ms, {sum(one > STALL_S for one in taken)} over {STALL_S * 1e3:.0f} ms"
        )


class Load:
    """Writers at a fixed rate, and questions to each node that show how soon it gets round to anything."""

    def __init__(self, client: AsyncClient, keys: int, writers: int, rate: float) -> None:
        self.client, self.keys, self.writers, self.rate = client, keys, writers, rate
        self.phase = ""
        self.puts: dict[str, Times] = {}
        self.answers: dict[tuple[str, int], Times] = {}

    def begin(self, phase: str) -> None:
        self.phase = phase
        self.puts[phase] = Times()

    async def write(self, value: bytes) -> None:
        pause_s = self.writers / self.rate
        while True:
            due = time.perf_counter() + pause_s * random.uniform(0.5, 1.5)
            begin = time.perf_counter()
            await self.client.put(key(random.randrange(self.keys)), value)
            self.puts[self.phase].note(begin)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))

    async def probe(self, node: int, endpoint: str) -> None:
        while True:
            begin = time.perf_counter()
            with suppress(RaftKVError):
                await self.client.status(endpoint, timeout=2.0)
                self.answers.setdefault((self.phase, node), Times()).taken.append(time.perf_counter() - begin)
            await asyncio.sleep(PROBE_S)

    @asynccontextmanager
    async def running(self, nodes: dict[int, str]) -> AsyncIterator[None]:
        jobs = [self.write(os.urandom(VALUE_BYTES)) for _ in range(self.writers)]
        jobs += [self.probe(node, endpoint) for node, endpoint in nodes.items()]
        tasks = [asyncio.create_task(job) for job in jobs]
        try:
            yield
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def key(number: int) -> str:
    return f"key/{number:08d}"


async def prepare(cluster: LocalCluster, keys: int) -> None:
    """Give each node a directory as if it had installed a checkpoint of a full state: that is sooner than puts."""
    members = {NodeId(node.id): node.peer_address for node in cluster.nodes}
    configuration = Configuration(frozenset(members), addresses=tuple(sorted(members.items())))
    cluster_id = founded_cluster_id("raftkv", members.items())
    directories: list[Path] = []
    for node in cluster.nodes:
        open_data_dir(node.data_dir, cluster_id=cluster_id, node_id=NodeId(node.id), members=members).close()
        directories.append(node.data_dir / "checkpoints")
    made = cluster.directory / "made"
    engine = LmdbEngine(cluster.directory / "store", map_size=16 << 30)
    store = engine.open()
    machine = StateMachine(store)
    for index, first in enumerate(range(0, keys, BATCH), 1):
        puts = tuple(
            Put(1, key(number).encode(), os.urandom(VALUE_BYTES)) for number in range(first, min(first + BATCH, keys))
        )
        batch = encode_batch(Batch(index, (Group(0, 0, puts),)))
        machine.apply([AppliedEntry(Index(index), Term(1), batch)])
    checkpoints = CheckpointStore.open(made, engine=engine, inspect=inspect_state)
    manifest = await checkpoints.create(store, lambda _index, _term: encode_configuration(configuration))
    await checkpoints.close()
    store.close()
    path = made / f"{manifest.index:020d}.manifest"
    path.write_bytes(replace(manifest, received=True).encode())
    for directory in directories:
        shutil.copytree(made, directory)
    shutil.rmtree(made)
    shutil.rmtree(cluster.directory / "store")


async def insist(call: Callable[[], Awaitable[object]], done: Callable[[], Awaitable[bool]]) -> None:
    """Do what is refused until its time has come, or whose answer was lost."""
    while not await done():
        with suppress(RaftKVError):
            await call()
            return
        await asyncio.sleep(0.2)


async def has_kind(client: AsyncClient, node: int, kind: MemberKind | None) -> bool:
    while True:
        with suppress(RaftKVError):
            return {member.id: member.kind for member in await client.members()}.get(node) is kind


async def measure(
    mib: int, writers: int, rate: float, alone_s: float, arguments: list[str], *, apart: Path | None
) -> None:
    keys = mib * (1 << 20) // 4096
    prepared = LocalCluster(3, arguments=arguments)
    await prepare(prepared, keys)
    # Each restores the state from its checkpoint first.
    NodeProcess.answers = partialmethod(NodeProcess.answers, 600.0)  # type: ignore[assignment, method-assign]
    async with prepared as cluster, AsyncClient(cluster.url, timeout=60.0) as client:
        leader = await cluster.leader()
        term = (await client.status(cluster.node(leader).client_address)).term
        used = (await client.status(cluster.node(leader).client_address)).used_bytes
        lost = next(number for number in (3, 2) if number != leader)
        say(f"filled: {used / 2**20:.0f} MiB, {keys} keys; load {os.getloadavg()[0]:.0f}")
        load = Load(client, keys, writers, rate)
        load.begin("alone")
        stay = {number: cluster.node(number).client_address for number in (1, 2, 3) if number != lost}
        async with load.running(stay):
            await asyncio.sleep(alone_s)
            load.begin("rejoining")
            begin = time.perf_counter()
            await cluster.node(lost).kill()
            shutil.rmtree(cluster.node(lost).data_dir)
            await insist(lambda: client.remove_members(lost), lambda: has_kind(client, lost, None))
            new = await cluster.add(start=False)
            if apart is not None:
                new.data_dir = apart / new.data_dir.name
            await new.start()
            phases: dict[str, float] = {}
            while True:
                await asyncio.sleep(0.1)
                try:
                    status = await client.status(cluster.node(leader).client_address)
                except RaftKVError:
                    continue  # a busy machine
                for transfer in status.transfers:
                    phases.setdefault(transfer.phase, time.perf_counter() - begin)
                follower = next((one for one in status.progress if one.id == new.id), None)
                if follower is not None and follower.state == "replicate":
                    break
            phases["replicating"] = time.perf_counter() - begin
            await insist(lambda: client.promote_members(new.id), lambda: has_kind(client, new.id, MemberKind.VOTER))
            phases["voter"] = time.perf_counter() - begin
            load.begin("after")
            await asyncio.sleep(alone_s / 2)
        after = (await client.status(cluster.node(leader).client_address)).term
        say("seconds: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in phases.items()))
        say(f"elections: {after - term}; load {os.getloadavg()[0]:.0f}")
        for phase, times in load.puts.items():
            say(f"puts, {phase:10}  {times}")
            seconds = sorted({round(at, 1) for at, _ in times.stalls})
            if seconds:
                say(f"   stalls at seconds {seconds[:40]}")
        for (phase, node), times in load.answers.items():
            say(f"node {node}{' (leads)' if node == leader else '':8} answers, {phase:10}  {times}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024, help="size of the state")
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--rate", type=float, default=200.0, help="puts per second, all writers together")
    parser.add_argument("--alone", type=float, default=20.0, help="seconds of load before, and half of it after")
    parser.add_argument(
        "--apart", type=Path, help="the new node's data goes into a new directory here: on another disk, as it would be"
    )
    parser.add_argument("arguments", nargs="*", help="of `raftkv serve`")
    given = parser.parse_args()
    with ExitStack() as stack:
        apart = given.apart and Path(stack.enter_context(TemporaryDirectory(dir=given.apart)))
        asyncio.run(measure(given.mib, given.writers, given.rate, given.alone, given.arguments, apart=apart))


if __name__ == "__main__":
    main()
