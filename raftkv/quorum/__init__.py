"""Tunable quorums: what a request may ask for, when it is met, and what its answer may claim.

    concern     W: how many voters hold a write when it is acknowledged
    reading     R: what a quorum read waits for, and when it has to begin anew
    guarantee   what a read may be called, given how it was done: never more than is true
    states      which of several states is right, when they are compared
    explain     the same for people: a row of the table, failures survived, load

Pure: decisions over values. Nodes and clients ask the same functions, so that a quorum read means the same whoever
coordinates it, and the model check in tests/quorum drives the very rules that run. The proofs are in
docs/guarantees.md.
"""

from raftkv.quorum.concern import (
    ALL,
    DEFAULT,
    LEADER,
    MAJORITY,
    Needed,
    concern_name,
    concern_words,
    majority,
    needed,
    parse_concern,
)
from raftkv.quorum.guarantee import Guarantee, in_words, of_quorum_read
from raftkv.quorum.reading import (
    Answer,
    Begin,
    LogEnd,
    Membership,
    Target,
    Wait,
    counts,
    decide,
    is_rinsed,
    required_replicas,
    target_of,
)
from raftkv.quorum.states import StatesVerdict, judge_states

__all__ = [
    "ALL",
    "DEFAULT",
    "LEADER",
    "MAJORITY",
    "Answer",
    "Begin",
    "Guarantee",
    "LogEnd",
    "Membership",
    "Needed",
    "StatesVerdict",
    "Target",
    "Wait",
    "concern_name",
    "concern_words",
    "counts",
    "decide",
    "in_words",
    "is_rinsed",
    "judge_states",
    "majority",
    "needed",
    "of_quorum_read",
    "parse_concern",
    "required_replicas",
    "target_of",
]
