"""Three real nodes of which each can be made to die at a chosen step of its disk, and what must be true afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from raftkv.storage.data_dir import WAL_NAME
from raftkv.storage.files import OsFileSystem
from raftkv.storage.wal_recovery import recover
from raftkv.testing.cluster import LocalCluster, NodeProcess, leaders_by_term
from tests.crash.files import Control, Order
from tests.crash.node import CONTROL

REPOSITORY: Final = Path(__file__).parents[2]
SMALL: Final = ("--checkpoint-log-bytes", "65536", "--wal-segment-bytes", "65536")
WITHOUT_CHECKPOINTS: Final = ("--wal-segment-bytes", "65536")
PROGRAM: Final = (sys.executable, "-m", "tests.crash.node")
STRIKE_S: Final = 90.0


class NeverStruck(AssertionError):
    """A step that was to be hit was not taken: the test has proved nothing."""


class CrashCluster(LocalCluster):
    """Nodes on deadly file systems."""

    def __init__(self, directory: Path, arguments: Sequence[str] = SMALL) -> None:
        super().__init__(3, directory=directory, arguments=arguments, program=PROGRAM)
        self.controls = {node.id: Control(directory / f"control-{node.id}") for node in self.nodes}
        path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        for node in self.nodes:
            node.environment = {"PYTHONPATH": path, CONTROL: str(directory / f"control-{node.id}")}

    def order(self, node: NodeProcess, order: Order) -> None:
        self.controls[node.id].give(order)

    def take_steps(self) -> dict[int, list[str]]:
        """Return which steps each node has taken since the last call."""
        return {number: control.take_steps() for number, control in self.controls.items()}

    async def struck(self, node: NodeProcess, order: Order) -> str:
        """Wait until the node has died by its order. Return the step. Raises NeverStruck."""
        control = self.controls[node.id]
        try:
            code = await asyncio.wait_for(node.wait_ended(), STRIKE_S)
        except TimeoutError:
            raise NeverStruck(f"node {node.id} never came to: {order}. Its log ends: {node.log_tail()}") from None
        step = control.struck()
        if step is None or code != -signal.SIGKILL:
            raise NeverStruck(f"node {node.id} ended with code {code}, not by: {order}. {node.log_tail()}")
        control.withdraw()
        return step

    async def start_to_die(self, node: NodeProcess, order: Order) -> str:
        """Start a node that is to die by its order, and wait until it has."""
        self.order(node, order)
        node.launch()
        return await self.struck(node, order)


def require_log_opens(node: NodeProcess) -> None:
    """What is left of the log must be one, as it is: a torn end is, damage is not. Raises CorruptLog."""
    if (node.data_dir / WAL_NAME).exists():
        recover(OsFileSystem(), node.data_dir / WAL_NAME)


def require_one_leader_a_term(cluster: LocalCluster) -> int:
    """Judge by what the nodes say of themselves. Return how many terms had a leader."""
    leaders = leaders_by_term({node.id: node.log() for node in cluster.nodes})
    assert all(len(nodes) == 1 for nodes in leaders.values()), f"two leaders in one term: {leaders}"
    return len(leaders)
