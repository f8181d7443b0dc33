"""The suite against a deliberately broken register: whatever is wrong with it, it is caught."""

from __future__ import annotations

import pytest

from raftkv.checker.registers import linearizable_keys
from raftkv.checker.verdict import never
from raftkv.jepsen.workloads import WORKLOADS
from tests.jepsen.driving import done, drive, setting
from tests.jepsen.fake_store import BROKEN, FakeStore

OPERATIONS = done("read", "write", "cas", times=120)
WRONGS = 10


@pytest.mark.parametrize("store_type", BROKEN)
async def test_a_broken_register_is_caught(store_type: type[FakeStore]) -> None:
    store, workload = store_type(seed=1), WORKLOADS["register"](setting("register", workers=5))
    history = await drive(workload, store.client, enough=lambda done: OPERATIONS(done) and store.wrongs >= WRONGS)
    verdict = workload.check(history, never)
    assert verdict.valid is False, f"{store.wrongs} wrongs, and nobody saw"
    assert all(problem.operations for problem in verdict.problems)
    # By what was written and read alone, too: not every register has revisions.
    assert linearizable_keys(history).valid is False


async def test_the_same_register_that_is_not_broken_is_valid() -> None:
    store, workload = FakeStore(seed=1), WORKLOADS["register"](setting("register", workers=5))
    history = await drive(workload, store.client, enough=OPERATIONS)
    verdict = workload.check(history, never)
    assert verdict.valid, "\n".join(map(str, verdict.problems))
    assert store.wrongs == 0
    assert verdict.checked == len(history)
