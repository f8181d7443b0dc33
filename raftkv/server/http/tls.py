"""What the HTTP server shows its clients: the certificate for gRPC clients, and it asks for none in turn."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from raftkv.errors import ConfigurationError

Contexts = Callable[[], ssl.SSLContext | None]
"""Gives the context of the next connection; None: plain text. Asked for every connection, so that a certificate which
was renewed counts from the next one on."""


def fixed(certificate: Path | None, key: Path | None) -> Contexts:
    """Return the context of one certificate, as it is now; without one, plain text. Raises ConfigurationError."""
    if certificate is None or key is None:
        return lambda: None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without an answer for a passphrase, OpenSSL would ask for it at the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"--tls-cert {certificate} and --tls-key {key}: {error}") from error
    return lambda: context
