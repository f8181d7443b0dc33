"""What `raftkv repair` does. Why it is safe: docs/adr/0009-repair.md."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NoReturn

from raftkv.cli.doctor import progress_bar
from raftkv.cli.exits import Exit, exit_code, fail, say
from raftkv.cli.output import print_json, print_line
from raftkv.cli.session import run_with_client
from raftkv.client import AsyncClient, Member, MemberKind, Status
from raftkv.errors import (
    ConfigurationError,
    DataDirectoryMismatch,
    DeadlineExceeded,
    FailedPrecondition,
    NoLeader,
    RaftKVError,
)
from raftkv.raft import NodeId
from raftkv.server.doctor import Report, examine, probe, require_data_dir, require_free
from raftkv.server.mending import Remedy, apply, find_remedies
from raftkv.server.replacement import (
    MemberRole,
    Replacement,
    aside_of,
    begin_anew,
    objection,
    read_replacement,
)
from raftkv.storage.data_dir import IDENTITY_NAME, Identity, lock_data_dir, read_boot_id
from raftkv.storage.files import OsFileSystem
from raftkv.storage.overlay import Overlay
from raftkv.storage.way_out import without_command

POLL_S: Final = 0.25
SILENCE_S: Final = 3.0
"""A node that was stopped just now counts as answering for an election timeout."""
MOST_SPENT_IDS: Final = 1000

_ROLES: Final = {
    MemberKind.VOTER: MemberRole.VOTER,
    MemberKind.LEARNER: MemberRole.LEARNER,
    MemberKind.WITNESS: MemberRole.WITNESS,
}


@dataclass(slots=True)
class _Told:
    """What is said in the end, for people as it happens, for programs at once."""

    as_json: bool
    content: dict[str, Any] = field(default_factory=dict)

    def line(self, text: str) -> None:
        if not self.as_json:
            print_line(text)

    def end(self, **content: Any) -> None:
        if self.as_json:
            print_json(self.content | content)


def run(
    path: Path,
    endpoints: str,
    *,
    node_id: int | None,
    yes: bool,
    wait: bool,
    replace: bool,
    as_json: bool,
    timeout: float,
) -> None:
    """Run the command. Ends with an exit code where it does not succeed."""
    told = _Told(as_json, {"data_dir": str(path), "dry_run": not yes})
    try:
        with _held(path, yes=yes, may_be_empty=node_id is not None):
            plan = read_replacement(OsFileSystem() if yes else Overlay(), path) if path.is_dir() else None
            if plan is None:
                report = _examined(path, may_be_empty=node_id is not None)
                if report is not None and not replace and _mended(path, report, told, yes=yes):
                    return
                identity = report.start.identity if report is not None else None
                _check_id(identity, node_id)
            else:
                told.line(f"an interrupted repair goes on: node {plan.old} comes back as node {plan.new}")
                identity = None
            plan = _replaced(path, endpoints, plan, identity, told, node_id=node_id, yes=yes, timeout=timeout)
    except (ConfigurationError, DataDirectoryMismatch) as error:
        fail(error, Exit.USAGE)
    except RaftKVError as error:
        fail(error, exit_code(error, writes=yes), writes=yes)
    if not yes:
        told.line("nothing was done: add --yes")
        told.end(done=False)
        return
    _say_how_to_go_on(plan, endpoints, told)
    if wait:
        run_with_client(endpoints, timeout, lambda client: _back(client, plan, told, timeout))
    told.end(done=True)


@contextmanager
def _held(path: Path, *, yes: bool, may_be_empty: bool) -> Iterator[None]:
    """Keep the node from starting meanwhile; a dry run touches nothing, and only looks whether it runs."""
    if may_be_empty:
        if yes:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    else:
        require_data_dir(path)
    if not yes:
        if path.is_dir():
            require_free(path)
        yield
        return
    lock = lock_data_dir(path)
    try:
        yield
    finally:
        os.close(lock)


def _examined(path: Path, *, may_be_empty: bool) -> Report | None:
    """Return what is in the directory; None where there is nothing."""
    try:
        require_data_dir(path)
    except ConfigurationError:
        if may_be_empty and (not path.exists() or not [one for one in path.iterdir() if one.name != "LOCK"]):
            return None
        raise
    with progress_bar(path) as progress:
        return asyncio.run(examine(path, progress=progress, may_be_held=True))


def _mended(path: Path, report: Report, told: _Told, *, yes: bool) -> bool:
    """Whether nothing more is to be done than what is done here, on the spot."""
    damage = [without_command(one) for one in report.damage]
    for one in damage:
        told.line(f"DAMAGED: {one}")
    told.content["damage"] = damage
    if report.healthy:
        told.line(f"{path} is healthy: there is nothing to repair (--replace begins anew from the peers all the same)")
        identity, last = report.start.identity, report.start.last
        if identity is not None and identity.replaces and (last is None or not last.ran_before):
            told.line(_start_it(identity.replaces[0], identity.node_id))
        told.end(done=True, healthy=True)
        return True
    if report.state_is_corrupt:
        return False
    if not report.start.refusal:
        told.line("the node starts as it is, and replaces what is damaged by itself: start it")
        told.end(done=True, healthy=False)
        return True
    remedies = asyncio.run(find_remedies(report, read_boot_id(), probe))
    if not remedies:
        told.line(
            "it cannot be mended on the spot without the risk of a loss: the node has to come back from its peers"
        )
        return False
    aside = aside_of(path)
    told.content["remedies"] = [{"what": one.what, "why_nothing_is_lost": one.why} for one in remedies]
    told.content["set_aside"] = str(aside)
    for remedy in remedies:
        told.line(f"to do: {remedy.what}. Nothing is lost: {remedy.why}")
    told.line(f"what is replaced is set aside in {aside}")
    if not yes:
        told.line("nothing was done: add --yes")
        told.end(done=False)
        return True
    _mend(path, remedies, aside)
    after = asyncio.run(examine(path, may_be_held=True))
    if after.start.refusal:
        fail(f"repaired, and still the node would not start: {after.start.refusal}", Exit.ERROR)
    told.line("done: start the node")
    told.end(done=True)
    return True


def _mend(path: Path, remedies: list[Remedy], aside: Path) -> None:
    for one in remedies:
        apply(one, OsFileSystem(), path, aside)


def _check_id(identity: Identity | None, node_id: int | None) -> None:
    if identity is None and node_id is None:
        raise ConfigurationError(f"whose directory it is cannot be read ({IDENTITY_NAME}): say it with --id")
    if identity is not None and node_id is not None and not identity.may_run_as(NodeId(node_id)):
        raise ConfigurationError(f"the directory belongs to node {identity.node_id}, not to node {node_id}")


def _replaced(
    path: Path,
    endpoints: str,
    plan: Replacement | None,
    identity: Identity | None,
    told: _Told,
    *,
    node_id: int | None,
    yes: bool,
    timeout: float,
) -> Replacement:
    """Do, or say, what lets the node come back from its peers."""
    files = OsFileSystem()

    async def work(client: AsyncClient) -> Replacement:
        status = await _leader_status(client)
        found = plan
        if found is None:
            old = identity.node_id if identity is not None else NodeId(node_id or 0)
            found = _planned(path, status, old, identity)
            objected = await _objection(client, status, old)
            if objected:
                _refuse(objected)
        elif found.cluster_id != status.cluster_id:
            _refuse(f"the directory is of cluster {found.cluster_id:016x}, and {endpoints} of {status.cluster_id:016x}")
        told.content["replacement"] = {
            "old": found.old,
            "new": found.new,
            "role": found.role,
            "peer_address": found.peer_address,
            "set_aside": str(found.aside),
        }
        told.line(
            f"to do: node {found.old} leaves the cluster, and comes back from its peers as node {found.new}, a "
            f"{found.role} at {found.peer_address}; its old files are set aside in {found.aside}"
        )
        if not yes:
            return found
        found = await _let_in(client, status, found, files, path)
        members = {NodeId(member.id): member.peer_address for member in await client.members()}
        begin_anew(files, path, found, members, time.time())
        return found

    return run_with_client(endpoints, timeout, work, writes=yes)


def _refuse(why: str) -> NoReturn:
    fail(f"the node cannot be brought back from its peers: {why}", Exit.ERROR)


async def _leader_status(client: AsyncClient) -> Status:
    """Return what the leader knows. Raises NoLeader, ConnectionFailed."""
    status = await client.status()
    if status.leader_id == status.member_id:
        return status
    if status.leader_address:
        found = await client.status(status.leader_address)
        if found.leader_id == found.member_id:
            return found
    raise NoLeader("the cluster has no leader now: a majority of the other nodes must be up")


def _planned(path: Path, status: Status, old: NodeId, identity: Identity | None) -> Replacement:
    if identity is not None and identity.cluster_id != status.cluster_id:
        _refuse(
            f"the directory is of cluster {identity.cluster_id:016x}, and the endpoints of {status.cluster_id:016x}"
        )
    member = next((one for one in status.members if one.id == old), None)
    address = member.peer_address if member is not None else (identity.members.get(old) if identity else None)
    if not address:
        _refuse(f"node {old} is no member of the cluster, and where its peers reach it is not known")
    ids = [one.id for one in status.members]
    before = identity.replaces if identity is not None else ()
    return Replacement(
        cluster_id=status.cluster_id,
        old=old,
        new=NodeId(max(*ids, old, *before) + 1),
        role=_ROLES[member.kind] if member is not None else MemberRole.VOTER,
        peer_address=address,
        replaces=(*before, old),
        aside=aside_of(path),
    )


async def _objection(client: AsyncClient, status: Status, old: NodeId) -> str:
    """Return why `old` cannot be replaced. What it was stopped for just now gets a moment to be noticed."""
    until = time.monotonic() + SILENCE_S
    while True:
        objected = objection(
            old=old,
            leader=NodeId(status.member_id),
            voters=_ids(status.members, MemberKind.VOTER, MemberKind.WITNESS),
            data_voters=_ids(status.members, MemberKind.VOTER),
            active=[NodeId(one.id) for one in status.progress if one.recently_active],
            changing=any(one.leaving for one in status.members),
        )
        if not objected or time.monotonic() >= until:
            return objected
        await asyncio.sleep(POLL_S)
        status = await _leader_status(client)


def _ids(members: tuple[Member, ...], *kinds: MemberKind) -> list[NodeId]:
    return [NodeId(one.id) for one in members if one.kind in kinds and not one.leaving]


def _is_in(status: Status, plan: Replacement) -> bool:
    """Whether the new id has taken the place of the old one."""
    members = {one.id: one.peer_address for one in status.members}
    return members.get(plan.new) == plan.peer_address and plan.old not in members


async def _let_in(
    client: AsyncClient, status: Status, plan: Replacement, files: OsFileSystem, path: Path
) -> Replacement:
    """Have the cluster replace the old id by the new one, unless it has. Return the plan, with the id that it took.

    What is to be done is durable before each request: the answer may be lost, and the next attempt then finds the id
    among the members and goes on.
    """
    for _ in range(MOST_SPENT_IDS):
        plan.write(files, path)
        if _is_in(status, plan):
            return plan
        try:
            witness = plan.role is MemberRole.WITNESS
            if any(one.id == plan.old for one in status.members):
                await client.replace_member(plan.old, plan.new, plan.peer_address, witness=witness)
            else:
                await client.add_member(plan.new, plan.peer_address, witness=witness)
        except FailedPrecondition as error:
            if error.spent_id != plan.new:
                raise
            status = await _leader_status(client)
            if not _is_in(status, plan):  # by an earlier attempt, whose answer was lost
                say(f"node id {plan.new} is spent: the next one is tried")
                plan = replace(plan, new=NodeId(plan.new + 1))
        else:
            status = await _leader_status(client)
    raise FailedPrecondition(f"{MOST_SPENT_IDS} ids were tried, and all are spent")


def _start_it(first: NodeId, new: NodeId) -> str:
    return (
        f"start the node with the flags that it always had (--id {first}); it runs as node {new}, and with TLS between "
        "peers needs a certificate in that node's name"
    )


def _say_how_to_go_on(plan: Replacement, endpoints: str, told: _Told) -> None:
    told.line(f"done: {_start_it(plan.replaces[0], plan.new)}")
    if plan.role is MemberRole.VOTER:
        told.line(
            "once it has caught up, it votes again by itself; should it not, run `raftkv member promote "
            f"{plan.new} --endpoints {endpoints}`"
        )


async def _back(client: AsyncClient, plan: Replacement, told: _Told, timeout: float) -> None:
    """Wait until the node is what it was. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(timeout):
            await _votes(client, plan, told)
    except TimeoutError:
        raise DeadlineExceeded(
            f"node {plan.new} is no {plan.role} yet after {timeout:g} s: is it started? `raftkv member list` shows it"
        ) from None


async def _votes(client: AsyncClient, plan: Replacement, told: _Told) -> None:
    wanted = {
        MemberRole.VOTER: MemberKind.VOTER,
        MemberRole.WITNESS: MemberKind.WITNESS,
        MemberRole.LEARNER: MemberKind.LEARNER,
    }[plan.role]
    while True:
        status = await _leader_status(client)
        kind = next((one.kind for one in status.members if one.id == plan.new), None)
        progress = next((one for one in status.progress if one.id == plan.new), None)
        if kind is wanted and progress is not None and progress.recently_active:
            told.line(f"node {plan.new} is back: {plan.role}")
            return
        await asyncio.sleep(POLL_S)
