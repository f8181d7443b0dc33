"""What a node says of its disk, of what it keeps there, and of its peers' settings: parts of `results.Status`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Alarm(IntEnum):
    """What a node wants somebody to look at; the numbers are those of `raftkv.v1.Alarm`."""

    UNSPECIFIED = 0
    NO_SPACE = 1
    """The store has reached its quota; writes that make it grow are refused."""
    DISK_FULL = 2
    """The file system has less room than the reserve: no further entries are taken until there is more."""
    SLOW_DISK = 3
    """Writes to the log take too long: the node does not want to lead."""
    DAMAGED = 4
    """A file was found damaged. It is being replaced, or the message says what to do."""
    CORRUPT = 5
    """The state is not that of a majority: the node serves no reads, and does not lead."""
    DIVERGED = 6
    """States differ, and no majority says which one is right."""


@dataclass(frozen=True, slots=True)
class RaisedAlarm:
    """An alarm that is on."""

    alarm: Alarm
    message: str
    """What it is about, and the way out."""
    since: float
    """Seconds since 1970, by the node's own clock."""


@dataclass(frozen=True, slots=True)
class DiskStatus:
    """The disk of a data directory."""

    free_bytes: int = 0
    reserve_bytes: int = 0
    """With less than this free, no further entries are taken. 0: never."""
    write_s: float = 0.0
    """How long a write to the log takes, flush included: a moving average, in seconds."""
    slowest_write_s: float = 0.0
    """The longest of the last minute."""


@dataclass(frozen=True, slots=True)
class CheckpointStatus:
    """What a node has by way of checkpoints."""

    index: int = 0
    """The entry of the newest one; 0: there is none."""
    size_bytes: int = 0
    kept: int = 0
    """How many there are."""
    making: bool = False
    """One is being made."""
    made_at: float = 0.0
    """Seconds since 1970, when the running process made or received it; 0: before."""


@dataclass(frozen=True, slots=True)
class CheckpointTransfer:
    """A checkpoint on its way between two nodes."""

    peer: int
    """The other node; 0: not known."""
    receiving: bool
    index: int
    done_bytes: int
    size_bytes: int
    phase: str
    """transfer, verify or install."""


@dataclass(frozen=True, slots=True)
class ScrubStatus:
    """The reading of files that nobody else reads, since the process started."""

    scrubbed_bytes: int = 0
    rounds: int = 0
    """Over all cold segments of the log and all checkpoints."""
    damaged_files: int = 0
    finished_at: float = 0.0
    """Seconds since 1970, end of the last round; 0: none yet."""


@dataclass(frozen=True, slots=True)
class Failover:
    """A change of leaders, as one node saw it."""

    term: int
    leader: int
    """Who leads since."""
    duration_s: float
    """From when the node heard the old leader last to when an entry of the new one was committed."""
    ended_at: float
    """Seconds since 1970, by the node's own clock."""
    planned: bool
    """The old leader handed over."""


@dataclass(frozen=True, slots=True)
class StateComparison:
    """A comparison of states between nodes, as their leader knows it."""

    index: int = 0
    """The entry up to which the compared states were applied; 0: nothing was compared yet."""
    hash: bytes = b""
    """That of the majority; empty: there was none."""
    agreed: tuple[int, ...] = ()
    differ: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()
    """Did not answer."""
    finished_at: float = 0.0
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """A certificate that a node shows."""

    purpose: str
    """clients or peers: to whom."""
    file: str
    subject: str
    not_before: float
    """Seconds since 1970."""
    not_after: float
    refused: str = ""
    """Why a newer one on the node's disk is not in use; empty: the newest is."""


@dataclass(frozen=True, slots=True)
class SettingsDrift:
    """A setting that should be the same on all members, and that a peer was given differently."""

    peer: int
    setting: str
    here: str
    there: str


UNTOLD_DISK: Final = DiskStatus()
UNTOLD_CHECKPOINT: Final = CheckpointStatus()
UNTOLD_SCRUB: Final = ScrubStatus()
UNTOLD_COMPARISON: Final = StateComparison()
"""Of a node that does not say."""
