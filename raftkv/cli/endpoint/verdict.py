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
    wrong: dict[str, list[str]] = {}
    for name, error in members:
        if error is not None:
            # What begins with a name in some other way is a sentence about it.
            named = error.startswith(name) and not error.startswith(f"{name}: ")
            wrong.setdefault(error.removeprefix(f"{name}: "), []).extend(() if named else (name,))
    if wrong:
        good = sum(error is None for _, error in members)
        said = "; ".join(f"{', '.join(names)}: {error}" if names else error for error, names in wrong.items())
        fail(f"{good} of {len(members)} {quality}; {said}", Exit.ERROR if good else Exit.UNREACHABLE)
