"""Settings that should be the same on all members, and are not: nodes tell each other, and each warns of what it sees.

A setting is one of these by its declaration (`About.agree`), which says why. None of them endangers what is promised:
where a difference could, the protocol allows for it (leases: ADR 6). But a cluster whose members differ behaves in one
way today, and in another one after the next change of leaders.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

import structlog

from raftkv.raft import NodeId
from raftkv.server.setting_facts import facts
from raftkv.server.settings import ServerSettings
from raftkv.server.upkeep import CompactionMode
from raftkv.transport.greetings import Greeting

HASH_BYTES: Final = 8

_LONGEST: Final = 100
"""So much is shown of a value that a peer tells."""

log = structlog.get_logger("raftkv.drift")


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that a peer was given differently."""

    setting: str
    here: str
    there: str


def agreed_settings(settings: ServerSettings) -> dict[str, str]:
    """Return the settings that all members should have the same, as they are in force, by name."""
    compaction = settings.auto_compaction
    in_force: dict[str, object] = {
        # Not which file, but whether there is one: each node has its own.
        "tls_cert": settings.tls_cert is not None,
        "auto_compaction_retention": {
            CompactionMode.OFF: "",
            CompactionMode.AGE: f"{compaction.retention // 1000}s",
            CompactionMode.REVISIONS: str(compaction.retention),
        }[compaction.mode],
    }
    names = [fact.name for fact in facts() if fact.about.agree]
    return {name: _text(in_force.get(name, settings.in_force(name))) for name in names}


def settings_hash(agreed: Mapping[str, str]) -> bytes:
    """Return a hash that is the same on all nodes with these settings."""
    lines = "".join(f"{name}={value}\n" for name, value in sorted(agreed.items()))
    return hashlib.blake2b(lines.encode(), digest_size=HASH_BYTES).digest()


class Drift:
    """What one node sees of it."""

    def __init__(self, node_id: NodeId, agreed: Mapping[str, str]) -> None:
        """`agreed`: this node's own settings of the kind (`agreed_settings`)."""
        self.hash = settings_hash(agreed)
        self.differing: dict[NodeId, tuple[Difference, ...]] = {}
        """What is different at each peer; peers that have the same, or have not told, are not in it."""
        self._node_id = node_id
        self._agreed = dict(agreed)

    def heard(self, greetings: Mapping[NodeId, Greeting]) -> None:
        """Compare with what the peers have said; those that are not in it are forgotten. Log what has changed."""
        before = self.differing
        self.differing = {
            peer: found for peer, greeting in sorted(greetings.items()) if (found := self._compare(greeting.settings))
        }
        for peer, found in self.differing.items():
            if before.get(peer) != found:
                self._warn(peer, found)
        for peer in before.keys() - self.differing.keys():
            if peer in greetings:
                log.info("the settings of a peer are the same as here again", peer=peer)

    def _compare(self, there: Mapping[str, str]) -> tuple[Difference, ...]:
        # A setting that only one of the two knows is of another release: there is nothing to compare.
        return tuple(
            Difference(name, here, there[name][:_LONGEST])
            for name, here in sorted(self._agreed.items())
            if name in there and there[name] != here
        )

    def _warn(self, peer: NodeId, found: tuple[Difference, ...]) -> None:
        told = "; ".join(
            f"--{one.setting.replace('_', '-')} is {one.here or 'unset'} on node {self._node_id} and "
            f"{one.there or 'unset'} on node {peer}"
            for one in found
        )
        log.warning(
            f"settings differ that should be the same on all members: {told}. The way out: give all the same, and "
            "restart those that had others, one by one",
            peer=peer,
        )


def _text(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case Enum():
            return str(value.value)
        case float():
            return f"{value:g}"
    return str(value)
