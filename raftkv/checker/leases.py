"""Keys on leases: there for as long as their holder may rely on it, and then gone for good.

    ended early           a key was not there, or its lease not known, though it had been granted or renewed, and its
                          time cannot have been over
    came back             a key was not there after it had been, or a lease was not known; and later it was there (for a
                          while a key may be seen after its lease has ended: it goes with an entry of its own)
    outlived its revoke   a key was there, or its lease renewed, after that had been revoked
    outlived its end      a key was there when it was looked at for the last time, long after its lease had to end
    never written         a key had a value that nobody gave it
    read from the future  a key had its value before that was written

Operations, each with the key: `grant` with value {"lease", "ttl_ms"}; `attach` with value unique, and extra {"lease"};
`renew` with value {"lease"} -> {"ttl_ms"} (0: there is no such lease); `revoke` with value {"lease"}; `read` -> value
or null. A lease has one key, and a key one lease. A `grant` with extra {"value"} attaches its key as well.

A lease lasts its ttl from the moment when its grant, or last renewal, was applied, which is not before that was asked
for. It is measured by cluster time, which may lag behind any clock and does not run ahead (docs/api.md, Leases; the
store adds the millisecond that cutting off stamps may cost). So only the end in the last reads is a matter of patience.
A lease whose time is over is dead at once: it is not renewed. Its key goes a little later, with an entry of its own.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation, Outcome
from raftkv.checker.verdict import OutOfTime, Verdict, judged, never, undecided

_MS: Final = 1_000_000
_GONE: Final = "LeaseNotFound"
"""How the error begins of what found no lease."""


@dataclass(slots=True)
class _Life:
    """All that was done to one lease and its key."""

    grants: list[Operation] = field(default_factory=list)
    attached: list[Operation] = field(default_factory=list)
    renewals: list[Operation] = field(default_factory=list)
    revokes: list[Operation] = field(default_factory=list)
    reads: list[Operation] = field(default_factory=list)

    def lasting(self) -> Iterator[tuple[Operation, int]]:
        """Yield what made it last, acknowledged or not, and for how many nanoseconds."""
        granted = max((int(one.value["ttl_ms"]) for one in self.grants), default=0)
        for one in self.grants:
            if one.outcome is not Outcome.FAIL:
                yield one, int(one.value["ttl_ms"]) * _MS
        for one in self.renewals:
            if one.outcome is not Outcome.FAIL and not _found_none(one):
                ttl_ms = int(one.result["ttl_ms"]) if one.ok and one.result else granted
                yield one, ttl_ms * _MS


def check(
    operations: Sequence[Operation],
    out_of_time: OutOfTime = never,
    *,
    margin_ms: float = 0,
    patience_ms: float = 10_000,
) -> Verdict:
    """Judge leases.

    `margin_ms`: how much earlier than it should a lease may end; 0, unless clocks were made to run fast on purpose.
    `patience_ms`: how much later than it should it must have ended in the end, when nothing stands still any more.
    """
    findings = Findings()
    lives: dict[str, _Life] = {}
    for one in operations:
        life = lives.setdefault(one.key, _Life())
        match one.f:
            case "grant":
                life.grants.append(one)
                if "value" in one.extra:
                    life.attached.append(one)
            case "attach":
                life.attached.append(one)
            case "renew":
                life.renewals.append(one)
            case "revoke":
                life.revokes.append(one)
            case "read" if one.ok:
                life.reads.append(one)
    for key, life in lives.items():
        if out_of_time():
            return undecided(len(operations), "out of time before all leases were looked at", findings.problems)
        _too_early(findings, key, life, round(margin_ms * _MS))
        _too_late(findings, key, life, round(patience_ms * _MS))
        _values(findings, key, life)
    return judged(len(operations), findings.problems)


def _found_none(one: Operation) -> bool:
    """Whether a renewal, or an attachment, has found no lease."""
    if one.ok:
        return one.f == "renew" and isinstance(one.result, dict) and not one.result.get("ttl_ms", 1)
    return one.outcome is Outcome.FAIL and one.error.startswith(_GONE)


def _too_early(findings: Findings, key: str, life: _Life, margin: int) -> None:
    """Look for times at which a lease was missed although somebody may rely on it.

    Any acknowledged renewal counts, a later one as well: a lease that was renewed had not ended before.
    """
    known = [(one, ttl) for one, ttl in life.lasting() if one.ok]
    if not known:
        return
    witness, until = max(((one, one.began + ttl - margin) for one, ttl in known), key=lambda pair: pair[1])
    granted = min((one.ended for one in life.grants if one.ok), default=None)
    attached = min((one.ended for one in life.attached if one.ok), default=None)
    revoked = min((one.began for one in life.revokes if one.outcome is not Outcome.FAIL), default=None)
    missed = [one for one in life.reads if one.result is None and attached is not None and attached < one.began]
    missed += [
        one
        for one in (*life.renewals, *life.attached)
        if _found_none(one) and granted is not None and granted < one.began
    ]
    for one in sorted(missed, key=lambda one: one.began):
        if one.ended <= until and (revoked is None or one.ended < revoked):
            text = (
                f"the lease of {key} was relied on until {until / 1e9:.6f} s at least, and was gone "
                f"{(until - one.ended) / 1e6:.3f} ms before that"
            )
            findings.add("ended early", text, witness, one)


def _too_late(findings: Findings, key: str, life: _Life, patience: int) -> None:
    """Look for what was there though it had to be gone."""
    present = sorted((one for one in life.reads if one.result is not None), key=lambda one: one.began)
    renewed = sorted((one for one in life.renewals if one.ok and not _found_none(one)), key=lambda one: one.began)
    alive = sorted([*present, *renewed], key=lambda one: one.began)
    begins = [one.began for one in alive]

    # That it is absent says that it ended only if it was there before.
    was_there = min((one.ended for one in [*life.attached, *present] if one.ok), default=None)
    ended = [one for one in life.reads if one.result is None and was_there is not None and was_there < one.began]
    gone = min(ended, key=lambda one: one.ended, default=None)
    if gone is not None and (place := bisect_left(begins, gone.ended + 1)) < len(alive):
        findings.add("came back", f"the lease of {key} had ended, and is there again", gone, alive[place])
    # A lease is dead by its time, and its key goes with an entry of its own soon after that.
    dead = [
        one
        for one in [*life.renewals, *life.attached]
        if _found_none(one) and any(grant.precedes(one) for grant in life.grants if grant.ok)
    ]
    told = min(dead, key=lambda one: one.ended, default=None)
    if told is not None:
        later = [one for one in renewed if one.began > told.ended]
        later += [one for one in present if one.began > told.ended + patience]
        if later:
            text = f"the lease of {key} was said to have ended, and is there long after"
            findings.add("came back", text, told, min(later, key=lambda one: one.began))
    revoke = min((one for one in life.revokes if one.ok), key=lambda one: one.ended, default=None)
    if revoke is not None and (place := bisect_left(begins, revoke.ended + 1)) < len(alive):
        text = f"the lease of {key} was revoked, and is there afterwards"
        findings.add("outlived its revoke", text, revoke, alive[place])
    last = max(life.reads, key=lambda one: one.began, default=None)
    if last is not None and last.result is not None:
        # An unknown renewal may have worked until its caller gave up, or a little later: patience has room for it.
        longest = max(life.lasting(), key=lambda pair: pair[0].ended + pair[1], default=None)
        if longest is not None and longest[0].ended + longest[1] + patience < last.began:
            late = (last.began - longest[0].ended - longest[1]) / 1e9
            text = f"{key} is still there {late:.3f} s after its lease had to end"
            findings.add("outlived its end", text, longest[0], last)


def _values(findings: Findings, key: str, life: _Life) -> None:
    written: dict[Any, Operation] = {}
    for one in life.attached:
        if one.outcome is not Outcome.FAIL:
            written[one.extra["value"] if one.f == "grant" else one.value] = one
    for one in life.reads:
        if one.result is None:
            continue
        writer = written.get(one.result)
        if writer is None:
            findings.add("never written", f"{key} is {one.result!r}, and nobody wrote that", one)
        elif one.ended < writer.began:
            findings.add("read from the future", f"{key} is {one.result!r} before that was written", one, writer)
