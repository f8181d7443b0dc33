"""What was acknowledged against what a node holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from raftkv.cli.demo.ledger import Promise
from raftkv.client import AsyncClient, KeyValue, ReadLevel

PAGE: Final = 2000


@dataclass(frozen=True, slots=True)
class Differences:
    """Writes by key that are not as promised."""

    lost: Counter[bytes]
    """Acknowledged, and missing or overwritten by something that came before."""
    repeated: Counter[bytes]
    """Applied more often than they were made."""

    @classmethod
    def none(cls) -> Differences:
        """Return no differences."""
        return cls(Counter(), Counter())

    def __or__(self, other: Differences) -> Differences:
        """Return what differs on either of two nodes."""
        return Differences(self.lost | other.lost, self.repeated | other.repeated)


async def read_all(client: AsyncClient, endpoint: str, first: bytes, last: bytes) -> dict[bytes, KeyValue]:
    """Return what one node itself holds in [first, last)."""
    found: dict[bytes, KeyValue] = {}
    more = True
    while more:
        page = await client.range(first, last, limit=PAGE, level=ReadLevel.LOCAL, endpoint=endpoint)
        found |= {pair.key: pair for pair in page.pairs}
        more = page.more and bool(page.pairs)
        first = page.pairs[-1].key + b"\0" if page.pairs else first
    return found


def differences(promises: Mapping[bytes, Promise], found: Mapping[bytes, KeyValue]) -> Differences:
    """Compare. A write that failed may have taken effect or not, but only once."""
    lost: Counter[bytes] = Counter()
    repeated: Counter[bytes] = Counter()
    for key, promise in promises.items():
        pair = found.get(key)
        version = pair.version if pair is not None else 0
        missing = promise.acked - version
        if missing > 0:
            lost[key] = missing
        elif pair is not None and promise.acked and pair.value not in {promise.value, *promise.doubtful}:
            lost[key] = 1
        if version > promise.acked + len(promise.doubtful):
            repeated[key] = version - promise.acked - len(promise.doubtful)
    return Differences(lost, repeated)
