"""Changing who the members are: joint consensus (paper 6; thesis 4).

A change of voters goes through two entries. The first puts C_old,new into force: from the moment it is *appended*, on
every node, majorities of both sets decide (raft-bugs 22). Once it is committed the leader appends C_new, by itself
(`replication.advance_commit`); once that is committed the change is over, and a leader that is no member steps down.
There is one kind of change for one member and for many, so raft-bugs 18 (two single-server changes that make disjoint
majorities) has no room. Learners come and go in one entry: they decide nothing.

Here is what may be changed, and to what; when a configuration is in force is `configurations`' business.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from raftkv.raft.quorum import Configuration
from raftkv.raft.types import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipChange:
    """What to do to a configuration, all in one step."""

    learners: tuple[tuple[NodeId, str], ...] = ()
    """(id, peer address) of nodes that join as learners."""
    witnesses: tuple[tuple[NodeId, str], ...] = ()
    """(id, peer address) of nodes that join as witnesses: voters at once, since they have no data to catch up with."""
    promote: frozenset[NodeId] = frozenset()
    """Learners that become voters."""
    remove: frozenset[NodeId] = frozenset()
    """Members of whatever kind that leave."""


def plan(configuration: Configuration, change: MembershipChange, lagging: Mapping[NodeId, str]) -> Configuration | str:
    """Return the configuration that begins `change`: joint, if voters change. Or why it cannot be made.

    `lagging` says of learners that must not be promoted yet why.
    """
    problem = _problem(configuration, change, lagging)
    if problem is not None:
        return problem
    joining = {node for node, _ in change.witnesses}
    voters = ((configuration.voters | change.promote) - change.remove) | joining
    learners = (configuration.learners - change.promote - change.remove) | {node for node, _ in change.learners}
    witnesses = configuration.witnesses | joining
    addresses = dict(configuration.addresses) | dict(change.learners) | dict(change.witnesses)
    if not voters - witnesses:
        return "the cluster would have no voter left that holds data: add and promote another one first"
    changed = voters != configuration.voters
    members = voters | learners | (configuration.voters if changed else frozenset())
    return Configuration(
        voters=voters,
        outgoing=configuration.voters if changed else frozenset(),
        learners=learners,
        witnesses=witnesses,
        addresses=_sorted(addresses, members),
        removed=configuration.removed | change.remove,
    )


def left(configuration: Configuration) -> Configuration:
    """Return C_new of a joint configuration: what ends the change."""
    return Configuration(
        voters=configuration.voters,
        learners=configuration.learners,
        witnesses=configuration.witnesses & configuration.voters,
        addresses=_sorted(dict(configuration.addresses), configuration.voters | configuration.learners),
        removed=configuration.removed,
    )


def encode_configuration(configuration: Configuration) -> bytes:
    """Return the data of a CONFIGURATION entry. Equal configurations give equal bytes."""
    return json.dumps(
        {
            "voters": sorted(configuration.voters),
            "outgoing": sorted(configuration.outgoing),
            "learners": sorted(configuration.learners),
            "witnesses": sorted(configuration.witnesses),
            "addresses": [[node, address] for node, address in configuration.addresses],
            "removed": sorted(configuration.removed),
        },
        separators=(",", ":"),
    ).encode()


def decode_configuration(data: bytes) -> Configuration:
    """Return what `encode_configuration` was given. Raises ValueError for anything else."""
    try:
        stored = json.loads(data)
        stored.setdefault("removed", [])  # an earlier version did not remember whom it had removed
        if set(stored) != {"voters", "outgoing", "learners", "witnesses", "addresses", "removed"}:
            raise ValueError(f"unknown fields {sorted(stored)}")
        return Configuration(
            voters=_ids(stored["voters"]),
            outgoing=_ids(stored["outgoing"]),
            learners=_ids(stored["learners"]),
            witnesses=_ids(stored["witnesses"]),
            addresses=tuple([(_id(node), str(address)) for node, address in stored["addresses"]]),
            removed=_ids(stored["removed"]),
        )
    except (TypeError, AssertionError, KeyError, AttributeError) as error:
        raise ValueError(f"{data[:80]!r} is no configuration: {error}") from error


def spent_id(configuration: Configuration, change: MembershipChange) -> NodeId | None:
    """Return the first id that `change` would have join although it is or was a member's."""
    joining = (node for node, _ in (*change.learners, *change.witnesses))
    return next((node for node in joining if node in configuration.members | configuration.removed), None)


def _problem(configuration: Configuration, change: MembershipChange, lagging: Mapping[NodeId, str]) -> str | None:
    joining = [node for node, _ in (*change.learners, *change.witnesses)]
    if not (joining or change.promote or change.remove):
        return "the change is empty"
    if len(set(joining)) < len(joining):
        return "a node is to join twice"
    for node in joining:
        if not 0 < node < 2**64:
            return f"{node} is no node id: ids are 1 to 2**64 - 1"
    if change.promote & change.remove:
        return f"node {min(change.promote & change.remove)} cannot be promoted and removed at once"
    spent = spent_id(configuration, change)
    if spent is not None:
        if spent in configuration.members:
            return f"node {spent} is a member already ({kind_of(configuration, spent)})"
        return f"node {spent} was removed, and an id is used once: give the node another id and an empty directory"
    problem = _shared_address(configuration, change)
    if problem is not None:
        return problem
    for node in sorted(change.promote):
        if node not in configuration.members:
            return f"node {node} is not a member: add it as a learner first"
        if node not in configuration.learners:
            return f"node {node} is a {kind_of(configuration, node)} already"
        if node in lagging:
            return f"node {node} cannot be promoted yet: {lagging[node]}"
    for node in sorted(change.remove):
        if node not in configuration.members:
            return f"node {node} is not a member (members: {_list(configuration.members)})"
    return None


def _shared_address(configuration: Configuration, change: MembershipChange) -> str | None:
    owners = {address: node for node, address in configuration.addresses if node not in change.remove}
    for node, address in (*change.learners, *change.witnesses):
        owner = owners.setdefault(address, node)
        if owner != node:
            return f"{address} is the peer address of node {owner} already"
    return None


def kind_of(configuration: Configuration, node: NodeId) -> str:
    """Return what `node` is: voter, witness, learner; or "stranger"."""
    if node in configuration.witnesses:
        return "witness"
    if node in configuration.deciders:
        return "voter"
    return "learner" if node in configuration.learners else "stranger"


def _sorted(addresses: Mapping[NodeId, str], members: Set[NodeId]) -> tuple[tuple[NodeId, str], ...]:
    return tuple(sorted((node, address) for node, address in addresses.items() if node in members))


def _list(nodes: Iterable[NodeId]) -> str:
    return ", ".join(str(node) for node in sorted(nodes)) or "none"


def _ids(stored: Any) -> frozenset[NodeId]:
    return frozenset([_id(node) for node in stored])


def _id(stored: Any) -> NodeId:
    if type(stored) is not int or not 0 < stored < 2**64:
        raise ValueError(f"{stored!r} is no node id")
    return NodeId(stored)
