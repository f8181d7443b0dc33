"""The summary of a demo, and whether it passed."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Final

from raftkv.cli.output import print_json, print_line

MIN_WRITES: Final = 100
"""Acknowledged writes before the leader is killed, and again after it: fewer would prove nothing."""


@dataclass(slots=True)
class Report:
    """What happened; what did not happen stays None."""

    nodes: int
    writes_acked: int = 0
    writes_acked_before_kill: int = 0
    writes_acked_after_kill: int = 0
    writes_failed: int = 0
    writes_lost: int | None = None
    """Acknowledged writes that any node lacks, or holds with another value."""
    writes_repeated: int | None = None
    """Writes that any node applied more often than they were made."""
    nodes_compared: int = 0
    failover_ms: float | None = None
    """Longest pause that the sequential writer saw around the kill."""
    catch_up_ms: float | None = None
    """From the start of the killed node until it had applied what was committed."""
    leader_before: int | None = None
    leader_after: int | None = None
    terms: list[int] = field(default_factory=list)
    """Before the kill, and after it."""
    applied_index: int | None = None
    state_hash: str | None = None
    state_hash_equal: bool | None = None
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    """Why the demo failed; empty: it passed."""

    def judge(self) -> None:
        """Add every reason for which this is no success. Nothing may pass because it was not looked at."""
        reasons = {
            "no other node took over": self.leader_after in {None, self.leader_before},
            "the term did not rise": len(self.terms) < 2 or self.terms[1] <= self.terms[0],
            f"fewer than {MIN_WRITES} writes were acknowledged before the kill": (
                self.writes_acked_before_kill < MIN_WRITES
            ),
            f"fewer than {MIN_WRITES} writes were acknowledged after the kill": (
                self.writes_acked_after_kill < MIN_WRITES
            ),
            f"{self.writes_failed} writes failed": self.writes_failed > 0,
            "no pause was measured": self.failover_ms is None,
            "the killed node did not catch up": self.catch_up_ms is None,
            f"{self.nodes_compared} of {self.nodes} nodes were compared with what was acknowledged": (
                self.nodes_compared != self.nodes
            ),
            f"{self.writes_lost} acknowledged writes are lost": self.writes_lost not in {None, 0},
            f"{self.writes_repeated} writes were applied twice": self.writes_repeated not in {None, 0},
            "the states of the nodes differ": self.state_hash_equal is False,
            "the states of the nodes were not compared": self.state_hash_equal is None,
        }
        self.problems += [reason for reason, holds in reasons.items() if holds]

    def print(self, *, as_json: bool) -> None:
        """Write it to stdout."""
        if as_json:
            print_json(asdict(self))
            return
        before, after = self.terms if len(self.terms) == 2 else ("-", "-")
        rows = {
            "nodes": self.nodes,
            "writes acknowledged": f"{self.writes_acked:,} ({self.writes_acked_before_kill:,} before the kill)",
            "writes lost": _or_dash(self.writes_lost),
            "writes applied twice": _or_dash(self.writes_repeated),
            "leader": f"{_or_dash(self.leader_before)} (term {before}) -> {_or_dash(self.leader_after)} (term {after})",
            "failover": f"{_or_dash(self.failover_ms)} ms, the longest pause that the writer saw",
            "state hash": f"{_or_dash(self.state_hash)} at index {_or_dash(self.applied_index)}, "
            f"{'equal on all nodes' if self.state_hash_equal else 'NOT shown to be equal on all nodes'}",
            "result": "FAILED" if self.problems else "passed: every acknowledged write is on every node, once",
        }
        print_line("")
        for name, value in rows.items():
            print_line(f"{name:<22}{value}")


def _or_dash(value: float | str | None) -> str:
    return "-" if value is None else str(value)
