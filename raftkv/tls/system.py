"""The authorities that the machine trusts. Stands on the standard library alone: the client uses it too."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

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
