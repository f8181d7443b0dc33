"""Who can reach a listener: plain text is for this machine alone, unless somebody says otherwise."""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

from raftkv.errors import ConfigurationError

CLIENTS_TLS: Final = "--tls-cert and --tls-key"
"""The flags that give the listeners for clients TLS."""

PEERS_TLS: Final = "--peer-tls-cert, --peer-tls-key and --peer-tls-ca"


def only_this_machine(address: str) -> bool:
    """Whether HOST:PORT can be reached from this machine only.

    A name counts if it resolves, and to nothing but loopback addresses. Asks the resolver, which may block.
    """
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return _is_loopback(host)
    except ValueError:
        pass  # a name
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return bool(found) and all(_is_loopback(str(entry[4][0]).partition("%")[0]) for entry in found)


def require_tls_or_loopback(address: str, *, purpose: str, flags: str, tls: bool, insecure: bool) -> None:
    """Refuse plain text on an address that other machines can reach. Raises ConfigurationError.

    `purpose` says for whom the listener is, `flags` which ones give it TLS. Asks the resolver where it has to.
    """
    if tls or insecure or only_this_machine(address):
        return
    raise ConfigurationError(
        f"{address} (for {purpose}) can be reached by other machines, and would speak plain text: whoever reaches it "
        f"reads and writes everything. The way out: give {flags} (`raftkv certs init` makes certificates), listen on "
        "127.0.0.1, or say --insecure in a network that you trust"
    )


def _is_loopback(text: str) -> bool:
    found = ipaddress.ip_address(text)
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
