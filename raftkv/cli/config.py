"""`raftkv config`: what `raftkv serve` would make of its flags, the environment and its file."""

from __future__ import annotations

from typing import Annotated

import typer

from raftkv.cli.exits import Exit, exit_code, fail
from raftkv.cli.options import Format, Output
from raftkv.cli.output import print_json, print_line, print_table
from raftkv.cli.serve import Config
from raftkv.cli.settings_flags import TakesSettings, given_settings
from raftkv.errors import RaftKVError

app = typer.Typer(help="The settings of a node.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("check", cls=TakesSettings)
def check(
    context: typer.Context,
    *,
    config: Config = None,
    rtt_ms: Annotated[
        float | None,
        typer.Option("--rtt-ms", min=0, metavar="MS", help="Slowest round trip between two members: is there time?"),
    ] = None,
    dial: Annotated[bool, typer.Option("--dial", help="Try whether the other members can be reached, too.")] = False,
    output: Format = Output.TABLE,
) -> None:
    """Show the settings as `raftkv serve` would take them, and where each comes from. Starts nothing, changes nothing.

    Say what `serve` would be told: the same flags, in the same environment, with the same --config. Exit code 2, and
    one line, when it would refuse that, or when a variable of the environment is almost the name of a setting. Remarks
    on what is allowed and probably not meant come last, and are no errors.
    """
    import asyncio  # noqa: PLC0415 - see cli.serve
    import os  # noqa: PLC0415

    from raftkv.server.disk_room import require_fits  # noqa: PLC0415
    from raftkv.server.setting_facts import facts  # noqa: PLC0415
    from raftkv.server.settings import load_with_sources  # noqa: PLC0415
    from raftkv.server.settings_hints import hints, unreachable  # noqa: PLC0415
    from raftkv.server.settings_sources import unknown_variables  # noqa: PLC0415
    from raftkv.server.start_refusals import require_may_listen  # noqa: PLC0415

    try:
        settings, sources = load_with_sources(given_settings(context), config)
        if "disk_reserve_bytes" in settings.model_fields_set:
            require_fits(settings.disk_reserve_bytes, settings.data_dir)
        require_may_listen(settings)
    except RaftKVError as error:
        fail(error, exit_code(error, writes=False), writes=False)
    unknown = unknown_variables(os.environ, [fact.name for fact in facts()])
    if misspelt := [one.describe() for one in unknown if one.nearest]:
        fail("; ".join(misspelt), Exit.USAGE)
    remarks = [one.describe() for one in unknown] + hints(settings, rtt_ms=rtt_ms)
    if dial:
        remarks += asyncio.run(unreachable(settings))
    if output is Output.JSON:
        written = settings.model_dump(mode="json")
        told = {}
        for fact in facts():
            value, source = settings.in_force(fact.name), sources[fact.name]
            same = value == getattr(settings, fact.name)  # else it is a number or a text, and JSON as it stands
            told[fact.name] = {
                "value": written[fact.name] if same else value,
                "source": source.kind,
                "from": source.where or None,
            }
        print_json({"settings": told, "hints": remarks})
        return
    print_table(
        ("SETTING", "VALUE", "FROM"),
        [
            (
                fact.flag,
                fact.in_words(settings.in_force(fact.name)) or fact.about.default or None,
                f"{sources[fact.name].kind} {sources[fact.name].where}".strip(),
            )
            for fact in facts()
        ],
    )
    if remarks:
        print_line("")
    for remark in remarks:
        print_line(f"hint: {remark}")
