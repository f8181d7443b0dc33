"""Receives a checkpoint piece by piece. Synchronous; `checkpoint_store` runs it in a thread."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import google_crc32c

from raftkv.errors import StorageError
from raftkv.storage.checkpoint import CHUNK_BYTES, CheckpointManifest, CheckpointRefused, refuse_when_full
from raftkv.storage.checkpoint_directory import INCOMING, SYNC_BYTES, CheckpointDirectory, go_on
from raftkv.storage.files import File, flush, preallocate, write_all


class Incoming:
    """One transfer. Its bytes count for nothing until `finish` has compared all of them with the manifest.

    What a crash or a broken connection leaves is kept: the next transfer of the same bytes goes on after the last
    chunk whose checksum is right.
    """

    def __init__(self, directory: CheckpointDirectory, manifest: CheckpointManifest) -> None:
        """Begin or resume a transfer. Raises CheckpointRefused: older than what is here, or no room."""
        self.manifest = manifest
        self.offset = 0
        """Where the transfer goes on: everything before it is here."""
        self._directory = directory
        self._crc = 0
        """Checksum of the bytes before `offset` that belong to its chunk."""
        self._file: File | None = None
        self._finished: CheckpointManifest | None = None
        newest = directory.newest
        if newest is not None and newest.index > manifest.index and not directory.gives_way(newest, manifest):
            raise CheckpointRefused(
                f"a checkpoint of entry {newest.index} is here, newer than that of {manifest.index}"
            )
        here = directory.find(manifest.index)
        if here is not None:
            if here.term != manifest.term:
                raise CheckpointRefused(f"entry {here.index} has term {here.term} here and term {manifest.term} there")
            if here.state_hash == manifest.state_hash:
                # The same state, if perhaps in other bytes.
                self._finished, self.offset = here, manifest.size
                return
            if not directory.gives_way(here, manifest):
                raise CheckpointRefused(
                    f"the state after entry {here.index} has the hash {here.state_hash.hex()} here and "
                    f"{manifest.state_hash.hex()} there: compare the nodes (`raftkv endpoint compare`)"
                )
        self._open()

    def _open(self) -> None:
        directory, files = self._directory, self._directory.files
        path = directory.staged(INCOMING)
        staged = directory.incoming_manifest()
        if staged is not None and staged.same_bytes(self.manifest) and path.name in files.names(directory.path):
            self._require_room(1)
            self._file = files.open(path)
            try:
                with refuse_when_full():
                    self.offset = self._take_over()
            except CheckpointRefused:
                self.close()
                raise
            return
        directory.drop_incoming()
        self._require_room(2)
        try:
            with refuse_when_full():
                self._file = files.create(path)
                # Now rather than half way.
                preallocate(self._file, self.manifest.size)
                directory.begin_incoming(self.manifest)
        except CheckpointRefused:
            # What there is of it would only take room away from the log.
            self.abort()
            raise

    def _require_room(self, copies: int) -> None:
        """Refuse what could not be installed: that takes another copy, beside this one and the state of now."""
        size = self.manifest.size
        try:
            self._directory.room.require(copies * size, f"a checkpoint of {size} bytes and its installation")
        except CheckpointRefused:
            # What there is of it would only take room away from the log.
            self._directory.drop_incoming()
            raise

    def write_chunk(self, offset: int, data: bytes, crc: int) -> int:
        """Take a piece, and return where to go on. It lies within one chunk, as `CheckpointReader` cuts them.

        A piece that does not begin at `self.offset` is not taken: it is here already, or something before it is
        missing. Raises CheckpointRefused when the piece, or the chunk that it completes, is not what it should be.
        """
        file = self._require_open()
        if google_crc32c.value(data) != crc:
            raise CheckpointRefused(f"the piece at byte offset {offset} was damaged on the way")
        start, stop = self.manifest.chunk_at(offset)
        if not 0 <= offset < offset + len(data) <= stop:
            raise CheckpointRefused(f"a piece of {len(data)} bytes at byte offset {offset} reaches beyond its chunk")
        if offset != self.offset:
            return self.offset
        with refuse_when_full():
            write_all(file, data, offset)
        self.offset += len(data)
        self._crc = google_crc32c.extend(self._crc, data)
        if self.offset == stop:
            whole, self._crc = self._crc, 0
            if whole != self.manifest.chunk_crcs[start // CHUNK_BYTES]:
                self.offset = start
                raise CheckpointRefused(f"the chunk at byte offset {start} is not that of the manifest")
            if stop % SYNC_BYTES == 0:
                flush(file)
        return self.offset

    def finish(self) -> CheckpointManifest:
        """Verify everything and publish the checkpoint; return it. Repeating it is harmless.

        Raises CheckpointRefused when something is missing or wrong; a transfer that is wrong begins anew. Also when
        there is no room left; the next transfer has nothing left to do then but this.
        """
        if self._finished is not None:
            return self._finished
        file = self._require_open()
        if self.offset != self.manifest.size:
            raise CheckpointRefused(f"the checkpoint has {self.manifest.size} bytes, of which {self.offset} are here")
        flush(file)
        if self._whole_chunks() != self.manifest.size:
            self.abort()
            raise CheckpointRefused("what was written is not what is read: the transfer begins anew")
        try:
            info = self._directory.examine(self._directory.staged(INCOMING), self._directory.closing.is_set)
        except StorageError as error:
            self.abort()
            raise CheckpointRefused(f"the state cannot be read: {error}") from error
        meta = self.manifest.meta
        if (info.index, info.term, info.state_hash) != (meta.index, meta.term, self.manifest.state_hash):
            self.abort()
            raise CheckpointRefused(
                f"the manifest is that of entry {meta.index} of term {meta.term} with state hash "
                f"{self.manifest.state_hash.hex()}, but the state is that of entry {info.index} of term {info.term} "
                f"with state hash {info.state_hash.hex()}"
            )
        self.close()
        self._finished = self._directory.publish(INCOMING, replace(self.manifest, received=True))
        self._directory.drop_incoming()
        return self._finished

    def abort(self) -> None:
        """Forget what was received. Without it, the transfer can be resumed."""
        if self._file is not None:
            self.close()
            self._directory.drop_incoming()

    def close(self) -> None:
        """End the transfer; what was received stays for the next one. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _require_open(self) -> File:
        if self._file is None:
            raise CheckpointRefused("this transfer has ended, or another one has begun since")
        return self._file

    def _take_over(self) -> int:
        """Go on after the whole chunks that an earlier attempt left; return where they end.

        They are written once more. What was read may have come from the page cache alone, where a flush that failed
        left it marked clean: the next flush would succeed, and the disk would hold nothing of it (raft-bugs 39).
        """
        file, end = self._require_open(), 0
        for start, data in self._chunks():
            write_all(file, data, start)
            end = start + len(data)
            if end % SYNC_BYTES == 0:
                flush(file)
        return end

    def _whole_chunks(self) -> int:
        """Return the length of the prefix of whole chunks that are right."""
        return sum(len(data) for _, data in self._chunks())

    def _chunks(self) -> Iterator[tuple[int, bytes]]:
        """Read the whole chunks that are right, up to the first one that is not."""
        file = self._require_open()
        for start in range(0, self.manifest.size, CHUNK_BYTES):
            go_on(self._directory.closing.is_set)
            _, stop = self.manifest.chunk_at(start)
            data = file.pread(stop - start, start)
            if google_crc32c.value(data) != self.manifest.chunk_crcs[start // CHUNK_BYTES]:
                return
            yield start, data
