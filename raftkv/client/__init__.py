"""The client library: `AsyncClient`, and `Client`, its synchronous twin.

Inside, decisions are pure and I/O is thin:

    aio, sync      the API: arguments to requests, answers to results
    dispatcher     moves calls between streams, retries and their callers, as these decide:
      routing        which endpoint next; who leads
      calls          what a refusal or a deadline means for an operation
      session        which writes are open; what the store may forget
      backoff        how long to wait
    pipeline       one stream to one endpoint: batches out, answers in
    wire, spans    messages; which keys a request covers
"""

from raftkv.client.aio import AsyncClient
from raftkv.client.results import (
    DeleteResult,
    EndpointFailure,
    Guarantee,
    KeyValue,
    Member,
    MemberKind,
    PeerProgress,
    PutResult,
    RangeResult,
    ReadLevel,
    Role,
    StateHash,
    Status,
)
from raftkv.client.sync import Client

__all__ = [
    "AsyncClient",
    "Client",
    "DeleteResult",
    "EndpointFailure",
    "Guarantee",
    "KeyValue",
    "Member",
    "MemberKind",
    "PeerProgress",
    "PutResult",
    "RangeResult",
    "ReadLevel",
    "Role",
    "StateHash",
    "Status",
]
