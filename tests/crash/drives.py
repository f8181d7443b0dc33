"""Ways to bring a node to a step of its disk. Each is run to write the steps down, and to have a node die at one."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from raftkv.client import AsyncClient
from raftkv.errors import Compacted
from raftkv.server.disk_kind import NAME as KIND_NAME
from raftkv.storage.data_dir import BOOT_NAME
from raftkv.storage.json_files import seal, unseal
from raftkv.testing.cluster import NodeProcess
from tests.crash.cluster import CrashCluster
from tests.crash.files import Order
from tests.integration.load import CounterLoad
from tests.integration.waiting import until

VALUE_BYTES: Final = 400
TASKS: Final = 8
LARGE_KEY: Final = "large"
LARGE_BYTES: Final = 70_000
PERIOD_S: Final = 0.1


class Load(CounterLoad):
    """Enough to make segments and checkpoints go by, of a state that stays small: a checkpoint is never due before a
    quarter of it has been written anew."""

    def __init__(self, client: AsyncClient, prefix: str) -> None:
        super().__init__(client, prefix, tasks=TASKS, value_bytes=VALUE_BYTES)
        self._client = client
        self._going = asyncio.Event()
        self._going.set()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Send nothing new meanwhile."""
        self._going.clear()
        try:
            yield
        finally:
            self._going.set()

    def jobs(self) -> list[Coroutine[Any, Any, None]]:
        return [*super().jobs(), self._housekeeping()]

    async def _count(self, key: bytes) -> None:
        while not self.stopping:
            await self._going.wait()
            value = self._acknowledged[key] + 1
            await self._client.put(key, str(value).ljust(VALUE_BYTES))
            self._acknowledged[key] = value

    async def _housekeeping(self) -> None:
        """Now and then a value that no segment has room for; and what it replaces is forgotten."""
        while not self.stopping:
            await self._going.wait()
            await asyncio.sleep(PERIOD_S)
            revision = (await self._client.put(LARGE_KEY, bytes(LARGE_BYTES))).revision
            with contextlib.suppress(Compacted):
                await self._client.compact(revision)

    def counts(self) -> dict[bytes, int]:
        """Return what was acknowledged of each key."""
        return dict(self._acknowledged)

    async def verify(self, cluster: CrashCluster) -> None:
        await self.verify_on_every_node(cluster, at_least=TASKS)


@dataclass(frozen=True, slots=True)
class Scene:
    """Who is who."""

    cluster: CrashCluster
    victim: NodeProcess
    other: NodeProcess
    """It has what the victim has acknowledged, and goes once that is the question."""
    third: NodeProcess
    """It was away meanwhile."""
    load: Load


Drive = Callable[[Scene, Order | None], Awaitable[None]]
"""Does what brings the victim to its step. With an order: waits for its death. Without: the victim runs afterwards."""


async def under_load(scene: Scene, order: Order | None) -> None:
    """Append, prepare, roll, make checkpoints, compact."""
    if order is not None:
        scene.cluster.order(scene.victim, order)
        await scene.cluster.struck(scene.victim, order)
        return
    made = checkpoints_made(scene.victim)
    await until("two more checkpoints", lambda: checkpoints_made(scene.victim) >= made + 3)


async def stop(scene: Scene, order: Order | None) -> None:
    """SIGTERM. The victim is left stopped."""
    if order is None:
        assert await scene.victim.stop() == 0
        return
    scene.cluster.order(scene.victim, order)
    await scene.victim.stop()
    await scene.cluster.struck(scene.victim, order)


async def restart(scene: Scene, order: Order | None) -> None:
    await scene.victim.kill()
    await _started(scene, order)


async def rebuild(scene: Scene, order: Order | None) -> None:
    """As after a power loss: the store is not trusted, and comes from checkpoint and log."""
    await until("there is a checkpoint to come from", lambda: checkpoints_made(scene.victim) > 0)
    await scene.victim.kill()
    boot = scene.victim.data_dir / BOOT_NAME
    boot.write_bytes(seal(unseal(boot.read_bytes()) | {"boot_id": "00000000-0000-4000-8000-000000000000"}))
    await _started(scene, order)


async def install(scene: Scene, order: Order | None) -> None:
    """The victim is left behind, further than the log of the others reaches back."""
    await _left_behind(scene)
    await _installs(scene, order)


async def resume_install(scene: Scene, order: Order | None) -> None:
    """The victim has died with all of a checkpoint received, and is sent the same one again."""
    await _left_behind(scene)
    with scene.load.paused():
        await scene.cluster.start_to_die(scene.victim, Order("fdatasync checkpoints/incoming.data"))
        await _installs(scene, order)


async def install_without_next(scene: Scene, order: Order | None) -> None:
    """The victim has died before it had a segment prepared, in which its log could begin anew."""
    preparation = Order("rename wal/N.wal.tmp in SegmentWriter._create < SegmentWriter.prepare_next")
    await under_load(scene, preparation)
    await install(scene, order)


async def overtaken_install(scene: Scene, order: Order | None) -> None:
    """The victim has died with all of a checkpoint received, and is sent a newer one."""
    await _left_behind(scene)
    await scene.cluster.start_to_die(scene.victim, Order("fdatasync checkpoints/incoming.data"))
    await _left_behind(scene)
    await _installs(scene, order)


async def _left_behind(scene: Scene) -> None:
    if scene.victim.running:
        await scene.victim.kill()
    made = {node.id: checkpoints_made(node) for node in (scene.other, scene.third)}
    for node in (scene.other, scene.third):
        await until("the log is compacted", partial(_made_more, node, made[node.id] + 2))


async def _installs(scene: Scene, order: Order | None) -> None:
    installs = scene.victim.log().count("installed a snapshot")
    await _started(scene, order)
    if order is None:
        await until("a snapshot is installed", lambda: scene.victim.log().count("installed a snapshot") > installs)


async def found(scene: Scene, order: Order | None) -> None:
    """The first start of a node, with an empty directory."""
    await _started(scene, order)
    if order is None:
        await until("it has stored a command", (scene.victim.data_dir / KIND_NAME).exists)


async def _started(scene: Scene, order: Order | None) -> None:
    if order is None:
        await scene.victim.start()
    else:
        await scene.cluster.start_to_die(scene.victim, order)


def leftovers(first: Drive, preparation: Order) -> Drive:
    """Return the drive that finds what a death by `preparation` has left."""

    async def drive(scene: Scene, order: Order | None) -> None:
        await first(scene, preparation)
        await _started(scene, order)

    return drive


def checkpoints_made(node: NodeProcess) -> int:
    return len(re.findall(r"checkpoint made, log compacted", node.log()))


def _made_more(node: NodeProcess, than: int) -> bool:
    return checkpoints_made(node) >= than


_LEFT: Final[dict[str, Drive]] = {
    "after a half made segment": leftovers(under_load, Order("rename wal/N.wal.tmp")),
    "after a compaction": leftovers(under_load, Order("unlink wal/N.wal")),
    "after a half made base": leftovers(under_load, Order("rename wal/base.tmp")),
    "after a half made copy": leftovers(under_load, Order("rename checkpoints/creating.data")),
    "after a half made checkpoint": leftovers(under_load, Order("rename checkpoints/N.manifest.tmp")),
}
_LEFT_BY_INSTALL: Final[dict[str, Drive]] = {
    "after a half begun transfer": leftovers(install, Order("rename checkpoints/incoming.manifest.tmp")),
    "after a transfer": resume_install,
    "after an overtaken transfer": overtaken_install,
    "after a half made segment and a transfer": install_without_next,
    "after a published one": leftovers(install, Order("unlink checkpoints/incoming.manifest")),
    "after an installed one": leftovers(install, Order("create store/data.mdb.tmp")),
}
FOUND: Final = "found"
FOUND_LATE: Final = "found late"
FIRST_STARTS: Final = (FOUND, FOUND_LATE)
"""The second is sent a checkpoint before any entry. See `trials.run_first_starts`."""
DRIVES: Final[dict[str, Drive]] = {
    "load": under_load,
    "stop": stop,
    "install": install,
    "restart": restart,
    "rebuild": rebuild,
    **_LEFT,
    **_LEFT_BY_INSTALL,
    FOUND: found,
    FOUND_LATE: found,
}
"""In the order in which a step is taken for one of a drive: those that show most come first."""

SHARED: Final = frozenset(DRIVES) - {"install", *FIRST_STARTS, *_LEFT_BY_INSTALL}
"""What was acknowledged during these is on the disks of the victim and of one other node."""


AT_EVERY_START: Final = ("restart", "rebuild", "install")
CORE: Final = ("load", "stop", "install", "restart", "rebuild", FOUND)
"""Those that need no death before."""


def drives_for(step: str) -> list[str]:
    """Return the drives in the order in which this step is taken for theirs.

    What is found half done at a start may be there by chance; it is there for sure where it was left on purpose.
    """
    if not step.startswith("unlink"):
        return list(DRIVES)
    left = [*_LEFT_BY_INSTALL, *_LEFT] if "incoming" in step else [*_LEFT, *_LEFT_BY_INSTALL]
    return ["load", "stop", "install", *left, "restart", "rebuild", *FIRST_STARTS]
