"""Lists that transactions append to and read: what must come before what, and whether that can be (after Elle).

Each number is appended once to a list, so a list that was read says in which order all before its end was appended, and
by whom: the versions of a key and their order are known, and so are the ww, wr and rw edges between transactions. See
`cycles`. What is wrong without any cycle has names of its own:

    internal            a transaction contradicts itself: what it read is not what it had read and appended before
    incompatible order  two reads of a key, neither of which is a beginning of the other
    duplicate element   a list has a number twice
    never written       a list has a number that nobody appended
    G1a                 aborted read: a list has a number of a transaction that failed
    G1b                 intermediate read: a list ends within what one transaction appended
    internal order      a transaction's numbers stand in another order than it appended them
    dirty update        a number stands behind one of a transaction that failed: it was built on that
    lost append         an acknowledged number is missing from a list that was read later, or has later ones
    revision order      lists have grown in another order than that of the revisions that made them

Operations: `txn` with value [["append", key, number], ["r", key, null], ...] and result the same with the lists read.
A list that is not there is [] or null. `revision` of one that wrote: what it was written at; 0: not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raftkv.checker import cycles
from raftkv.checker.cycles import RT, RW, WR, WW, Cycle, Graph, Step
from raftkv.checker.findings import Findings, brief
from raftkv.checker.history import Operation, Outcome
from raftkv.checker.verdict import OutOfTime, Problem, Verdict, judged, never, undecided

_OFTEN: Final = 64
_PAIRS: Final = 10_000
"""Of (read that ends a list, append that nobody has seen), per key. Beyond that some edges are left out."""


@dataclass(slots=True)
class _List:
    """What is known of one key."""

    longest: list[Any] = field(default_factory=list)
    read_by: int = -1
    """Who has read that."""
    reads: list[tuple[int, list[Any]]] = field(default_factory=list)
    """By whom, and what it was without what the reader itself had appended."""
    appended: dict[Any, int] = field(default_factory=dict)
    """By whom."""
    last: dict[int, Any] = field(default_factory=dict)
    """Of each transaction: what it appended last."""


class _OutOfTime(Exception):
    pass


def check(operations: Sequence[Operation], out_of_time: OutOfTime = never) -> Verdict:
    """Judge transactions on lists: a correct store is strictly serializable."""
    txns = [one for one in operations if one.f == "txn"]
    analysis = _Analysis(txns, out_of_time)
    try:
        complete = analysis.run()
    except _OutOfTime:
        complete = False
    problems = analysis.findings.problems + analysis.anomalies
    if not complete:
        return undecided(len(txns), "out of time before all lists and all cycles were looked at", problems)
    if analysis.ambiguous:
        return undecided(len(txns), f"number {analysis.ambiguous} was appended twice: nothing follows", problems)
    return judged(len(txns), problems)


class _Analysis:
    def __init__(self, txns: Sequence[Operation], out_of_time: OutOfTime) -> None:
        self.findings = Findings()
        self.anomalies: list[Problem] = []
        self.ambiguous = ""
        self._txns = txns
        self._out_of_time = out_of_time
        self._lists: dict[str, _List] = {}
        self._happened = [one.ok for one in txns]
        """Whether a transaction took effect: it was acknowledged, or somebody saw what it appended."""

    def run(self) -> bool:
        self._collect_appends()
        if self.ambiguous:
            return True
        for number, txn in enumerate(self._txns):
            self._pause(number)
            if txn.ok:
                self._collect_reads(number, txn)
        for key, one in self._lists.items():
            self._pause(0)
            self._look_at(key, one)
        graph = Graph(len(self._txns))
        for key, one in self._lists.items():
            self._pause(0)
            self._connect(graph, key, one)
        nodes = [txn if happened else None for txn, happened in zip(self._txns, self._happened, strict=True)]
        if not cycles.add_real_time(graph, nodes, self._out_of_time):
            return False
        found, complete = cycles.find(graph, self._out_of_time)
        self.anomalies = [self._explain(graph, one) for one in found]
        return complete

    def _pause(self, number: int) -> None:
        if not number % _OFTEN and self._out_of_time():
            raise _OutOfTime

    # --- what was asked and read --------------------------------------------------------------------------------------

    def _collect_appends(self) -> None:
        for number, txn in enumerate(self._txns):
            for f, key, element in txn.value:
                known = self._lists.setdefault(key, _List())
                if f == "append":
                    if element in known.appended:
                        self.ambiguous = f"{element} of {key}"
                    known.appended[element] = number
                    known.last[number] = element

    def _collect_reads(self, number: int, txn: Operation) -> None:
        """Judge a transaction on its own, and keep what it read."""
        own: dict[str, list[Any]] = {}
        state: dict[str, list[Any]] = {}
        for (f, key, element), (_, _, told) in zip(txn.value, txn.result, strict=True):
            known = self._lists[key]
            if f == "append":
                own.setdefault(key, []).append(element)
                if key in state:
                    state[key] = [*state[key], element]
                continue
            read: list[Any] = told or []
            mine = own.get(key, [])
            outside = read[: len(read) - len(mine)] if mine else read
            expected = state.get(key, outside + mine if mine else read)
            early = [one for one in outside if known.appended.get(one) == number] if number in known.last else []
            if read != expected or early:
                wanted = f"after what it had read and appended it should be {brief(expected)}"
                why = f"it appends {early[0]} only later" if read == expected else wanted
                self.findings.add("internal", f"a transaction reads {brief(read)} of {key}; {why}", txn)
            else:
                known.reads.append((number, outside))
            if len(read) > len(known.longest):
                known.longest, known.read_by = read, number
            state[key] = read

    # --- what is wrong with a list ------------------------------------------------------------------------------------

    def _look_at(self, key: str, one: _List) -> None:
        reader = self._txns[one.read_by]
        where = {element: position for position, element in enumerate(one.longest)}
        if len(where) < len(one.longest):
            twice = next(element for position, element in enumerate(one.longest) if where[element] != position)
            self.findings.add("duplicate element", f"{twice} is twice in {key}: {brief(one.longest)}", reader)
        compatible: list[tuple[int, list[Any]]] = []
        ends_seen: set[Any] = set()
        for count, (number, read) in enumerate(one.reads):
            self._pause(count)
            if read != one.longest[: len(read)]:
                self._incompatible(key, one, number, read)
                continue
            compatible.append((number, read))
            if read and read[-1] not in ends_seen:
                ends_seen.add(read[-1])
                self._intermediate(key, one, number, read)
        one.reads = compatible
        self._elements(key, one, one.longest, reader)
        self._own_order(key, one, reader)
        self._lost(key, one, where)
        self._revisions(key, one)

    def _incompatible(self, key: str, one: _List, number: int, read: list[Any]) -> None:
        at = next(place for place, element in enumerate(read) if one.longest[place] != element)
        text = f"{key} was read as {brief(read[: at + 1])} and as {brief(one.longest[: at + 1])}"
        self.findings.add("incompatible order", text, self._txns[number], self._txns[one.read_by])
        if len(set(read)) < len(read):
            twice = next(element for place, element in enumerate(read) if element in read[:place])
            self.findings.add("duplicate element", f"{twice} is twice in {key}: {brief(read)}", self._txns[number])
        self._elements(key, one, read[at:], self._txns[number])
        self._intermediate(key, one, number, read)

    def _elements(self, key: str, one: _List, elements: list[Any], reader: Operation) -> None:
        """Judge who appended what stands in a list."""
        aborted: Operation | None = None
        for element in elements:
            number = one.appended.get(element)
            if number is None:
                self.findings.add("never written", f"{element} is in {key}, and nobody appended it", reader)
                continue
            writer = self._txns[number]
            if writer.outcome is Outcome.FAIL:
                self.findings.add("G1a", f"{element} is in {key}; its transaction failed", writer, reader)
                aborted = writer
                continue
            self._happened[number] = True
            if aborted is not None:
                text = f"{element} in {key} stands behind what a failed transaction appended"
                self.findings.add("dirty update", text, aborted, writer, reader)
                aborted = None
            if writer.began > reader.ended:
                text = f"{element} is in {key} before the transaction began that appends it"
                self.findings.add("read from the future", text, reader, writer)

    def _own_order(self, key: str, one: _List, reader: Operation) -> None:
        """A transaction's numbers in one list; that they stand together is for ww edges to say."""
        rank = {element: place for place, element in enumerate(one.appended)}
        newest: dict[int, Any] = {}
        for element in one.longest:
            number = one.appended.get(element)
            if number is None:
                continue
            before = newest.setdefault(number, element)
            if rank[before] > rank[element]:
                text = f"a transaction appended {element} to {key} before {before}; it stands behind it"
                self.findings.add("internal order", text, self._txns[number], reader)
            newest[number] = element

    def _intermediate(self, key: str, one: _List, number: int, read: list[Any]) -> None:
        writer = one.appended.get(read[-1])
        if writer is not None and writer != number and one.last[writer] != read[-1]:
            text = f"{key} was read as ending with {read[-1]}; its transaction went on to append {one.last[writer]}"
            self.findings.add("G1b", text, self._txns[writer], self._txns[number])

    def _lost(self, key: str, one: _List, where: dict[Any, int]) -> None:
        missing = [
            (element, self._txns[number])
            for element, number in one.appended.items()
            if element not in where and self._txns[number].ok
        ]
        if not missing:
            return
        begun = max((self._txns[number] for number, _ in one.reads), key=lambda txn: txn.began, default=None)
        newest = max(
            (self._txns[one.appended[element]] for element in one.longest if element in one.appended),
            key=lambda txn: txn.revision,
            default=None,
        )
        for element, writer in missing:
            if begun is not None and writer.precedes(begun):
                text = f"{element} was appended to {key} and acknowledged; it is missing from what was read later"
                self.findings.add("lost append", text, writer, begun)
            elif newest is not None and 0 < writer.revision < newest.revision:
                text = f"{element} was appended to {key}; it is missing from a list that has what was appended later"
                self.findings.add("lost append", text, writer, newest, self._txns[one.read_by])

    def _revisions(self, key: str, one: _List) -> None:
        before: Operation | None = None
        for element in one.longest:
            number = one.appended.get(element)
            writer = None if number is None else self._txns[number]
            if writer is None or not writer.revision or writer is before:
                continue
            if before is not None and writer.revision <= before.revision:
                text = f"in {key}, {element} of revision {writer.revision} stands behind revision {before.revision}"
                self.findings.add("revision order", text, before, writer)
            before = writer

    # --- what must come before what -----------------------------------------------------------------------------------

    def _connect(self, graph: Graph, key: str, one: _List) -> None:
        """Add the edges of one key. Who appended what is nobody's, or was aborted, has no place in the order."""
        placed: list[tuple[Any, int] | None] = []
        for element in one.longest:
            number = one.appended.get(element)
            placed.append((element, number) if number is not None and self._happened[number] else None)
        behind: list[tuple[Any, int] | None] = [None]  # behind[n]: the last one placed before position n
        for here in placed:
            if here is not None and behind[-1] is not None:
                (element, writer), (last, previous) = here, behind[-1]
                graph.add(previous, writer, WW, (key, last, element))
            behind.append(here or behind[-1])
        ahead: list[tuple[Any, int] | None] = [None]  # reversed below; ahead[n]: the first one from position n on
        for here in reversed(placed):
            ahead.append(here or ahead[-1])
        ahead.reverse()
        for number, read in one.reads:
            seen, unseen = behind[len(read)], ahead[len(read)]
            if seen is not None:
                graph.add(seen[1], number, WR, (key, seen[0], read))
            if unseen is not None:
                graph.add(number, unseen[1], RW, (key, unseen[0], read))
        self._connect_unseen(graph, key, one, behind[-1])

    def _connect_unseen(self, graph: Graph, key: str, one: _List, end: tuple[Any, int] | None) -> None:
        """What happened and was never seen comes after all that was: lists only grow."""
        in_list = set(one.longest)
        unseen = [
            (element, number)
            for element, number in one.appended.items()
            if element not in in_list and self._happened[number]
        ]
        if not unseen:
            return
        readers = [(number, read) for number, read in one.reads if len(read) == len(one.longest)]
        if len(readers) * len(unseen) > _PAIRS:
            unseen.sort(key=lambda pair: self._txns[pair[1]].ended)
            unseen = unseen[: max(1, _PAIRS // len(readers))]
        for element, number in unseen:
            if end is not None:
                graph.add(end[1], number, WW, (key, end[0], element))
            for reader, read in readers:
                graph.add(reader, number, RW, (key, element, read))

    # --- in words -----------------------------------------------------------------------------------------------------

    def _explain(self, graph: Graph, cycle: Cycle) -> Problem:
        names = {step.source: f"T{place}" for place, step in enumerate(cycle.steps, 1)}
        parts = [self._why(graph, step, names[step.source], names[step.target]) for step in cycle.steps]
        parts[-1] = f"yet {parts[-1]}"
        order = " < ".join([*names.values(), "T1"])
        return Problem(
            name=cycle.name,
            text=f"{'; '.join(parts)}. So each must come before the next, which cannot be: {order}",
            operations=tuple(self._txns[step.source] for step in cycle.steps),
        )

    def _why(self, graph: Graph, step: Step, source: str, target: str) -> str:
        if step.kind == RT:
            gap_ms = (self._txns[step.target].began - self._txns[step.source].ended) / 1e6
            return f"{source} was over {gap_ms:.3f} ms before {target} began"
        key, one, other = graph.because[step.source, step.target, step.kind]
        match step.kind:
            case cycles.WW:
                where = "behind it" if other in self._lists[key].longest else "which whoever read that did not see yet"
                return f"{source} appended {one} to {key}, {target} appended {other}, {where}"
            case cycles.WR:
                return f"{source} appended {one} to {key}, {target} read {brief(other)} with it"
            case _:
                return f"{source} read {brief(other)} of {key} without {one}, which {target} appended"
