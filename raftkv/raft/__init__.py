"""The consensus core: Raft, pure and deterministic.

No clock, disk, network, threads, logging or global randomness; the import-direction test enforces it. References are to
Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm" (paper), and to Ongaro's dissertation
(thesis).

Where to look:
    vote rule        election.may_vote             commit rule       replication.advance_commit
    log matching     follower.on_append_request    read rule         read_index (module docstring)
    majorities       quorum                        persistence       ready, persistence
    terms            core.Raft._enter_term_of      safety checks     checks
    who decides      configurations, membership    snapshots         snapshots
    witnesses        quorum.committed_index,       leases            lease
                     replication.send_limit        preferred leader  transfer.prefer
    unfit to lead    transfer.relieve, retire

How to drive it
---------------
The driver owns one `Raft`, calls its inputs from one thread, and after each input (or after a batch of them) calls
`ready()` until it returns None. With each `Ready`, in this order:

1. Send `messages`. A leader's appends are among them: followers write in parallel with the leader's own disk.
2. Hand `write` to the log store. Writes become durable in the order of their numbers. Then, and only then, send
   `write.messages` and call `persisted(write.number)`. Inputs may go on meanwhile; several writes may be stored with
   one fdatasync.
3. Apply `committed` to the state machine, in order, then call `applied(index)`.
4. Serve `reads` as soon as the state has applied their index; fail or retry `reads_dropped` as *new* requests.
5. Act on `role`, `term` and `leader`: whoever waits for a proposal of an earlier term of leadership learns that its
   outcome is open.

Call `tick()` at a steady pace, once after a pause however long, `step()` for each message from a member of this
cluster, and `unreachable()` when a connection breaks. Messages may be lost, repeated, delayed or reordered.

A driver that knows of something that speaks against leading (a slow or full disk, a state that is not to be trusted)
says so by `set_fitness`, again after every start.

Members come and go by `change_membership` on the leader; the change is over when `changing` is false again. A node
that joins starts with `NO_MEMBERS` and learns the rest from the log. Those who leave are sent the log until the leader
knows that to be committed, and must be reachable until then (`followers`).

A checkpoint of the state at an applied index stands for `snapshot_at(index)`. Once it is durable, `compact` the log.
Pass an InstallSnapshot to `step` only when the checkpoint that it names is here, whole; drop it otherwise. A witness
has no state: it is given InstallSnapshot without a checkpoint, and is handed out COMMANDS entries without data, also
before it has learned from the log that it is a witness. They change nothing.
"""

from raftkv.raft.config import RaftConfig
from raftkv.raft.core import FollowerStatus, Position, Raft, Refusal
from raftkv.raft.membership import MembershipChange
from raftkv.raft.messages import Message
from raftkv.raft.progress import ProgressState
from raftkv.raft.quorum import NO_MEMBERS, Configuration
from raftkv.raft.ready import LogWrite, ReadState, Ready
from raftkv.raft.snapshot import Snapshot
from raftkv.raft.types import Entry, EntryKind, Fitness, HardState, Index, NodeId, Role, Term

__all__ = [
    "NO_MEMBERS",
    "Configuration",
    "Entry",
    "EntryKind",
    "Fitness",
    "FollowerStatus",
    "HardState",
    "Index",
    "LogWrite",
    "MembershipChange",
    "Message",
    "NodeId",
    "Position",
    "ProgressState",
    "Raft",
    "RaftConfig",
    "ReadState",
    "Ready",
    "Refusal",
    "Role",
    "Snapshot",
    "Term",
]
