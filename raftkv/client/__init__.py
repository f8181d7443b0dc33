"""The client library: `AsyncClient`, and `Client`, its synchronous twin.

Inside, decisions are pure and I/O is thin:

    aio, sync      the two clients, made of groups of calls: arguments to requests, answers to results
      core           endpoints, timeouts, one way to get an operation answered
      kv_calls, watch_calls, coordination_calls, cluster_calls; their twins are sync_core, sync_kv, ...
    txn            conditions and operations, as one says them; committing sends them
    lease, lock, election, service   what lives on leases, and their twins
      keeper         keeps the leases of one client alive; tenure: how long one may be relied on
      turn           waiting in line
      guard          cancels the body of an `async with`
    reading        one read of whatever level: its token, its fallback
      coordinator    a quorum read that the client coordinates; freshest: the fallback
      levels, receipts, seen   what may be asked, what is answered, what this client has seen so far
    tokens, fence  fencing tokens; the fence of a resource outside the store
    dispatcher     moves calls between streams, retries and their callers, as these decide:
      routing        which endpoint next; who leads
      breaker        which endpoint is not asked for a while; nearness: which one answers soonest
      calls          what a refusal or a deadline means for an operation
      session        which writes are open; what the store may forget
      backoff        how long to wait
    tls            whom a client trusts, and what it shows; tls_trouble, reasons: why no connection comes about
    pipeline       one stream to one endpoint: batches out, answers in
    watch          what a caller reads events from; sync_watch its twin
      watch_mux      all watches of a client on one stream, over the loss of nodes
    wire, wire_quorum, spans   messages; which keys a request covers
"""

from raftkv.client.aio import AsyncClient
from raftkv.client.breaker import BreakerState
from raftkv.client.committing import AsyncTxn, Txn
from raftkv.client.election import AsyncElection
from raftkv.client.fence import Fence
from raftkv.client.lease import AsyncLease
from raftkv.client.levels import AtLeast, Bounded, Concern, Fallback, Level, Quorum, ReadFrom
from raftkv.client.lock import AsyncHeld, AsyncLock, AsyncReadWriteLock
from raftkv.client.node_status import (
    Alarm,
    CertificateStatus,
    CheckpointStatus,
    CheckpointTransfer,
    DiskStatus,
    Failover,
    RaisedAlarm,
    ScrubStatus,
    SettingsDrift,
    StateComparison,
)
from raftkv.client.receipts import ReadReceipt, ReadToken, WriteReceipt
from raftkv.client.results import (
    Contender,
    Count,
    DeleteResult,
    EndpointFailure,
    Instance,
    InstanceEvent,
    InstanceEventKind,
    KeyValue,
    Leader,
    LeaseGrant,
    LeaseStatus,
    LockKind,
    LockState,
    Member,
    MemberKind,
    Order,
    PeerProgress,
    PutResult,
    RangeResult,
    ReadLevel,
    ReadResult,
    Role,
    SavedSnapshot,
    SnapshotProgress,
    StateHash,
    Status,
    TxnResult,
)
from raftkv.client.routing import EndpointState
from raftkv.client.service import AsyncRegistration, AsyncService
from raftkv.client.sync import Client
from raftkv.client.sync_lease import Lease
from raftkv.client.sync_lock import Election, Held, Lock, ReadWriteLock
from raftkv.client.sync_service import Registration, Service
from raftkv.client.sync_watch import Watch
from raftkv.client.tls import Tls
from raftkv.client.tokens import FenceMode, FencingToken
from raftkv.client.txn import (
    Branch,
    Condition,
    Operation,
    count,
    create_revision,
    delete,
    delete_prefix,
    delete_range,
    get,
    get_prefix,
    get_range,
    lease_of,
    mod_revision,
    put,
    value,
    version,
    when,
)
from raftkv.client.watch import AsyncWatch, Event, EventKind
from raftkv.quorum import Guarantee

__all__ = [
    "Alarm",
    "AsyncClient",
    "AsyncElection",
    "AsyncHeld",
    "AsyncLease",
    "AsyncLock",
    "AsyncReadWriteLock",
    "AsyncRegistration",
    "AsyncService",
    "AsyncTxn",
    "AsyncWatch",
    "AtLeast",
    "Bounded",
    "Branch",
    "BreakerState",
    "CertificateStatus",
    "CheckpointStatus",
    "CheckpointTransfer",
    "Client",
    "Concern",
    "Condition",
    "Contender",
    "Count",
    "DeleteResult",
    "DiskStatus",
    "Election",
    "EndpointFailure",
    "EndpointState",
    "Event",
    "EventKind",
    "Failover",
    "Fallback",
    "Fence",
    "FenceMode",
    "FencingToken",
    "Guarantee",
    "Held",
    "Instance",
    "InstanceEvent",
    "InstanceEventKind",
    "KeyValue",
    "Leader",
    "Lease",
    "LeaseGrant",
    "LeaseStatus",
    "Level",
    "Lock",
    "LockKind",
    "LockState",
    "Member",
    "MemberKind",
    "Operation",
    "Order",
    "PeerProgress",
    "PutResult",
    "Quorum",
    "RaisedAlarm",
    "RangeResult",
    "ReadFrom",
    "ReadLevel",
    "ReadReceipt",
    "ReadResult",
    "ReadToken",
    "ReadWriteLock",
    "Registration",
    "Role",
    "SavedSnapshot",
    "ScrubStatus",
    "Service",
    "SettingsDrift",
    "SnapshotProgress",
    "StateComparison",
    "StateHash",
    "Status",
    "Tls",
    "Txn",
    "TxnResult",
    "Watch",
    "WriteReceipt",
    "count",
    "create_revision",
    "delete",
    "delete_prefix",
    "delete_range",
    "get",
    "get_prefix",
    "get_range",
    "lease_of",
    "mod_revision",
    "put",
    "value",
    "version",
    "when",
]
