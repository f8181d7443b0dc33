"""Ranges between their protobuf form and queries and pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from raftkv.errors import InvalidArgument
from raftkv.kv.commands import KeyValue
from raftkv.kv.limits import range_fault
from raftkv.kv.ranges import RangeQuery, query_fault
from raftkv.v1 import kv_pb2

SHORT_KEY_BYTES: Final = 127
"""Up to here the length of a key is one byte on the wire, behind another one for the field."""


def decode_range(request: kv_pb2.RangeRequest) -> RangeQuery:
    """Return what a range asks for, but for its level. Raises InvalidArgument."""
    key = request.key
    if 0 < len(key) <= SHORT_KEY_BYTES and request.ByteSize() == len(key) + (4 if request.level else 2):
        return RangeQuery(key)  # there is nothing in it but the key, and perhaps a level
    if sorts_or_filters(request):
        return _decode_unusual(request)
    fault = range_fault(key, request.range_end)
    if fault is not None:
        raise InvalidArgument(fault)
    return RangeQuery(key, request.range_end, request.limit, request.revision, request.keys_only, request.count_only)


def sorts_or_filters(request: kv_pb2.RangeRequest) -> bool:
    """Return whether a range has an order, filters or a cursor."""
    return bool(
        request.order
        or request.descending
        or request.cursor
        or request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _decode_unusual(request: kv_pb2.RangeRequest) -> RangeQuery:
    query = RangeQuery(
        request.key,
        request.range_end,
        request.limit,
        request.revision,
        request.keys_only,
        request.count_only,
        order=request.order,
        descending=request.descending,
        min_mod_revision=request.min_mod_revision,
        max_mod_revision=request.max_mod_revision,
        min_create_revision=request.min_create_revision,
        max_create_revision=request.max_create_revision,
        cursor=request.cursor,
    )
    fault = query_fault(query)
    if fault is not None:
        raise InvalidArgument(fault)
    return query


def fill_key_value(target: kv_pb2.KeyValue, pair: KeyValue) -> None:
    """Write a pair into its wire form."""
    target.key, target.create_revision, target.mod_revision, target.version, target.lease, target.value = pair


def fill_page(page: kv_pb2.RangeResponse, pairs: Iterable[KeyValue], revision: int) -> None:
    """Write pairs, and what they show, into their wire form."""
    page.revision = revision
    add = page.kvs.add
    for pair in pairs:
        fill_key_value(add(), pair)
