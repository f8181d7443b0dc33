"""Plain text is for this machine alone, unless somebody says otherwise."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from raftkv.errors import ConfigurationError
from raftkv.tls.reach import only_this_machine, require_tls_or_loopback

RESOLVED = {
    "localhost": ["127.0.0.1", "::1"],
    "split": ["127.0.0.1", "10.0.0.1"],
    "far": ["10.0.0.1"],
    "linked": ["fe80::1%eth0"],
}


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, *rest: object, **options: object) -> list[Any]:
        if host not in RESOLVED:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(0, 0, 0, "", (address, 0)) for address in RESOLVED[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"])
def test_loopback(address: str) -> None:
    assert only_this_machine(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "[::ffff:10.0.0.1]:1", "split:1", "far:1", "linked:1", "unknown:1"],
)
def test_others_can_reach_it(address: str) -> None:
    assert not only_this_machine(address)
    with pytest.raises(ConfigurationError, match=r"plain text.*The way out: give --a, --b .*--insecure") as refused:
        require_tls_or_loopback(address, purpose="clients", flags="--a, --b", tls=False, insecure=False)
    assert refused.value.message.startswith(address)
    require_tls_or_loopback(address, purpose="clients", flags="", tls=True, insecure=False)
    require_tls_or_loopback(address, purpose="clients", flags="", tls=False, insecure=True)
