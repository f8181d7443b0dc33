"""What the settings of TLS must say together. Loads nothing that takes long: settings are checked by many commands."""

from __future__ import annotations

from pathlib import Path

from raftkv.tls.names import is_label


def check_tls(
    *,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_ca: Path | None,
    tls_client_auth: bool,
    peer_tls_cert: Path | None,
    peer_tls_key: Path | None,
    peer_tls_ca: Path | None,
    cluster_name: str,
) -> None:
    """Raise ValueError, by the names of the settings, where they make no sense together. Reads no file."""
    if (tls_cert is None) != (tls_key is None):
        given, missing = ("tls_cert", "tls_key") if tls_key is None else ("tls_key", "tls_cert")
        raise ValueError(f"{given} is given without {missing}: a certificate and its key go together")
    if tls_client_auth and tls_ca is None:
        raise ValueError(
            "tls_client_auth needs tls_ca: the authorities that clients' certificates are verified against"
        )
    if tls_client_auth and tls_cert is None:
        raise ValueError("tls_client_auth needs tls_cert and tls_key: without them clients do not speak TLS")
    if tls_ca is not None and tls_cert is None:
        raise ValueError("tls_ca is of use only with tls_cert and tls_key: without them clients do not speak TLS")
    trio = {"peer_tls_cert": peer_tls_cert, "peer_tls_key": peer_tls_key, "peer_tls_ca": peer_tls_ca}
    absent = [name for name, path in trio.items() if path is None]
    if 0 < len(absent) < len(trio):
        raise ValueError(
            f"{' and '.join(absent)} must be given too: peers prove who they are, both ways, with certificate, key and "
            "authorities"
        )
    if not absent and not is_label(cluster_name):
        raise ValueError(
            f"cluster_name {cluster_name!r} is part of the names in peers' certificates, and can be none: with "
            "peer_tls_cert it must be up to 63 letters, digits and hyphens"
        )
