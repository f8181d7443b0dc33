"""The shared Toxiproxy server."""

from __future__ import annotations

from raftkv.testing.toxiproxy_fixture import toxiproxy_server

__all__ = ["toxiproxy_server"]
