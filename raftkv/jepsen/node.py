"""`python -m raftkv.jepsen.node`: takes the flags of `raftkv serve` and runs that node, with levers for faults.

The levers are moved through the directory that RAFTKV_JEPSEN_LEVERS names (`raftkv.jepsen.levers`):

`clock`   What the node reads as CLOCK_BOOTTIME: put forward, made to run fast or slow, or to stand still. It is never
          put back, since the kernel never does that to this clock; one that stands still is the worst of that kind.
          The event loop's timers run by true time: what waits for one of them does not happen early by a fast clock.
`wall`    What it reads as the time of day, put forward and back. Nothing but logs and messages may depend on it.
`disk`    With RAFTKV_JEPSEN_LOSSY_DISK, one that forgets what was not synced when the process is killed (`lossy_disk`).
          Every start is then one of the whole machine, with a boot id of its own: so a start after a kill throws the
          state store away, which LMDB keeps and which is not synced. Calls that fail: `raftkv.testing.disk_faults`.
`dial`    Where to dial nodes that joined after this one was started: `--peer-dial` names those that were there.

RAFTKV_JEPSEN_SABOTAGE switches a safeguard off (`raftkv.jepsen.sabotage`).
"""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from raftkv.cli import main
from raftkv.errors import ConfigurationError
from raftkv.jepsen.levers import DIAL_NAME, LEVERS, LOSSY, SABOTAGE, Board, Field
from raftkv.server.clock import Clock, MonotonicClock

if TYPE_CHECKING:
    from raftkv.raft import NodeId

REFUSED: Final = 2


class LeverClock:
    """The machine's clock, as the board wants it. It never goes back. In any thread."""

    def __init__(self, board: Board, true: Clock | None = None) -> None:
        self._board = board
        self._true = true or MonotonicClock()
        self._true_ms = self._began_ms = self._shown_ms = self._true.now_ms()
        self._jump_ms = board[Field.JUMP_MS]
        self._lock = threading.Lock()

    def now_ms(self) -> float:
        board = self._board
        with self._lock:
            true_ms, jump_ms = self._true.now_ms(), board[Field.JUMP_MS]
            passed_ms = (true_ms - self._true_ms) * (1 + board[Field.RATE_LESS_ONE])
            self._shown_ms += max(passed_ms, 0.0) + max(jump_ms - self._jump_ms, 0.0)
            self._true_ms, self._jump_ms = true_ms, jump_ms
            board[Field.AHEAD_MS] = self._shown_ms - true_ms
            board[Field.LOOKS] += 1
            return self._shown_ms


class LiveDial(Mapping[int, str]):
    """What `--peer-dial` said, and what the levers say of nodes that have joined since."""

    def __init__(self, given: Mapping[int, str], levers: Path) -> None:
        self._given = given
        self._path = levers / DIAL_NAME

    def __getitem__(self, node: int) -> str:
        return self._now()[node]

    def __iter__(self) -> Iterator[int]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def _now(self) -> dict[int, str]:
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        later = {int(node): address for node, _, address in (line.partition("=") for line in lines)}
        return later | dict(self._given)


def wall_clock(board: Board, true: Callable[[], float]) -> Callable[[], float]:
    """Return what `time.time` is to be."""
    return lambda: true() + board[Field.WALL_MS] / 1000


def run() -> None:
    """Take the flags from the command line and the rest from the environment."""
    try:
        board = Board(Path(os.environ[LEVERS]))
        sabotage = os.environ.get(SABOTAGE, "")
        if sabotage:
            from raftkv.jepsen.sabotage import switch_off  # noqa: PLC0415 - it loads all that it might switch off

            switch_off(sabotage)
    except KeyError:
        _refuse(f"{LEVERS} must name a directory: this program is run by the suite. For a node: raftkv serve")
    except (ConfigurationError, OSError) as error:
        _refuse(str(error))
    board[Field.STARTS] += 1
    setattr(time, "time", wall_clock(board, time.time))  # noqa: B010 - it is no variable to mypy
    from raftkv.cli import node  # noqa: PLC0415 - after the wall clock, which some take when they are loaded
    from raftkv.server import app  # noqa: PLC0415

    setattr(app, "GrpcTransport", partial(_with_live_dial, Path(os.environ[LEVERS])))  # noqa: B010
    given = partial(node.run_node, clock=LeverClock(board))
    if LOSSY in os.environ:
        given = _on_lossy_disk(given, board)
    # The command line of production, with other parts below.
    setattr(node, "run_node", given)  # noqa: B010
    sys.argv[1:1] = ["serve"]
    main()


def _with_live_dial(levers: Path, *given: Any, dial: Mapping[int, str], **further: Any) -> Any:
    from raftkv.transport.grpc_peer import GrpcTransport  # noqa: PLC0415

    return GrpcTransport(*given, dial=cast("Mapping[NodeId, str]", LiveDial(dial, levers)), **further)


def _on_lossy_disk(given: partial[None], board: Board) -> partial[None]:
    from raftkv.jepsen.lossy_disk import VolatileFileSystem  # noqa: PLC0415
    from raftkv.storage import data_dir  # noqa: PLC0415

    boot_id = str(uuid.uuid4())
    setattr(data_dir, "read_boot_id", lambda: boot_id)  # noqa: B010
    board[Field.UNSYNCED_BYTES] = 0
    lock = threading.Lock()

    def note(size_bytes: int) -> None:
        with lock:
            board[Field.UNSYNCED_BYTES] += size_bytes

    path = Path(sys.argv[sys.argv.index("--data-dir") + 1])
    return partial(given, files=VolatileFileSystem(path, unsynced=note))


def _refuse(problem: str) -> NoReturn:
    sys.stderr.write(f"raftkv: {problem}\n")
    sys.exit(REFUSED)


if __name__ == "__main__":
    run()
