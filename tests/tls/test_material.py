"""What is wrong with a certificate is found before anybody relies on it, and said in one line with a way out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from raftkv.errors import ConfigurationError
from raftkv.tls.authority import Authority, Issued
from raftkv.tls.material import CertificateFiles, load_material
from raftkv.tls.names import is_label, peer_name
from tests.pki import CLUSTER_NAME, Pki


def with_passphrase(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, None)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


Broken = Callable[[Pki, Path], CertificateFiles]

BROKEN: dict[str, tuple[Broken, str, str]] = {
    "missing": (
        lambda pki, path: CertificateFiles(purpose="clients", cert=path / "none.crt", key=path / "none.key"),
        r"^--tls-cert .*none\.crt: No such file or directory",
        "certs init",
    ),
    "a directory": (
        lambda pki, path: CertificateFiles(purpose="peers", cert=path, key=path),
        r"^--peer-tls-cert .*: Is a directory",
        "name the right file",
    ),
    "key of another": (
        lambda pki, path: pki.for_clients(Issued(pki.nodes[1].cert_pem, pki.nodes[2].key_pem), path),
        r"^--tls-key .*node\.key is not the key of the certificate in .*node\.crt",
        "made together",
    ),
    "no certificate": (
        lambda pki, path: pki.for_clients(Issued(b"junk", pki.nodes[1].key_pem), path),
        r"^--tls-cert .*node\.crt holds no certificate in PEM",
        "BEGIN CERTIFICATE",
    ),
    "damaged certificate": (
        lambda pki, path: pki.for_clients(
            Issued(pki.nodes[1].cert_pem.replace(b"M", b"Q", 3), pki.nodes[1].key_pem), path
        ),
        r"^--tls-cert .*node\.crt is damaged",
        "as its authority issued it",
    ),
    "no key": (
        lambda pki, path: pki.for_clients(Issued(pki.nodes[1].cert_pem, b"junk"), path),
        r"^--tls-key .*node\.key holds no private key in PEM",
        "issued for",
    ),
    "passphrase": (
        lambda pki, path: pki.for_clients(Issued(pki.nodes[1].cert_pem, with_passphrase(pki.nodes[1].key_pem)), path),
        r"^--tls-key .*node\.key has a passphrase",
        "without one",
    ),
    "expired": (
        lambda pki, path: pki.for_clients(pki.expired, path),
        r"^--tls-cert .*node\.crt: the certificate expired at 20\d\d-.* UTC",
        "certs renew",
    ),
    "early": (
        lambda pki, path: pki.for_clients(pki.early, path),
        r"^--tls-cert .*node\.crt: the certificate is valid only from 20\d\d-.* UTC",
        "clock",
    ),
    "for clients only": (
        lambda pki, path: pki.for_clients(pki.client, path),
        "not issued for serverAuth",
        "certs renew",
    ),
    "no authority": (
        lambda pki, path: pki.for_clients(pki.nodes[1], path, ca=pki.file("junk", b"junk")),
        r"^--tls-ca .*junk holds no certificate in PEM",
        "BEGIN CERTIFICATE",
    ),
    "authority ended": (
        lambda pki, path: pki.for_clients(
            pki.nodes[1],
            path,
            ca=pki.file("old", Authority.new("old", pki.now - timedelta(days=4000)).cert_pem),
        ),
        r"^--tls-ca .*old: the authority's certificate expired",
        "init --force",
    ),
    "of another node": (
        lambda pki, path: pki.for_peers(pki.nodes[2], path, node=1),
        r"^--peer-tls-cert .* not in the name node-1\.peer\.raftkv, .*DNS names: node-2\.peer\.raftkv, localhost",
        "this node's own",
    ),
    "a client's": (
        lambda pki, path: pki.for_peers(pki.client, path, node=1),
        "not issued for serverAuth",
        "certs renew",
    ),
    "of another authority": (
        lambda pki, path: pki.for_peers(pki.foreign_node, path, node=1),
        r"no authority in --peer-tls-ca .*ca\.crt has issued it",
        "peer-tls-ca",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_is_one_line_with_the_file_and_a_way_out(what: str, pki: Pki, tmp_path: Path) -> None:
    files, wrong, way_out = BROKEN[what]
    with pytest.raises(ConfigurationError, match=wrong) as refused:
        load_material(files(pki, tmp_path))
    assert "The way out: " in refused.value.message
    assert way_out in refused.value.message.partition("The way out: ")[2]
    assert "\n" not in refused.value.message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_must_not_be_read(pki: Pki, tmp_path: Path) -> None:
    files = pki.for_clients(pki.nodes[1], tmp_path)
    files.key.chmod(0)
    with pytest.raises(ConfigurationError, match=r"--tls-key .*Permission denied.*let the user"):
        load_material(files)


def test_a_good_one_says_what_it_is(pki: Pki, tmp_path: Path) -> None:
    found = load_material(pki.for_peers(pki.nodes[1], tmp_path, node=1))
    assert found.subject == "CN=node-1"
    assert timedelta(days=364) < found.not_after - pki.now < timedelta(days=366)


def test_a_wildcard_is_no_nodes_name(pki: Pki, tmp_path: Path) -> None:
    wild = pki.authority.node(9, CLUSTER_NAME, ["*.peer.raftkv"], pki.now)
    with pytest.raises(ConfigurationError, match=r"not in the name node-1\.peer\.raftkv"):
        load_material(pki.for_peers(wild, tmp_path, node=1))


def test_an_intermediate_authority_comes_with_the_certificate(pki: Pki, tmp_path: Path) -> None:
    root, key, name = Authority.new("root", pki.now), ec.generate_private_key(ec.SECP256R1()), "intermediate"
    root_certificate = x509.load_pem_x509_certificate(root.cert_pem)
    root_key = load_pem_private_key(root.key_pem, None)
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
        .issuer_name(root_certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(pki.now)
        .not_valid_after(pki.now + timedelta(days=900))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    intermediate = Authority(certificate, key)
    issued = intermediate.node(1, CLUSTER_NAME, (), pki.now)
    files = pki.for_peers(issued, tmp_path, node=1, ca=pki.file("root.crt", root.cert_pem))
    with pytest.raises(ConfigurationError, match="no authority in --peer-tls-ca"):
        load_material(files)
    files.cert.write_bytes(issued.cert_pem + intermediate.cert_pem)
    assert load_material(files).subject == "CN=node-1"
    assert load_material(replace(files, own_authority=False)).subject == "CN=node-1"


def test_names() -> None:
    assert peer_name(7, "Prod") == "node-7.peer.prod"
    assert is_label("raftkv-2")
    assert not any(map(is_label, ("", "a.b", "a b", "-a", "a-", "x" * 64, "ä")))
