"""Ranges of keys, and which of them hold a key: a treap over their starts.

Every node knows where the last of the ranges below it stops, so a look-up leaves out what ends before the key, and what
begins behind it. It costs the logarithm of how many ranges there are for each range that it finds, and as much if it
finds none.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class _Node(Generic[T]):
    """A range, and the root of the ranges below it: those with lesser bounds on the left, with greater on the right."""

    __slots__ = ("bounds", "last_stop", "left", "priority", "right", "values")

    def __init__(self, bounds: tuple[bytes, bytes]) -> None:
        self.bounds = bounds
        self.values: dict[T, int] = {}
        # As good as drawn by lot: hashes of bytes differ from process to process, so nobody can ask for bad ones.
        self.priority = hash(bounds)
        self.left: _Node[T] | None = None
        self.right: _Node[T] | None = None
        self.last_stop = bounds[1]

    def updated(self) -> _Node[T]:
        """Find out again where the last range stops, after a change below."""
        last = self.bounds[1]
        if self.left is not None and self.left.last_stop > last:
            last = self.left.last_stop
        if self.right is not None and self.right.last_stop > last:
            last = self.right.last_stop
        self.last_stop = last
        return self


class RangeIndex(Generic[T]):
    """Values by range [start, stop). A value may be added to a range several times, and is there until it was removed
    as often."""

    __slots__ = ("_nodes", "_root")

    def __init__(self) -> None:
        self._root: _Node[T] | None = None
        self._nodes: dict[tuple[bytes, bytes], _Node[T]] = {}

    def __len__(self) -> int:
        """Return how many different ranges there are."""
        return len(self._nodes)

    def add(self, start: bytes, stop: bytes, value: T) -> None:
        bounds = (start, stop)
        node = self._nodes.get(bounds)
        if node is None:
            node = self._nodes[bounds] = _Node(bounds)
            self._root = _insert(self._root, node)
        node.values[value] = node.values.get(value, 0) + 1

    def remove(self, start: bytes, stop: bytes, value: T) -> None:
        """Undo one `add`."""
        bounds = (start, stop)
        values = self._nodes[bounds].values
        values[value] -= 1
        if not values[value]:
            del values[value]
            if not values:
                del self._nodes[bounds]
                self._root = _remove(self._root, bounds)

    def match(self, key: bytes, found: list[T]) -> None:
        """Add to `found` the values of all ranges that hold `key`, in the order of the ranges."""
        if self._root is not None:
            _match(self._root, key, found)


def _match(node: _Node[T], key: bytes, found: list[T]) -> None:
    """`node`: some range below it stops behind `key`, or it is the root."""
    left, right = node.left, node.right
    if left is not None and left.last_stop > key:
        _match(left, key, found)
    start, stop = node.bounds
    if start <= key:
        if key < stop:
            found += node.values
        if right is not None and right.last_stop > key:
            _match(right, key, found)


def _insert(root: _Node[T] | None, node: _Node[T]) -> _Node[T]:
    """Return the root with `node`, whose bounds are new."""
    if root is None or node.priority > root.priority:
        node.left, node.right = _split(root, node.bounds)
        return node.updated()
    if node.bounds < root.bounds:
        root.left = _insert(root.left, node)
    else:
        root.right = _insert(root.right, node)
    return root.updated()


def _remove(root: _Node[T] | None, bounds: tuple[bytes, bytes]) -> _Node[T] | None:
    """Return the root without the range, which is there."""
    if root is None:
        raise KeyError(bounds)
    if root.bounds == bounds:
        return _joined(root.left, root.right)
    if bounds < root.bounds:
        root.left = _remove(root.left, bounds)
    else:
        root.right = _remove(root.right, bounds)
    return root.updated()


def _split(root: _Node[T] | None, bounds: tuple[bytes, bytes]) -> tuple[_Node[T] | None, _Node[T] | None]:
    """Return the roots of those with lesser and with greater bounds."""
    if root is None:
        return None, None
    if root.bounds < bounds:
        root.right, greater = _split(root.right, bounds)
        return root.updated(), greater
    lesser, root.left = _split(root.left, bounds)
    return lesser, root.updated()


def _joined(lesser: _Node[T] | None, greater: _Node[T] | None) -> _Node[T] | None:
    """Return the root of both: all bounds of the one are less than all of the other."""
    if lesser is None or greater is None:
        return lesser or greater
    if lesser.priority > greater.priority:
        lesser.right = _joined(lesser.right, greater)
        return lesser.updated()
    greater.left = _joined(lesser, greater.left)
    return greater.updated()
