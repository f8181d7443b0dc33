"""What nodes tell each other when a stream between them begins: which versions of the protocol they speak, and more.

Two nodes talk in the newest version that both know, and not at all without one. So a cluster is upgraded node by node,
one release at a time, as long as neighbouring releases have a version in common (ADR 11).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

import raftkv
from raftkv.v1 import peer_pb2 as pb

OLDEST_PROTOCOL_VERSION = 1
"""The oldest version that this release still speaks."""

PROTOCOL_VERSION = 1
"""The newest one."""

_RELEASE_CHARACTERS: Final = 40
"""So much is shown of what a peer calls its release."""


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of the protocol that a node speaks: all from the oldest to the newest."""

    oldest: int
    newest: int

    def newest_common(self, other: Versions) -> int | None:
        """Return the version that two nodes talk in; None: they cannot."""
        newest = min(self.newest, other.newest)
        return newest if newest >= max(self.oldest, other.oldest) else None

    def __contains__(self, version: int) -> bool:
        return self.oldest <= version <= self.newest

    def __str__(self) -> str:
        return f"version {self.newest}" if self.oldest == self.newest else f"versions {self.oldest} to {self.newest}"


def spoken() -> Versions:
    """Return what this release speaks."""
    return Versions(OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION)


@dataclass(frozen=True, slots=True)
class Greeting:
    """What a node says of itself."""

    versions: Versions = field(default_factory=spoken)
    release: str = field(default_factory=lambda: raftkv.__version__)
    """Empty: one of before greetings had it."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Those that should be the same on all members, by name."""

    @classmethod
    def of(cls, hello: pb.Hello) -> Self:
        """Return what the caller says of itself."""
        newest = hello.protocol_version
        oldest = hello.oldest_protocol_version or newest  # an earlier release speaks one version, and says only that
        return cls(Versions(min(oldest, newest), newest), hello.release, dict(hello.agreed_settings))

    def describe(self, node: int) -> str:
        """Say what a node speaks."""
        known = "".join(one if one.isprintable() else "?" for one in self.release[:_RELEASE_CHARACTERS])
        return f"node {node} runs raftkv {known or '(an early one)'}, which speaks {self.versions} of the protocol"


def no_common_version(caller: int, its: Greeting, here: int, own: Greeting) -> str:
    """Say why two nodes do not talk, and the way out."""
    return (
        f"{its.describe(caller)}, and {own.describe(here)}: they have none in common and do not talk. The way out: "
        "upgrade one release at a time, each node of the cluster before the next release"
    )


def newest_of_all(own: Versions, others: Iterable[Versions]) -> int:
    """Return the newest version that a node and all of `others` speak; those that cannot talk to it do not count."""
    return min((version for other in others if (version := own.newest_common(other)) is not None), default=own.newest)
