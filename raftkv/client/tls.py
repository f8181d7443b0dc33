"""TLS of a client: whom it trusts, and what it shows."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import grpc

from raftkv.errors import ConfigurationError
from raftkv.tls.system import look, system_authorities

CA_VARIABLE: Final = "RAFTKV_CACERT"
CERT_VARIABLE: Final = "RAFTKV_CERT"
KEY_VARIABLE: Final = "RAFTKV_KEY"
SERVER_NAME_VARIABLE: Final = "RAFTKV_TLS_SERVER_NAME"
VARIABLES: Final = (CA_VARIABLE, CERT_VARIABLE, KEY_VARIABLE, SERVER_NAME_VARIABLE)


@dataclass(frozen=True, slots=True)
class Tls:
    """Speak TLS with the nodes. The files are PEM, and read again for each new connection.

    Example::

        tls = Tls(ca="ca.crt", cert="client.crt", key="client.key")
        async with AsyncClient("raftkvs://10.0.0.1:7001", tls=tls) as client:
            await client.put("color", "red")
    """

    ca: str | Path | None = None
    """The authorities that nodes' certificates are verified against; None: those that this machine trusts."""
    cert: str | Path | None = None
    """What the nodes are shown, where they ask for a certificate; with `key`."""
    key: str | Path | None = None
    server_name: str | None = None
    """The name that nodes' certificates must be in; None: the host of each endpoint."""

    def __post_init__(self) -> None:
        """Raise ConfigurationError for what makes no sense together."""
        if (self.cert is None) != (self.key is None):
            given, missing = ("cert", "key") if self.key is None else ("key", "cert")
            raise ConfigurationError(
                f"TLS: {given} is given without {missing}: a certificate and its key go together (--cert and --key)"
            )

    @classmethod
    def said(
        cls, ca: str | Path | None, cert: str | Path | None, key: str | Path | None, server_name: str | None
    ) -> Self | None:
        """Return what flags or variables come to; None: none of them says anything. Raises ConfigurationError."""
        given = ca or None, cert or None, key or None, server_name or None
        return cls(*given) if any(given) else None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files. Raises ConfigurationError, which names the file, what is wrong, and the way out."""
        self.context()  # gRPC would take anything, and say nothing
        ca = system_authorities() if self.ca is None else _read(self.ca, "authorities (--cacert)")
        if self.cert is None or self.key is None:
            return grpc.ssl_channel_credentials(ca)
        return grpc.ssl_channel_credentials(
            ca, _read(self.key, "key (--key)"), _read(self.cert, "certificate (--cert)")
        )

    def context(self) -> ssl.SSLContext:
        """Return the same for the standard library's TLS. Raises ConfigurationError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.set_alpn_protocols(["h2"])
        if self.ca is not None:
            pem = _read(self.ca, "authorities (--cacert)")
            try:
                context.load_verify_locations(cadata=pem.decode("ascii"))
            except (ssl.SSLError, ValueError) as error:
                raise ConfigurationError(
                    f"TLS: the file of authorities {self.ca} (--cacert) holds no certificate in PEM. The way out: give "
                    "the cluster's ca.crt"
                ) from error
        if self.cert is not None and self.key is not None:
            # Read for their own errors: the one below names neither.
            _read(self.cert, "certificate (--cert)")
            _read(self.key, "key (--key)")
            try:
                # Without a password of its own it would ask at the terminal.
                context.load_cert_chain(self.cert, self.key, password=lambda: b"none")
            except (ssl.SSLError, OSError) as error:
                raise ConfigurationError(
                    f"TLS: {self.cert} and {self.key} are not a certificate and its key, in PEM and without a "
                    "passphrase. The way out: give the two that were made together (--cert and --key)"
                ) from error
        return context

    def look(self) -> tuple[object, ...]:
        """Return what changes when one of the files does. Never raises."""
        return tuple(look(path) for path in (self.ca, self.cert, self.key) if path is not None)

    def variables(self) -> dict[str, str]:
        """Return the environment variables that say the same."""
        values = (self.ca, self.cert, self.key, self.server_name)
        return {name: os.fspath(value) for name, value in zip(VARIABLES, values, strict=True) if value is not None}


def tls_from_environment(environment: Mapping[str, str]) -> Tls | None:
    """Return what RAFTKV_CACERT, RAFTKV_CERT, RAFTKV_KEY and RAFTKV_TLS_SERVER_NAME say; None: nothing."""
    ca, cert, key, server_name = (environment.get(name) for name in VARIABLES)
    return Tls.said(ca, cert, key, server_name)


def _read(path: str | Path, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"TLS: the file with the {what} {path}: {error.strerror}. The way out: name the right file, and let this "
            "user read it"
        ) from error
