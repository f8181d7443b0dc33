"""Errors cross processes: a pool of workers hands them back pickled."""

from __future__ import annotations

import pickle

import pytest

from raftkv.client import Guarantee, KeyValue
from raftkv.errors import DeadlineExceeded, KeyExists, RaftKVError, RevisionMismatch, StaleFence

PAIR = KeyValue(b"k", b"v", 1, 2, 2, Guarantee.LINEARIZABLE, 0)


@pytest.mark.parametrize(
    "error",
    [
        KeyExists(PAIR),
        RevisionMismatch(b"k", 1, PAIR),
        RevisionMismatch(b"k", 1, None),
        StaleFence("late", number=7),
        DeadlineExceeded("late", ambiguous=True),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_pickling(error: RaftKVError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
