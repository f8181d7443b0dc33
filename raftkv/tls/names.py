"""The names that stand in certificates."""

from __future__ import annotations

import re
from typing import Final

_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")

_PEER: Final = re.compile(r"node-[0-9]+\.peer\.([^.]+)")


def peer_name(node_id: int, cluster_name: str) -> str:
    """Return the DNS name that the certificate of a node has to carry, for its peers to know it by."""
    return f"node-{node_id}.peer.{cluster_name}".lower()


def cluster_of(name: str) -> str | None:
    """Return the cluster's name in what `peer_name` made; None where that is another name."""
    found = _PEER.fullmatch(name)
    return None if found is None else found[1]


def is_label(text: str) -> bool:
    """Whether `text` can be one part of a DNS name, as a cluster's name has to be where peers speak TLS."""
    return _LABEL.fullmatch(text) is not None
