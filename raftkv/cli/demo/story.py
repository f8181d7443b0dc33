"""The acts of the demo, in order."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Final

from raftkv.cli.demo.compare import Differences, differences, read_all
from raftkv.cli.demo.ledger import Ledger
from raftkv.cli.demo.report import MIN_WRITES, Report
from raftkv.cli.demo.writers import FIRST_KEY, LAST_KEY, WRITERS, Writers
from raftkv.cli.narrator import Narrator
from raftkv.cli.recovery import caught_up
from raftkv.cli.states import hashes_at_one_index, states_equal
from raftkv.client import AsyncClient
from raftkv.errors import RaftKVError
from raftkv.testing.cluster import LocalCluster

WRITE_TIMEOUT_S: Final = 30.0
PATIENCE_S: Final = 30.0
"""For whatever has to come about; far above what it takes on a machine that is not overloaded."""


class Demo:
    """One run."""

    def __init__(self, nodes: int, *, seconds: float, directory: Path | None, keep: bool, narrator: Narrator) -> None:
        self._phase_s = seconds / 3
        self._directory = directory
        self._keep = keep
        self._narrator = narrator
        self._ledger = Ledger()
        self._report = Report(nodes)
        self._waiting_for = ""

    async def run(self, *, as_json: bool) -> Report:
        """Play all acts and print the report. Nothing is left running, or on disk, however it ends."""
        say, report = self._narrator.say, self._report
        cluster = LocalCluster(report.nodes, directory=self._directory)
        say(f"starting {report.nodes} nodes, each a process of its own, in {cluster.directory}")
        try:
            async with cluster, AsyncClient(cluster.url, timeout=WRITE_TIMEOUT_S) as client:
                await self._guarded(cluster, client)
                self._finish(as_json=as_json)
                if self._keep:
                    await self._stay(cluster)
        except RaftKVError as error:  # the nodes did not start
            report.problems.append(error.message)
            self._finish(as_json=as_json)
        return report

    def _finish(self, *, as_json: bool) -> None:
        self._report.seconds = round(self._narrator.elapsed_s, 1)
        self._report.judge()
        self._report.print(as_json=as_json)
        sys.stdout.flush()

    async def _guarded(self, cluster: LocalCluster, client: AsyncClient) -> None:
        report, ledger = self._report, self._ledger
        try:
            with self._narrator.live(lambda: f"{ledger.acked:,} writes acknowledged, {len(ledger.failures)} failed"):
                await self._lose_the_leader(cluster, client)
                await self._compare(cluster, client)
        except RaftKVError as error:
            report.problems.append(error.message)
        except TimeoutError:
            report.problems.append(f"after {PATIENCE_S:g} s, this had not come about: {self._waiting_for}")
        report.writes_acked = ledger.acked
        report.writes_failed = len(ledger.failures)
        report.problems += ledger.failures[:1]

    async def _lose_the_leader(self, cluster: LocalCluster, client: AsyncClient) -> None:
        say, report, ledger = self._narrator.say, self._report, self._ledger
        for node in cluster.nodes:
            say(f"  node {node.id}: pid {node.pid}, for clients at {node.client_address}")
        old = await cluster.leader()
        say(f"node {old} leads")

        say(f"{WRITERS} writers and a sequential probe begin to write")
        async with Writers(client, ledger) as writers:
            await self._write_on()

            old = await cluster.leader()
            report.leader_before = old
            report.terms = [(await client.status(cluster.node(old).client_address)).term]
            report.writes_acked_before_kill = ledger.acked
            say(f"SIGKILL to the leader, node {old}, after {ledger.acked:,} acknowledged writes", "bold red")
            killed_at = time.monotonic()
            await cluster.node(old).kill()
            new = await cluster.leader(other_than=old)
            elected_at = time.monotonic()
            report.leader_after = new
            report.terms.append((await client.status(cluster.node(new).client_address)).term)
            say(f"node {new} leads (term {report.terms[0]} -> {report.terms[1]})", "bold green")
            await self._write_on()
            say(f"writes go on; the longest pause: {writers.longest_pause_ms(killed_at, elected_at)} ms")

            say(f"node {old} starts again")
            restarted_at = time.monotonic()
            await cluster.node(old).start()
            index = await caught_up(cluster, client, old, PATIENCE_S)
            report.catch_up_ms = round((time.monotonic() - restarted_at) * 1000, 1)
            say(f"node {old} has caught up to index {index:,}, {report.catch_up_ms / 1000:.1f} s after its start")
            await self._write_on()
        report.failover_ms = writers.longest_pause_ms(killed_at, elected_at)
        report.writes_acked_after_kill = ledger.acked - report.writes_acked_before_kill
        say(f"the writers stop: {ledger.acked:,} writes acknowledged, {len(ledger.failures)} failed")

    async def _write_on(self) -> None:
        """Let the writers write for a third of the time, and at least until the writes suffice to prove something."""
        async with asyncio.timeout(PATIENCE_S + self._phase_s):
            self._waiting_for = f"{MIN_WRITES} more acknowledged writes"
            await asyncio.gather(asyncio.sleep(self._phase_s), self._ledger.more(MIN_WRITES))

    async def _compare(self, cluster: LocalCluster, client: AsyncClient) -> None:
        say, report, promises = self._narrator.say, self._report, self._ledger.promises
        hashes = await hashes_at_one_index(client, cluster.endpoints, patience_s=PATIENCE_S)
        report.state_hash_equal = states_equal(hashes) if len(hashes) == report.nodes else None
        if report.state_hash_equal:
            report.applied_index, report.state_hash = hashes[0].applied_index, hashes[0].hash.hex()
            say(f"state hash {report.state_hash}, equal on all nodes at index {report.applied_index:,}")
        found = Differences.none()
        for node in cluster.nodes:
            held = await read_all(client, node.client_address, FIRST_KEY, LAST_KEY)
            here = differences(promises, held)
            found |= here
            report.nodes_compared += 1
            lost = here.lost.total()
            say(
                f"node {node.id} holds {len(held):,} keys; of the acknowledged writes, {lost or 'none'} "
                f"{'are' if lost > 1 else 'is'} lost",
                "bold red" if lost else "",
            )
        report.writes_lost, report.writes_repeated = found.lost.total(), found.repeated.total()

    async def _stay(self, cluster: LocalCluster) -> None:
        say = self._narrator.say
        say("the cluster stays up until Ctrl-C; in another terminal:")
        for line in (
            f"export RAFTKV_ENDPOINTS={','.join(cluster.endpoints)}",
            "raftkv endpoint status",
            "raftkv put greeting hello && raftkv get greeting",
            "raftkv ls demo/ --count",
            "raftkv leader transfer",
        ):
            self._narrator.show(line)
        say(f"the logs of the nodes: {cluster.directory}/node-*.log")
        await asyncio.get_running_loop().create_future()
