"""The payload of a COMMANDS entry: one `Batch`, as msgpack.

    [version, time_ms, [[session, acknowledged_below, [[tag, *fields], ...]], ...]]

A tag is a command's kind, the fields are those of its NamedTuple, in order. The whole batch is one call into msgpack:
this is on the path of every write of every node.

**Strict on purpose.** A decoder refuses unknown versions, unknown tags, and a command with more or fewer fields than it
knows. The usual courtesy towards newer writers - skip what you do not know - would be a split brain here: a node that
skips the fence or the lease of a write applies something else than its peers. A new command gets a new tag, a changed
one too; nobody may write it before every member reads it. A node that meets one stops, with its state untouched.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NoReturn

import msgpack

from raftkv.errors import RaftKVError
from raftkv.kv.commands import Batch, Command, Delete, Group, Put, RegisterSession

VERSION: Final = 1

_PUT: Final = 1
_DELETE: Final = 2
_REGISTER_SESSION: Final = 3

_TAGS: Final[dict[type[Command], int]] = {Put: _PUT, Delete: _DELETE, RegisterSession: _REGISTER_SESSION}


class CorruptCommand(RaftKVError):
    """A payload in the log is no batch that this build can read.

    Either the bytes are damaged in a way that no checksum caught, or a newer raftkv wrote them. The entry is committed,
    so it cannot be skipped: the node must stop. Way out: upgrade it, or let it rejoin with an empty data directory.
    """


def encode_batch(batch: Batch) -> bytes:
    """Return the payload for `batch`. All numbers in it are 0..2**64-1."""
    tags = _TAGS
    groups = [
        (session, acknowledged_below, [(tags[type(command)], *command) for command in commands])
        for session, acknowledged_below, commands in batch.groups
    ]
    payload: bytes = msgpack.packb((VERSION, batch.time_ms, groups))
    return payload


def decode_batch(payload: bytes) -> Batch:
    """Return the batch that `encode_batch` wrote. Raises CorruptCommand, and nothing else, on any other bytes."""
    version, time_ms, groups = _fields(_unpack(payload), 3, "batch")
    if _number(version, "version") != VERSION:
        raise CorruptCommand(f"batch of version {version}; this build reads version {VERSION}")
    return Batch(_number(time_ms, "time_ms"), tuple([_group(group) for group in _array(groups, "groups")]))


def _group(packed: Any) -> Group:
    session, acknowledged_below, commands = _fields(packed, 3, "group")
    return Group(
        _number(session, "session"),
        _number(acknowledged_below, "acknowledged_below"),
        tuple(_commands(commands)),
    )


def _commands(packed: Any) -> Iterator[Command]:
    for command in _array(packed, "commands"):
        # Puts are most of what ever comes here, so they are read in place. Everything else, and every put with
        # something wrong about it, takes the long way.
        if type(command) is tuple and len(command) == 4 and command[0] == _PUT:
            _, sequence, key, value = command
            if type(sequence) is int and sequence >= 0 and type(key) is bytes and type(value) is bytes:
                yield Put(sequence, key, value)
                continue
        yield _command(_array(command, "command"))


def _command(packed: tuple[Any, ...]) -> Command:
    tag = packed[0] if packed else None
    if tag == _PUT:
        _, sequence, key, value = _fields(packed, 4, "put")
        return Put(_number(sequence, "sequence"), _bytes(key, "key"), _bytes(value, "value"))
    if tag == _DELETE:
        _, sequence, key, range_end = _fields(packed, 4, "delete")
        return Delete(_number(sequence, "sequence"), _bytes(key, "key"), _bytes(range_end, "range_end"))
    if tag == _REGISTER_SESSION:
        _, sequence = _fields(packed, 2, "register_session")
        return RegisterSession(_number(sequence, "sequence"))
    raise CorruptCommand(f"unknown command tag {tag!r:.40}")


def _unpack(payload: bytes) -> Any:
    try:
        return msgpack.unpackb(payload, use_list=False, object_pairs_hook=_refuse, ext_hook=_refuse)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise CorruptCommand(f"payload of {len(payload)} bytes is not one msgpack value: {error}") from error


def _refuse(*_: object) -> NoReturn:
    raise ValueError("maps and extension types have no place in a batch")


def _fields(packed: Any, count: int, what: str) -> tuple[Any, ...]:
    fields = _array(packed, what)
    if len(fields) != count:
        raise CorruptCommand(f"{what} of {len(fields)} fields instead of {count}")
    return fields


def _array(packed: Any, what: str) -> tuple[Any, ...]:
    if type(packed) is not tuple:
        raise CorruptCommand(f"{what} is a {type(packed).__name__}, not an array")
    return packed


def _number(packed: Any, what: str) -> int:
    if type(packed) is not int or packed < 0:
        raise CorruptCommand(f"{what} is {packed!r:.40}, not an unsigned number")
    return packed


def _bytes(packed: Any, what: str) -> bytes:
    if type(packed) is not bytes:
        raise CorruptCommand(f"{what} is a {type(packed).__name__}, not bytes")
    return packed
