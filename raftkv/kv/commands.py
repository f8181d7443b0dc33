"""Commands and their results, as plain values.

NamedTuples: msgpack writes them as arrays without a conversion, and they cost a tenth of a frozen dataclass on the
path that every write of every node takes.
"""

from __future__ import annotations

from typing import NamedTuple

from raftkv.errors import ErrorCode


class Put(NamedTuple):
    """Set a key. Makes one revision."""

    sequence: int
    key: bytes
    value: bytes


class Delete(NamedTuple):
    """Delete one key (`range_end` empty), [key, range_end), or all from key on (`range_end` one zero byte).

    Makes one revision when it deletes anything, else none.
    """

    sequence: int
    key: bytes
    range_end: bytes


class RegisterSession(NamedTuple):
    """Open a session; its id is the answer."""

    sequence: int


Command = Put | Delete | RegisterSession


class Group(NamedTuple):
    """Commands of one session, in the order in which they are applied.

    `session` 0: no session, so nothing is remembered and a repeated command is applied again.
    """

    session: int
    acknowledged_below: int
    """The client has all answers below this sequence: their results may be forgotten (thesis 6.3)."""
    commands: tuple[Command, ...]


class Batch(NamedTuple):
    """The payload of one COMMANDS entry."""

    time_ms: int
    """Cluster time, stamped by the leader; the state machine clamps it to be monotonic."""
    groups: tuple[Group, ...]


class Written(NamedTuple):
    """A put's result."""

    revision: int


class Deleted(NamedTuple):
    """A delete's result: the store revision after it, and how many keys it removed."""

    revision: int
    deleted: int


class SessionRegistered(NamedTuple):
    """The id of a new session."""

    session: int


class Rejected(NamedTuple):
    """Judged at apply: no effect, on every node alike."""

    code: ErrorCode
    message: str


Result = Written | Deleted | SessionRegistered | Rejected
