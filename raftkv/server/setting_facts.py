"""What can be told of every setting, read from its declaration: for flags, for the reference table, for checks.

A setting is declared once, as a field of `ServerSettings`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from raftkv.server.setting_marks import About
from raftkv.server.settings import ServerSettings

_UNITS: Final = (
    ("_bytes_per_s", "bytes/s"),
    ("_bytes", "bytes"),
    ("_ms", "ms"),
    ("_s", "s"),
    ("_ppm", "ppm"),
)
_BINARY: Final = ("", " KiB", " MiB", " GiB", " TiB")
_WORTH_TELLING: Final = 2**32
"""A bound from here on is there for the type's sake, and nobody has to be told."""


class Kind(StrEnum):
    """What a setting's value looks like."""

    NUMBER = "number"
    FRACTION = "fraction"
    SWITCH = "yes or no"
    CHOICE = "choice"
    TEXT = "text"
    PATH = "path"
    LIST = "list"
    MAP = "map"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One setting."""

    name: str
    kind: Kind
    choices: tuple[str, ...]
    unit: str
    """bytes, bytes/s, ms, s, ppm; empty: it counts something, or is no number."""
    least: float | None
    most: float | None
    """None: there is no bound, or none that anybody meets."""
    default: object
    """None: it has none."""
    required: bool
    help: str
    about: About
    group: str

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return f"RAFTKV_{self.name.upper()}"

    @property
    def metavar(self) -> str:
        """What stands for the value in help."""
        if self.about.metavar:
            return self.about.metavar
        match self.kind:
            case Kind.MAP:
                return "ID=HOST:PORT"
            case Kind.CHOICE:
                return "|".join(self.choices)
            case Kind.PATH:
                return "FILE"
            case Kind.SWITCH:
                return "yes|no"
            case Kind.NUMBER | Kind.FRACTION:
                return self.unit.upper() or "N"
        return "TEXT"

    @property
    def range_text(self) -> str:
        """The bounds of a number, in words; empty: none."""
        if self.least is None and self.most is None:
            return ""
        least = self._number(self.least or 0) if self.unit.startswith("bytes") else f"{self.least or 0:g}"
        return f"{least} or more" if self.most is None else f"{least} to {self.most:g}"

    @property
    def default_text(self) -> str:
        """What holds when it is not set, readably; empty: nothing does."""
        return self.about.default or self.in_words(self.default)

    def in_words(self, value: object) -> str:
        """Return a value of this setting as people read it, with its unit; empty for none."""
        match value:
            case None:
                return ""
            case bool():
                return "yes" if value else "no"
            case Enum():
                return str(value.value)
            case Mapping():
                return ", ".join(f"{node}={address}" for node, address in sorted(value.items()))
            case tuple() | list():
                return ", ".join(str(one) for one in value)
            case int() | float():
                return self._number(value)
        return str(value)

    def _number(self, value: float) -> str:
        if not self.unit.startswith("bytes"):
            return f"{value:g} {self.unit}".rstrip() if isinstance(value, float) else f"{value} {self.unit}".rstrip()
        power, whole = 0, int(value)
        while whole and whole % 1024 == 0 and power < len(_BINARY) - 1:
            whole, power = whole // 1024, power + 1
        per = self.unit.removeprefix("bytes")
        return f"{whole}{_BINARY[power] or ' bytes'}{per}" if value else "0"


@cache
def facts() -> tuple[Fact, ...]:
    """Return what is known of every setting, in the order of their declaration."""
    found: list[Fact] = []
    group = ""
    for name, field in ServerSettings.model_fields.items():
        about = next((mark for mark in field.metadata if isinstance(mark, About)), About())
        group = about.group or group
        found.append(_fact(name, field, about, group))
    return tuple(found)


@cache
def facts_by_name() -> dict[str, Fact]:
    """Return the same by name."""
    return {fact.name: fact for fact in facts()}


def _fact(name: str, field: FieldInfo, about: About, group: str) -> Fact:
    kind, choices = _kind(field.annotation)
    unit = about.unit or next((unit for end, unit in _UNITS if name.endswith(end)), "")
    least, most = _bounds(field)
    default = None if field.default is PydanticUndefined else field.default
    return Fact(
        name=name,
        kind=kind,
        choices=choices,
        unit=unit if kind in (Kind.NUMBER, Kind.FRACTION) else "",
        least=least,
        most=most,
        default=default or None if kind in (Kind.LIST, Kind.MAP) else default,
        required=field.is_required(),
        help=field.description or "",
        about=about,
        group=group,
    )


def _kind(annotation: Any) -> tuple[Kind, tuple[str, ...]]:
    given = [one for one in get_args(annotation) if one is not NoneType]
    if NoneType in get_args(annotation) and len(given) == 1:
        return _kind(given[0])
    origin = get_origin(annotation)
    if origin is Literal:
        return Kind.CHOICE, tuple(str(one) for one in get_args(annotation))
    if origin is dict:
        return Kind.MAP, ()
    if origin is tuple:
        return Kind.LIST, ()
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return Kind.CHOICE, tuple(str(one.value) for one in annotation)
    kinds: dict[Any, Kind] = {
        bool: Kind.SWITCH,
        int: Kind.NUMBER,
        float: Kind.FRACTION,
        Path: Kind.PATH,
        str: Kind.TEXT,
    }
    return kinds[annotation], ()


def _bounds(field: FieldInfo) -> tuple[float | None, float | None]:
    least: float | None = None
    most: float | None = None
    for mark in field.metadata:
        least = getattr(mark, "ge", least)
        most = getattr(mark, "le", most)
        below = getattr(mark, "lt", None)
        if below is not None:
            most = below - 1
    return least, most if most is not None and most < _WORTH_TELLING - 1 and math.isfinite(most) else None
