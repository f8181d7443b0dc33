"""What a setting says of itself beside its type, range, default and description."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """Stands in the annotation of a field of `ServerSettings`; `setting_facts` reads it."""

    group: str = ""
    """The heading that begins with this setting; those after it belong there too."""
    unit: str = ""
    """Where the end of the name does not say it: bytes, ms, s, ..."""
    metavar: str = ""
    """What stands for the value in help and tables, where neither type nor unit says it."""
    default: str = ""
    """What holds when it is not set, where that is not the field's default itself."""
    agree: str = ""
    """Why all members should have the same; nodes tell each other, and warn when they have not (`drift`)."""
    restart: str = ""
    """Whether a restart may bring another value; empty: yes, and it holds from then on."""
