"""Which disk stands behind which node id: so that a node which lost its disk is not taken for the one it was.

A node that comes back under its old id with an empty disk has forgotten its votes and what it acknowledged. If it took
part, a leader could be elected that lacks committed entries. Nothing in Raft's messages shows the difference; so every
data directory draws a random incarnation when it is made, says it in its greeting, and every node writes down durably
which incarnation it met first under an id. Another one is refused for ever: ids are not used twice.

What this cannot see: a node that lost its disk, and peers that never met it before.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from raftkv.errors import StorageError
from raftkv.raft import NodeId
from raftkv.storage.data_dir import PEERS_NAME
from raftkv.storage.files import FileSystem, OsFileSystem, is_full, publish_file, read_file
from raftkv.storage.json_files import in_words, seal, unseal
from raftkv.storage.wal_segments import no_room
from raftkv.storage.way_out import REPAIR


class PeerBook:
    """One node's own incarnation, and those of the nodes it has met. Durable before it is relied upon."""

    def __init__(self, path: Path, files: FileSystem, incarnation: int, met: dict[NodeId, int]) -> None:
        self.incarnation = incarnation
        self._path = path
        self._files = files
        self._met = met

    @classmethod
    def open(
        cls, data_dir: Path, files: FileSystem | None = None, *, draw: Callable[[int], int] = secrets.randbits
    ) -> PeerBook:
        """Read the book of a data directory, or begin one; `draw` returns random bits. Raises StorageError."""
        path = data_dir / PEERS_NAME
        files = files or OsFileSystem()
        try:
            stored = unseal(read_file(files, path))
            met = {NodeId(int(node)): int(incarnation) for node, incarnation in stored["met"].items()}
            return cls(path, files, int(stored["incarnation"]), met)
        except FileNotFoundError:
            book = cls(path, files, draw(63) | 1, {})
            book._write({})
            return book
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(
                f"{path} is damaged ({in_words(error)}): by which name its peers know this disk is lost, and whom it "
                f"has met. The way out: put the file back, or `{REPAIR}`"
            ) from error

    def admits(self, node: NodeId, incarnation: int) -> bool:
        """Return whether `node` is who it was; a node that was never met is written down.

        Raises StorageError; NoRoom, where it has not been met for that reason alone.
        """
        known = self._met.get(node)
        if known is None:
            # In memory only once it is durable: after a failed write the next greeting must not be believed either.
            met = {**self._met, node: incarnation}
            self._write(met)
            self._met = met
            return True
        return known == incarnation

    def _write(self, met: Mapping[NodeId, int]) -> None:
        content = {"incarnation": self.incarnation, "met": {str(node): number for node, number in met.items()}}
        try:
            publish_file(self._files, self._path, seal(content)).close()
        except OSError as error:
            if is_full(error):
                raise no_room(self._path, error) from error
            raise StorageError(f"{self._path} cannot be written: {error}") from error
