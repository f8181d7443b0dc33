"""Where settings come from beside flags, the TOML file and the environment, and what is in them that is no setting."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from raftkv.errors import ConfigurationError

PREFIX: Final = "RAFTKV_"

_OTHERS: Final = frozenset(
    {
        # what clients are told
        "RAFTKV_ENDPOINTS", "RAFTKV_CACERT", "RAFTKV_CERT", "RAFTKV_KEY", "RAFTKV_TLS_SERVER_NAME", "RAFTKV_DEBUG",
        # what `lock`, `elect` and `watch` tell the command that they run
        "RAFTKV_LOCK", "RAFTKV_FENCING_TOKEN", "RAFTKV_LEASE",
        "RAFTKV_WATCH_KIND", "RAFTKV_WATCH_KEY", "RAFTKV_WATCH_VALUE", "RAFTKV_WATCH_REVISION",
        # what tests are told
        "RAFTKV_TOXIPROXY", "RAFTKV_REQUIRE_TOXIPROXY",
    }
)  # fmt: skip
"""Variables that other parts of raftkv read or set."""

_OF_OTHERS: Final = re.compile(
    # Kubernetes tells every container of a Service `raftkv` or `raftkv-NAME` in its namespace.
    r"RAFTKV_(?:JEPSEN_.*|(?:\w+_)?SERVICE_(?:HOST|PORT(?:_\w+)?)|(?:\w+_)?PORT(?:_\d+_(?:TCP|UDP|SCTP)(?:_\w+)?)?)"
)

_CLOSE: Final = 0.75


_GUARDS: Final = ("tls_", "peer_tls_", "insecure")


@dataclass(frozen=True, slots=True)
class UnknownVariable:
    """A variable of the environment that looks like a setting and is none."""

    name: str
    nearest: str | None
    """The variable that was probably meant."""

    @property
    def endangers(self) -> bool:
        """Whether a node that goes on without it is open to those whom it was to keep out, or the other way round."""
        return self.nearest is not None and self.nearest.removeprefix(PREFIX).lower().startswith(_GUARDS)

    def describe(self) -> str:
        return f"{self.name} is no setting of a node" + (f"; did you mean {self.nearest}?" if self.nearest else "")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return which of the known names was probably meant; None: nobody can tell."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=_CLOSE)), None)


def unknown_variables(environment: Collection[str], settings: Collection[str]) -> list[UnknownVariable]:
    """Return the variables that begin like settings, and are neither one nor something else that raftkv knows."""
    known = {f"{PREFIX}{name.upper()}" for name in settings}
    return [
        UnknownVariable(name, nearest(name.upper(), known))
        for name in sorted(environment)
        if name.upper().startswith(PREFIX)
        and name.upper() not in known | _OTHERS
        and not _OF_OTHERS.fullmatch(name.upper())
    ]


def read_file(path: Path, settings: Collection[str], tables: Collection[str]) -> dict[str, Any]:
    """Return the settings of a TOML file by name; those in `tables` may be written as tables.

    Raises ConfigurationError, in one line with all that is wrong: what cannot be read, and names that are no settings.
    """
    try:
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text)
    except OSError as error:
        raise ConfigurationError(f"configuration file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"configuration file {path}: {error}") from error
    problems: list[str] = []
    given: dict[str, Any] = {}
    for written, value in found.items():
        name = written.replace("-", "_")
        where = _where(text, written)
        if name not in settings:
            problems.append(f"{where}{_unknown(written, value, settings, tables)}")
        elif name in given:
            problems.append(f"{where}{name!r} is set twice, once as {name.replace('_', '-')!r}")
        elif isinstance(value, Mapping) and name in tables and (strays := _settings_in(value, settings)):
            problems.append(f"{where}{strays} in the table [{written}]: settings stand before the first table")
        elif isinstance(value, Mapping) and name not in tables:
            problems.append(f"{where}{written!r} is a value, not a table")
        given[name] = value
    if problems:
        raise ConfigurationError(f"configuration file {path}: {'; '.join(problems)}")
    return given


def _unknown(written: str, value: object, settings: Collection[str], tables: Collection[str]) -> str:
    if isinstance(value, Mapping):
        known = " and ".join(f"[{table}]" for table in sorted(tables))
        return f"unknown table [{written}]: settings stand at the top of the file; tables are {known} only"
    meant = nearest(written.replace("-", "_"), settings)
    return f"unknown setting {written!r}" + (f"; did you mean {meant!r}?" if meant else "")


def _settings_in(table: Mapping[str, Any], settings: Collection[str]) -> str:
    return ", ".join(repr(name) for name in table if name.replace("-", "_") in settings)


def _where(text: str, name: str) -> str:
    """Return where a name is set first, in words; empty: it is not to be seen."""
    pattern = re.compile(rf"\s*(?:\[\s*)?[\"']?{re.escape(name)}[\"']?\s*[].=]")
    line = next((number for number, line in enumerate(text.splitlines(), 1) if pattern.match(line)), None)
    return f"line {line}: " if line is not None else ""
