"""Placeholder until the real one is merged."""

from __future__ import annotations

from typing import Any


def _missing(*_: object) -> Any:
    raise NotImplementedError


acquire = release = proclaim = _missing
