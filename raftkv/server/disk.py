"""What a node has on disk, opened in the order that raftkv.storage prescribes and closed in the reverse one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from raftkv.kv.machine import StateMachine
from raftkv.raft import Index, NodeId
from raftkv.server.cluster import Cluster
from raftkv.server.settings import ServerSettings
from raftkv.storage.data_dir import open_data_dir
from raftkv.storage.lmdb_store import LmdbStore
from raftkv.storage.protocols import RecoveredLog
from raftkv.storage.wal import WriteAheadLog

log = structlog.get_logger("raftkv.disk")


@dataclass(frozen=True, slots=True)
class Disk:
    """Open, and locked for this process."""

    wal: WriteAheadLog
    recovered: RecoveredLog
    store: LmdbStore
    machine: StateMachine


@asynccontextmanager
async def open_disk(settings: ServerSettings, cluster: Cluster) -> AsyncIterator[Disk]:
    """Open the data directory for the length of the block. A block that is left without an error ends it cleanly.

    Raises StorageError: another node's directory, one that is in use, a damaged log, a full or failing disk.
    """
    async with AsyncExitStack() as stack:
        data_dir = open_data_dir(
            settings.data_dir,
            cluster_id=cluster.cluster_id,
            node_id=NodeId(settings.id),
            members=cluster.members,
        )
        stack.callback(data_dir.close)
        wal, recovered = WriteAheadLog.open(
            data_dir.wal_path,
            segment_bytes=settings.wal_segment_bytes,
            clean_tail=data_dir.clean_tail,
            must_exist=data_dir.ran_before,
        )
        stack.push_async_callback(wal.close)
        data_dir.mark_running()
        if recovered.torn_bytes:
            log.warning("cut a torn write off the log", bytes=recovered.torn_bytes, where=recovered.torn_at)
        if data_dir.store_discarded:
            log.warning("the machine stopped uncleanly: the state store is rebuilt from the log")
        store = LmdbStore.open(data_dir.store_path, map_size=settings.store_map_size)
        stack.callback(store.close)
        machine = StateMachine(store)
        recovered.require_covers(Index(machine.applied_index))
        log.info(
            "data directory open",
            path=str(settings.data_dir),
            entries=len(recovered.entries),
            applied=machine.applied_index,
            clean_shutdown=data_dir.clean_shutdown is not None,
        )
        yield Disk(wal, recovered, store, machine)
        store.close()
        await wal.close()
        data_dir.mark_clean(wal.tail)
