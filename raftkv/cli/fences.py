"""Fencing tokens as they are written on the command line: LOCK:TOKEN, or LOCK:TOKEN:MODE."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import typer

from raftkv.client import FenceMode, FencingToken

_MODES: Final = {mode.name.lower(): mode for mode in FenceMode}


def fences_of(texts: Sequence[str] | None) -> tuple[FencingToken, ...] | None:
    """Return the fences of a write, None where there are none. Raises typer.BadParameter, InvalidArgument."""
    return tuple(_fence_of(text) for text in texts) if texts else None


def _fence_of(text: str) -> FencingToken:
    # From the right: the name of a lock may have colons of its own.
    rest, _, last = text.rpartition(":")
    mode = FenceMode.HOLDER
    if last in _MODES:
        mode = _MODES[last]
        rest, _, last = rest.rpartition(":")
    if not rest or not (last.isascii() and last.isdigit()):
        raise typer.BadParameter(f"{text!r} is not LOCK:TOKEN, as in jobs/reindex:17", param_hint="'--fence'")
    return FencingToken(os.fsencode(rest), int(last), mode)
