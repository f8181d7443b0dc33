"""Flags for the settings of a node, made from their declaration (`ServerSettings`) when a command with them runs.

Not before: a node's settings take long to load, and every other command would wait for them.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from raftkv.server.setting_facts import Fact

_GIVEN: Final = "raftkv.settings"


class TakesSettings(TyperCommand):
    """A command that has, beside its own parameters, a flag for every setting: `given_settings` returns them."""

    _made: list[Any] | None = None

    def get_params(self, ctx: Any) -> list[Any]:
        if self._made is None:
            self._made = _options()
        return [*self._made, *super().get_params(ctx)]

    def invoke(self, ctx: Any) -> Any:
        values = {option.name: ctx.params.pop(option.name) for option in self._made or ()}
        ctx.meta[_GIVEN] = {name: value for name, value in values.items() if value not in (None, ())}
        return super().invoke(ctx)


def given_settings(context: typer.Context) -> dict[str, object]:
    """Return the settings of the command line by name: those that it names."""
    found: dict[str, object] = context.meta[_GIVEN]
    return found


def _options() -> list[Any]:
    """Return an option for each setting, as Typer makes them of a function's parameters."""
    from raftkv.server.setting_facts import facts  # noqa: PLC0415 - see above

    def takes() -> None:
        """Stand for a function with all of these parameters."""

    annotations = {fact.name: _annotation(fact) for fact in facts()}
    parameters = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in annotations.items()
    ]
    setattr(takes, "__signature__", inspect.Signature(parameters))  # noqa: B010 - it is no attribute to mypy
    takes.__annotations__ = annotations
    alone = typer.Typer(add_completion=False)
    alone.command()(takes)
    made = typer.main.get_command(alone)
    assert not isinstance(made, TyperGroup)
    return list(made.params)


def _annotation(fact: Fact) -> Any:
    from raftkv.server.setting_facts import Kind  # noqa: PLC0415

    types: dict[Kind, Any] = {
        Kind.NUMBER: int,
        Kind.FRACTION: float,
        Kind.SWITCH: bool,
        Kind.TEXT: str,
        Kind.PATH: Path,
        Kind.LIST: list[str],
        Kind.MAP: list[str],
    }
    of = Literal[fact.choices] if fact.kind is Kind.CHOICE else types[fact.kind]
    plain = fact.kind not in (Kind.SWITCH, Kind.CHOICE)
    return Annotated[
        of | None,
        typer.Option(
            help=fact.help,
            metavar=fact.metavar if plain else None,
            show_default=fact.default_text or False,
            min=fact.least,
            max=fact.most,
            rich_help_panel=fact.group,
        ),
    ]
