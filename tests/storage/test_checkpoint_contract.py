"""One suite for checkpoints of every kind of state store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import google_crc32c
import pytest

from raftkv.kv.store import Reader
from raftkv.raft.types import Index, Term
from raftkv.storage.checkpoint import (
    CHUNK_BYTES,
    CheckpointManifest,
    CheckpointMeta,
    CheckpointRefused,
    DamagedCheckpoint,
    StateInfo,
    decode_manifest,
)
from raftkv.storage.checkpoint_store import CheckpointStore
from raftkv.storage.files import FileSystem, OsFileSystem
from raftkv.storage.lmdb_store import LmdbEngine
from raftkv.storage.memory import MemoryEngine, MemoryOrderedStore
from raftkv.storage.memory_files import MemoryFileSystem
from raftkv.storage.wal_format import FormatError
from raftkv.storage.worker import Inline
from tests.storage.states import (
    applied_index,
    apply_entry,
    configuration_at,
    inspect,
    large_rows,
    rows_of,
    transfer,
    whole_copy,
)


class Peer:
    """One node's checkpoints and store."""

    def __init__(self, kind: str, path: Path) -> None:
        path.mkdir()
        self.kind = kind
        self.path = path / "checkpoints"
        self.files: FileSystem = OsFileSystem() if kind == "lmdb" else MemoryFileSystem()
        self.engine: Any
        self.store: Any
        if kind == "lmdb":
            self.engine = LmdbEngine(path / "store", map_size=1 << 30)
            self.store = self.engine.open()
        else:
            self.engine, self.store = MemoryEngine(self.files), MemoryOrderedStore()
        self.opened: list[CheckpointStore[Any]] = []

    async def open(self, inspect: Callable[[Reader], StateInfo] = inspect) -> CheckpointStore[Any]:
        """Close the checkpoints and open them again, as a restarted node does."""
        await self.close_checkpoints()
        checkpoints: CheckpointStore[Any] = (
            CheckpointStore.open(self.path, engine=self.engine, inspect=inspect)
            if self.kind == "lmdb"
            else CheckpointStore.open(
                self.path, engine=self.engine, inspect=inspect, files=self.files, make_runner=lambda _: Inline()
            )
        )
        self.opened.append(checkpoints)
        return checkpoints

    async def checkpoint(self, index: int, term: int = 1, rows: dict[bytes, bytes] | None = None) -> CheckpointManifest:
        apply_entry(self.store, index, term, rows)
        return await self.opened[-1].create(self.store, configuration_at)

    def flip(self, name: str, offset: int) -> None:
        file = self.files.open(self.path / name)
        byte = file.pread(1, offset)[0]
        file.pwrite(bytes((byte ^ 1,)), offset)
        file.close()

    def names(self) -> list[str]:
        return self.files.names(self.path)

    async def close_checkpoints(self) -> None:
        for checkpoints in self.opened:
            await checkpoints.close()

    async def close(self) -> None:
        await self.close_checkpoints()
        self.store.close()


@pytest.fixture(params=["lmdb", "memory"])
async def peers(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Peer, Peer]]:
    pair = Peer(request.param, tmp_path / "a"), Peer(request.param, tmp_path / "b")
    yield pair
    for peer in pair:
        await peer.close()


@pytest.fixture
async def peer(peers: tuple[Peer, Peer]) -> Peer:
    await peers[0].open()
    return peers[0]


def files_of(*indexes: int) -> list[str]:
    return [f"{index:020d}.{suffix}" for index in indexes for suffix in ("data", "manifest")]


FILES_OF_7 = files_of(7)


async def test_a_new_directory_has_none(peer: Peer) -> None:
    checkpoints = await peer.open()
    assert checkpoints.newest is None
    assert checkpoints.damaged == ()
    with pytest.raises(CheckpointRefused, match="no checkpoint"):
        checkpoints.send()
    with pytest.raises(CheckpointRefused, match="no checkpoint"):
        await checkpoints.restore(peer.store, Index(7))


async def test_a_checkpoint_says_what_it_holds_and_outlives_a_restart(peer: Peer) -> None:
    manifest = await peer.checkpoint(7, 3, large_rows(1))
    assert manifest.meta == CheckpointMeta(Index(7), Term(3), b"configuration at 7 of term 3")
    with peer.store.read() as reader:
        assert manifest.state_hash == inspect(reader).state_hash
    assert manifest.size > 2 * CHUNK_BYTES
    assert len(manifest.chunk_crcs) == -(-manifest.size // CHUNK_BYTES)
    assert not manifest.received
    assert peer.names() == FILES_OF_7
    checkpoints = await peer.open()
    assert checkpoints.newest == manifest
    assert checkpoints.valid == (manifest,)
    _, content = await whole_copy(checkpoints)
    assert len(content) == manifest.size
    crcs = [google_crc32c.value(content[at : at + CHUNK_BYTES]) for at in range(0, len(content), CHUNK_BYTES)]
    assert crcs == list(manifest.chunk_crcs)


async def test_the_copy_decides_where_it_stands_not_the_store_afterwards(peer: Peer) -> None:
    rows = large_rows(2)
    apply_entry(peer.store, 7, 3, rows)
    asked: list[int] = []

    def late(index: Index, term: Term) -> bytes:
        # By now the store has moved on.
        apply_entry(peer.store, 9, 4, {b"later": b"x"})
        asked.append(index)
        return configuration_at(index, term)

    checkpoints = await peer.open()
    manifest = await checkpoints.create(peer.store, late)
    assert asked == [manifest.index] == [7]
    peer.store = await checkpoints.restore(peer.store, Index(7))
    assert applied_index(peer.store) == 7
    assert b"later" not in rows_of(peer.store)


async def test_the_two_newest_are_kept(peer: Peer) -> None:
    for index in (4, 5, 6, 7):
        await peer.checkpoint(index)
        assert peer.names() == files_of(*range(max(4, index - 1), index + 1))
    for reopened in (False, True):
        checkpoints = await peer.open() if reopened else peer.opened[-1]
        assert [manifest.index for manifest in checkpoints.valid] == [7, 6]
        assert checkpoints.fallback == checkpoints.valid[1]


async def test_one_that_is_not_installed_yet_does_not_cost_the_one_that_everything_rests_on(
    peers: tuple[Peer, Peer],
) -> None:
    source, target, manifest = await begin(peers)
    await peers[1].checkpoint(4)
    await peers[1].checkpoint(5)
    for index in (7, 9):
        manifest = await peers[0].checkpoint(index, 3)
        receiving = await target.begin(manifest)
        await transfer(source.send(), receiving)
        await receiving.finish()
        assert peers[1].names() == files_of(5, index)
        assert target.fallback is not None
        assert target.fallback.index == 5
    # Installed: state and log rest on it, and on those before it as long as the log reaches back to them.
    peers[1].store = await target.restore(peers[1].store, Index(9))
    assert peers[1].names() == files_of(5, 9)
    await target.forget_below(Index(9))
    assert peers[1].names() == files_of(9)
    assert target.fallback is None
    await peers[1].checkpoint(10, 3)
    assert peers[1].names() == files_of(9, 10)


async def test_a_damaged_checkpoint_gives_its_place_to_the_one_before_it(peer: Peer) -> None:
    await peer.checkpoint(6, 3, large_rows(6))
    before = await whole_copy(peer.opened[-1])
    await peer.checkpoint(7, 3)
    checkpoints = peer.opened[-1]
    peer.flip(files_of(7)[0], CHUNK_BYTES + 100)
    with pytest.raises(DamagedCheckpoint):
        await whole_copy(checkpoints)
    assert await whole_copy(checkpoints) == before
    await peer.checkpoint(8, 3)
    assert peer.names() == files_of(6, 8)
    assert checkpoints.fallback == before[0]


async def test_nothing_new_needs_no_new_checkpoint(peer: Peer) -> None:
    first = await peer.checkpoint(7)
    assert await peer.checkpoint(7) == first
    assert peer.names() == FILES_OF_7


async def test_an_empty_store_has_no_checkpoint(peer: Peer) -> None:
    with pytest.raises(CheckpointRefused, match="nothing has been applied"):
        await peer.opened[-1].create(peer.store, configuration_at)
    await peer.open()
    assert peer.names() == []


async def test_one_is_made_at_a_time_and_a_cancelled_one_leaves_nothing(peer: Peer) -> None:
    apply_entry(peer.store, 7, 1, large_rows(3))
    checkpoints = await peer.open()
    first = asyncio.ensure_future(checkpoints.create(peer.store, configuration_at))
    await asyncio.sleep(0)
    with pytest.raises(CheckpointRefused, match="already"):
        await checkpoints.create(peer.store, configuration_at)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await checkpoints.create(peer.store, configuration_at)
    assert peer.names() == FILES_OF_7


async def test_a_state_that_cannot_be_named_publishes_nothing(peer: Peer) -> None:
    def compacted(index: Index, term: Term) -> bytes:
        raise LookupError(f"{index} of term {term}")

    apply_entry(peer.store, 7, 1)
    with pytest.raises(LookupError):
        await peer.opened[-1].create(peer.store, compacted)
    checkpoints = await peer.open()
    assert checkpoints.newest is None
    assert peer.names() == []


@pytest.mark.parametrize("pieces", [CHUNK_BYTES, 300_000, CHUNK_BYTES // 2])
async def test_a_checkpoint_travels_to_a_peer(peers: tuple[Peer, Peer], pieces: int) -> None:
    (leader, follower), rows = peers, large_rows(4)
    source, target = await leader.open(), await follower.open()
    manifest = await leader.checkpoint(7, 3, rows)
    apply_entry(follower.store, 2, 1, {b"old": b"state"})
    receiving = await target.begin(decode_manifest(manifest.encode()))
    assert receiving.offset == 0
    sending = source.send()
    await transfer(sending, receiving, pieces=pieces)
    sending.close()
    assert target.valid == ()
    received = await receiving.finish()
    assert received == replace(manifest, received=True) == target.newest
    assert follower.names() == FILES_OF_7
    assert await receiving.finish() == received

    follower.store = await target.restore(follower.store, Index(7))
    assert rows_of(follower.store) == rows_of(leader.store)
    assert applied_index(follower.store) == 7
    apply_entry(follower.store, 8, 3, {b"next": b"entry"})
    target = await follower.open()
    assert target.newest == received
    # And from there to the next one.
    assert (await whole_copy(target))[1] == (await whole_copy(source))[1]


async def begin(peers: tuple[Peer, Peer]) -> tuple[CheckpointStore[Any], CheckpointStore[Any], CheckpointManifest]:
    source, target = await peers[0].open(), await peers[1].open()
    return source, target, await peers[0].checkpoint(7, 3, large_rows(5))


async def test_a_transfer_goes_on_where_it_ended(peers: tuple[Peer, Peer]) -> None:
    source, target, manifest = await begin(peers)
    sending = source.send()
    receiving = await target.begin(manifest)
    await transfer(sending, receiving, pieces=300_000, stop_at=CHUNK_BYTES + 400_000)
    assert receiving.offset == CHUNK_BYTES + 600_000
    # Another connection, the same node; then a node that was restarted.
    for reopened in (False, True):
        if reopened:
            target = await peers[1].open()
        receiving = await target.begin(manifest)
        assert receiving.offset == CHUNK_BYTES
    await transfer(sending, receiving)
    await receiving.finish()
    assert (await whole_copy(target))[1] == (await whole_copy(source))[1]


async def test_a_resumed_transfer_trusts_no_byte_without_its_checksum(peers: tuple[Peer, Peer]) -> None:
    source, target, manifest = await begin(peers)
    sending = source.send()
    receiving = await target.begin(manifest)
    await transfer(sending, receiving, stop_at=2 * CHUNK_BYTES)
    peers[1].flip("incoming.data", CHUNK_BYTES + 5)
    target = await peers[1].open()
    receiving = await target.begin(manifest)
    assert receiving.offset == CHUNK_BYTES
    await transfer(sending, receiving)
    await receiving.finish()


async def test_pieces_twice_and_out_of_order_are_not_taken(peers: tuple[Peer, Peer]) -> None:
    source, target, manifest = await begin(peers)
    sending, receiving = source.send(), await target.begin(manifest)
    first, second = await sending.read_chunk(0, 500_000), await sending.read_chunk(500_000, 1 << 20)
    third = await sending.read_chunk(CHUNK_BYTES, 1 << 20)
    assert (len(second.data), third.offset) == (CHUNK_BYTES - 500_000, CHUNK_BYTES)
    for chunk, expected in (
        (second, 0),
        (first, 500_000),
        (first, 500_000),
        (third, 500_000),
        (second, CHUNK_BYTES),
        (first, CHUNK_BYTES),
        (third, 2 * CHUNK_BYTES),
    ):
        assert await receiving.write_chunk(chunk.offset, chunk.data, chunk.crc) == expected
    await transfer(sending, receiving)
    await receiving.finish()


async def test_damage_on_the_way_is_refused_and_the_piece_can_be_sent_again(peers: tuple[Peer, Peer]) -> None:
    source, target, manifest = await begin(peers)
    sending, receiving = source.send(), await target.begin(manifest)
    chunk = await sending.read_chunk(0, 1000)
    with pytest.raises(CheckpointRefused, match="damaged on the way"):
        await receiving.write_chunk(0, b"x" * 1000, chunk.crc)
    assert receiving.offset == 0
    await receiving.write_chunk(0, chunk.data, chunk.crc)
    # A checksum of the wrong bytes: found out when the chunk is whole, which begins anew.
    wrong = bytes(CHUNK_BYTES - 1000)
    with pytest.raises(CheckpointRefused, match="not that of the manifest"):
        await receiving.write_chunk(1000, wrong, google_crc32c.value(wrong))
    assert receiving.offset == 0
    await transfer(sending, receiving)
    await receiving.finish()


@pytest.mark.parametrize(("offset", "size"), [(0, CHUNK_BYTES + 1), (5, CHUNK_BYTES), (-1, 5), (1 << 40, 5), (0, 0)])
async def test_pieces_that_lie_elsewhere_are_refused(peers: tuple[Peer, Peer], offset: int, size: int) -> None:
    _, target, manifest = await begin(peers)
    receiving = await target.begin(manifest)
    with pytest.raises(CheckpointRefused, match="beyond its chunk"):
        await receiving.write_chunk(offset, bytes(size), google_crc32c.value(bytes(size)))
    assert receiving.offset == 0


async def test_another_checkpoint_half_way_begins_anew(peers: tuple[Peer, Peer]) -> None:
    source, target, manifest = await begin(peers)
    sending, receiving = source.send(), await target.begin(manifest)
    await transfer(sending, receiving, stop_at=CHUNK_BYTES)
    newer = await peers[0].checkpoint(8, 3, {b"key 000000": b"changed"})
    second = await target.begin(newer)
    assert second.offset == 0
    for call in (receiving.write_chunk(CHUNK_BYTES, b"x", google_crc32c.value(b"x")), receiving.finish()):
        with pytest.raises(CheckpointRefused, match="another one has begun"):
            await call
    await receiving.abort()
    await transfer(source.send(), second)
    assert (await second.finish()).index == 8
    # What is being sent can still be read to its end, though it was deleted.
    assert (await sending.read_chunk(CHUNK_BYTES, 10)).offset == CHUNK_BYTES
    sending.close()


async def test_a_transfer_that_lacks_something_is_not_finished(peers: tuple[Peer, Peer]) -> None:
    source, target, manifest = await begin(peers)
    receiving = await target.begin(manifest)
    sending = source.send()
    await transfer(sending, receiving, stop_at=2 * CHUNK_BYTES)
    with pytest.raises(CheckpointRefused, match=f"{manifest.size} bytes, of which {2 * CHUNK_BYTES} are here"):
        await receiving.finish()
    await transfer(sending, receiving)
    await receiving.finish()


async def test_damage_after_the_write_is_found_before_anything_is_published(peers: tuple[Peer, Peer]) -> None:
    source, target, manifest = await begin(peers)
    receiving = await target.begin(manifest)
    await transfer(source.send(), receiving)
    peers[1].flip("incoming.data", 5000)
    with pytest.raises(CheckpointRefused, match="begins anew"):
        await receiving.finish()
    assert target.newest is None
    receiving = await target.begin(manifest)
    assert receiving.offset == 0
    await transfer(source.send(), receiving)
    await receiving.finish()


@pytest.mark.parametrize(
    "lie",
    [
        lambda manifest: replace(manifest, meta=replace(manifest.meta, index=Index(8))),
        lambda manifest: replace(manifest, meta=replace(manifest.meta, term=Term(4))),
        lambda manifest: replace(manifest, state_hash=bytes(16)),
    ],
)
async def test_a_manifest_of_another_state_is_refused(peers: tuple[Peer, Peer], lie: Any) -> None:
    source, target, manifest = await begin(peers)
    receiving = await target.begin(lie(manifest))
    await transfer(source.send(), receiving)
    with pytest.raises(CheckpointRefused, match=r"the manifest is that of entry .* but the state is that of entry 7"):
        await receiving.finish()
    assert target.newest is None
    assert peers[1].names() == []


async def test_bytes_that_are_no_state_are_refused(peers: tuple[Peer, Peer]) -> None:
    _, target, manifest = await begin(peers)
    junk = b"no state" * 1000
    junk_manifest = replace(manifest, size=len(junk), chunk_crcs=(google_crc32c.value(junk),))
    receiving = await target.begin(junk_manifest)
    await receiving.write_chunk(0, junk, google_crc32c.value(junk))
    with pytest.raises(CheckpointRefused, match="cannot be read"):
        await receiving.finish()
    assert peers[1].names() == []


async def test_an_aborted_transfer_leaves_nothing(peers: tuple[Peer, Peer]) -> None:
    source, target, manifest = await begin(peers)
    receiving = await target.begin(manifest)
    await transfer(source.send(), receiving, stop_at=CHUNK_BYTES)
    await receiving.abort()
    assert peers[1].names() == []
    assert (await target.begin(manifest)).offset == 0


async def test_what_is_here_already_is_not_sent_again(peers: tuple[Peer, Peer]) -> None:
    _, target, manifest = await begin(peers)
    mine = await peers[1].checkpoint(7, 3, {b"other": b"bytes"})
    manifest = replace(manifest, state_hash=mine.state_hash)  # and the same state
    receiving = await target.begin(manifest)
    assert receiving.offset == manifest.size
    assert await receiving.finish() == mine
    await receiving.abort()
    assert target.newest == mine
    with pytest.raises(CheckpointRefused, match="entry 7 has term 3 here and term 4 there"):
        await target.begin(replace(manifest, meta=replace(manifest.meta, term=Term(4))))
    await peers[1].checkpoint(9, 3)
    with pytest.raises(CheckpointRefused, match="of entry 9 is here, newer than that of 7"):
        await target.begin(manifest)


@pytest.mark.parametrize("why", ["", "made here", "it is to be installed", "held since", "the node started from it"])
async def test_one_of_the_same_entry_and_another_state_replaces_what_was_never_installed(
    peers: tuple[Peer, Peer], why: str
) -> None:
    """The leader that sent the other one had gone wrong, say. What state and log rest on stays."""
    source, target, manifest = await begin(peers)
    receiving = await target.begin(manifest)
    await transfer(source.send(), receiving)
    if why == "made here":
        await peers[1].checkpoint(7, 3, {b"another": b"state"})
    else:
        await receiving.finish()
    apply_entry(peers[0].store, 7, 3, {b"another": b"state"})
    source._directory.condemn(manifest, "of a state that has gone wrong")
    other = await peers[0].checkpoint(7, 3)
    if why == "it is to be installed":
        assert target.hold(Index(7), Term(3))
    elif why == "the node started from it":
        target = await peers[1].open()
    if why in ("", "held since"):
        receiving = await target.begin(other)
        await transfer(source.send(), receiving)
        if why == "held since":
            assert target.hold(Index(7), Term(3))
            assert (await receiving.finish()).state_hash == manifest.state_hash
        else:
            assert (await receiving.finish()).same_bytes(other)
            target = await peers[1].open()
            assert peers[1].names() == FILES_OF_7
            assert (await whole_copy(target))[0].same_bytes(other)
        return
    with pytest.raises(CheckpointRefused, match=r"hash .* here and .* there"):
        await target.begin(manifest if why == "made here" else other)


async def test_a_checkpoint_made_during_a_transfer_does_not_disturb_it(peers: tuple[Peer, Peer]) -> None:
    source, target, manifest = await begin(peers)
    receiving, sending = await target.begin(manifest), source.send()
    await transfer(sending, receiving, stop_at=CHUNK_BYTES)
    await peers[1].checkpoint(5, 1)
    await transfer(sending, receiving)
    assert (await receiving.finish()).index == 7
    assert peers[1].names() == files_of(5, 7)


@pytest.mark.parametrize("why", ["it is to be installed", "it is installed", "the node started from it"])
async def test_an_older_checkpoint_replaces_a_newer_one_that_was_never_installed(
    peers: tuple[Peer, Peer], why: str
) -> None:
    """The leader that sent the newer one is gone, and the next one has no more than the older."""
    source, target, manifest = await begin(peers)
    older = source.send()
    newer = await peers[0].checkpoint(9, 3)
    await peers[1].checkpoint(5, 3)
    # Half of it before the newer one is needed: it must not get through by that.
    for after in (False, True):
        receiving = await target.begin(newer)
        await transfer(source.send(), receiving)
        assert (await receiving.finish()).index == 9
        receiving = await target.begin(manifest)
        await transfer(older, receiving)
        if not after:
            assert (await receiving.finish()).index == 7
            assert peers[1].names() == files_of(5, 7)
    if why == "it is to be installed":
        assert target.hold(Index(9), Term(3))
    elif why == "it is installed":
        peers[1].store = await target.restore(peers[1].store, Index(9))
    else:
        target = await peers[1].open()
    if why != "the node started from it":
        assert (await receiving.finish()).index == 9
    with pytest.raises(CheckpointRefused, match="of entry 9 is here, newer than that of 7"):
        await target.begin(manifest)
    assert [manifest.index for manifest in target.valid] == [9, 5]


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_was_received_goes_when_it_is_overtaken(peers: tuple[Peer, Peer], restarted: bool) -> None:
    """It takes as much room as all of the state, and nobody will send the rest."""
    source, target, manifest = await begin(peers)
    receiving = await target.begin(manifest)
    await transfer(source.send(), receiving, stop_at=CHUNK_BYTES)
    if restarted:
        await peers[1].open()
    assert "incoming.data" in peers[1].names()
    await peers[1].checkpoint(6, 3)
    assert "incoming.data" in peers[1].names()
    await peers[1].checkpoint(7, 3)
    assert peers[1].names() == files_of(6, 7)
    if not restarted:
        with pytest.raises(CheckpointRefused, match="has ended"):
            await transfer(source.send(), receiving)


async def test_a_damaged_checkpoint_is_not_sent_and_the_next_one_replaces_it(peer: Peer) -> None:
    manifest = await peer.checkpoint(7, 3, large_rows(6))
    checkpoints = await peer.open()
    sending = checkpoints.send()
    await sending.read_chunk(0, 10)
    peer.flip(FILES_OF_7[0], CHUNK_BYTES + 100)
    with pytest.raises(DamagedCheckpoint, match=rf"entry 7 is damaged: .*\.data: byte offset {CHUNK_BYTES}"):
        await sending.read_chunk(CHUNK_BYTES + 5, 10)
    assert checkpoints.newest is None
    assert "entry 7" in checkpoints.damaged[0]
    # The same entry again: it has to be made anew.
    again = await peer.checkpoint(7, 3)
    assert again.meta == manifest.meta
    assert not checkpoints.damaged
    await whole_copy(await peer.open())


async def test_a_store_is_not_replaced_by_a_damaged_checkpoint(peer: Peer) -> None:
    await peer.checkpoint(7, 3, large_rows(6))
    apply_entry(peer.store, 8, 3, {b"later": b"x"})
    before = rows_of(peer.store)
    peer.flip(FILES_OF_7[0], 2 * CHUNK_BYTES + 100)
    with pytest.raises(DamagedCheckpoint):
        await peer.opened[-1].restore(peer.store, Index(7))
    assert rows_of(peer.store) == before


@pytest.mark.parametrize(("name", "offset"), [(FILES_OF_7[1], 70), (FILES_OF_7[1], 3), (FILES_OF_7[1], 9)])
async def test_a_damaged_manifest_is_reported(peer: Peer, name: str, offset: int) -> None:
    await peer.checkpoint(7)
    peer.flip(name, offset)
    checkpoints = await peer.open()
    assert name in checkpoints.damaged[0]
    await peer.checkpoint(7)
    checkpoints = await peer.open()
    assert not checkpoints.damaged
    assert len(checkpoints.valid) == 1


async def test_a_checkpoint_without_its_data_is_reported(peer: Peer) -> None:
    await peer.checkpoint(7)
    peer.files.unlink(peer.path / FILES_OF_7[0])
    checkpoints = await peer.open()
    assert checkpoints.newest is None
    assert FILES_OF_7[1] in checkpoints.damaged[0]


async def test_closed_checkpoints_do_nothing_more(peer: Peer) -> None:
    manifest = await peer.checkpoint(7)
    checkpoints = peer.opened[-1]
    await checkpoints.close()
    await checkpoints.close()
    for call in (
        checkpoints.create(peer.store, configuration_at),
        checkpoints.begin(manifest),
        checkpoints.restore(peer.store, Index(7)),
    ):
        with pytest.raises(CheckpointRefused, match="closed"):
            await call
    with pytest.raises(CheckpointRefused, match="closed"):
        checkpoints.send()


async def test_manifests_with_any_flipped_bit_are_refused(peer: Peer) -> None:
    content = (await peer.checkpoint(7)).encode()
    for offset in range(len(content)):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << offset % 8
        with pytest.raises(FormatError):
            decode_manifest(bytes(damaged))
    for cut in range(len(content)):
        with pytest.raises(FormatError):
            decode_manifest(content[:cut])


async def test_a_checkpoint_of_an_older_state_is_dropped(peers: tuple[Peer, Peer]) -> None:
    # It was being copied when a newer one arrived.
    source, target, manifest = await begin(peers)
    receiving = await target.begin(manifest)
    await transfer(source.send(), receiving)
    received = await receiving.finish()
    with pytest.raises(CheckpointRefused, match="a checkpoint of entry 7 was received meanwhile"):
        await peers[1].checkpoint(6, 3)
    assert target.valid == (received,)
    assert peers[1].names() == FILES_OF_7


@pytest.mark.parametrize("step", ["make", "finish"])
async def test_a_node_that_stops_does_not_wait_for_a_large_state(tmp_path: Path, step: str) -> None:
    leader, peer = Peer("lmdb", tmp_path / "a"), Peer("lmdb", tmp_path / "b")
    source = await leader.open()
    manifest = await leader.checkpoint(7, 3, large_rows(8, 1.5))
    apply_entry(peer.store, 3, 1, large_rows(9, 0.2))
    loop, reading = asyncio.get_running_loop(), asyncio.Event()

    def endless(reader: Reader) -> StateInfo:
        while True:
            for _ in reader.scan(b"\0", None):
                loop.call_soon_threadsafe(reading.set)

    checkpoints = await peer.open(endless)
    if step == "make":
        waiting = asyncio.ensure_future(checkpoints.create(peer.store, configuration_at))
    else:
        receiving = await checkpoints.begin(manifest)
        await transfer(source.send(), receiving)
        waiting = asyncio.ensure_future(receiving.finish())
    await reading.wait()
    await checkpoints.close()
    with pytest.raises(CheckpointRefused, match="the node stops"):
        await waiting
    # What was received is not lost.
    checkpoints = await peer.open()
    assert (await checkpoints.begin(manifest)).offset == (manifest.size if step == "finish" else 0)
    for each in (leader, peer):
        await each.close()


async def test_a_restore_does_not_wait_for_a_checkpoint_that_is_being_made(tmp_path: Path) -> None:
    peer = Peer("lmdb", tmp_path / "a")
    await peer.open()
    await peer.checkpoint(7, 3, {b"checkpoint": b"7"})
    apply_entry(peer.store, 9, 3, large_rows(8, 0.2))
    loop, reading = asyncio.get_running_loop(), asyncio.Event()

    def endless(reader: Reader) -> StateInfo:
        while True:
            for _ in reader.scan(b"\0", None):
                loop.call_soon_threadsafe(reading.set)

    checkpoints = await peer.open(endless)
    making = asyncio.ensure_future(checkpoints.create(peer.store, configuration_at))
    await reading.wait()
    restoring = asyncio.ensure_future(checkpoints.restore(peer.store, Index(7)))
    with pytest.raises(CheckpointRefused, match="its state is being replaced"):
        await making
    peer.store = await restoring
    assert applied_index(peer.store) == 7
    await peer.close()


async def test_a_copy_that_is_set_aside_stays_what_it_was_and_leaves_nothing(peer: Peer) -> None:
    checkpoints = peer.opened[-1]
    rows = large_rows(1)
    apply_entry(peer.store, 3, 1, rows)
    copy = await checkpoints.copy_aside(peer.store)
    names = peer.names()
    apply_entry(peer.store, 4, 1, {b"later": b""})
    await checkpoints.create(peer.store, configuration_at)  # it may come and go meanwhile
    reader = copy.reader(lambda: False)
    assert (inspect(reader).index, copy.size > 2_000_000) == (3, True)
    assert dict(reader.scan(b"key", b"kez")) == rows
    with pytest.raises(CheckpointRefused):
        list(copy.reader(lambda: True).scan(b"\0", None))
    copy.close()
    assert names == []


async def test_a_copy_that_is_being_set_aside_gives_way_to_a_new_state(peers: tuple[Peer, Peer]) -> None:
    """Else the state would wait for it to be replaced, and the whole node with it."""
    source, peer = peers
    sending_store = await source.open()
    await source.checkpoint(9, rows=large_rows(2))
    checkpoints = await peer.open()
    apply_entry(peer.store, 3, 1, large_rows(3))
    sending = sending_store.send()
    receiving = await checkpoints.begin(sending.manifest)
    await transfer(sending, receiving)
    sending.close()
    await receiving.finish()
    assert checkpoints.hold(Index(9), Term(1))

    @contextmanager
    def endless() -> Iterator[Iterator[bytes]]:
        def blocks() -> Iterator[bytes]:
            while True:
                time.sleep(0.001)
                yield b"block"

        yield blocks()

    if peer.kind == "lmdb":  # the others copy at one go
        peer.store.copy = endless
    copying = asyncio.create_task(checkpoints.copy_aside(peer.store))
    await asyncio.sleep(0)
    peer.store = await checkpoints.restore(peer.store, Index(9))
    assert applied_index(peer.store) == 9
    if peer.kind == "lmdb":
        with pytest.raises(CheckpointRefused, match="given up"):
            await copying
    else:
        (await copying).close()
    assert not [name for name in peer.names() if "aside" in name]
    copy = await checkpoints.copy_aside(peer.store)
    assert inspect(copy.reader(lambda: False)).index == 9
    copy.close()


async def test_what_a_crash_left_of_a_copy_is_removed(peer: Peer) -> None:
    peer.files.create(peer.path / "aside-1.tmp").close()
    await peer.open()
    assert peer.names() == []
