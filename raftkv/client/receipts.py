"""What every answer says of itself: how a write was acknowledged, what a read really was, and the place of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from raftkv.errors import InvalidArgument
from raftkv.quorum import Guarantee, in_words

_MAX_U64: Final = 2**64 - 1
_SHOWN: Final = 100
_FORM: Final = "CLUSTER-TERM-INDEX, as in 00000000000004d2-7-4211, with ? at its end for a write that is not committed"


@dataclass(frozen=True, slots=True)
class ReadToken:
    """A place in a cluster's log. A read that carries it (`AtLeast(token)`) shows no earlier state.

    `str(token)` and `ReadToken.parse` carry it from one process to another. Raises InvalidArgument for numbers that do
    not fit 64 bits, and for an index of 0.

    Example::

        written = await client.put("color", "red")
        token = ReadToken.parse(str(written.receipt.token))
        await client.get("color", level=AtLeast(token))
    """

    cluster_id: int
    term: int
    index: int
    committed: bool = True
    """False: the place of a write that fewer than a majority had when it was acknowledged. It may turn out lost."""

    def __post_init__(self) -> None:
        for name, number, least in (
            ("cluster_id", self.cluster_id, 0),
            ("term", self.term, 0),
            ("index", self.index, 1),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= _MAX_U64:
                raise InvalidArgument(f"{name} of a token is {number!r}, not a number from {least} to 2**64 - 1")

    def __str__(self) -> str:
        return f"{self.cluster_id:016x}-{self.term}-{self.index}{'' if self.committed else '?'}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the token that `str` wrote. Raises InvalidArgument."""
        cluster, *numbers = text.strip().removesuffix("?").split("-")
        if len(numbers) != 2 or not all(_is_number(one) for one in numbers) or not _is_hex(cluster):
            raise InvalidArgument(f"token {shortened(text)!r} is not of the form {_FORM}")
        return cls(int(cluster, 16), int(numbers[0]), int(numbers[1]), committed=not text.strip().endswith("?"))


@dataclass(frozen=True, slots=True)
class WriteReceipt:
    """How a write was acknowledged."""

    cluster_id: int
    term: int
    index: int
    """Where the write stands in the log. Once `committed`, for ever. 0: the node did not say."""
    committed: bool
    durable_on: int
    """How many voters were known to have it on disk when the answer was made, the leader among them. 0: not known."""
    wanted: int
    """How many voters the write concern asked for."""
    configuration_index: int = 0
    """Log index of the configuration whose voters were counted."""

    @property
    def reached(self) -> bool | None:
        """Whether as many voters had it as the write concern asked for. If not, it is committed all the same.

        None: not known, as where leadership was lost before they were counted. What is committed, a majority has.
        """
        if self.committed and self.wanted <= 1:
            return True
        return self.durable_on >= self.wanted if self.durable_on else None

    @property
    def words(self) -> str:
        """What it is, for people."""
        known = f"on the disks of {self.durable_on}" if self.durable_on else "how many have it on disk is not known"
        if not self.index:
            return "committed"
        if not self.committed:
            return f"not known to be committed, {known}: a change of leaders may lose it"
        missed = f", {self.wanted} were asked for and not reached in time" if self.reached is False else ""
        return f"committed, {known}{missed}"

    @property
    def token(self) -> ReadToken | None:
        """What a read must carry to see this write (`AtLeast`); None where the node did not say."""
        return ReadToken(self.cluster_id, self.term, self.index, self.committed) if self.index else None


@dataclass(frozen=True, slots=True)
class ReadReceipt:
    """What a read really was, never more than is true."""

    guarantee: Guarantee
    cluster_id: int = 0
    served_by: int = 0
    """Id of the node whose state the answer shows."""
    applied_term: int = 0
    applied_index: int = 0
    """The entry that it had applied last; 0: the node did not say."""
    replicas: int = 0
    """How many voters took part: R of a quorum read; the majority that confirmed a linearizable one; 1: one alone."""
    sees_writes_at: int = 0
    """SEES_WRITES_AT_W_GE: every write that so many voters had when it was acknowledged is seen."""
    staleness: float = 0.0
    """BOUNDED: every write acknowledged longer ago than this is seen. Seconds, measured, rounded up."""
    configuration_index: int = 0
    """Log index of the configuration whose voters were counted."""

    @property
    def words(self) -> str:
        """What it was, for people."""
        return in_words(self.guarantee, sees_writes_at=self.sees_writes_at, staleness_ms=round(self.staleness * 1000))

    @property
    def applied(self) -> tuple[int, int]:
        """Term and index of the entry that the node had applied last."""
        return self.applied_term, self.applied_index

    @property
    def token(self) -> ReadToken | None:
        """What a read must carry to see no earlier state than this (`AtLeast`); None where the node did not say."""
        return ReadToken(self.cluster_id, self.applied_term, self.applied_index) if self.applied_index else None


UNTOLD_WRITE: Final = WriteReceipt(0, 0, 0, committed=True, durable_on=0, wanted=0)
"""Of an answer without a receipt: a node that has none acknowledges what is committed, and nothing else."""
UNTOLD_READ: Final = ReadReceipt(Guarantee.UNSPECIFIED)
"""Of an answer without a receipt: nothing is known of it."""


def shortened(text: str) -> str:
    """Return what to show of a text that a user gave in a message that refuses it."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= len(str(_MAX_U64))  # Python refuses what is far longer


def _is_hex(text: str) -> bool:
    return 0 < len(text) <= 16 and all(one in "0123456789abcdef" for one in text)
