"""Tokens of grants, and what was written under them: what locks and elections have in common.

duplicate token    two grants were told one token
token order        a grant was told a token that is not above one of a grant that was over before it was asked for
unknown token      a write carried a token that no grant was told
fencing order      by revisions, a write was accepted behind one that had a higher token
stale holder       a write was begun after a newer grant was told, and was accepted
write after release  a write was begun after its grant was given back, and was accepted
duplicate revision two writes were told one revision
revision order     a write was told a revision that is not above one of a write that was over before it began
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raftkv.checker.findings import Findings
from raftkv.checker.history import Operation
from raftkv.checker.newest import out_of_order
from raftkv.checker.revisions import order_of_writes

TokenOf = Callable[[Operation], int]


def look_at_grants(findings: Findings, grants: Sequence[Operation], token: TokenOf) -> None:
    """Judge the tokens of grants that were told."""
    first: dict[int, Operation] = {}
    for one in grants:
        other = first.setdefault(token(one), one)
        if other is not one:
            findings.add("duplicate token", f"token {token(one)} was granted twice", other, one)
    for before, after in out_of_order(grants, token):
        if token(before) != token(after):  # else told already
            text = f"token {token(after)} was granted after {token(before)} had been"
            findings.add("token order", text, before, after)


def look_at_writes(
    findings: Findings,
    *,
    grants: Sequence[Operation],
    writes: Sequence[Operation],
    releases: Sequence[Operation],
    token: TokenOf,
) -> None:
    """Judge accepted writes, in the order of revisions, against grants and releases that were told.

    A write with extra {"mode": "max_seen"} may come after the release of its grant, as long as nobody came after.
    """
    granted = {token(one) for one in grants}
    newest: Operation | None = None
    for one in writes:
        if token(one) not in granted:
            findings.add("unknown token", f"a write carried token {token(one)}, which no grant was told", one)
        if newest is not None and token(newest) > token(one):
            text = (
                f"a write under token {token(one)} was accepted at revision {one.revision}, "
                f"behind one under token {token(newest)} at revision {newest.revision}"
            )
            findings.add("fencing order", text, newest, one)
        else:
            newest = one
    order_of_writes(findings, writes)
    # As if a write's number were its token: greater ones that were granted before it began shut it out.
    accepted = {id(one) for one in writes}
    for grant, one in out_of_order([*grants, *writes], token, equal=True):
        if id(one) in accepted and id(grant) not in accepted:
            text = f"a write under token {token(one)} began after token {token(grant)} was granted, and was accepted"
            findings.add("stale holder", text, grant, one)
    given_back = {token(one): one for one in releases}
    for one in writes:
        release = given_back.get(token(one))
        if release is not None and release.precedes(one) and one.extra.get("mode") != "max_seen":
            text = f"a write under token {token(one)} began after that was given back, and was accepted"
            findings.add("write after release", text, release, one)
