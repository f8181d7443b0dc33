"""An authority of one's own, and the certificates that it issues. Pure but for chance and the time that is given."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from raftkv.errors import ConfigurationError
from raftkv.tls.names import peer_name

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 365
_CLOCK_SKEW: Final = timedelta(minutes=5)
"""Certificates begin so long ago: the clocks of other machines may be behind."""
_LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as PEM."""

    cert_pem: bytes
    key_pem: bytes


class Authority:
    """Issues certificates."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, name: str, now: datetime) -> Authority:
        """Make an authority for the cluster of this name; `now` is in UTC."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(f"{name} authority")
        certificate = (
            _begun(subject, subject, key.public_key(), now, CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, cert_pem: bytes, key_pem: bytes) -> Authority:
        """Take up an authority that was made before. Raises ConfigurationError: the two are none."""
        try:
            certificate = x509.load_pem_x509_certificate(cert_pem)
            key = load_pem_private_key(key_pem, password=None)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(
                "the authority's certificate or key is no PEM, or the key has a passphrase"
            ) from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise ConfigurationError("the authority's key is not that of its certificate")
        return cls(certificate, key)

    @property
    def cert_pem(self) -> bytes:
        """The authority's own certificate."""
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The authority's key. Whoever has it can make himself any node."""
        return _key_pem(self._key)

    @property
    def not_after(self) -> datetime:
        """When it ends; what it issues ends with it."""
        return self._certificate.not_valid_after_utc

    def node(self, node_id: int, cluster_name: str, hosts: Iterable[str], now: datetime) -> Issued:
        """Issue a certificate for a node, for its clients and its peers: for `hosts`, the machine itself, its peers."""
        names = [peer_name(node_id, cluster_name), *dict.fromkeys((*hosts, *_LOCAL_HOSTS))]
        usages = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
        return self._issue(f"node-{node_id}", names, usages, now)

    def client(self, name: str, now: datetime) -> Issued:
        """Issue a certificate for clients. No peer takes it for a node's."""
        return self._issue(name, (), (ExtendedKeyUsageOID.CLIENT_AUTH,), now)

    def renewed(self, cert_pem: bytes, now: datetime) -> Issued:
        """Issue a certificate for the same names and usages, with a new key. Raises ConfigurationError."""
        try:
            old = x509.load_pem_x509_certificate(cert_pem)
            usages = list(old.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        except (ValueError, x509.ExtensionNotFound) as error:
            raise ConfigurationError("it is no certificate that `raftkv certs` has made") from error
        common = [str(one.value) for one in old.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        return self._issue(common[0] if common else "", host_names(old), usages, now)

    def _issue(
        self, common_name: str, names: Sequence[str], usages: Sequence[x509.ObjectIdentifier], now: datetime
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        days = min(LEAF_DAYS, (self.not_after - now).days)
        if days < 1:
            raise ConfigurationError(
                f"the authority's certificate ends at {self.not_after:%Y-%m-%d}: it issues no more"
            )
        builder = (
            _begun(_name(common_name), self._certificate.subject, key.public_key(), now, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(
                x509.SubjectAlternativeName([_general(one) for one in names]), critical=False
            )
        return Issued(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM), _key_pem(key))


def host_names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the DNS names and IP addresses that a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return (
        *found.get_values_for_type(x509.DNSName),
        *(str(address) for address in found.get_values_for_type(x509.IPAddress)),
    )


def check_host(text: str) -> str:
    """Return `text` if it can stand in a certificate as a host. Raises ValueError."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        labels = text.removeprefix("*.").split(".")
        if len(text) > 253 or not all(label.isascii() and _is_host_label(label) for label in labels):
            raise ValueError(f"{text!r} is neither a host name nor an address") from None
    return text


def _is_host_label(label: str) -> bool:
    return 0 < len(label) <= 63 and label.replace("-", "").replace("_", "").isalnum() and label.strip("-") == label


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
