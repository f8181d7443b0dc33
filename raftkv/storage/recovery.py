"""Brings log, checkpoint and state store together at start, whatever a crash left of them.

The newest checkpoint comes first: its publication is the moment at which an install has happened. Whatever was to
follow it, the swap of the store and the restart of the log, is done here if a crash came in between. Each is atomic,
and each is redone until it has happened (raft-bugs 28), the store first: as long as it is not restored, the old log is
not given up. A checkpoint that is found damaged costs nothing where the one before it is whole: the log reaches back to
that one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic

from raftkv.errors import StorageError
from raftkv.raft.types import HardState, Index
from raftkv.storage.checkpoint import CheckpointManifest, DamagedCheckpoint, S
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.data_dir import RestoredState
from raftkv.storage.progress import UNHEARD, Progress
from raftkv.storage.protocols import RESTORE_FROM_PEERS, LogStore, RecoveredLog


@dataclass(frozen=True, slots=True)
class Recovered(Generic[S]):
    """What a node starts from: a store, and a log that covers what the store has applied."""

    log: RecoveredLog
    """With a checkpoint, it holds or follows the checkpoint's entry, and knows it to be committed."""
    checkpoint: CheckpointManifest | None
    store: S
    store_restored: bool = False
    log_restarted: bool = False
    damaged: tuple[str, ...] = ()
    """What is wrong with checkpoints that were passed over."""


def needs_restart(log: RecoveredLog, checkpoint: CheckpointManifest) -> bool:
    """Whether the log has to be replaced by one that begins after the checkpoint.

    Its entries are kept only when it holds the checkpoint's own entry, with the same term: by the log matching
    property, everything else in it then belongs to the same history (raft-bugs 26, 27). Raises StorageError when the
    two cannot both be true: something durable is gone.
    """
    index = checkpoint.index
    if index < log.first_index - 1:
        raise _misfit(log, checkpoint, f"there is a gap: the log begins at entry {log.first_index}")
    found = log.term_at(index)
    if found == checkpoint.term:
        return False
    if not checkpoint.received:
        raise _misfit(log, checkpoint, "it was made here, when the log did hold that entry")
    if found is not None and index <= max(log.hard_state.commit, log.first_index - 1):
        raise _misfit(log, checkpoint, f"the log has committed entry {index} of term {found}")
    return True


def _misfit(log: RecoveredLog, checkpoint: CheckpointManifest, problem: str) -> StorageError:
    return StorageError(
        f"the checkpoint of entry {checkpoint.index} of term {checkpoint.term} and the write-ahead log, which ends at "
        f"entry {log.last_index}, do not belong together: {problem}. {RESTORE_FROM_PEERS}"
    )


async def recover_node(
    wal: LogStore,
    log: RecoveredLog,
    checkpoints: CheckpointStore[S],
    *,
    open_store: Callable[[], S],
    applied_index: Callable[[S], Index],
    restored: RestoredState | None = None,
    progress: Progress = UNHEARD,
) -> Recovered[S]:
    """Decide from which state the node goes on, and make store and log agree with it. Before the node runs.

    `restored`: the backup that the cluster was founded on. The log does not reach back to before it, so there must be a
    checkpoint of it or of a later state: without one, an empty log would look like that of a founder.

    Raises StorageError when what is left does not add up, with the way out. Term and vote are never forgotten.
    """
    store = open_store()
    try:
        for checkpoint in checkpoints.valid:
            if checkpoints.damaged and checkpoint.index < log.first_index - 1:
                continue  # of a state that an install has replaced, and so it was with the log
            if restored is not None and not _reaches(checkpoint, restored):
                continue
            restart = needs_restart(log, checkpoint)
            restore = applied_index(store) < checkpoint.index
            if restore:
                try:
                    store = checkpoints.restore_at_start(checkpoint, store, progress)
                except DamagedCheckpoint:
                    # An older one will do, if the log reaches back to it.
                    continue
                _require_state(checkpoint, applied_index(store))
            damaged = checkpoints.damaged
            await checkpoints.forget_above(checkpoint)
            if restart:
                log = await _restart(wal, log, checkpoint)
                await checkpoints.forget_below(checkpoint.index)
            else:
                log = _committed(log, checkpoint.index)
            log.require_covers(applied_index(store))
            return Recovered(log, checkpoint, store, restore, restart, damaged)
        _require_whole(log, checkpoints.damaged)
        if restored is not None:
            raise _without_backup(restored, checkpoints)
        log.require_covers(applied_index(store))
    except BaseException:
        store.close()
        raise
    return Recovered(log, None, store, damaged=checkpoints.damaged)


def _reaches(checkpoint: CheckpointManifest, restored: RestoredState) -> bool:
    """Whether a checkpoint holds the restored state, or one that came of it."""
    if checkpoint.index != restored.index or not restored.state_hash:
        return checkpoint.index >= restored.index
    return (checkpoint.term, checkpoint.state_hash) == (restored.term, restored.state_hash)


def _without_backup(restored: RestoredState, checkpoints: CheckpointStore[S]) -> StorageError:
    # The way out of a damaged checkpoint is another one than the way out of this.
    problems = [one.partition(". The way out")[0] for one in checkpoints.damaged]
    others = [f"there is one of entry {one.index}, of another state" for one in checkpoints.valid]
    found = "; ".join((*problems, *others)) or "there is none"
    return StorageError(
        f"this data directory was restored from a backup that ends at entry {restored.index}, and no checkpoint that "
        f"can be used reaches it: {found}. What was restored is lost here. {RESTORE_FROM_PEERS} if other members run; "
        "else restore the backup again, for all members, into empty directories"
    )


def _require_state(checkpoint: CheckpointManifest, applied: Index) -> None:
    if applied != checkpoint.index:
        raise StorageError(
            f"the checkpoint of entry {checkpoint.index} holds a state that has applied entry {applied}. "
            f"{RESTORE_FROM_PEERS}"
        )


def _require_whole(log: RecoveredLog, damaged: tuple[str, ...]) -> None:
    if log.first_index > 1:
        raise StorageError(
            f"the write-ahead log begins at entry {log.first_index}, and no checkpoint that can be used reaches that "
            f"far: {'; '.join(damaged) or 'there is none'}. {RESTORE_FROM_PEERS}"
        )


async def _restart(wal: LogStore, log: RecoveredLog, checkpoint: CheckpointManifest) -> RecoveredLog:
    state = log.hard_state
    if checkpoint.term > state.term:
        # As a message of that term would have done; no vote was given in it.
        state = HardState(term=checkpoint.term)
    state = replace(state, commit=checkpoint.index)
    await wal.restart(state, checkpoint.index, checkpoint.term)
    return replace(
        log,
        hard_state=state,
        entries=(),
        first_index=Index(checkpoint.index + 1),
        base_term=checkpoint.term,
    )


def _committed(log: RecoveredLog, index: Index) -> RecoveredLog:
    """What a checkpoint holds is committed, also where the log's hint does not say so yet."""
    state = log.hard_state
    return replace(log, hard_state=replace(state, commit=max(state.commit, index)))
