"""The payload of a COMMANDS entry: one `Batch`, as msgpack.

    [version, time_ms, [[session, acknowledged_below, [[tag, *fields], ...]], ...]]

A tag is a command's kind, the fields are those of its NamedTuple, in order (`packing`). The whole batch is one call
into msgpack: this is on the path of every write of every node.

**Strict on purpose.** A decoder refuses unknown versions, unknown tags, and a command with more or fewer fields than it
knows. The usual courtesy towards newer writers - skip what you do not know - would be a split brain here: a node that
skips the fence or the lease of a write applies something else than its peers. A new command gets a new tag, a changed
one too; nobody may write it before every member reads it. A node that meets one stops, with its state untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgpack

from raftkv.errors import RaftKVError
from raftkv.kv import packing
from raftkv.kv.commands import Batch, Command, Group, Put

VERSION: Final = 1

_new_tuple: Final = tuple.__new__


class CorruptCommand(RaftKVError):
    """A payload in the log is no batch that this build can read.

    Either the bytes are damaged in a way that no checksum caught, or a newer raftkv wrote them. The entry is committed,
    so it cannot be skipped: the node must stop. Way out: upgrade it, or let it rejoin with an empty data directory.
    """


def encode_batch(batch: Batch) -> bytes:
    """Return the payload for `batch`. All numbers in it are 0..2**64-1."""
    pack = packing.pack_command
    groups = [
        (
            session,
            acknowledged_below,
            [(packing.PUT, *command) if type(command) is Put else pack(command) for command in commands],
        )
        for session, acknowledged_below, commands in batch.groups
    ]
    payload: bytes = msgpack.packb((VERSION, batch.time_ms, groups))
    return payload


def decode_batch(payload: bytes) -> Batch:
    """Return the batch that `encode_batch` wrote. Raises CorruptCommand, and nothing else, on any other bytes."""
    try:
        return _batch(packing.unpack(payload))
    except ValueError as error:
        raise CorruptCommand(f"payload of {len(payload)} bytes: {error}") from error


def _batch(packed: Any) -> Batch:
    version, time_ms, groups = packing.fields(packed, 3, "batch")
    if packing.number(version, "version") != VERSION:
        raise ValueError(f"batch of version {version}; this build reads version {VERSION}")
    return Batch(
        packing.number(time_ms, "time_ms"), tuple([_group(group) for group in packing.array(groups, "groups")])
    )


def _group(packed: Any) -> Group:
    session, acknowledged_below, commands = packing.fields(packed, 3, "group")
    return Group(
        packing.number(session, "session"),
        packing.number(acknowledged_below, "acknowledged_below"),
        tuple(_commands(commands)),
    )


def _commands(packed: Any) -> Iterator[Command]:
    for command in packing.array(packed, "commands"):
        # Puts are most of what ever comes here, so they are read in place. Everything else, and every put with
        # something wrong about it, takes the long way.
        if type(command) is tuple and len(command) == 4 and command[0] == packing.PUT:
            tag, sequence, key, value = command
            if (
                type(tag) is int
                and type(sequence) is int
                and sequence >= 0
                and type(key) is bytes
                and type(value) is bytes
            ):
                yield _new_tuple(Put, (sequence, key, value))  # as Put(...), at half its cost
                continue
        yield packing.unpack_command(command)
