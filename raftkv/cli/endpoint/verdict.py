"""How a command about all members ends when not all of them are well."""

from __future__ import annotations

from collections.abc import Iterable

from raftkv.cli.exits import Exit, fail
from raftkv.cli.view import MemberView


def fail_unless_all_answered(views: Iterable[MemberView]) -> None:
    """End the command unless every member answered, and all are of one cluster."""
    asked = list(views)
    quality = "members of one cluster that answer" if any(view.other_cluster for view in asked) else "reachable"
    fail_unless_all(quality, [(view.name, view.error) for view in asked])


def fail_unless_all(quality: str, members: list[tuple[str, str | None]]) -> None:
    """End the command unless no member (its name, what is wrong with it) has something wrong with it."""
    wrong = [error if error.startswith(name) else f"{name}: {error}" for name, error in members if error is not None]
    if wrong:
        good = len(members) - len(wrong)
        fail(f"{good} of {len(members)} {quality}; {'; '.join(wrong)}", Exit.ERROR if good else Exit.UNREACHABLE)
