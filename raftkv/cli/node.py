"""The process of a node: its settings, its logging, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

import uvloop

from raftkv.cli.exits import Exit, exit_code, fail
from raftkv.errors import RaftKVError
from raftkv.invariant import InvariantViolation
from raftkv.server.app import serve
from raftkv.server.logs import configure_logging
from raftkv.server.settings import ServerSettings, load_settings
from raftkv.storage.files import FileSystem


def run_node(flags: Mapping[str, object], config: Path | None, *, files: FileSystem | None = None) -> None:
    """Run a node until SIGTERM or SIGINT. What ends it otherwise is one line on stderr and an exit code.

    `files`: see `serve`.
    """
    try:
        settings = load_settings(flags, config)
        configure_logging(settings.log_level, settings.log_format, node_id=settings.id)
        uvloop.run(_serve(settings, files))
    except RaftKVError as error:
        fail(error, exit_code(error, writes=False), writes=False)
    except InvariantViolation as error:
        fail(f"stopped: a safety invariant does not hold (please report this): {error}", Exit.ERROR)


async def _serve(settings: ServerSettings, files: FileSystem | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop, files=files)
