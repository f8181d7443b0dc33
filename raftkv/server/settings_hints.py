"""What is allowed and probably not meant: remarks on settings, for `raftkv config check`. A node starts with them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raftkv.errors import StorageError
from raftkv.quorum import MAJORITY, majority
from raftkv.server.setting_facts import Kind, facts, facts_by_name
from raftkv.server.settings import ServerSettings
from raftkv.storage.data_dir import read_identity

ROUNDS_IN_ELECTION: Final = 10
"""An election time-out should be so many times the slowest round trip: else a slow moment begins elections."""

DIAL_TIMEOUT_S: Final = 2.0

_KEYS: Final = ("tls_key", "peer_tls_key")

_ANYWHERE: Final = ("0.0.0.0", "[::]", "[::0]")


def hints(settings: ServerSettings, *, rtt_ms: float | None = None) -> list[str]:
    """Return the remarks. `rtt_ms`: the slowest round trip between two members, if that is known. Looks at the disk."""
    return [
        *_on_members(settings),
        *_on_addresses(settings),
        *_on_timing(settings, rtt_ms),
        *_on_room(settings),
        *_on_files(settings),
        *_on_data_dir(settings),
    ]


def _on_members(settings: ServerSettings) -> Iterator[str]:
    voters = len(settings.member)
    if voters and voters % 2 == 0:
        yield (
            f"{voters} founding members survive the loss of {(voters - 1) // 2}, as {voters - 1} would: an even number "
            "makes majorities larger and nothing safer"
        )
    if voters and (concern := settings.default_write_concern) > 0:
        if concern > voters:
            yield f"--write-concern {concern} of {voters} founding members: no write would reach it"
        elif concern < majority(voters):
            yield (
                f"--write-concern {concern} is less than a majority of {voters}: acknowledged writes are lost when the "
                "leader fails at the wrong moment"
            )
    if voters > 1 and settings.default_write_concern not in (MAJORITY, *range(1, majority(voters) + 1)):
        yield f"--write-concern {settings.write_concern}: with one voter down, writes wait for it until their deadline"


def _on_addresses(settings: ServerSettings) -> Iterator[str]:
    if settings.own_advertise.rpartition(":")[0] in _ANYWHERE:
        yield (
            f"clients are told to use {settings.own_advertise}, which is no address of this node's: give --advertise "
            "HOST:PORT as clients see it"
        )
    loopback = sorted(node for node, address in settings.member.items() if _is_loopback(address))
    if loopback and len(loopback) < len(settings.member):
        yield (
            f"the --member address of node {', '.join(map(str, loopback))} is on loopback: members on other machines "
            "cannot reach it"
        )
    if settings.tls_ca is not None and not settings.tls_client_auth:
        yield (
            "--tls-ca without --tls-client-auth: clients are asked for no certificate, and whoever reaches "
            f"{settings.listen} reads and writes everything"
        )
    if settings.insecure:
        yield "--insecure: whoever reaches an address with plain text reads and writes everything"


def _on_timing(settings: ServerSettings, rtt_ms: float | None) -> Iterator[str]:
    for name, ticks in (("election_ms", settings.election_ticks), ("heartbeat_ms", settings.heartbeat_ticks)):
        given, counted = getattr(settings, name), ticks * settings.tick_ms
        if given != counted:
            yield f"--{name.replace('_', '-')} {given} is {counted} in ticks of {settings.tick_ms} ms"
    if rtt_ms is not None and settings.election_ms < ROUNDS_IN_ELECTION * rtt_ms:
        yield (
            f"--election-ms {settings.election_ms} is less than {ROUNDS_IN_ELECTION} round trips of {rtt_ms:g} ms: a "
            f"slow moment would begin elections; take {ROUNDS_IN_ELECTION * rtt_ms:g} or more"
        )
    if rtt_ms is not None and settings.heartbeat_ms < rtt_ms:
        yield f"--heartbeat-ms {settings.heartbeat_ms} is less than one round trip of {rtt_ms:g} ms: take that or more"


def _on_room(settings: ServerSettings) -> Iterator[str]:
    where = next((path for path in (settings.data_dir, *settings.data_dir.absolute().parents) if path.exists()), None)
    if where is None:
        return
    disk = shutil.disk_usage(where)
    quota, reserve = (facts_by_name()[name] for name in ("quota_bytes", "disk_reserve_bytes"))
    if settings.quota > disk.total - settings.disk_reserve:
        yield (
            f"the quota ({quota.in_words(settings.quota)}) is more than the disk of {settings.data_dir} has beside its "
            f"reserve (of {disk.total / 1e9:.1f} GB): the disk is full before the quota says so"
        )
    if settings.disk_reserve > disk.free:
        yield (
            f"the disk of {settings.data_dir} has {disk.free / 1e9:.1f} GB free, less than the reserve "
            f"({reserve.in_words(settings.disk_reserve)}): the node would take no writes"
        )


def _on_files(settings: ServerSettings) -> Iterator[str]:
    for fact in facts():
        path = getattr(settings, fact.name)
        if fact.kind is Kind.PATH and fact.name != "data_dir" and path is not None and not Path(path).is_file():
            yield f"{fact.flag} {path}: there is no such file"
        elif fact.name in _KEYS and path is not None and Path(path).stat().st_mode & stat.S_IROTH:
            yield f"{fact.flag} {path}: everybody on this machine can read it, and pass for this node"


def _on_data_dir(settings: ServerSettings) -> Iterator[str]:
    try:
        identity = read_identity(settings.data_dir)
    except (StorageError, OSError) as error:
        yield f"{settings.data_dir}: {error}"
        return
    if identity is None:
        if not settings.member and not settings.join:
            yield f"{settings.data_dir} holds no node yet: a first start needs --member or --join"
        return
    if settings.id not in (identity.node_id, *identity.replaces):
        yield f"{settings.data_dir} belongs to node {identity.node_id}, not {settings.id}: the node would not start"
        return
    compared = settings.member and not (identity.replaces or identity.restored)
    if compared and settings.founded_cluster_id != identity.cluster_id:
        yield (
            f"{settings.data_dir} belongs to cluster {identity.cluster_id:016x}, and --member with --cluster-name "
            f"make {settings.founded_cluster_id:016x}: the node would not start"
        )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0]
    return host in ("localhost", "[::1]") or host.startswith("127.")


async def unreachable(settings: ServerSettings) -> list[str]:
    """Try the other members, and who is to be joined. Return a remark on each that takes no connection in time."""
    others = {
        f"node {node}": settings.peer_dial.get(node, address)
        for node, address in settings.member.items()
        if node != settings.id
    } | {f"--join {address}": address for address in settings.join}
    found = await asyncio.gather(*(_dial(address) for address in others.values()))
    return [
        f"{who} does not answer at {address}: {problem}"
        for (who, address), problem in zip(others.items(), found, strict=True)
        if problem
    ]


async def _dial(address: str) -> str:
    """Return why no connection comes about; empty: one does."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except TimeoutError:
        return f"no connection within {DIAL_TIMEOUT_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return ""
