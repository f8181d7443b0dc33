"""Certificates in a directory, as `raftkv certs` keeps them: NAME.crt and NAME.key, of ca, node-N, and clients."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from raftkv.errors import ConfigurationError
from raftkv.tls.authority import Authority, Issued, host_names
from raftkv.tls.names import cluster_of

CA: Final = "ca"
DEFAULT_CLIENT: Final = "client"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Described:
    """A certificate in a directory."""

    file: Path
    subject: str
    issuer: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime


class CertificateDirectory:
    """A directory of certificates with the authority that issued them. Keys are readable to their owner only."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cert(self, name: str) -> Path:
        """Return where the certificate of this name is."""
        return self.path / f"{name}.crt"

    def key(self, name: str) -> Path:
        """Return where its key is."""
        return self.path / f"{name}.key"

    def node(self, node_id: int) -> str:
        """Return the name of a node's files."""
        return f"node-{node_id}"

    def init(
        self,
        cluster_name: str,
        nodes: Mapping[int, Sequence[str]],
        clients: Sequence[str],
        now: datetime,
        *,
        force: bool = False,
    ) -> list[Path]:
        """Make an authority, and certificates of nodes (id to hosts) and clients. Return the certificates' files.

        Raises ConfigurationError, and leaves everything as it is, where a file is there already, unless `force`.
        """
        names = [CA, *(self.node(node_id) for node_id in nodes), *(_checked(client) for client in clients)]
        there = [path for name in names for path in (self.cert(name), self.key(name)) if path.exists()]
        if there and not force:
            raise ConfigurationError(
                f"{there[0]} exists: a new authority makes all certificates of the old one useless. The way out: "
                "`raftkv certs renew` for new certificates of the same authority, another directory, or --force"
            )
        authority = Authority.new(cluster_name, now)
        self._write(CA, Issued(authority.cert_pem, authority.key_pem))
        return [self.cert(CA), *self._issue(authority, cluster_name, nodes, clients, now)]

    def renew(
        self,
        cluster_name: str,
        nodes: Mapping[int, Sequence[str]],
        clients: Sequence[str],
        now: datetime,
        *,
        only: Sequence[str] = (),
    ) -> list[Path]:
        """Issue certificates anew, with new keys, by the authority that there is. Return their files.

        Those that are there keep their names; `nodes` and `clients` are made, or made with other hosts. `only` names
        those to renew; none: all. Raises ConfigurationError, also where the nodes that are there are of another
        cluster.
        """
        authority = self.authority()
        if nodes:
            self._require_cluster_name(cluster_name)
        made = {self.node(node_id) for node_id in nodes} | {_checked(client) for client in clients}
        there = self._leaves()
        unknown = [name for name in only if name not in there]
        if unknown:
            raise ConfigurationError(
                f"{self.path} has no certificate {unknown[0]} (there are: {', '.join(there) or 'none'}). The way out: "
                "name one of these, or make it with --node ID=HOST or --client NAME"
            )
        wanted = [name for name in (only or ([] if made else there)) if name not in made]
        renewed = []
        for name in wanted:
            try:
                renewed.append((name, authority.renewed(self.cert(name).read_bytes(), now)))
            except ConfigurationError as error:
                raise ConfigurationError(f"{self.cert(name)}: {error.message}") from error
        for name, issued in renewed:
            self._write(name, issued)
        return [*(self.cert(name) for name, _ in renewed), *self._issue(authority, cluster_name, nodes, clients, now)]

    def authority(self) -> Authority:
        """Return the authority. Raises ConfigurationError."""
        try:
            return Authority.load(self.cert(CA).read_bytes(), self.key(CA).read_bytes())
        except OSError as error:
            raise ConfigurationError(
                f"{error.filename}: {error.strerror}. The way out: name the directory that `raftkv certs init` made, "
                "with the authority's key in it"
            ) from error
        except ConfigurationError as error:
            raise ConfigurationError(f"{self.cert(CA)}, {self.key(CA)}: {error.message}") from error

    def _require_cluster_name(self, wanted: str) -> None:
        """Raise ConfigurationError where the nodes' certificates are in another name: peers would refuse a new one."""
        for described in (
            one for name in self._leaves() if name.startswith("node-") for one in describe(self.cert(name))
        ):
            found = {cluster for name in described.names if (cluster := cluster_of(name)) is not None}
            if found and wanted.lower() not in found:
                raise ConfigurationError(
                    f"{described.file} is of cluster {min(found)}, not {wanted}: its nodes would not take the new "
                    f"certificate for a peer's. The way out: --cluster-name {min(found)}"
                )

    def _leaves(self) -> list[str]:
        return sorted(path.stem for path in self.path.glob("*.crt") if path.stem != CA)

    def _issue(
        self,
        authority: Authority,
        cluster_name: str,
        nodes: Mapping[int, Sequence[str]],
        clients: Sequence[str],
        now: datetime,
    ) -> list[Path]:
        for node_id, hosts in nodes.items():
            self._write(self.node(node_id), authority.node(node_id, cluster_name, hosts, now))
        for client in clients:
            self._write(client, authority.client(client, now))
        return [self.cert(name) for name in (*map(self.node, nodes), *clients)]

    def _write(self, name: str, issued: Issued) -> None:
        """Put the two files in place. Nodes that look between the two refuse the pair, and look again."""
        self.path.mkdir(parents=True, exist_ok=True)
        _replace(self.key(name), issued.key_pem, 0o600)
        _replace(self.cert(name), issued.cert_pem, 0o644)


def describe(path: Path) -> list[Described]:
    """Return what a file says, or every *.crt of a directory. Raises ConfigurationError."""
    files = sorted(path.glob("*.crt")) if path.is_dir() else [path]
    if not files:
        raise ConfigurationError(f"{path} holds no certificate (*.crt). The way out: `raftkv certs init {path}`")
    found = []
    for file in files:
        try:
            certificates = x509.load_pem_x509_certificates(file.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"{file}: {error.strerror}") from error
        except ValueError as error:
            raise ConfigurationError(f"{file} holds no certificate in PEM") from error
        found += [
            Described(
                file,
                one.subject.rfc4514_string(),
                one.issuer.rfc4514_string(),
                host_names(one),
                one.not_valid_before_utc,
                one.not_valid_after_utc,
            )
            for one in certificates
        ]
    return found


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None or name == CA or name.startswith("node-"):
        raise ConfigurationError(
            f"{name!r} cannot be a client's name: it is that of a file (letters, digits, '.', '_', '-'), not {CA!r} or "
            "that of a node"
        )
    return name


def _replace(path: Path, data: bytes, mode: int) -> None:
    """Write a file beside its place, and move it there: nobody reads half of one, or a key that all may read.

    Whoever could read the old one, as its owner or in its group, can read the new one: a node that runs as another user
    would go on with the old certificate until its end, and not start again. Raises ConfigurationError.
    """
    new = path.with_name(f".{path.name}.new")
    old = path.stat() if path.exists() else None
    if old is not None:
        mode |= old.st_mode & stat.S_IRGRP
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        if old is not None:
            _give(file.fileno(), path, old)
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _give(descriptor: int, path: Path, old: os.stat_result) -> None:
    mine = os.fstat(descriptor)
    if (mine.st_uid, mine.st_gid) == (old.st_uid, old.st_gid):
        return
    try:
        os.fchown(descriptor, old.st_uid, old.st_gid)
    except PermissionError:
        raise ConfigurationError(
            f"{path} belongs to user {old.st_uid} and group {old.st_gid}, who could not read a new one of this user's. "
            "It was left as it is. The way out: run the command as root"
        ) from None
