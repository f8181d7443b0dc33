from __future__ import annotations

import asyncio

import pytest

from raftkv.errors import ShuttingDown
from raftkv.quorum import LogEnd
from raftkv.server.applied_waits import AppliedWaits


async def test_a_rinse_waits_for_the_place_and_not_for_the_index_alone() -> None:
    """The target's index can be reached by an entry of an earlier term: tests/quorum/test_scenarios."""
    waits = AppliedWaits()
    rinsed, reached = waits.add_rinse(LogEnd(3, 5)), waits.add(LogEnd(3, 5), or_later_term=True)
    waits.applied(2, 5)
    assert reached.done()
    assert not rinsed.done()
    waits.applied(2, 9)
    assert not rinsed.done()
    waits.applied(4, 10)
    assert rinsed.done()
    await asyncio.sleep(0)  # for the futures' callbacks
    assert not len(waits)


@pytest.mark.parametrize(("term", "index"), [(3, 5), (3, 6), (4, 6)])
async def test_a_rinse_ends_at_the_place_or_later(term: int, index: int) -> None:
    waits = AppliedWaits()
    rinsed, later = waits.add_rinse(LogEnd(3, 5)), waits.add_rinse(LogEnd(9, 1))
    waits.applied(3, 4)
    assert not rinsed.done()
    waits.applied(term, index)
    assert rinsed.done()
    assert not later.done()
    await asyncio.sleep(0)  # for the futures' callbacks
    assert len(waits) == 1
    waits.fail_all(ShuttingDown("the node stops"))
    with pytest.raises(ShuttingDown):
        await later
