"""The process of a node: its settings, its logging, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from pathlib import Path

import structlog
import uvloop

from raftkv.cli.exits import Exit, exit_code, fail
from raftkv.cli.start_bar import start_display
from raftkv.errors import ConfigurationError, RaftKVError
from raftkv.invariant import InvariantViolation
from raftkv.server.app import serve
from raftkv.server.clock import Clock
from raftkv.server.disk_room import require_fits
from raftkv.server.endpoints_book import saying_how_to_repair
from raftkv.server.logs import configure_logging
from raftkv.server.settings import ServerSettings, load_settings
from raftkv.server.settings_sources import unknown_variables
from raftkv.server.start_progress import StartProgress
from raftkv.storage.files import FileSystem
from raftkv.storage.progress import Interrupted

log = structlog.get_logger("raftkv.start")


def run_node(
    flags: Mapping[str, object], config: Path | None, *, files: FileSystem | None = None, clock: Clock | None = None
) -> None:
    """Run a node until SIGTERM or SIGINT. What ends it otherwise is one line on stderr and an exit code.

    `files`, `clock`: see `serve`.
    """
    try:
        settings = load_settings(flags, config)
        if "disk_reserve_bytes" in settings.model_fields_set:
            require_fits(settings.disk_reserve_bytes, settings.data_dir)
        unknown = unknown_variables(os.environ, ServerSettings.model_fields)
        if risky := [one.describe() for one in unknown if one.endangers]:
            raise ConfigurationError("; ".join(risky))
        configure_logging(settings.log_level, settings.log_format, node_id=settings.id)
        if unknown:
            log.warning(
                "variables of the environment that no node reads", reason="; ".join(one.describe() for one in unknown)
            )
        with saying_how_to_repair(settings.data_dir):
            uvloop.run(_serve(settings, files, clock))
    except RaftKVError as error:
        fail(error, exit_code(error, writes=False), writes=False)
    except InvariantViolation as error:
        fail(f"stopped: a safety invariant does not hold (please report this): {error}", Exit.ERROR)


async def _serve(settings: ServerSettings, files: FileSystem | None, clock: Clock | None) -> None:
    stop, started = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    progress = StartProgress(start_display())
    running = loop.create_task(serve(settings, stop, started=started.set, progress=progress, files=files, clock=clock))

    def end() -> None:
        if started.is_set():
            stop.set()
        else:
            running.cancel()

    def on_signal(number: int, frame: object) -> None:
        progress.interrupt()
        loop.call_soon_threadsafe(end)

    # Not the event loop's handlers: those run when the loop gets its turn, and a long start keeps it waiting.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        await running
    except (Interrupted, asyncio.CancelledError):
        log.info("stopped before it served")
