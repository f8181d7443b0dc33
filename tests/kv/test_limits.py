from __future__ import annotations

import pytest

from raftkv.errors import InvalidArgument
from raftkv.kv import limits

MIB = 1 << 20


@pytest.mark.parametrize(
    "fault",
    [
        limits.put_fault(b"k" * 500, b"v" * MIB),
        limits.put_fault(b"\0" * 250, b""),
        limits.range_fault(b"k", b""),
        limits.range_fault(b"k", b"\0"),
        limits.range_fault(b"k", b"k"),
        limits.range_fault(b"k" * 501, b"l"),
    ],
)
def test_the_limit_itself_is_allowed(fault: str | None) -> None:
    assert fault is None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (limits.put_fault(b"", b"v"), "key is empty"),
        (limits.put_fault(b"k" * 501, b"v"), "501 bytes, of which 0 zero; at most 500"),
        (limits.put_fault(b"\0" * 251, b"v"), "251 bytes, of which 251 zero; at most 500"),
        (limits.put_fault(b"k", b"v" * (MIB + 1)), "value is too large: 1048577 bytes, at most 1048576"),
        (limits.range_fault(b"", b""), "key is empty"),
        (limits.range_fault(b"", b"\0"), "key is empty; every key"),
        (limits.range_fault(b"b", b"a"), "range_end lies before key"),
        (limits.range_fault(b"k" * 501, b""), "key is too long"),
    ],
)
def test_one_more_is_refused_by_name(fault: str | None, message: str) -> None:
    assert fault is not None
    assert message in fault


def test_a_request_of_one_byte_more_is_refused() -> None:
    limits.validate_request_bytes(MIB * 3 // 2)
    with pytest.raises(InvalidArgument, match="1572865 bytes, at most 1572864"):
        limits.validate_request_bytes(MIB * 3 // 2 + 1)
