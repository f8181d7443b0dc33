"""A node whose disk cannot be believed any more comes back under a new id, with an empty directory (ADR 9).

Under the old one it must not: it has forgotten votes and what it acknowledged. Here is what of that happens on its own
machine; `raftkv.cli.repair` has the part that the cluster plays. Each step can be repeated: a repair that was
interrupted goes on with what `repair.json` says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from raftkv.errors import StorageError
from raftkv.raft import NodeId
from raftkv.raft.quorum import majority
from raftkv.storage.data_dir import FORMAT_VERSION, IDENTITY_NAME, LOCK_NAME, Identity, write_identity, write_json
from raftkv.storage.files import FileSystem, flush_dir, read_file
from raftkv.storage.json_files import in_words, unseal
from raftkv.storage.way_out import INTERRUPTED_NAME

ASIDE_PREFIX: Final = "damaged-"


class MemberRole(StrEnum):
    """What the node is to its cluster, before and after."""

    VOTER = "voter"
    LEARNER = "learner"
    WITNESS = "witness"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replacement:
    """What is to be done, once it was decided; durable before the cluster is asked for anything."""

    cluster_id: int
    old: NodeId
    new: NodeId
    role: MemberRole
    peer_address: str
    replaces: tuple[NodeId, ...]
    """All ids that the node has had, `old` the last of them."""
    aside: Path
    """Where the damaged files go."""

    def write(self, files: FileSystem, path: Path) -> None:
        """Make it durable in the data directory `path`. Raises StorageError."""
        write_json(
            files,
            path / INTERRUPTED_NAME,
            {
                "format_version": FORMAT_VERSION,
                "cluster_id": self.cluster_id,
                "old": self.old,
                "new": self.new,
                "role": self.role,
                "peer_address": self.peer_address,
                "replaces": list(self.replaces),
                "aside": str(self.aside),
            },
        )


def read_replacement(files: FileSystem, path: Path) -> Replacement | None:
    """Return what an interrupted repair of the directory `path` was about. Raises StorageError."""
    try:
        stored = unseal(read_file(files, path / INTERRUPTED_NAME))
        return Replacement(
            cluster_id=int(stored["cluster_id"]),
            old=NodeId(int(stored["old"])),
            new=NodeId(int(stored["new"])),
            role=MemberRole(stored["role"]),
            peer_address=str(stored["peer_address"]),
            replaces=tuple(NodeId(int(node)) for node in stored["replaces"]),
            aside=Path(stored["aside"]),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path / INTERRUPTED_NAME} is damaged ({in_words(error)}): it says how far a repair had come. The way "
            "out: see `raftkv member list` for the id that it gave the node, delete the file, and run `raftkv repair "
            "--id` with that id"
        ) from error


def aside_of(path: Path) -> Path:
    """Return where damaged files of the directory `path` can go: beside it, or into it where it is a mount."""
    beside = path.parent
    movable = not path.is_dir() or (
        not path.is_mount() and os.access(beside, os.W_OK) and beside.stat().st_dev == path.stat().st_dev
    )
    number = 1
    while True:
        one = beside / f"{path.name}.{ASIDE_PREFIX}{number}" if movable else path / f"{ASIDE_PREFIX}{number}"
        if not one.exists():
            return one
        number += 1


def begin_anew(files: FileSystem, path: Path, plan: Replacement, members: dict[NodeId, str], now_s: float) -> None:
    """Set everything in `path` aside and make it the directory of the new node. Its lock is held.

    The cluster has let the new node in and the old one go: whatever of this a crash leaves, nobody starts from it as
    long as `repair.json` is there. Raises StorageError, OSError.
    """
    files.mkdir(plan.aside)
    flush_dir(files, plan.aside.parent)
    for name in _to_be_moved(files, path, plan.aside):
        files.rename(path / name, plan.aside / name)
    flush_dir(files, plan.aside)
    flush_dir(files, path)
    write_identity(
        files,
        path,
        Identity(
            cluster_id=plan.cluster_id,
            node_id=plan.new,
            members=members,
            created_at=now_s,
            founded=False,
            replaces=plan.replaces,
            promote=plan.role is MemberRole.VOTER,
        ),
    )
    files.unlink(path / INTERRUPTED_NAME)
    flush_dir(files, path)


def _to_be_moved(files: FileSystem, path: Path, aside: Path) -> list[str]:
    kept = {LOCK_NAME, INTERRUPTED_NAME}
    names = [
        name
        for name in files.names(path)
        if name not in kept and not name.startswith((ASIDE_PREFIX, INTERRUPTED_NAME)) and path / name != aside
    ]
    # An identity that a first attempt has made already gives way to the same one.
    return [name for name in names if name != IDENTITY_NAME or name not in files.names(aside)]


def objection(
    *,
    old: NodeId,
    leader: NodeId,
    voters: Sequence[NodeId],
    data_voters: Sequence[NodeId],
    active: Sequence[NodeId],
    changing: bool,
) -> str:
    """Return why `old` cannot be replaced now, as its leader sees the cluster; empty: it can.

    `active` are those that have answered the leader within the last election timeout. The others must be a majority
    both with `old` and without: then nothing that was acknowledged at a majority rests on the lost disk, and the
    cluster serves on.
    """
    alive = {*active, leader} - {old}
    rest = set(voters) - {old}
    if changing:
        return "another change of the members is under way: try again when it is over"
    if leader == old:
        return f"node {old} leads the cluster: something runs under its id"
    if old in active:
        return f"node {old} answers its peers: something runs under its id. Stop it first, if this is its directory"
    if not set(data_voters) - {old}:
        return f"node {old} is the only voter that holds data: there is nobody to bring it back from"
    for of, what in ((set(voters), "the voters"), (rest, "the voters without it")):
        if len(alive & of) < majority(len(of)):
            return (
                f"only {len(alive & of)} of {what} ({', '.join(map(str, sorted(of)))}) answer, which is no majority: "
                "bring the others back first"
            )
    return ""
