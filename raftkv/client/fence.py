"""A fence in front of something that is not in the store: a file, a device, another service.

A lock cannot stop a holder that is paused and wakes up too late; only the resource can refuse it. Whoever guards the
resource keeps a `Fence`, and asks it with the token that comes with every request.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from raftkv.client.tokens import FencingToken
from raftkv.errors import InvalidArgument, StaleFence, StorageError

_HEADER: Final = "raftkv fence 1"
_MAX_TOKEN: Final = 2**64 - 1


class Fence:
    """Lets no token pass that is older than the newest one it has seen. For any number of threads.

    **For exclusive grants only**: of a mutex, an election, or the writer of a read-write lock. Those who share a lock
    (readers, holders of a semaphore) hold it side by side with tokens of their own, and the newest of them would shut
    out the others. Where readers come to the resource as well, ask with the tokens of writers only; let a write of the
    store check a reader (`fence=`).

    One fence guards one resource, and takes tokens of one lock of one cluster: it is told numbers, and all locks draw
    theirs from the same row, so a token of another lock looks to it like any other. With a `path` it remembers the
    newest token over restarts: the token is on disk before it passes. Only one process may use a file at a time.

    Example::

        fence = Fence("printer.fence")
        with fence.guard(41):
            print("use the resource")
        fence.check(42)
        try:
            fence.check(41)
        except StaleFence as error:
            print(error.current_token, "was here")
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Raises StorageError when the file is there and cannot be read: to begin anew would let old holders in."""
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        self._guarding = 0
        """The thread whose body is being guarded; 0: none."""
        self._newest = 0 if self._path is None else _load(self._path)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} newest={self._newest}>"

    @property
    def newest(self) -> int:
        """The newest token that has passed; 0: none yet."""
        return self._newest

    def check(self, token: FencingToken | int) -> None:
        """Let `token` pass, and none that is older from now on.

        Raises StaleFence for one that is older than the newest (`current_token`), InvalidArgument for what is no token,
        StorageError when the file cannot be written: the token has not passed then.

        A newer token may pass between this check and what the caller does next: where that matters, use `guard`.

        Example::

            fence = Fence()
            async with client.lock("printer") as held:
                fence.check(held.token)
        """
        with self.guard(token):
            pass

    @contextmanager
    def guard(self, token: FencingToken | int) -> Iterator[None]:
        """As `check`; nobody else passes until the body has ended: other threads wait.

        The thread itself cannot wait for itself: a check or a guard of the same fence within the body raises
        InvalidArgument, and so it does in another task of an event loop when the body awaits. There, use a lock of
        asyncio around `check` and the use of the resource.

        Example::

            fence = Fence()
            async with client.lock("printer") as held:
                with fence.guard(held.fence()):
                    print("use the resource")
        """
        number = token.token if isinstance(token, FencingToken) else token
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= _MAX_TOKEN:
            raise InvalidArgument(f"token is {number!r}, not a number from 1 to 2**64 - 1")
        if self._guarding == threading.get_ident():
            raise InvalidArgument("the fence is asked within a guard of its own thread, and would wait for itself")
        with self._lock:
            if number < self._newest:
                raise StaleFence(
                    f"token {number} is stale: {self._newest} has been here, so the lock was granted anew since",
                    number=self._newest,
                )
            if number > self._newest:
                if self._path is not None:
                    _save(self._path, number)
                self._newest = number
            self._guarding = threading.get_ident()
            try:
                yield
            finally:
                self._guarding = 0


def _load(path: Path) -> int:
    try:
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        return 0
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: the fence cannot be read: {error}") from error
    header, _, number = text.partition("\n")
    digits = number.removesuffix("\n")
    if header != _HEADER or not number.endswith("\n") or not digits.isdigit() or int(digits) > _MAX_TOKEN:
        raise StorageError(f"{path}: not the file of a fence; put back the right one, or delete it to begin anew")
    return int(digits)


def _save(path: Path, token: int) -> None:
    """Replace the file as a whole: a crash leaves the old one or the new one."""
    draft = path.with_name(f"{path.name}.new")
    try:
        with draft.open("w", encoding="ascii") as file:
            file.write(f"{_HEADER}\n{token}\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise StorageError(f"{path}: the fence cannot be written: {error}") from error
