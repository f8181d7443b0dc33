"""A node's checkpoints: made when they are due, sent to followers that are too far behind, installed from a leader.

The core decides who needs one and what its arrival means; `Keeper` copies and replaces bytes; here they meet.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import structlog

from raftkv.errors import CorruptState, RaftKVError, ShuttingDown, StorageError
from raftkv.invariant import InvariantViolation
from raftkv.raft import Entry, Index, LogWrite, NodeId, Raft, Snapshot, Term
from raftkv.raft.log import entry_bytes
from raftkv.raft.membership import decode_configuration, encode_configuration
from raftkv.raft.messages import InstallSnapshot
from raftkv.raft.progress import ProgressState
from raftkv.server.compaction import CompactionPolicy
from raftkv.server.disk_health import DiskHealth
from raftkv.server.disk_kind import Kind, kind_mismatch
from raftkv.server.keeper import Keeper
from raftkv.server.pulse import Pulse
from raftkv.server.questions import may_go_unheard
from raftkv.server.transfers import Phase, Transfer, Watched
from raftkv.storage.checkpoint import CheckpointManifest, CheckpointRefused, DamagedCheckpoint, decode_manifest
from raftkv.storage.checkpoint_store import Receiving
from raftkv.storage.protocols import LogStore
from raftkv.storage.wal_format import FormatError
from raftkv.transport.protocols import CheckpointNotSent, Incoming, Transport
from raftkv.v1 import cluster_pb2 as pb

log = structlog.get_logger("raftkv.checkpoints")

BeginTask = Callable[[str, Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a task of the node, under a name; its failure stops the node."""


class Checkpoints:
    """What one node does about checkpoints."""

    def __init__(
        self,
        *,
        raft: Raft,
        keeper: Keeper,
        log_store: LogStore,
        transport: Transport,
        due_bytes: int,
        due_entries: int,
        begin_task: BeginTask,
        pulse: Pulse,
        deliver: Callable[[InstallSnapshot], None],
        wake: Callable[[], None],
        fail: Callable[[BaseException], None],
        disk_health: DiskHealth,
        corruption: Callable[[], CorruptState | None] = lambda: None,
        diverged: Callable[[str], None],
    ) -> None:
        """`disk_health` has the patience where an install finds no room. `corruption`: what keeps the state from being
        copied or sent on. `diverged` raises an alarm.

        `due_bytes`, `due_entries`: see `NodeLimits.checkpoint_log_bytes`, `.checkpoint_entries`. `pulse` says how late
        its ticks come. `deliver` takes a message whose checkpoint is here now; `wake` has the core asked what there is
        to do; `fail` stops the node.
        """
        self._raft = raft
        self._keeper = keeper
        self._log_store = log_store
        self._transport = transport
        newest = raft.snapshot.index if raft.snapshot else Index(0)
        self._policy = CompactionPolicy(due_bytes, due_entries)
        # What the state had applied before this start is in the log as well, and no checkpoint has it.
        for entry in raft.log.slice(Index(newest + 1), Index(raft.log.applied + 1), sys.maxsize):
            self.applied(entry)
        self._begin_task = begin_task
        self._pulse = pulse
        self._deliver = deliver
        self._wake = wake
        self._fail = fail
        self._disk_health = disk_health
        self._corruption = corruption
        self._diverged = diverged
        self._due = asyncio.Event()
        self._asked: asyncio.Future[None] | None = None
        """Of those who want the next one that is begun."""
        self._awaited: asyncio.Future[None] | None = None
        """Of those who want the one that is being made."""
        self._stopped: ShuttingDown | None = None
        self._making = False
        self._made_at = 0.0
        self._sending: dict[NodeId, asyncio.Task[None]] = {}
        self._sends: dict[NodeId, Transfer] = {}
        """Those under way, and those that their receivers are installing, as far as is known."""
        self._intake: _Intake | None = None
        self._fabricating: asyncio.Task[None] | None = None

    # --- making -------------------------------------------------------------------------------------------------------

    def applied(self, entry: Entry) -> None:
        """`entry` was applied: its bytes of the log can be spared once a checkpoint has it."""
        self._policy.applied(entry_bytes(entry))

    def make_when_due(self) -> None:
        newest = self._keeper.newest
        if self._corruption() is not None:
            return
        if newest is not None and newest.index > self._keeper.machine.applied_index:
            return  # received, and not installed: one of this older state would not take its place
        if self._policy.due(self._keeper.store_bytes()):
            self._due.set()

    async def run(self) -> None:
        """Whenever enough has been applied: a checkpoint, then a shorter log."""
        while True:
            await self._due.wait()
            self._due.clear()
            self._awaited, self._asked = self._asked, None
            self._making = True
            try:
                await self._make()
            except CheckpointRefused as error:
                log.warning("no checkpoint was made; the log keeps growing", reason=error.message)
                self._answer(error)
            else:
                self._answer(None)
            finally:
                self._making = False

    async def _make(self) -> None:
        """Make one and compact the log, unless the newest is of this state. Raises CheckpointRefused."""
        self._require_sound()
        newest = self._keeper.newest
        if newest is not None and newest.index == self._keeper.machine.applied_index:
            return
        self._policy.begun()
        with self._pulse.measure() as longest:
            manifest = await self._keeper.create(self._configuration_at)
        self._require_sound()  # else the log, which the right state can be made from again, would be cut
        if manifest.index <= (self._raft.snapshot.index if self._raft.snapshot else 0):
            return  # a snapshot was installed meanwhile
        self._made_at = time.time()
        fallback = self._keeper.fallback
        first_kept = self._policy.made(manifest.index, fallback.index if fallback else Index(0), self._needed())
        self._raft.compact(self._raft.snapshot_at(manifest.index), first_kept)
        await self._log_store.compact(first_kept)
        log.info(
            "checkpoint made, log compacted",
            index=manifest.index,
            first_kept=first_kept,
            longest_delay_ms=round(longest.ms, 1),
        )

    def _require_sound(self) -> None:
        """Raise CheckpointRefused where the state is not to be trusted: nothing that others or this node may come to
        rely on is made of it."""
        refusal = self._corruption()
        if refusal is not None:
            raise CheckpointRefused(refusal.message)

    async def cut(self, first_kept: Index) -> bool:
        """Let the log begin at entry `first_kept`, whoever would still like to have what is before: it is damaged.

        False: no checkpoint has all of that. Older checkpoints, to which the log reaches back no more, are deleted.
        """
        newest = self._keeper.newest
        if newest is None or newest.index + 1 < first_kept or newest.index > self._raft.log.applied:
            return False
        self._raft.compact(self._raft.snapshot_at(newest.index), first_kept)
        await self._log_store.compact(first_kept)
        await self._keeper.forget_below(Index(first_kept - 1))
        return True

    def _needed(self) -> list[Index]:
        """Return the first entries that followers lack which answer, or get a checkpoint."""
        sends = self._installing_or_sending()
        return [
            Index((sends[peer].index if peer in sends else follower.match) + 1)
            for peer, follower in self._raft.followers().items()
            if follower.silent_ticks < self._raft.election_ticks
        ]

    def _installing_or_sending(self) -> dict[NodeId, Transfer]:
        """Return what is on its way to whom, without what has been installed."""
        followers = self._raft.followers()
        for peer, transfer in list(self._sends.items()):
            follower = followers.get(peer)
            waits = follower is not None and follower.state is ProgressState.SNAPSHOT
            if transfer.phase is Phase.INSTALL and not waits:
                del self._sends[peer]
        return self._sends

    async def make_now(self) -> None:
        """Make a checkpoint of the present state, or a later one. Waits for one that is being made already.

        Nothing is made when the newest is of this state. Raises CheckpointRefused, ShuttingDown.
        """
        if self._stopped is not None:
            raise self._stopped
        if self._asked is None:
            self._asked = asyncio.get_running_loop().create_future()
            self._asked.add_done_callback(may_go_unheard)
        self._due.set()
        await asyncio.shield(self._asked)

    def _answer(self, error: RaftKVError | None) -> None:
        awaited, self._awaited = self._awaited, None
        if awaited is None or awaited.done():
            return
        if error is None:
            awaited.set_result(None)
        else:
            awaited.set_exception(error)

    def fail_all(self, reason: ShuttingDown) -> None:
        """The node stops: whoever waits for a checkpoint is told so."""
        self._stopped = reason
        self._answer(reason)
        self._awaited, self._asked = self._asked, None
        self._answer(reason)

    def status(self) -> pb.CheckpointStatus:
        """Say what there is by way of checkpoints."""
        newest = self._keeper.newest
        return pb.CheckpointStatus(
            index=newest.index if newest else 0,
            size_bytes=newest.size if newest else 0,
            kept=self._keeper.kept,
            making=self._making,
            made_at_ms=int(self._made_at * 1000),
        )

    def _configuration_at(self, index: Index, term: Term) -> bytes:
        try:
            configuration = self._raft.snapshot_at(index).configuration
        except ValueError as error:
            raise CheckpointRefused(f"the log has been replaced meanwhile: {error}") from error
        if not configuration.members:
            # Whoever starts from such a checkpoint is a member of nothing, for ever.
            raise CheckpointRefused(f"the members at entry {index} are not known here")
        return encode_configuration(configuration)

    def transfers(self) -> list[pb.CheckpointTransfer]:
        """Say what is on its way from and to this node."""
        found = [transfer for _, transfer in sorted(self._installing_or_sending().items())]
        if self._intake is not None:
            found.append(self._intake.transfer)
        return [transfer.status() for transfer in found]

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, peer: NodeId) -> None:
        """`peer` needs a checkpoint: send the newest, unless one is on its way."""
        running = self._sending.get(peer)
        if running is None or running.done():
            self._sending[peer] = self._begin_task(f"send-checkpoint-{peer}", self._stream(peer))

    async def _stream(self, peer: NodeId) -> None:
        """Send the newest checkpoint to `peer`; the core decides what comes after."""
        sending = None
        try:
            self._require_sound()
            sending = self._keeper.send()
            meta = sending.manifest.meta
            transfer = self._sends[peer] = Transfer(peer, False, meta.index, sending.size_bytes())
            await self._transport.send_checkpoint(peer, Watched(sending, transfer, self._require_sound))
            self._require_sound()  # it may have been found wrong since: then nobody is told to install it
        except (CheckpointRefused, DamagedCheckpoint, CheckpointNotSent) as error:
            log.warning("a checkpoint was not sent", peer=peer, reason=str(error))
            self._sends.pop(peer, None)
            self._raft.snapshot_failed(peer)
            if isinstance(error, DamagedCheckpoint):
                self._due.set()  # until there is a new one, the one before it is sent
        else:
            log.info("sent a checkpoint", peer=peer, index=meta.index)
            transfer.phase = Phase.INSTALL
            snapshot = Snapshot(meta.index, meta.term, decode_configuration(meta.configuration))
            self._raft.snapshot_delivered(peer, snapshot)
        finally:
            if sending is not None:
                sending.close()
        self._wake()

    # --- receiving and installing -------------------------------------------------------------------------------------

    async def begin(self, manifest: bytes) -> Incoming:
        """A peer, the leader as it believes, begins to send a checkpoint. See `Keeper.begin`. Raises RaftKVError.

        Who asks is a call of that peer, which can only refuse. A failed disk stops the node all the same.
        """
        try:
            decoded = decode_manifest(manifest)
        except FormatError as error:
            raise CheckpointRefused(f"no manifest of a checkpoint: {error}") from error
        self._compare_with_newest(decoded)
        with _failure_of_the_node(self._fail):
            receiving = await self._keeper.begin(decoded)
        transfer = Transfer(self._raft.leader or NodeId(0), True, decoded.index, decoded.size, receiving.offset)
        self._intake = _Intake(receiving, transfer, self)
        return self._intake

    def _compare_with_newest(self, offered: CheckpointManifest) -> None:
        mine = self._keeper.newest
        if mine is None or (mine.index, mine.term) != (offered.index, offered.term):
            return
        if mine.state_hash != offered.state_hash:
            self._diverged(
                f"two checkpoints of entry {mine.index} have different states: the one here has the hash "
                f"{mine.state_hash.hex()}, and the one that the leader sends {offered.state_hash.hex()}. One of the "
                "nodes that made them has gone wrong; to find out which: `raftkv endpoint compare`"
            )

    def received(self, intake: _Intake) -> None:
        """A checkpoint is here, whole; the leader will say that it is to be installed."""
        self._made_at = time.time()
        if intake.transfer.index <= self._raft.log.commit:
            self.ended(intake)

    def ended(self, intake: _Intake) -> None:
        """A transfer is over, or was broken off."""
        if self._intake is intake:
            self._intake = None

    def failed(self, error: BaseException) -> None:
        """Stop the node."""
        self._fail(error)

    def install(self, message: InstallSnapshot) -> None:
        """Give the core the message if the bytes of its snapshot are here. If not, it is as good as lost: the leader
        tries again.

        A witness needs none; it makes an empty checkpoint first, and has the message delivered then. Raises
        DataDirectoryMismatch.
        """
        snapshot, keeper, raft = message.snapshot, self._keeper, self._raft
        if snapshot.index <= raft.log.commit:
            raft.step(message)  # the core says that it has all of it
        elif keeper.hold(snapshot):
            # Until its turn in the log's order comes (`restore`), a newer one may be received: this state and no other
            # is what the core goes on from.
            raft.step(message)
            if raft.snapshot is not snapshot:
                keeper.release(snapshot)  # nothing to install: the core knows better
        elif message.bare:
            if not keeper.machine.holds_nothing:
                raise kind_mismatch(self._raft.node_id, Kind.WITNESS)
            if self._fabricating is None or self._fabricating.done():
                self._fabricating = self._begin_task("fabricate", self._fabricate(message))
        else:
            log.warning("no checkpoint here for the snapshot to install", index=snapshot.index)

    async def _fabricate(self, message: InstallSnapshot) -> None:
        try:
            await self._keeper.fabricate(message.snapshot)
        except CheckpointRefused as error:
            log.warning("a snapshot cannot be installed", index=message.snapshot.index, reason=error.message)
            return
        self._deliver(message)
        self._wake()

    async def restore(self, write: LogWrite, snapshot: Snapshot) -> None:
        """Install a snapshot whose checkpoint is held: state first, then the log (`storage.recovery`).

        A newer checkpoint may be here by now. Then a crash in between, or soon after, makes the node go on from that
        one: it is committed as well, and nothing was promised that it does not hold.
        """
        await self._disk_health.with_room("an installed snapshot", lambda: self._keeper.restore(snapshot))
        # What was heard in the same turn may have committed entries behind the snapshot, which come second.
        state = replace(write.hard_state, commit=snapshot.index)
        await self._log_store.restart(state, snapshot.index, snapshot.term)
        # Beside it: nobody need wait for that.
        self._begin_task("forget-checkpoints", self._forget_below(snapshot.index))
        if write.entries:
            await self._log_store.append(write.hard_state, write.entries)
        self._policy.restored(snapshot.index)
        if self._intake is not None and self._intake.transfer.index <= snapshot.index:
            self._intake = None
        log.info("installed a snapshot", index=snapshot.index, term=snapshot.term)

    async def _forget_below(self, index: Index) -> None:
        with suppress(CheckpointRefused):  # the node stops; the next checkpoint deletes them as well
            await self._keeper.forget_below(index)


class _Intake:
    """A checkpoint on its way here, and what its failure means. See `transport.protocols.Incoming`."""

    def __init__(self, receiving: Receiving, transfer: Transfer, checkpoints: Checkpoints) -> None:
        self.transfer = transfer
        self._receiving = receiving
        self._checkpoints = checkpoints

    @property
    def offset(self) -> int:
        return self._receiving.offset

    async def write_chunk(self, offset: int, data: bytes, crc: int) -> int:
        with _failure_of_the_node(self._checkpoints.failed):
            self.transfer.done_bytes = await self._receiving.write_chunk(offset, data, crc)
        return self.transfer.done_bytes

    async def finish(self) -> CheckpointManifest:
        self.transfer.phase = Phase.VERIFY
        with _failure_of_the_node(self._checkpoints.failed):
            manifest = await self._receiving.finish()
        self.transfer.phase = Phase.INSTALL
        self._checkpoints.received(self)
        return manifest

    def close(self) -> None:
        if self.transfer.phase is not Phase.INSTALL:
            self._checkpoints.ended(self)


@contextmanager
def _failure_of_the_node(fail: Callable[[BaseException], None]) -> Iterator[None]:
    """Stop the node for what must stop it, although a peer's call is where it came up (raft-bugs 39)."""
    try:
        yield
    except DamagedCheckpoint:
        raise
    except (StorageError, InvariantViolation) as error:
        fail(error)
        raise
