"""What the machine has: authorities that it trusts, and files that may change. Stands on the standard library alone:
the client uses it too.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Final

Look = tuple[int, int, int, int]
"""Inode, size, and when the file was changed, by its content and by anything, in nanoseconds."""

_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
)


def system_authorities() -> bytes | None:
    """Return the authorities that this machine trusts, as PEM; None where it has none: gRPC then takes its own.

    SSL_CERT_FILE names others, as for most programs.
    """
    named = ssl.get_default_verify_paths().cafile
    for path in ([named] if named else []) + list(_BUNDLES):
        try:
            return Path(path).read_bytes()
        except OSError:
            continue
    return None


def look(path: str | Path) -> Look | None:
    """Return what changes when a file does, or is exchanged for another one; None: there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - in every handshake
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
