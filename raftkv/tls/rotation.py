"""A certificate that follows its files: a new one takes effect without a restart, a bad one never does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import structlog

from raftkv.errors import ConfigurationError
from raftkv.tls.material import RENEW, CertificateFiles, Material, load_material
from raftkv.tls.system import Look, look

RETRY_S: Final = 10.0
"""How often files that were refused are judged again unchanged: what is not yet valid may have become so."""
SETTLED_NS: Final = 100_000_000
"""A file that changed less long ago may change again with the same time stamps: clocks of file systems tick slowly."""
WARN_BEFORE_S: Final = 14 * 86_400
"""A certificate that ends sooner is complained about in the log, once a day."""

log = structlog.get_logger("raftkv.tls")

Signature = tuple[Look | None, ...]


@dataclass(frozen=True, slots=True)
class CertificateState:
    """What an operator wants to know of a certificate in use."""

    purpose: str
    file: str
    subject: str
    not_before: float
    """Seconds since 1970."""
    not_after: float
    refused: str
    """Why a newer one on disk is not in use; empty: the newest is."""


class RotatingCertificate:
    """The certificate in use for one purpose. May be asked from any thread.

    Whoever asks has the files looked at first: three calls of stat, unless they have changed.
    """

    def __init__(self, files: CertificateFiles, *, now: Callable[[], float] = time.time) -> None:
        """Read the files. Raises ConfigurationError: with these, a node must not start."""
        self.files = files
        self._now = now
        self._lock = threading.Lock()
        self._signature, self._settled = _look_at(files)
        self._material = load_material(files, self._moment())
        self._refused = ""
        self._judged_at = now()
        self._warned_at = 0.0
        self.version = 1
        """Grows with each certificate that takes effect."""

    def current(self) -> Material:
        """Return the newest certificate that was good when it was read. Never raises."""
        with self._lock:
            self._refresh()
            return self._material

    def state(self) -> CertificateState:
        """Return what to tell operators."""
        with self._lock:
            self._refresh()
            material = self._material
            return CertificateState(
                self.files.purpose,
                str(self.files.cert),
                material.subject,
                material.not_before.timestamp(),
                material.not_after.timestamp(),
                self._refused,
            )

    def changed_since(self, version: int) -> bool:
        """Whether another certificate than that of `version` is in use by now."""
        with self._lock:
            self._refresh()
            return self.version != version

    def warn_of_end(self) -> None:
        """Complain, once a day, about a certificate that ends soon, or has ended."""
        with self._lock:
            self._refresh()
            left_s = self._material.not_after.timestamp() - self._now()
            if left_s > WARN_BEFORE_S or self._now() - self._warned_at < 86_400:
                return
            self._warned_at = self._now()
        log.warning(
            f"a certificate {'has expired: nobody accepts it' if left_s < 0 else 'expires soon'}. The way out: "
            f"put a new one in its place, which needs no restart; {RENEW}",
            purpose=self.files.purpose,
            file=str(self.files.cert),
            not_after=self._material.not_after.isoformat(),
        )

    def server_credentials(self, *, client_auth: bool) -> grpc.ServerCredentials:
        """Return credentials for a listener that shows the newest certificate in each handshake.

        `client_auth`: whoever dials must show one too, that an authority in the files vouches for.
        """
        given = self.version

        def configuration() -> grpc.ServerCertificateConfiguration:
            material = self._material
            return grpc.ssl_server_certificate_configuration(
                [(material.key_pem, material.cert_pem)],
                root_certificates=material.ca_pem if client_auth else None,
            )

        def fetch() -> Any:
            """Called by gRPC before each handshake, on a thread of its own. None (it has no type for it): as before."""
            nonlocal given
            with self._lock:
                self._refresh()
                if self.version == given:
                    return None
                given = self.version
                return configuration()

        return grpc.dynamic_ssl_server_credentials(configuration(), fetch, require_client_authentication=client_auth)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Return credentials of the side that dials, with the certificate that is in use now."""
        material = self.current()
        return grpc.ssl_channel_credentials(
            root_certificates=material.ca_pem, private_key=material.key_pem, certificate_chain=material.cert_pem
        )

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)

    def _refresh(self) -> None:
        """Take over what the files hold if that is new and good. Never raises: connections depend on it."""
        signature, settled = _look_at(self.files)
        again = self._refused and self._now() - self._judged_at >= RETRY_S
        if signature == self._signature and self._settled and not again:
            return
        # Looked at before they are read: what changes meanwhile is seen the next time.
        self._signature, self._settled = signature, settled
        self._judged_at = self._now()
        try:
            found = load_material(self.files, self._moment())
        except ConfigurationError as error:
            # One that was good when it was taken up is no new one that is bad, though it may have ended since.
            self._refuse("" if self._unchanged() else error.message)
        except Exception as error:  # noqa: BLE001 - a parser's surprise must not end a handshake
            self._refuse(f"{self.files.cert}: {type(error).__name__}: {error}")
        else:
            self._refused = ""
            if found.contents != self._material.contents:
                self._material = found
                self.version += 1
                self._warned_at = 0.0
                log.info(
                    "a new certificate is in use",
                    purpose=self.files.purpose,
                    file=str(self.files.cert),
                    subject=found.subject,
                    not_after=found.not_after.isoformat(),
                )

    def _unchanged(self) -> bool:
        try:
            return tuple(path.read_bytes() for path in self.files.all()) == self._material.contents
        except OSError:
            return False

    def _refuse(self, reason: str) -> None:
        if reason not in ("", self._refused):
            log.error("new certificate files are not used; the old certificate stays", reason=reason)
        self._refused = reason


def _look_at(files: CertificateFiles) -> tuple[Signature, bool]:
    """Return what changes when a file does, or is exchanged for another one; and whether that is sure to show."""
    signature = tuple(look(path) for path in files.all())
    newest = max((found[3] for found in signature if found is not None), default=0)
    return signature, newest < time.time_ns() - SETTLED_NS
