"""The small files of a data directory: JSON for people, with a checksum for the disk.

A flipped bit can turn one number into another and leave valid JSON: a node with a foreign id, or a vote's promise
forgotten. The checksum is over what the file says, not how it is laid out. Files of before it are read as they are.
"""

from __future__ import annotations

import json
from typing import Any, Final

import google_crc32c

CHECKSUM: Final = "crc32c"


def seal(content: dict[str, Any]) -> bytes:
    """Return the bytes of a file that says `content`, which does not name a checksum itself."""
    return json.dumps({**content, CHECKSUM: _checksum(content)}, indent=2).encode() + b"\n"


def unseal(data: bytes) -> dict[str, Any]:
    """Return what a file says, without its checksum. Raises ValueError for anything that `seal` did not write."""
    stored = json.loads(data)
    if not isinstance(stored, dict):
        raise ValueError("not an object")
    found = stored.pop(CHECKSUM, None)
    if found is not None and found != (expected := _checksum(stored)):
        raise ValueError(f"its checksum is {found!r}, and what it says has {expected!r}")
    return stored


def in_words(problem: Exception) -> str:
    """Return what was wrong with a file, as people are told it: what raised is one of the errors of reading one."""
    match problem:
        case KeyError():
            return f"it has no {problem.args[0]}"
        case json.JSONDecodeError():
            return f"it is no JSON from line {problem.lineno}, column {problem.colno} on"
        case UnicodeDecodeError():
            return f"it is no text from byte {problem.start} on"
        case OSError():
            return problem.strerror or str(problem)
        case TypeError() | AttributeError():
            return f"a value is of another kind than it must be: {problem}"
        case _:
            return str(problem)


def _checksum(content: dict[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
    return f"{google_crc32c.value(canonical):08x}"
