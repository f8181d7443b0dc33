"""Who a caller is, by the certificate that it showed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from cryptography import x509

from raftkv.tls.material import dns_names

PEM_KEY: Final = "x509_pem_cert"
"""Where gRPC's auth context has the certificate that the caller showed, and whose chain it has verified."""


@lru_cache(maxsize=256)
def names_in(pem: bytes) -> frozenset[str]:
    """Return the DNS names of a certificate, in lower case; none where it cannot be read."""
    try:
        return frozenset(name.lower() for name in dns_names(x509.load_pem_x509_certificate(pem)))
    except (ValueError, x509.DuplicateExtension):
        return frozenset()


def proves(auth_context: Mapping[str, Iterable[bytes]], name: str) -> bool:
    """Whether the caller showed a certificate in exactly this name. A wildcard is another name."""
    return any(name in names_in(pem) for pem in auth_context.get(PEM_KEY, ()))


def shown_names(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """Return the names of the caller's certificate, for people."""
    names = sorted({name for pem in auth_context.get(PEM_KEY, ()) for name in names_in(pem)})
    return ", ".join(names) or "no DNS name"
