"""What a node keeps on disk: the write-ahead log, the state store and the directory that holds both.

The driver opens them in this order, and closes them in the reverse one; each step relies on the one before:

1. `open_data_dir`: takes the lock, checks the identity, discards a state store that may have lost writes.
2. `WriteAheadLog.open(data_dir.wal_path, clean_tail=data_dir.clean_tail)`.
3. `data_dir.mark_running()`: from here on a stop counts as unclean. Not earlier: the mark of a clean shutdown is what
   lets step 2 tell a damaged log end from a torn write, at the next attempt too.
4. `CheckpointStore.open(data_dir.checkpoints_path, engine=LmdbEngine(data_dir.store_path), ...)`.
5. `recover_node(...)`: opens the store, restores it from the newest checkpoint if it is older, and begins the log anew
   after the checkpoint if it does not hold the checkpoint's entry.

And at a clean shutdown: close the checkpoints, the store, the log, `data_dir.mark_clean(log.tail)`, `data_dir.close()`.

A snapshot install of a running node, each step durable before the next, and redone by step 5 after a crash:
`Receiving.finish()` (from here on it happens, whatever comes), `CheckpointStore.hold()` (against newer ones),
`CheckpointStore.restore()`, `LogStore.restart()`.
"""
