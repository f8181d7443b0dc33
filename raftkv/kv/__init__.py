"""The replicated state machine: a multi-version key-value store with client sessions. Pure and deterministic.

Nothing here reads a clock, a file or a socket, or draws a random number. Committed entries go in, results come out, and
all state lies in one `OrderedStore` (`store`), so that equal logs give equal stores on every node.

    limits     what a request may ask for; `validate_*` before proposing
    commands   all that can change the state, grouped by session into a Batch; their results
    codec      Batch <-> the payload of a log entry; packing: commands and results <-> msgpack
    machine    StateMachine: entries in, results and the next state out
    writing    one revision in the making; versions reads what it wrote, changes says which keys, history tells it again
    mvcc       puts and deletes; txn, txn_check: transactions; compaction: giving up history
    lease      leases; lease_table: which there are; lock, line: who holds a lock and who is next; fence: stale tokens
    session    exactly-once: results remembered by (session, sequence)
    ranges     gets, and ranges in steps of bounded work
    view       one snapshot to read from
    hashing    one number for the whole state
    keys       where each row lives in the store; records: what is in it
    store      the Protocol of the store, implemented by `raftkv.storage`

The host's duties, in order:

 1. `machine = StateMachine(store)` at start. Feed it committed entries from `machine.applied_index + 1` on.
 2. Before proposing: `put_fault`, `range_fault`, `validate_request_bytes`. Put the commands that wait into
    one `Batch`, those of one session into one `Group`, stamped with cluster time
    (`machine.time_ms` plus what the leader's monotonic clock has advanced); propose `encode_batch(batch)`.
    A `Delete` of a range may take tens of milliseconds to apply: give it an entry of its own.
 3. When entries are committed: `results = machine.apply(entries)`, in slices short enough for the event loop. Hand over
    the batch of an entry that was encoded here (an entry is named by term and index): it is not decoded again. What
    it returns may be answered to clients. If it raises, stop; the store is as it was before.
 4. To read: wait until `machine.applied_index` has reached the read index, then

        with machine.view() as view:
            pair = view.get(key)                # a few microseconds
            scan = view.scan(RangeQuery(start, end))
            while not scan.step(1000):          # a few milliseconds each
                await give_way()
        page = scan.result()

 5. After a snapshot was installed: a new `StateMachine` over the new store. Sessions come with it.

Revisions: an empty store is at revision 1 and the first write makes revision 2, as in etcd. Reads at a past revision
see the keys as they were, down to `Meta.compacted_revision`.
"""
