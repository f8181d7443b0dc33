"""A certificate with its key and authorities, read from files and judged before anybody relies on it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from raftkv.errors import ConfigurationError

RENEW: Final = "`raftkv certs renew` does it for certificates that `raftkv certs init` made"
_USAGES: Final = {
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """Where a certificate is, and what it must be good for."""

    purpose: str
    """clients or peers: whom it is shown to."""
    cert: Path
    key: Path
    ca: Path | None = None
    name: str | None = None
    """The DNS name that it has to carry, exactly; None: any."""
    dials: bool = False
    """It is shown by the side that dials too."""
    own_authority: bool = False
    """One of the authorities in `ca` must have issued it: whoever checks it has the same ones."""

    @property
    def flag(self) -> str:
        """What the flags of these files begin with."""
        return "--peer-tls" if self.purpose == "peers" else "--tls"

    def all(self) -> tuple[Path, ...]:
        """Return the files there are."""
        return (self.cert, self.key) if self.ca is None else (self.cert, self.key, self.ca)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What the files held: certificate (with the chain that came with it), key and authorities, as PEM."""

    cert_pem: bytes
    key_pem: bytes
    ca_pem: bytes | None
    subject: str
    not_before: datetime
    not_after: datetime

    @property
    def contents(self) -> tuple[bytes, ...]:
        """Return what the files held, in their order: it tells one from another."""
        own = (self.cert_pem, self.key_pem)
        return own if self.ca_pem is None else (*own, self.ca_pem)


def load_material(files: CertificateFiles, now: datetime | None = None) -> Material:
    """Read the files and judge them. Raises ConfigurationError: one line with the file, what is wrong, the way out."""
    now = datetime.now(UTC) if now is None else now
    cert_flag, key_flag, ca_flag = (f"{files.flag}-{kind}" for kind in ("cert", "key", "ca"))
    cert_pem = _read(files.cert, cert_flag)
    key_pem = _read(files.key, key_flag)
    ca_pem = None if files.ca is None else _read(files.ca, ca_flag)
    chain = _certificates(cert_pem, files.cert, cert_flag)
    leaf = chain[0]
    _require_key(key_pem, leaf, files, key_flag)
    _require_valid_now(leaf, files.cert, cert_flag, now)
    _require_usages(leaf, files, cert_flag)
    _require_name(leaf, files, cert_flag)
    if ca_pem is not None:
        assert files.ca is not None
        authorities = _certificates(ca_pem, files.ca, ca_flag)
        _require_authorities(authorities, files.ca, ca_flag, now)
        if files.own_authority and not _issued_by_one_of(chain, authorities):
            raise ConfigurationError(
                f"{cert_flag} {files.cert}: no authority in {ca_flag} {files.ca} has issued it, so peers that know the "
                f"same authorities would refuse it. The way out: name the authority's own certificate with {ca_flag} "
                f"(with intermediate ones in {cert_flag}), or have one of those authorities issue a new certificate"
            )
    return Material(
        cert_pem=cert_pem,
        key_pem=key_pem,
        ca_pem=ca_pem,
        subject=leaf.subject.rfc4514_string(),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names in a certificate, as they stand there; its common name is none of them."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(names.value.get_values_for_type(x509.DNSName))


def _read(path: Path, flag: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        if isinstance(error, PermissionError):
            way_out = "let the user that runs the node read it"
        else:
            way_out = "name the right file, or make certificates with `raftkv certs init`"
        raise ConfigurationError(f"{flag} {path}: {error.strerror}. The way out: {way_out}") from error


def _certificates(pem: bytes, path: Path, flag: str) -> list[x509.Certificate]:
    try:
        found = x509.load_pem_x509_certificates(pem)
        for certificate in found:
            # Read here, or what is wrong with them is found out later.
            _ = certificate.extensions
    except (ValueError, x509.DuplicateExtension) as error:
        what = "holds no certificate in PEM" if b"-----BEGIN CERTIFICATE-----" not in pem else "is damaged"
        raise ConfigurationError(
            f"{flag} {path} {what}. The way out: give a file that begins with -----BEGIN CERTIFICATE-----, as its "
            "authority issued it"
        ) from error
    return found


def _require_key(key_pem: bytes, leaf: x509.Certificate, files: CertificateFiles, flag: str) -> None:
    try:
        key = load_pem_private_key(key_pem, password=None)
    except TypeError as error:
        raise ConfigurationError(
            f"{flag} {files.key} has a passphrase. The way out: give it without one, readable to the node's user only "
            "(`openssl pkey -in OLD -out NEW`)"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(
            f"{flag} {files.key} holds no private key in PEM. The way out: give the key that the certificate in "
            f"{files.cert} was issued for"
        ) from error
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        raise ConfigurationError(
            f"{flag} {files.key} is not the key of the certificate in {files.cert}. The way out: give the two that "
            "were made together"
        )


def _require_valid_now(leaf: x509.Certificate, path: Path, flag: str, now: datetime) -> None:
    if now > leaf.not_valid_after_utc:
        raise ConfigurationError(
            f"{flag} {path}: the certificate expired at {_at(leaf.not_valid_after_utc)} (it is {_at(now)} here). The "
            f"way out: have a new one issued; {RENEW}"
        )
    if now < leaf.not_valid_before_utc:
        raise ConfigurationError(
            f"{flag} {path}: the certificate is valid only from {_at(leaf.not_valid_before_utc)} (it is {_at(now)} "
            "here). The way out: set this machine's clock, or wait"
        )


def _require_authorities(authorities: list[x509.Certificate], path: Path, flag: str, now: datetime) -> None:
    if all(now > one.not_valid_after_utc for one in authorities):
        newest = max(one.not_valid_after_utc for one in authorities)
        raise ConfigurationError(
            f"{flag} {path}: the authority's certificate expired at {_at(newest)} (it is {_at(now)} here). The way "
            "out: give that of one that still issues certificates; `raftkv certs init --force` makes a new one"
        )


def _require_usages(leaf: x509.Certificate, files: CertificateFiles, flag: str) -> None:
    try:
        usages = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return
    wanted = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if files.dials else [])]
    missing = [_USAGES[usage] for usage in wanted if usage not in usages]
    if missing and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usages:
        also = ": a node is server and client to its peers" if files.dials else ""
        raise ConfigurationError(
            f"{flag} {files.cert}: the certificate was not issued for {' and '.join(missing)} (extended key usage). "
            f"The way out: have one issued that is{also}; {RENEW}"
        )


def _require_name(leaf: x509.Certificate, files: CertificateFiles, flag: str) -> None:
    names = dns_names(leaf)
    if files.name is not None and files.name not in {name.lower() for name in names}:
        known = ", ".join(names) or "none"
        raise ConfigurationError(
            f"{flag} {files.cert}: the certificate is not in the name {files.name}, by which peers know this node (its "
            f"DNS names: {known}). The way out: give this node's own certificate, and the --cluster-name that it was "
            "issued for; `raftkv certs renew DIR --node ID=HOST` makes one for a further node"
        )


def _issued_by_one_of(chain: list[x509.Certificate], authorities: list[x509.Certificate]) -> bool:
    """Whether a chain of signatures leads from the first certificate to an authority."""
    current, rest = chain[0], chain[1:]
    for _ in range(len(chain)):
        if any(current == authority or _issued(current, authority) for authority in authorities):
            return True
        issuer = next((one for one in rest if _issued(current, one)), None)
        if issuer is None:
            return False
        current = issuer
        rest = [one for one in rest if one is not issuer]
    return False


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _at(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
