"""Commands that run another one: raftkv lock NAME -- COMMAND..."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand


class TakesCommand(TyperCommand):
    """Hands what comes after two dashes, as it stands, to the command as `context.args`; nothing else reads it.

    Without dashes those are empty; nothing after them is a usage error.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        dashes = args.index("--") if "--" in args else len(args)
        command = args[dashes + 1 :]
        rest = super().parse_args(ctx, args[:dashes])
        if dashes < len(args) and not (command and command[0]) and not ctx.resilient_parsing:
            raise typer.BadParameter("no command after --", ctx=ctx)
        ctx.args = command
        return rest

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]
