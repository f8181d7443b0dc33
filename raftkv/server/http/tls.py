"""What the HTTP server shows its clients: the certificate for gRPC clients, and it asks for none in turn."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from raftkv.errors import ConfigurationError
from raftkv.tls.rotation import RotatingCertificate

Contexts = Callable[[], ssl.SSLContext | None]
"""Gives the context of the next connection; None: plain text. Asked for every connection, so that a certificate which
was renewed counts from the next one on."""


def following(certificate: RotatingCertificate | None) -> Contexts:
    """Return contexts that show the certificate in use; without one, plain text. Raises ConfigurationError."""
    if certificate is None:
        return lambda: None
    version, context = certificate.version, _context(certificate)

    def newest() -> ssl.SSLContext:
        nonlocal version, context
        if certificate.changed_since(version):
            version = certificate.version
            context = _context(certificate, otherwise=context)
        return context

    return newest


def _context(certificate: RotatingCertificate, otherwise: ssl.SSLContext | None = None) -> ssl.SSLContext:
    """`otherwise`: what to go on with where the files have changed once more since they were found to be good."""
    files = certificate.files
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        # Without an answer for a passphrase, OpenSSL would ask for it at the terminal.
        context.load_cert_chain(files.cert, files.key, password="")
    except (OSError, ValueError) as error:
        if otherwise is not None:
            return otherwise
        raise ConfigurationError(f"--tls-cert {files.cert} and --tls-key {files.key}: {error}") from error
    return context
