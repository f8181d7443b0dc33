"""Cycles of transactions, each of which must come before the next: what Adya's definitions of isolation forbid.

A graph has a node for each transaction, and an edge where one must come before another:

    ww  it wrote a version, the other wrote the next one
    wr  it wrote a version, the other read it
    rw  it read a version, the other wrote the next one (an anti-dependency)
    rt  it was over before the other began

In a strictly serializable history there is no cycle. What there is has a name, after the edges it needs (A. Adya, "Weak
Consistency", 1999; K. Kingsbury and P. Alvaro, "Elle", VLDB 2020):

    G0        ww alone
    G1c       ww and wr
    G-single  one rw
    G2        two rw or more

with `-realtime` behind it if the cycle needs rt: such a history is serializable perhaps, but not strictly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from raftkv.checker.history import Operation
from raftkv.checker.verdict import OutOfTime, never

WW: Final = 1
WR: Final = 2
RT: Final = 4
RW: Final = 8
ALL: Final = WW | WR | RT | RW

WORDS: Final = {WW: "ww", WR: "wr", RT: "rt", RW: "rw"}

_SEARCHES: Final = tuple(
    (start, path | real_time)
    for real_time in (0, RT)
    for start, path in ((WW, WW), (WR, WW | WR), (RW, WW | WR), (RW, WW | WR | RW))
)
"""Worst first: the kind of the edge that a cycle must have, and the kinds that the way back may have."""

_EFFORT: Final = 1_000_000
"""Edges followed in one search for a shortest cycle; then the shortest one so far has to do."""
_OFTEN: Final = 256

MOST: Final = 10
"""Components out of which a cycle is shown."""


@dataclass(frozen=True, slots=True)
class Step:
    """One edge of a cycle."""

    source: int
    target: int
    kind: int


@dataclass(frozen=True, slots=True)
class Cycle:
    """Steps, each from where the last one went to; the last one goes to where the first one comes from."""

    steps: tuple[Step, ...]

    @property
    def name(self) -> str:
        """The anomaly that it is."""
        kinds = [step.kind for step in self.steps]
        against = kinds.count(RW)
        name = "G2" if against > 1 else "G-single" if against else "G1c" if WR in kinds else "G0"
        return f"{name}-realtime" if RT in kinds else name


class Graph:
    """Nodes are numbers from 0."""

    def __init__(self, size: int) -> None:
        self.after: list[dict[int, int]] = [{} for _ in range(size)]
        """For each node: the nodes that must come after it, and of what kinds the edges are, or-ed."""
        self.because: dict[tuple[int, int, int], Any] = {}
        """Why there is an edge (source, target, kind): whatever was said of it first."""

    def add(self, source: int, target: int, kind: int, because: Any = None) -> None:
        """Say that `source` must come before `target`. Nobody comes before himself: that is left out."""
        if source == target:
            return
        edges = self.after[source]
        kinds = edges.get(target, 0)
        if not kinds & kind:
            edges[target] = kinds | kind
            if because is not None:
                self.because[source, target, kind] = because

    def components(
        self, kinds: int = ALL, among: set[int] | None = None, out_of_time: OutOfTime = never
    ) -> list[list[int]] | None:
        """Return the strongly connected components of more than one node (Tarjan, without recursion).

        Only edges of `kinds` between nodes `among` count. None: out of time.
        """
        order = [0] * len(self.after)  # 0: not seen
        low = [0] * len(self.after)
        on_stack = bytearray(len(self.after))
        stack: list[int] = []
        found: list[list[int]] = []
        count = 0
        for root in range(len(self.after)) if among is None else among:
            if order[root]:
                continue
            count += 1
            order[root] = low[root] = count
            stack.append(root)
            on_stack[root] = 1
            work: list[tuple[int, Iterator[tuple[int, int]]]] = [(root, iter(self.after[root].items()))]
            while work:
                node, edges = work[-1]
                for target, kind in edges:
                    if not kind & kinds or (among is not None and target not in among):
                        continue
                    if not order[target]:
                        count += 1
                        if not count % _OFTEN and out_of_time():
                            return None
                        order[target] = low[target] = count
                        stack.append(target)
                        on_stack[target] = 1
                        work.append((target, iter(self.after[target].items())))
                        break
                    if on_stack[target] and order[target] < low[node]:
                        low[node] = order[target]
                else:
                    work.pop()
                    if work and low[node] < low[work[-1][0]]:
                        low[work[-1][0]] = low[node]
                    if low[node] == order[node]:
                        where = len(stack) - 1
                        while stack[where] != node:
                            where -= 1
                        component = stack[where:]
                        del stack[where:]
                        for member in component:
                            on_stack[member] = 0
                        if len(component) > 1:
                            found.append(component)
        return found


def add_real_time(graph: Graph, operations: Sequence[Operation | None], out_of_time: OutOfTime = never) -> bool:
    """Add the rt edges of the operations, which are the nodes (None: not one); False: out of time.

    Not all of them, n^2 in number, but as few as all others follow from: an operation comes after those only that were
    over before it began and have nobody between (the frontier): about as many as there are processes.
    """
    # At equal times what begins comes first: then neither was over before the other began.
    events = [(one.began, 0, node) for node, one in enumerate(operations) if one is not None]
    events += [(one.ended, 1, node) for node, one in enumerate(operations) if one is not None and not one.unknown]
    events.sort()
    frontier: set[int] = set()
    before: dict[int, frozenset[int]] = {}
    now = frozenset(frontier)
    for count, (_, ends, node) in enumerate(events):
        if not count % _OFTEN and out_of_time():
            return False
        if ends:
            # Whoever begins from here on comes after this node, so after those as well.
            frontier -= before.pop(node, frozenset())
            frontier.add(node)
            now = frozenset(frontier)
        else:
            before[node] = now
            for earlier in now:
                graph.add(earlier, node, RT)
    return True


def find(graph: Graph, out_of_time: OutOfTime = never, most: int = MOST) -> tuple[list[Cycle], bool]:
    """Return a cycle out of each component, the worst that there is and of these a short one; and whether that is all.

    At most `most` cycles, of the smallest components, are shown.
    """
    components = graph.components(out_of_time=out_of_time)
    if components is None:
        return [], False
    components.sort(key=len)
    return [_worst(graph, set(members), out_of_time) for members in components[:most]], True


def _worst(graph: Graph, members: set[int], out_of_time: OutOfTime) -> Cycle:
    """Return the worst cycle of a component. There is one: if time runs out, some cycle is returned."""
    for start, path in _SEARCHES:
        inner = graph.components(start | path, members, out_of_time)
        if inner is None:
            break
        search = _Search(graph, path, out_of_time)
        for component in inner:
            search.look(start, set(component))
        if search.best is not None:
            return search.best
    search = _Search(graph, ALL, never)
    search.look(ALL, members)
    if search.best is None:
        raise AssertionError("a strongly connected component without a cycle")
    return search.best


class _Search:
    """Looks for a shortest cycle."""

    def __init__(self, graph: Graph, kinds: int, out_of_time: OutOfTime) -> None:
        """`kinds`: of the way back from the end of a cycle's first edge to its beginning."""
        self.best: Cycle | None = None
        self._graph = graph
        self._kinds = kinds
        self._out_of_time = out_of_time
        self._effort = _EFFORT

    def look(self, start: int, members: set[int]) -> None:
        """Look for a cycle whose first edge is of a kind of `start`, and which is shorter than the best one so far."""
        for source in members:
            for target, kinds in self._graph.after[source].items():
                if not kinds & start or target not in members:
                    continue
                limit = len(members) if self.best is None else len(self.best.steps) - 2
                if limit < 1 or self._effort <= 0 or self._out_of_time():
                    return
                back = self._way(target, source, members, limit)
                if back is not None:
                    self.best = Cycle((Step(source, target, _pick(kinds, start)), *back))

    def _way(self, source: int, goal: int, members: set[int], limit: int) -> list[Step] | None:
        """Return a shortest way of at most `limit` steps, breadth first."""
        came: dict[int, tuple[int, int]] = {source: (source, 0)}
        waiting: deque[tuple[int, int]] = deque([(source, 0)])
        while waiting:
            node, length = waiting.popleft()
            if length == limit:
                break
            edges = self._graph.after[node]
            self._effort -= len(edges)
            for target, kind in edges.items():
                if kind & self._kinds and target in members and target not in came:
                    came[target] = node, _pick(kind, self._kinds)
                    if target == goal:
                        return _steps(came, source, goal)
                    waiting.append((target, length + 1))
        return None


def _steps(came: dict[int, tuple[int, int]], source: int, goal: int) -> list[Step]:
    steps: list[Step] = []
    here = goal
    while here != source:
        before, kind = came[here]
        steps.append(Step(before, here, kind))
        here = before
    steps.reverse()
    return steps


def _pick(kinds: int, allowed: int) -> int:
    """Return one kind of an edge: the one that makes the worst of a cycle."""
    usable = kinds & allowed
    return usable & -usable
