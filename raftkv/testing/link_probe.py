"""See what a connection through a proxy to a gRPC server is like, by exchanging real bytes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Self

PROBE_S = 0.2


class Probe(Enum):
    """What a new connection through a proxy to a gRPC server met."""

    ALIVE = "answered: bytes pass both ways"
    ONE_WAY = "talked, but did not hear: bytes pass from the server only"
    SILENT = "open, but no byte came"
    CLOSED = "accepted, then closed or reset"
    REFUSED = "refused"


_SETTINGS_FRAME = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # without any setting
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS_FRAME
_SETTINGS = 4
_ACK = 1
_UNKNOWN = 0xFA  # RFC 9113, 5.5: frames of types that a peer does not know must be ignored
_FRAME_BYTES = 16_384


async def probe(address: str, window_s: float = PROBE_S) -> Probe:
    """Dial `address`, say what an HTTP/2 client says first, and report what comes back within `window_s`.

    A gRPC server sends its settings at once and acknowledges those of the client, which proves both directions. It
    must speak plain text.
    """
    line: Line | None = None
    try:
        async with asyncio.timeout(window_s):
            line = await Line.dial(address)
            await line.acknowledged()
            return Probe.ALIVE
    except TimeoutError:
        return Probe.ONE_WAY if line is not None and line.heard else Probe.SILENT
    except ConnectionRefusedError:
        return Probe.REFUSED
    except (ConnectionError, asyncio.IncompleteReadError):
        return Probe.CLOSED
    finally:
        if line is not None:
            await line.close()


class Line:
    """One connection to a gRPC server. Waits without an end of its own; raises ConnectionError, IncompleteReadError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard = False
        """Whether any whole frame head has come."""
        self._reader = reader
        self._writer = writer
        self._begun = bytearray()

    @classmethod
    async def dial(cls, address: str) -> Self:
        """Connect, and say what a client says first."""
        host, _, port = address.rpartition(":")
        line = cls(*await asyncio.open_connection(host, int(port)))
        line._writer.write(_PREFACE)
        return line

    async def acknowledged(self) -> None:
        """Return when the server has acknowledged one more settings frame, which it does in order."""
        while True:
            while (frame := self._next_frame()) is None:
                piece = await self._reader.read(65_536)
                if not piece:
                    raise asyncio.IncompleteReadError(b"", None)
                self._begun += piece
            kind, flags = frame
            if kind == _SETTINGS and flags & _ACK:
                return

    async def round_trip(self, padding: int = 0) -> float:
        """Return the seconds in which the server hears `padding` bytes and a question, and answers.

        The line must be idle: every earlier question answered.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while padding > 0:
            size = min(padding, _FRAME_BYTES)
            self._writer.write(size.to_bytes(3) + bytes((_UNKNOWN, 0, 0, 0, 0, 0)) + bytes(size))
            padding -= size
        self._writer.write(_SETTINGS_FRAME)
        await self._writer.drain()
        await self.acknowledged()
        return loop.time() - began

    async def close(self) -> None:
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _next_frame(self) -> tuple[int, int] | None:
        if len(self._begun) < 9:
            return None
        self.heard = True
        length = 9 + int.from_bytes(self._begun[:3])
        if len(self._begun) < length:
            return None
        kind, flags = self._begun[3], self._begun[4]
        del self._begun[:length]
        return kind, flags
