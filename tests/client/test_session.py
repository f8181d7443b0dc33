from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from raftkv.client.session import Sequences, Session
from raftkv.invariant import InvariantViolation


class SequencesMachine(RuleBasedStateMachine):
    """Sequences against the plainest model: the set of open writes, and all ids ever given."""

    def __init__(self) -> None:
        super().__init__()
        self.sequences = Sequences(window=5)
        self.open: set[int] = set()
        self.given: list[int] = []
        self.reads: list[int] = []
        self.low = 0

    @rule()
    def read(self) -> None:
        self.reads.append(self.sequences.next_id())

    @precondition(lambda self: self.sequences.has_room())
    @rule()
    def write(self) -> None:
        low = self.sequences.acknowledged_below()
        sequence = self.sequences.begin()
        assert sequence - low < 5
        self.open.add(sequence)
        self.given.append(sequence)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.open)))
        self.open.remove(sequence)
        self.sequences.done(sequence)

    @invariant()
    def ids_only_grow(self) -> None:
        assert self.given == sorted(set(self.given))
        assert self.reads == sorted(set(self.reads))
        assert not set(self.given) & set(self.reads)

    @invariant()
    def the_mark_is_the_lowest_open_write_and_never_falls(self) -> None:
        low = self.sequences.acknowledged_below()
        assert low == min(self.open, default=len(self.given) + 1)
        assert low >= self.low
        self.low = low

    @invariant()
    def there_is_room_exactly_while_the_next_fits_the_window(self) -> None:
        following = len(self.given) + 1
        assert self.sequences.has_room() == (following - min(self.open, default=following) < 5)


TestSequences = SequencesMachine.TestCase


def test_a_write_is_done_once() -> None:
    sequences = Sequences()
    sequence = sequences.begin()
    sequences.done(sequence)
    with pytest.raises(InvariantViolation):
        sequences.done(sequence)


def test_the_expiry_of_an_older_session_does_not_end_the_present_one() -> None:
    session = Session()
    session.id = 8
    session.expired(7)
    assert session.id == 8
    session.expired(8)
    assert session.id == 0
