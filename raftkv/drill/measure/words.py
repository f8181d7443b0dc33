"""A drill's figures in words."""

from __future__ import annotations

from raftkv.drill.measure.verdict import FIGURES, Result


def summary(result: Result) -> dict[str, str]:
    """Return the figures of a drill in words, by name."""
    audit = result.audit
    return {
        "RTO": _spread(result, "rto_ms"),
        "MTTR": _spread(result, "mttr_ms"),
        "RPO": (
            "not known: nothing could be read back"
            if audit is None
            else f"{len(audit.lost)} of {audit.acknowledged:,} acknowledged writes lost, "
            f"{len(audit.repeated)} applied twice"
        ),
        "requests": (
            f"{result.failed} writes failed, {result.unknown} with unknown outcome; "
            f"{result.reads_failed} of {result.reads:,} reads failed, {result.reads_missed} missed a write"
        ),
        "result": "passed" if result.passed else f"FAILED: {'; '.join(result.problems)}",
    }


def duration(milliseconds: float | None) -> str:
    """Return a time for people."""
    if milliseconds is None:
        return "-"
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _spread(result: Result, figure: str) -> str:
    one = result.spread(FIGURES[figure])
    return "-" if one is None else f"median {duration(one.median)}, at most {duration(one.most)}"
