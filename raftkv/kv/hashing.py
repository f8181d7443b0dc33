"""The state hash: one number that is equal on nodes whose state is equal.

It covers every row of the ordered store. So nothing that is a node's own may live there; whatever does (votes, the log,
peers' addresses) belongs to `storage`.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

from raftkv.invariant import invariant
from raftkv.kv.ranges import row_cost
from raftkv.kv.records import read_meta
from raftkv.kv.store import Reader

_LENGTHS = struct.Struct(">II")


class StateHasher:
    """BLAKE2b-128 over the rows of one snapshot, each with its lengths before it, in order; computed in steps."""

    __slots__ = ("_hash", "_rows", "applied_index", "applied_term", "done")

    def __init__(self, reader: Reader) -> None:
        """Raises CorruptRow."""
        meta = read_meta(reader)
        self.applied_index = meta.applied_index
        """The entry up to which the hashed state is applied: hashes compare at equal indexes only."""
        self.applied_term = meta.applied_term
        self.done = False
        self._hash = blake2b(digest_size=16)
        self._rows = reader.scan(b"\0", None)

    def step(self, max_rows: int) -> bool:
        """Hash on, for at most about `max_rows` (see `ranges.row_cost`; at least 1); return True when done."""
        update = self._hash.update
        work = max_rows
        while work > 0:
            found = next(self._rows, None)
            if found is None:
                self.done = True
                break
            stored_key, row = found
            work -= row_cost(row)
            update(_LENGTHS.pack(len(stored_key), len(row)))
            update(stored_key)
            update(row)
        return self.done

    def digest(self) -> bytes:
        """Return the 16 bytes of the hash. Only once `step` has returned True."""
        invariant(self.done, "the hash of a state that is still being read")
        return self._hash.digest()
