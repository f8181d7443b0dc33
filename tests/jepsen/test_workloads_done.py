"""What counts as done: a cluster on which nothing happened has shown nothing, however much it answered."""

from __future__ import annotations

import pytest

from raftkv.checker.history import Operation
from raftkv.jepsen.workloads import WORKLOADS
from tests.checker.building import op
from tests.jepsen.driving import setting

TIMES = 400
LOCAL = {"level": "local", "guarantee": "stale_prefix"}
LINEARIZABLE = {"level": "linearizable", "guarantee": "linearizable"}
TOKEN = {"token": 5}

# By workload: what is answered all the time where nothing takes effect, or has been there from the beginning.
NOTHING: dict[str, list[Operation]] = {
    "register": [
        op("read", 0, 1, key="r1"),
        op("cas", 0, 1, key="r1", value=[1, 2], result=False),
        op("delete", 0, 1, key="r1", result=False),
        op("write", 0, 1, key="r1", value=3, outcome="info"),
    ],
    "set": [op("read", 0, 1, key="set0", result=[]), op("add", 0, 1, key="set0", value=1, outcome="fail")],
    "append": [
        op("txn", 0, 1, value=[["r", "l1", None]], result=[["r", "l1", []]]),
        op("txn", 0, 1, value=[["append", "l1", 1]], outcome="fail"),
    ],
    "bank": [op("transfer", 0, 1, value={"from": "0", "to": "1", "amount": 1}, outcome="fail")],
    "lock": [op("read", 0, 1, key="counter", result=0), op("acquire", 0, 1, outcome="fail")],
    "election": [op("observe", 0, 1), op("resign", 0, 1, value=TOKEN), op("lead", 0, 1, value="c1", outcome="fail")],
    "lease": [
        op("grant", 0, 1, key="k1", value={"lease": 1, "ttl_ms": 1000}),
        op("read", 2, 3, key="k1"),
        op("attach", 4, 5, key="k2", value=1, outcome="fail"),
        op("read", 6, 7, key="k2"),
    ],
    "watch": [op("watch", 0, 1, value={"from": 1}, result={"events": [], "through": 1})],
    "sessions": [op("read", 0, 1, key="s0", result=0), op("increment", 0, 1, key="s0", outcome="info")],
    "quorum": [
        op("read", 0, 1, key="q1", extra=LINEARIZABLE),
        op("read", 0, 1, key="q1", result=1, extra=LOCAL),
        op("write", 0, 1, key="q1", value=1, extra={"concern": "leader", "committed": False, "durable_on": 1}),
    ],
    "probe": [op("read", 0, 1, key="probe"), op("write", 0, 1, key="probe", value=1, outcome="info")],
}

# By workload: what each that counts looks like.
SOMETHING: dict[str, dict[str, list[Operation]]] = {
    "register": {
        "write": [op("write", 0, 1, key="r1", value=3), op("cas", 0, 1, key="r1", value=[1, 2], result=True)],
        "read": [op("read", 0, 1, key="r1", result=3)],
    },
    "set": {"add": [op("add", 0, 1, key="set0", value=1)], "read": [op("read", 0, 1, key="set0", result=[1])]},
    "append": {
        "append": [op("txn", 0, 1, result=[["append", "l1", 1], ["r", "l1", [1]]])],
        "read": [op("txn", 0, 1, result=[["r", "l1", []], ["r", "l2", [1]]])],
    },
    "bank": {
        "transfer": [op("transfer", 0, 1, value={"from": "0", "to": "1", "amount": 1})],
        "read": [op("read", 0, 1, result={"0": 100})],
    },
    "lock": {"acquire": [op("acquire", 0, 1, result=TOKEN)], "increment": [op("increment", 0, 1, value=TOKEN)]},
    "election": {
        "lead": [op("lead", 0, 1, value="c1", result=TOKEN)],
        "act": [op("act", 0, 1, value=TOKEN)],
        "observe": [op("observe", 0, 1, result={"token": 5, "candidate": "c1"})],
    },
    "lease": {
        "attach": [op("attach", 2, 3, key="k9", value=1)],
        "gone": [op("read", 4, 5, key="k9")],
    },
    "watch": {
        "write": [op("write", 0, 1, key="w1", value=1)],
        "event": [op("watch", 0, 1, result={"events": [[2, "w1", 1]], "through": 3})],
    },
    "sessions": {"increment": [op("increment", 0, 1, key="s0")], "read": [op("read", 0, 1, key="s0", result=1)]},
    "quorum": {
        "write": [op("write", 0, 1, key="q1", value=1, extra={"committed": True})],
        "read": [op("read", 0, 1, key="q1", result=1, extra=LINEARIZABLE)],
    },
    "probe": {
        "write": [op("write", 0, 1, key="probe", value=1)],
        "read": [op("read", 0, 1, key="probe", result=1)],
    },
}


@pytest.mark.parametrize("name", WORKLOADS)
def test_where_nothing_takes_effect_nothing_is_done(name: str) -> None:
    workload = WORKLOADS[name](setting(name, workers=4))
    done = workload.done(NOTHING[name] * TIMES)
    assert workload.least
    assert not {what: done[what] for what in workload.least if done[what]}


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_was_done_counts(name: str) -> None:
    workload = WORKLOADS[name](setting(name, workers=4))
    every = [one for kind in SOMETHING[name].values() for one in kind]
    done = workload.done([*NOTHING[name], *every])
    assert {what: done[what] for what in workload.least} == {what: len(kind) for what, kind in SOMETHING[name].items()}
