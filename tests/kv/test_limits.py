from __future__ import annotations

from collections.abc import Callable

import pytest

from raftkv.errors import InvalidArgument
from raftkv.kv import limits

MIB = 1 << 20


@pytest.mark.parametrize(
    "allowed",
    [
        lambda: limits.validate_put(b"k" * 500, b"v" * MIB),
        lambda: limits.validate_put(b"\0" * 250, b""),
        lambda: limits.validate_delete(b"k", b""),
        lambda: limits.validate_delete(b"k", b"\0"),
        lambda: limits.validate_range(b"k", b"k"),
        lambda: limits.validate_range(b"k" * 501, b"l"),
        lambda: limits.validate_request_bytes(MIB * 3 // 2),
    ],
)
def test_the_limit_itself_is_allowed(allowed: Callable[[], None]) -> None:
    allowed()


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (lambda: limits.validate_put(b"", b"v"), "key is empty"),
        (lambda: limits.validate_put(b"k" * 501, b"v"), "501 bytes, of which 0 zero; at most 500"),
        (lambda: limits.validate_put(b"\0" * 251, b"v"), "251 bytes, of which 251 zero; at most 500"),
        (lambda: limits.validate_put(b"k", b"v" * (MIB + 1)), "value is too large: 1048577 bytes, at most 1048576"),
        (lambda: limits.validate_delete(b"", b""), "key is empty"),
        (lambda: limits.validate_delete(b"", b"\0"), "key is empty; every key"),
        (lambda: limits.validate_delete(b"b", b"a"), "range_end lies before key"),
        (lambda: limits.validate_range(b"k" * 501, b""), "key is too long"),
        (lambda: limits.validate_range(b"b", b"a"), "range_end lies before key"),
        (lambda: limits.validate_request_bytes(MIB * 3 // 2 + 1), "1572865 bytes, at most 1572864"),
    ],
)
def test_one_more_is_refused_by_name(refused: Callable[[], None], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        refused()
