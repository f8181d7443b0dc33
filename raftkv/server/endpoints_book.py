"""The client addresses of a node's peers, remembered for the day on which the node cannot start.

Then nobody is there to ask, and whoever repairs it needs one that answers. It is a hint and no more: nothing relies on
it, so it is neither synced nor checked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import structlog

from raftkv.errors import ShuttingDown, StorageError
from raftkv.raft import NodeId
from raftkv.server.node import Node
from raftkv.storage.json_files import seal, unseal
from raftkv.storage.way_out import exact

log = structlog.get_logger("raftkv.endpoints")

NAME: Final = "endpoints.json"


def known_endpoints(data_dir: Path) -> tuple[str, ...]:
    """Return where the peers of the node in `data_dir` took clients when it ran last; empty where that is not known."""
    try:
        stored = unseal((data_dir / NAME).read_bytes())
        return tuple(str(address) for _, address in sorted(stored["clients"].items()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ()


async def keep_endpoints(node: Node, addresses: Mapping[NodeId, str], data_dir: Path) -> None:
    """Write down `addresses`, of this node and its peers, whenever they may have changed. Ends with the node."""
    written: dict[str, str] = {}
    with contextlib.suppress(ShuttingDown):
        while True:
            changed = node.leadership_changed()
            members = node.raft.configuration.members - {node.raft.node_id}
            known = {str(peer): addresses[peer] for peer in sorted(members) if addresses.get(peer)}
            if known and known != written:
                written = known
                _write(data_dir / NAME, known)
            await changed


@contextlib.contextmanager
def saying_how_to_repair(data_dir: Path) -> Iterator[None]:
    """Within it, a refusal to start from `data_dir` names the very command that repairs it."""
    try:
        yield
    except StorageError as error:
        message = exact(error.message, data_dir, known_endpoints(data_dir))
        if message == error.message:
            raise
        raise type(error)(message) from error


def _write(path: Path, known: Mapping[str, str]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(seal({"clients": known}))
        temporary.replace(path)
    except OSError as error:
        log.warning("the addresses of the peers were not written down", reason=str(error))
