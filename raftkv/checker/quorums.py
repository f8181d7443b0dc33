"""What answers say of themselves: whether each is as good as its receipt claims (docs/guarantees.md).

Of reads, by the guarantee that they claim:

    stale read           LINEARIZABLE or LEASE, and it misses what was acknowledged as committed, or shown by another
                         read, before it began
    write missed         SEES_WRITES_AT_W_GE, and it misses a write that so many voters had when it was acknowledged
    older than its bound BOUNDED, and it misses what was acknowledged as committed longer ago than it says
    older than its token AT_LEAST, and it has not come to the place in the log that it was asked for
    went back in time    it shows an earlier state than its client has seen (any but STALE_PREFIX)
    own write missed     it shows an earlier state than its client's own write below a majority, which was not said to
                         be lost (the same)
    weaker than asked    it claims less than the level that was asked for

Of all reads, as whatever is read is committed, and every state is a beginning of one history:

    lost write           a state is of a revision at or after an acknowledged write's, and lacks it
    impossible state     the same of a write that another read has shown; or states that contradict each other
    never written, failed write, read from the future, wrong revision    as their names say
    lost write seen      a write shows up that was said to be lost (WriteLost)

Of writes:

    acknowledged early   it is not committed, though at least a majority was asked for; or fewer than asked for have it
    revision order, duplicate revision    as in `fencing`; a write below a majority that shows up counts as well

Operations: `write` with key, value unique, extra {"concern"} -> revision, extra {"committed", "durable_on"}, and
{"index", "term"} of its place in the log if known; `read` with key, extra {"level"} and {"token"} if it carried one ->
value or null, its mod_revision, extra {"guarantee", "sees_writes_at", "staleness_ms", "applied_index"} and {"at"}, the
revision of the state. {"configuration"} of either, if known: a read of few voters answers for writes that were counted
under its own configuration or one before. A process is one client.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple

from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation, Outcome
from raftkv.checker.newest import Newest, out_of_order, shown
from raftkv.checker.verdict import OutOfTime, Verdict, judged, never, undecided

_OFTEN: Final = 128
_MS: Final = 1_000_000
_TOKEN: Final = re.compile(r"\b[0-9a-f]{1,16}-(?P<term>\d+)-(?P<index>\d+)\b")
_ENTRY: Final = re.compile(r"\bentry (?P<index>\d+), term (?P<term>\d+)\b")
"""How a place in the log is told in tokens, and in errors of nodes."""
_SETTLED: Final = ("WriteLost", "TokenOutOfRange")
"""Errors that tell a client that its write below a majority is lost, or that nobody can tell."""

LINEARIZABLE: Final = frozenset({"linearizable", "lease"})
ANSWERS: Final = {
    "linearizable": {"linearizable"},
    "lease": {"lease", "linearizable"},
    "local": {"stale_prefix", "at_least"},
    "at_least": {"at_least"},
    "bounded": {"bounded"},
    "quorum": {"linearizable", "sees_writes_at_w_ge"},
}
"""By level: what an answer may call itself. Linearizable is good for all."""


class _Floor(NamedTuple):
    """A state must not be of an earlier revision, or its answer claims too much: `name` and `because` say how."""

    revision: int
    name: str
    because: str
    witness: Operation


def check(
    operations: Sequence[Operation],
    out_of_time: OutOfTime = never,
    *,
    voters: int = 0,
    trust_lease: bool = True,
    slack_ms: float = 0,
    monotonic: bool = True,
) -> Verdict:
    """Judge each answer by what it says of itself.

    `voters`: how many there are, if that does not change: concerns given as numbers are judged then.
    `trust_lease`: False where clocks were made to drift by more than nodes were told: a lease promises nothing then.
    `slack_ms`: how much older than its bound a read may be, where clocks were made to run slow.
    `monotonic`: whether clients were, as they are unless told otherwise.
    """
    analysis = _Analysis(operations, out_of_time, trust_lease=trust_lease, slack_ms=slack_ms, monotonic=monotonic)
    complete = analysis.run(voters)
    problems = analysis.findings.problems
    if not complete:
        return undecided(len(operations), "out of time before all answers were compared", problems)
    return judged(len(operations), problems)


class _Analysis:
    def __init__(
        self,
        operations: Sequence[Operation],
        out_of_time: OutOfTime,
        *,
        trust_lease: bool,
        slack_ms: float,
        monotonic: bool,
    ) -> None:
        self.findings = Findings()
        self._operations = sorted(operations, key=lambda one: one.began)
        self._out_of_time = out_of_time
        self._trust_lease = trust_lease
        self._slack = round(slack_ms * _MS)
        self._monotonic = monotonic
        self._writes = [one for one in self._operations if one.f == "write"]
        self._reads = [one for one in self._operations if one.f == "read" and one.ok]
        self._first: dict[int, int] = {}
        """When each client was first told something."""
        for one in self._operations:
            if one.ok:
                self._first[one.process] = min(self._first.get(one.process, one.ended), one.ended)
        self._written = {(one.key, one.value): one for one in self._writes}
        self._at: dict[tuple[str, Any], int] = {}
        """The revision of each write that is known to be committed."""
        self._known_since: dict[tuple[str, Any], int] = {}
        """When it was first known of a write that it took effect."""
        self._versions: dict[str, list[tuple[int, Operation]]] = {}
        """By key: the revisions of what was written, and who told of it first."""

    def run(self, voters: int) -> bool:
        for step in (self._collect, self._order, self._states, self._floors, self._own):
            if self._out_of_time() or not step():
                return False
        for one in self._writes:
            if one.ok:
                self._receipt(one, voters)
        return True

    # --- what is known ------------------------------------------------------------------------------------------------

    def _collect(self) -> bool:
        """Learn at which revisions what was written."""
        by_revision: dict[int, Operation] = {}
        for one in self._writes:
            if one.ok and one.revision:
                other = by_revision.setdefault(one.revision, one)
                if other is not one:
                    text = f"two writes were told revision {one.revision}"
                    self.findings.add("duplicate revision", text, other, one)
                self._learn(one, one.value)
            if one.ok:
                self._known(one)
        for count, one in enumerate(self._reads):
            if not count % _OFTEN and self._out_of_time():
                return False
            if one.result is None:
                continue
            writer = self._written.get((one.key, one.result))
            if writer is None:
                self.findings.add("never written", f"{one.key} is {one.result!r}, and nobody wrote that", one)
                continue
            if writer.outcome is Outcome.FAIL:
                self.findings.add("failed write", f"{one.key} is {one.result!r}; that write failed", writer, one)
            if one.ended < writer.began:
                text = f"{one.key} is {one.result!r} before that was written"
                self.findings.add("read from the future", text, one, writer)
            self._known(one)
            if one.revision:
                self._learn(one, one.result)
                other = by_revision.setdefault(one.revision, one)
                if (other.key, _shown(other)) != (one.key, one.result):
                    text = f"revision {one.revision} made {other.key} {_shown(other)!r}, or {one.key} {one.result!r}"
                    self.findings.add("wrong revision", text, other, one)
        for versions in self._versions.values():
            versions.sort(key=lambda pair: pair[0])
        return True

    def _known(self, one: Operation) -> None:
        what = one.key, _shown(one)
        self._known_since[what] = min(self._known_since.get(what, one.ended), one.ended)

    def _learn(self, one: Operation, value: Any) -> None:
        known = self._at.get((one.key, value))
        if known is None:
            self._at[one.key, value] = one.revision
            self._versions.setdefault(one.key, []).append((one.revision, one))
        elif known != one.revision:
            text = f"{one.key} became {value!r} at revision {known}, and at {one.revision}"
            self.findings.add("wrong revision", text, self._written.get((one.key, value)), one)

    # --- writes -------------------------------------------------------------------------------------------------------

    def _order(self) -> bool:
        """What was acknowledged first has the lower revision; early acknowledgements too, if they were not lost."""
        told = [one for one in self._writes if one.ok and (one.key, one.value) in self._at]

        def revision(one: Operation) -> int:
            return self._at[one.key, one.value]

        for before, after in out_of_order(told, revision, equal=True):
            text = f"a write was acknowledged, and has revision {revision(before)}; a later one has {revision(after)}"
            self.findings.add("revision order", text, before, after)
        return True

    def _receipt(self, one: Operation, voters: int) -> None:
        concern, durable_on = one.extra.get("concern", "majority"), int(one.extra.get("durable_on", 0))
        if one.extra.get("committed", True):
            if not one.revision:
                self.findings.add("acknowledged early", "it is said to be committed, and has no revision", one)
            return
        many = concern in ("majority", "all") or (voters and isinstance(concern, int) and concern > voters // 2)
        if many:
            self.findings.add("acknowledged early", f"{concern} was asked for, and it is not committed", one)
        elif durable_on < (concern if isinstance(concern, int) else 1):
            self.findings.add("acknowledged early", f"{concern} was asked for, and {durable_on} have it", one)

    # --- states -------------------------------------------------------------------------------------------------------

    def _states(self) -> bool:
        """Every read shows the one history up to some revision, and the log up to some index."""
        by_index: list[tuple[int, int, Operation]] = []
        for count, one in enumerate(self._reads):
            if not count % _OFTEN and self._out_of_time():
                return False
            state, index = int(one.extra.get("at", 0)), int(one.extra.get("applied_index", 0))
            self._claims(one)
            if not state:
                continue
            if index:
                by_index.append((index, state, one))
            if one.revision > state:
                text = f"a state of revision {state} shows what was written at {one.revision}"
                self.findings.add("impossible state", text, one)
            missed = self._missed(one, state)
            if missed is not None:
                revision, witness = missed
                text = f"a state of revision {state} lacks what {one.key} became at revision {revision}"
                self.findings.add("lost write" if witness.f == "write" else "impossible state", text, witness, one)
        by_index.sort(key=lambda row: row[:2])
        for (index, state, one), (next_index, next_state, other) in pairwise(by_index):
            if (index == next_index and state != next_state) or state > next_state:
                text = f"entry {index} leads to revision {state}, and entry {next_index} to {next_state}"
                self.findings.add("impossible state", text, one, other)
        return True

    def _missed(self, read: Operation, floor: int) -> tuple[int, Operation] | None:
        """Return the newest version of a read's key that a state of revision `floor` has, if the read shows less."""
        versions = self._versions.get(read.key, [])
        place = bisect_right(versions, floor, key=lambda pair: pair[0])
        if not place or (read.result is not None and not read.revision):
            return None
        return versions[place - 1] if versions[place - 1][0] > read.revision else None

    def _claims(self, one: Operation) -> None:
        level, guarantee = str(one.extra.get("level", "")), _guarantee(one)
        allowed = ANSWERS.get(level.partition(":")[0])
        # Whoever has seen nothing, and names no token, asks for a state not older than nothing.
        nothing = level == "at_least" and "token" not in one.extra and self._first[one.process] >= one.began
        fell_back = guarantee == "stale_prefix" and (nothing or one.extra.get("fallback"))
        if allowed is not None and guarantee not in allowed | {"linearizable"} and not fell_back:
            self.findings.add("weaker than asked", f"{level} was asked for, and the answer is {guarantee}", one)
        place = _place(str(one.extra.get("token", "")))
        index = int(one.extra.get("applied_index", 0))
        if guarantee == "at_least" and place is not None and 0 < index < place[1]:
            text = f"the state is at index {index} of the log; it was asked for with {place[1]}"
            self.findings.add("older than its token", text, one)

    # --- what each read must show -------------------------------------------------------------------------------------

    def _floors(self) -> bool:
        committed = [one for one in self._writes if one.ok and one.revision and one.extra.get("committed", True)]
        acknowledged = Newest(committed, shown)
        anything = Newest([*committed, *(one for one in self._reads if shown(one))], shown)
        copies: dict[tuple[int, int], list[Operation]] = {}
        for one in committed:
            counted = int(one.extra.get("durable_on", 0)), int(one.extra.get("configuration", 0))
            copies.setdefault(counted, []).append(one)
        counted_writes = {counted: Newest(told, shown) for counted, told in copies.items()}
        seen: dict[int, Operation] = {}
        for count, one in enumerate(self._operations):
            if not count % _OFTEN and self._out_of_time():
                return False
            if not one.ok:
                continue
            if one.f == "read":
                for floor in self._floors_of(one, acknowledged, anything, counted_writes, seen):
                    if self._falls_short(one, floor):
                        break
            before = seen.get(one.process)
            if shown(one) > (0 if before is None else shown(before)):
                seen[one.process] = one
        return True

    def _floors_of(
        self,
        one: Operation,
        acknowledged: Newest,
        anything: Newest,
        copies: dict[tuple[int, int], Newest],
        seen: dict[int, Operation],
    ) -> Iterator[_Floor]:
        guarantee = _guarantee(one)
        if guarantee == "linearizable" or (guarantee == "lease" and self._trust_lease):
            if told := anything.before(one.began):
                yield _Floor(shown(told), "stale read", "was told before it began", told)
        elif guarantee == "bounded":
            staleness_ms = int(one.extra.get("staleness_ms", 0))
            if told := acknowledged.before(one.began - staleness_ms * _MS - self._slack):
                because = f"was acknowledged more than {staleness_ms} ms before it began"
                yield _Floor(shown(told), "older than its bound", because, told)
        elif guarantee == "sees_writes_at_w_ge":
            sees = int(one.extra.get("sees_writes_at", 0))
            for (durable_on, configuration), writes in copies.items():
                known = configuration <= int(one.extra.get("configuration", configuration))
                if durable_on >= sees > 0 and known and (told := writes.before(one.began)):
                    because = f"was on {durable_on} disks before it began, and it sees what is on {sees}"
                    yield _Floor(shown(told), "write missed", because, told)
        if self._remembers(guarantee) and one.process in seen:
            told = seen[one.process]
            yield _Floor(shown(told), "went back in time", "its client had seen", told)

    def _remembers(self, guarantee: str) -> bool:
        """Whether an answer is not older than what its client has seen."""
        if guarantee == "lease" and not self._trust_lease:
            return False
        return guarantee in LINEARIZABLE or guarantee == "at_least" or (
            self._monotonic and guarantee in ("bounded", "sees_writes_at_w_ge")
        )  # fmt: skip

    def _falls_short(self, one: Operation, floor: _Floor) -> bool:
        missed = self._missed(one, floor.revision)
        state = int(one.extra.get("at", 0))
        guarantee = _guarantee(one)
        if missed is not None:
            revision, writer = missed
            text = (
                f"a read ({guarantee}) shows {one.key} of revision {one.revision}, not of {revision}; "
                f"revision {floor.revision} {floor.because}"
            )
            self.findings.add(floor.name, text, floor.witness, None if writer is floor.witness else writer, one)
        elif 0 < state < floor.revision:
            text = f"a read ({guarantee}) shows a state of revision {state}; {floor.revision} {floor.because}"
            self.findings.add(floor.name, text, floor.witness, one)
        else:
            return False
        return True

    # --- writes below a majority --------------------------------------------------------------------------------------

    def _own(self) -> bool:
        """A client sees its own writes, or is told that they are lost; what is lost is never seen."""
        open_: dict[int, dict[str, Operation]] = {}
        early: dict[tuple[int, int], list[Operation]] = {}
        for count, one in enumerate(self._operations):
            if not count % _OFTEN and self._out_of_time():
                return False
            mine = open_.setdefault(one.process, {})
            if one.f == "write" and one.ok:
                mine.pop(one.key, None)
                if not one.extra.get("committed", True):
                    mine[one.key] = one
                    if "term" in one.extra and "index" in one.extra:
                        early.setdefault((int(one.extra["term"]), int(one.extra["index"])), []).append(one)
            elif one.error.startswith(_SETTLED):
                mine.clear()  # whichever it was
                if one.error.startswith("WriteLost") and (place := _place(one.error)):
                    self._lost(early.get(place, []), one)
            elif one.f == "read" and one.ok and one.key in mine and self._remembers(_guarantee(one)):
                self._own_read(mine[one.key], one)
        return True

    def _own_read(self, write: Operation, read: Operation) -> None:
        if read.result == write.value:
            return
        shown, own = self._at.get((read.key, read.result), 0), self._at.get((write.key, write.value), 0)
        known = self._known_since.get((read.key, read.result))
        if read.result is None or 0 < shown < own or (known is not None and known < write.began):
            text = f"{read.key} is as it was before its client wrote {write.value!r}, which was not said to be lost"
            self.findings.add("own write missed", text, write, read)

    def _lost(self, writes: Sequence[Operation], told: Operation) -> None:
        for write in writes:
            if (write.key, write.value) in self._at:
                seen = next((one for one in self._reads if one.key == write.key and one.result == write.value), None)
                text = f"{write.value!r} of {write.key} was said to be lost, and it is there"
                self.findings.add("lost write seen", text, write, told, seen)


def _guarantee(one: Operation) -> str:
    return str(one.extra.get("guarantee", "")).lower()


def _place(text: str) -> tuple[int, int] | None:
    """Return the term and index that a text names."""
    found = _TOKEN.search(text) or _ENTRY.search(text)
    return None if found is None else (int(found["term"]), int(found["index"]))


def _shown(one: Operation) -> Any:
    return one.value if one.f == "write" else one.result
