"""Which operations of a batch are answered, and how they are counted in the end."""

from __future__ import annotations

from collections import Counter
from typing import Final

from raftkv.errors import ErrorCode
from raftkv.server.tallies import OK, READ, WRITE
from raftkv.v1 import kv_pb2

_READ_OK: Final = READ, OK
_WRITE_OK: Final = WRITE, OK
_READS: Final = frozenset({"range", "lease_time_to_live", "lease_list", "lock_query"})


class Answered(set[int]):
    """The ids of operations that are answered."""

    failed = False
    """Some of the answers are errors. Whoever answers with one says so: nobody looks through all of them for that."""


def count(
    into: Counter[tuple[str, str]],
    batch: kv_pb2.BatchRequest,
    response: kv_pb2.BatchResponse,
    answered: Answered,
    reads: int,
) -> None:
    """Count the operations of a batch by kind and outcome. `reads`: how many of them were found to be reads.

    Where none failed, none is looked at.
    """
    if not answered.failed:
        into[_READ_OK] += reads
        into[_WRITE_OK] += len(batch.operations) - reads
        return
    kinds = {one.id: READ if one.WhichOneof("operation") in _READS else WRITE for one in batch.operations}
    into.update((kinds[result.id], _outcome(result)) for result in response.results if result.id in kinds)


def _outcome(result: kv_pb2.OperationResult) -> str:
    if not result.HasField("error"):
        return OK
    code = result.error.code
    return ErrorCode(code).name.lower() if code in _CODES else ErrorCode.UNSPECIFIED.name.lower()


_CODES: Final = frozenset(map(int, ErrorCode))
