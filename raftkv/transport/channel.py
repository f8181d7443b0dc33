"""gRPC settings between nodes, each one a fact that cost somebody a day."""

from __future__ import annotations

from collections.abc import Sequence

MAX_MESSAGE_BYTES = 16 << 20
"""Largest message between nodes. Appends stop near 1 MiB; one entry may hold a request of 1.5 MiB and more."""

KEEPALIVE_MS = 2_000

CHANNEL_OPTIONS: Sequence[tuple[str, int]] = (
    # A peer that comes back is found within half a second; gRPC's own back-off grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    # This one also bounds an attempt to connect: a busy machine, or one far away, needs more than 100 ms.
    ("grpc.min_reconnect_backoff_ms", 2_000),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A black hole keeps its connections open: only unanswered pings tell. The second option alone does nothing that
    # could be seen: a ping that is lost is given up after the third one's time, a minute unless it is set.
    ("grpc.keepalive_time_ms", KEEPALIVE_MS),
    ("grpc.keepalive_timeout_ms", KEEPALIVE_MS),
    ("grpc.http2.ping_timeout_ms", KEEPALIVE_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # An environment's proxy is for the world outside, not for a node's peers.
    ("grpc.enable_http_proxy", 0),
    # One connection for each channel: a channel that is closed takes its connection along.
    ("grpc.use_local_subchannel_pool", 1),
)

SERVER_OPTIONS: Sequence[tuple[str, int]] = (
    # With it on, two servers silently share one port.
    ("grpc.so_reuseport", 0),
    # Else the server answers keepalives with GOAWAY too_many_pings. It hardly ever sends on a peer's stream, so even
    # the sender's bandwidth probes count as strikes against it.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
