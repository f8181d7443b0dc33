"""The suite against stores in memory that are broken on purpose: whatever is wrong with them, it is caught."""

from __future__ import annotations

import pytest

from raftkv.checker.registers import linearizable_keys
from raftkv.checker.verdict import never
from raftkv.jepsen.workloads import WORKLOADS
from tests.jepsen.driving import done, drive, setting
from tests.jepsen.fake_store import BROKEN, FakeStore, LosesUpdates, WritesTwice

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


OTHERS = {
    "set": done("add", "read", times=60),
    "append": done("txn", times=150),
    "bank": done("transfer", "read", times=60),
    "sessions": done("increment", "read", times=60),
}


@pytest.mark.parametrize("name", OTHERS)
async def test_a_lost_update_is_caught_by_every_workload(name: str) -> None:
    store, workload = LosesUpdates(seed=1), WORKLOADS[name](setting(name, workers=5))
    history = await drive(workload, store.client, enough=lambda done: OTHERS[name](done) and store.wrongs >= WRONGS)
    assert workload.check(history, never).valid is False, f"{store.wrongs} wrongs, and nobody saw"


@pytest.mark.parametrize("name", OTHERS)
async def test_a_right_store_is_valid_by_every_workload(name: str) -> None:
    workload = WORKLOADS[name](setting(name, workers=5))
    history = await drive(workload, FakeStore(seed=1).client, enough=OTHERS[name])
    verdict = workload.check(history, never)
    assert verdict.valid, "\n".join(map(str, verdict.problems)) or verdict.why


async def test_a_put_that_is_applied_twice_is_counted() -> None:
    store, workload = WritesTwice(seed=1), WORKLOADS["sessions"](setting("sessions", workers=5))
    history = await drive(
        workload, store.client, enough=lambda done: OTHERS["sessions"](done) and store.wrongs >= WRONGS
    )
    assert workload.check(history, never).valid is False
