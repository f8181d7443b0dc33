"""Why no connection comes about, where TLS is at fault. gRPC says it in OpenSSL's words, or not at all."""

from __future__ import annotations

import socket
import ssl
from typing import Final

from raftkv.client.tls import Tls
from raftkv.errors import ConfigurationError

PROBE_TIMEOUT_S: Final = 1.0
"""How long a step of a probe may take."""

_SILENT: Final = ("Socket closed", "Connection reset", "Broken pipe", "handshake", "GOAWAY")
"""What gRPC says when the other end hung up: it may have had a reason that concerns TLS."""

_TURNS: Final = 4
"""So often both ends of a handshake speak, at most."""

_DATES: Final = {9: "is not yet valid", 10: "has expired"}
"""By OpenSSL's codes: X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED."""

_RENEW: Final = "have a new one put in its place on the node, which needs no restart"


def explained(address: str, said: str, tls: Tls | None) -> str | None:
    """Return what is wrong, and the way out, by what gRPC said; None: nothing of TLS, or it does not tell."""
    if tls is None:
        return None
    if "WRONG_VERSION_NUMBER" in said or "wrong version number" in said:
        return (
            f"{address}: the node speaks plain text there, and this client TLS. The way out: ask without TLS "
            "(raftkv://, no --cacert, --cert or RAFTKV_CACERT), or give the node a certificate (--tls-cert, --tls-key)"
        )
    if "Hostname Verification Check failed" in said:
        name = tls.server_name or address.rpartition(":")[0]
        return (
            f"{address}: the node's certificate is not in the name {name}. The way out: name the node by a name or "
            "address in its certificate, or say which name to expect (--tls-server-name, Tls(server_name=...))"
        )
    if "CERTIFICATE_VERIFY_FAILED" not in said:
        return None
    if "certificate has expired" in said:
        return f"{address}: the node's certificate, or that of its authority, has expired. The way out: {_RENEW}"
    if "certificate is not yet valid" in said:
        return f"{address}: the node's certificate is not yet valid. The way out: set the clocks, here or there"
    if "unsupported certificate purpose" in said or "unsuitable certificate purpose" in said:
        return f"{address}: the node's certificate was not issued for a server (serverAuth). The way out: {_RENEW}"
    known = "that this machine trusts" if tls.ca is None else f"in {tls.ca}"
    return (
        f"{address}: the node's certificate was issued by none of the authorities {known}. The way out: give the "
        "certificate of the cluster's authority (--cacert, RAFTKV_CACERT, Tls(ca=...))"
    )


def worth_a_probe(said: str) -> bool:
    """Whether gRPC's words leave open that TLS is at fault."""
    return any(words in said for words in _SILENT)


def probed(address: str, tls: Tls | None) -> str | None:
    """Connect with the standard library's TLS, and return what that shows to be wrong; None: nothing of TLS.

    Blocks, for PROBE_TIMEOUT_S a step at the longest.
    """
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if tls is None else tls.context()
    except ConfigurationError as error:
        return f"{address}: {error.message}"
    # Whom it is, gRPC has judged. Here it is about what the other end takes.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((host, int(port)), timeout=PROBE_TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            if tls is None:
                return (
                    f"{address}: the node speaks TLS there, and this client plain text. The way out: give the "
                    "certificate of the cluster's authority (--cacert, RAFTKV_CACERT, Tls(ca=...)), or raftkvs:// if "
                    "this machine trusts it"
                )
            # In TLS 1.3 a refusal of this side's certificate comes after the handshake. A node that accepts it goes on
            # with HTTP/2 of its own accord; gRPC refuses without a word.
            return None if secure.recv(1) else _refused(address, tls)
    except ssl.SSLError as error:
        said = str(error.reason or error).lower().replace("_", " ")
        if tls is None or "wrong version number" in said:
            return explained(address, said, tls)
        return _refused(address, tls) if "alert" in said else None
    except OSError:
        return None


def _refused(address: str, tls: Tls) -> str:
    """Return what is wrong where the node ends the connection once it knows whom it talks to."""
    if tls.cert is None:
        return (
            f"{address}: the node demands a client certificate, and this client shows none. The way out: give one that "
            "the cluster's authority has issued (--cert and --key, RAFTKV_CERT and RAFTKV_KEY, Tls(cert=..., key=...))"
        )
    why = _out_of_date(tls) or "was issued by none of the authorities that the node knows"
    return (
        f"{address}: the node refuses this client's certificate {tls.cert}: it {why}. The way out: give one that is "
        "valid and that an authority in the node's --tls-ca has issued (--cert and --key)"
    )


def _out_of_date(tls: Tls) -> str | None:
    """Return what is wrong with the dates of the client's certificate: what it itself says, shown to itself."""
    if tls.cert is None or tls.key is None:
        return None
    taker = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    taker.verify_mode = ssl.CERT_REQUIRED
    taker.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    shower = tls.context()
    shower.check_hostname = False
    shower.verify_mode = ssl.CERT_NONE
    try:
        taker.load_verify_locations(tls.cert)
        taker.load_cert_chain(tls.cert, tls.key)
    except (ssl.SSLError, OSError):
        return None
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (shower.wrap_bio(back, there), taker.wrap_bio(there, back, server_side=True))
    for _ in range(_TURNS):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLCertVerificationError as error:
                return _DATES.get(error.verify_code)
            except ssl.SSLError:
                return None
    return None
