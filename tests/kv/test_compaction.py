"""Compaction: what the model (`test_model`) does not reach."""

from __future__ import annotations

import pytest

from raftkv.errors import Compacted, ErrorCode
from raftkv.kv import commands as c
from raftkv.kv.commands import Group

from .host import Host, delete, put


def compacted(host: Host) -> None:
    assert host.do(c.Compact(0, host.machine.revision)) == [c.Compacted(host.machine.revision)]


def swept(host: Host) -> list[int]:
    """Sweep to the end; return how many versions each step removed."""
    steps = []
    while host.machine.unswept:
        (step,) = host.do(c.Sweep(0))
        assert isinstance(step, c.Swept)
        steps.append(step.versions)
    return steps


@pytest.mark.parametrize(
    ("revision", "code", "number"),
    [(0, ErrorCode.INVALID_ARGUMENT, 0), (9, ErrorCode.FUTURE_REVISION, 0), (2, ErrorCode.COMPACTED, 3)],
)
def test_nonsense_is_refused(revision: int, code: ErrorCode, number: int) -> None:
    host = Host()
    host.do(put(b"a"), put(b"b"), c.Compact(0, 3))
    (result,) = host.do(c.Compact(0, revision))
    assert isinstance(result, c.Rejected)
    assert (result.code, result.number) == (code, number)
    assert host.machine.compacted_revision == 3


def test_the_past_is_refused_at_once_and_removed_in_steps_of_bounded_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftkv.kv.compaction.MAX_SWEPT_VERSIONS", 10)
    host = Host()
    for round_ in range(5):
        host.do(*[put(b"%02d" % number, b"%d" % round_) for number in range(7)])
    compacted(host)
    with pytest.raises(Compacted, match="history begins at 36") as refused:
        host.get(b"00", 35)
    assert refused.value.compacted_revision == 36
    steps = swept(host)
    assert sum(steps) == 21  # of 35 versions 7 are live, and 7 more lie behind the entry in which the mark is
    assert max(steps) <= 10
    assert {pair.value for _, pair in host.live()} == {b"4"}


def test_the_changes_of_one_large_entry_are_swept_in_steps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    host.do(*[put(b"%02d" % number) for number in range(20)])
    host.do(delete(b"0", b"9"))
    host.do(put(b"k"))
    compacted(host)
    monkeypatch.setattr("raftkv.kv.compaction.MAX_SWEPT_VERSIONS", 8)
    assert max(swept(host)) <= 16  # of each deleted key the version and the tombstone
    assert {key for key, _ in host.versions()} == {b"k"}


def test_a_version_that_one_compaction_kept_goes_with_the_next() -> None:
    host = Host()
    host.do(put(b"a"), put(b"other"))
    compacted(host)
    swept(host)
    host.do(delete(b"a"))
    host.do(put(b"other"))
    compacted(host)
    swept(host)
    assert {key for key, _ in host.versions()} == {b"other"}


def test_bug_48_a_sweep_goes_on_after_a_restart_and_lowers_no_revision() -> None:
    host = Host()
    host.do(put(b"a"), put(b"a"), put(b"a"))
    host.do(put(b"b"))
    compacted(host)
    host.reopen()
    assert host.machine.compacted_revision == 5
    assert swept(host)
    host.reopen()
    assert swept(host) == []
    # Raft-bugs 48: what is removed lowers no revision.
    assert host.do(put(b"c")) == [c.Written(6)]


def test_a_repeated_compaction_is_answered_from_its_session() -> None:
    host = Host()
    session = host.register()
    host.do(put(b"a"), put(b"a"))
    (first,) = host.apply(Group(session, 1, (c.Compact(1, 2),)))
    assert first == [c.Compacted(2)]
    assert host.apply(Group(session, 1, (c.Compact(1, 2),))) == (first,)
