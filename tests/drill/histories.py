"""Histories of rounds, made up: node 1 leads term 3 until a fault at 10.0."""

from __future__ import annotations

from raftkv.drill.measure.record import Fault, How, Outcome, Read, Record, Role, Sight, Write

AT = 10.0


def write(ended: float, *, writer: int = 0, term: int = 3, outcome: Outcome = Outcome.OK, took: float = 0.005) -> Write:
    acknowledged = outcome is Outcome.OK
    return Write(
        writer=writer,
        number=round(ended * 1000),
        began=ended - took,
        ended=ended,
        outcome=outcome,
        term=term if acknowledged else 0,
        error="" if acknowledged else "no result after 10 s",
    )


def read(ended: float, *, missed: bool = False, outcome: Outcome = Outcome.OK) -> Read:
    return Read(began=ended - 0.003, ended=ended, outcome=outcome, missed=missed)


def sight(
    at: float, node: int, role: Role = Role.FOLLOWER, *, term: int = 3, leader: int = 1, applied: int = 100
) -> Sight:
    return Sight(at=at, node=node, role=role, term=term, leader=leader, commit=applied, applied=applied)


def killed() -> Record:
    """Noticed after 40 ms, elected after 70 ms, first write after 90 ms, a writer waits 115 ms, whole after 3 s."""
    return Record(
        writes=[
            write(9.990),
            write(9.995, writer=1),
            write(10.002, writer=1),  # acknowledged before the kill, arrived after it
            write(10.090, term=4),
            write(10.117, writer=1, term=4),
            write(12.0, term=4),
            write(12.6, term=4),  # a node starts: the machine is busy
            write(13.3, term=4),
            write(13.3, writer=1, term=4),
        ],
        reads=[read(9.9), read(10.2)],
        sights=[
            sight(9.98, 1, Role.LEADER),
            sight(9.99, 2),
            sight(10.01, 3),  # has not heard of it
            sight(10.04, 2, Role.CANDIDATE, leader=0),
            sight(10.07, 3, Role.LEADER, term=4, leader=3, applied=110),
            sight(10.08, 2, term=4, leader=3, applied=110),
            sight(12.0, 3, Role.LEADER, term=4, leader=3, applied=500),
            sight(12.9, 1, leader=0, applied=100),  # back, knows nothing yet
            sight(12.95, 1, term=4, leader=3, applied=109),  # knows, and lacks what was committed
            sight(13.0, 1, term=4, leader=3, applied=505),
        ],
        faults=[Fault(round=1, how=How.KILL, node=1, term=3, at=AT, undone=12.0)],
        ended=13.4,
    )
