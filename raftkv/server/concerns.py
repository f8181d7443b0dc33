"""What the write concerns of a batch come to, by the configuration in force on the leader."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import structlog

from raftkv.errors import InvalidArgument
from raftkv.kv.commands import Command, Delete, KeepAlive, Put, RegisterSession
from raftkv.quorum import ALL, DEFAULT, MAJORITY, Needed, concern_words, majority, needed
from raftkv.raft import Configuration, Raft
from raftkv.server.wire import Work

log = structlog.get_logger("raftkv.concerns")

Refused = list[tuple[Command, InvalidArgument]]

_NO_NEEDS: Final[Mapping[int, Needed]] = MappingProxyType({})


class Concerns:
    """Puts the cluster's default where a write names no concern, and refuses what is not possible."""

    def __init__(self, raft: Raft, default: int) -> None:
        self._raft = raft
        self._default = default
        self._configuration: Configuration | None = None
        self._majority = Needed(0, early=False, waits=False)
        self._keep_up()  # whoever starts the node is to read it now, not at the first write

    @property
    def majority(self) -> Needed:
        """What a majority comes to."""
        self._keep_up()
        return self._majority

    def weigh(self, work: Work) -> tuple[Mapping[int, Needed], Refused]:
        """Return what the commands need, by sequence, unless it is a majority; and those that ask for too much."""
        if not work.concerns and self._default == MAJORITY:
            return _NO_NEEDS, []
        self._keep_up()
        needs: dict[int, Needed] = {}
        refused: Refused = []
        found: dict[int, Needed | InvalidArgument] = {}
        for command in work.commands:
            asked = work.concerns.get(command.sequence, DEFAULT)
            concern = self._present_default(command) if asked == DEFAULT else asked
            if concern == MAJORITY:
                continue
            need = found.get(concern)
            if need is None:
                need = found[concern] = self._needed(concern)
            if isinstance(need, InvalidArgument):
                refused.append((command, need if is_blind(command) else self._out_of_range(concern)))
            elif not need.early or is_blind(command):
                needs[command.sequence] = need
            elif asked != DEFAULT:
                refused.append((command, self._too_few(asked)))
        return needs, refused

    def _needed(self, concern: int) -> Needed | InvalidArgument:
        voters, keepers = self._sizes()
        try:
            return needed(concern, voters=voters, keepers=keepers)
        except InvalidArgument as error:
            return error

    def _out_of_range(self, concern: int) -> InvalidArgument:
        """Return the error for a number of voters that no write may ask for, on one that needs a majority."""
        return InvalidArgument(f"write concern {concern} is not possible for this write: {self._from_a_majority()}")

    def _too_few(self, concern: int) -> InvalidArgument:
        return InvalidArgument(
            f"write concern {concern_words(concern)} is not possible for this write: only a put, or a delete of one "
            "key, without lease, fences and previous pair has its effect whatever the state is, so that it may be "
            f"acknowledged before it is applied. Possible here: {self._from_a_majority()}"
        )

    def _from_a_majority(self) -> str:
        voters, keepers = self._sizes()
        least = majority(voters)
        numbers = f"{least} to {keepers} voters, or " if least <= keepers else ""
        return f"{numbers}majority, all"

    def _present_default(self, command: Command) -> int:
        if isinstance(command, RegisterSession | KeepAlive):
            return MAJORITY  # see wire._WITH_CONCERN
        return ALL if self._default > self._sizes()[1] else self._default

    def _sizes(self) -> tuple[int, int]:
        """Return how many voters there are, and how many of them hold data. While a change is under way a number of
        voters is one of each of the two sets, or all of the smaller one (`raft.quorum.durable_on`)."""
        configuration = self._raft.configuration
        sets = configuration.majorities
        return (
            max(len(voters) for voters in sets),
            max(len(voters - configuration.witnesses) for voters in sets),
        )

    def _keep_up(self) -> None:
        """Others may be the members now."""
        configuration = self._raft.configuration
        if configuration is self._configuration:
            return
        self._configuration = configuration
        each = [
            needed(MAJORITY, voters=len(voters), keepers=len(voters - configuration.witnesses))
            for voters in configuration.majorities
        ]
        self._majority = min(each)
        keepers = self._sizes()[1]
        if self._default > keepers > 0:
            log.warning(
                "the default write concern exceeds the voters: taken for all", default=self._default, voters=keepers
            )


def is_blind(command: Command) -> bool:
    """Return whether a command has the same effect whatever the state is, and cannot be refused where it is applied.

    A delete of a range can: it may find more keys than one command may delete.
    """
    return isinstance(command, Put) or (isinstance(command, Delete) and not command.range_end)
