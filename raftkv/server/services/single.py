"""Single calls: each is run as a batch of one operation."""

from __future__ import annotations

from typing import Any, Final, Literal

import grpc

from raftkv.errors import InvalidArgument
from raftkv.kv.limits import validate_request_bytes
from raftkv.server import wire
from raftkv.server.requests import Requests
from raftkv.server.services.status import abort
from raftkv.v1 import common_pb2, kv_pb2

NO_STAMP: Final = common_pb2.WriteStamp()

_RECEIPTS: Final[dict[str, Literal["wrote", "read"]]] = {
    "put": "wrote",
    "delete": "wrote",
    "txn": "wrote",
    "range": "read",
}
"""Calls whose response has a receipt, and which."""


class SingleCalls:
    """What the services of clients' calls have in common."""

    def __init__(self, requests: Requests) -> None:
        self._requests = requests

    async def run(
        self,
        kind: str,
        request: Any,
        context: grpc.aio.ServicerContext[Any, Any],
        stamp: common_pb2.WriteStamp = NO_STAMP,
    ) -> Any:
        """Run the operation `kind` (a field of Operation and of OperationResult); return its response with a header.

        Ends the call where it fails.
        """
        operation = kv_pb2.Operation(id=stamp.sequence)
        getattr(operation, kind).CopyFrom(request)
        try:
            if stamp.session and not stamp.sequence:
                raise InvalidArgument("stamp.sequence is 0; sequences of a session start at 1")
            validate_request_bytes(operation.ByteSize())
        except InvalidArgument as error:
            self._requests.refuse([operation], error)
            await abort(context, wire.to_error(error))
        left_s = context.time_remaining()
        batch = kv_pb2.BatchRequest(
            session=stamp.session,
            acknowledged_below=stamp.acknowledged_below,
            timeout_ms=max(1, int(left_s * 1000)) if left_s is not None and left_s < 2**22 else 0,
            operations=[operation],
        )
        response = await self._requests.run(batch, forwarded=False)
        result = response.results[0]
        if result.HasField("error"):
            await abort(context, result.error)
        answer = getattr(result, kind)
        answer.header.CopyFrom(response.header)
        receipt = _RECEIPTS.get(kind)
        if receipt is not None:
            # Of this one, or of all writes (reads) of the batch; a transaction that only reads has none of a write.
            bearer = result if result.HasField(receipt) else response
            if bearer.HasField(receipt):
                answer.receipt.CopyFrom(getattr(bearer, receipt))
        return answer
