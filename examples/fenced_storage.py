"""Why a lock needs a fence: a holder that was stopped wakes up too late, and is refused.

    export RAFTKV_ENDPOINTS=127.0.0.1:7001
    python examples/fenced_storage.py                    # ends with 0: both late writes were refused
    python examples/fenced_storage.py --without-fence    # ends with 3: an update was lost

Two workers, each a process, add to a balance under a lock: one balance is a key of raftkv, one lies in a file that a
storage service guards. Ann has read both when SIGSTOP stops her, as a suspended virtual machine might.
Her lease runs out, Bob gets the lock and adds to both. Then SIGCONT wakes Ann up. She cannot know that time has passed:
her writes leave at once, with balances that are out of date. So is her token, and that the two stores can see.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from raftkv.client import AsyncClient, Client, Fence
from raftkv.errors import LockLost, RaftKVError, StaleFence

LOCK = "examples/balance"
KEY = "examples/balance"
TTL_S = 2.0
"""Short, so that the story is. Otherwise 10 s is a good choice."""
LOST_UPDATE = 3


class Storage:
    """A service that is not raftkv: it keeps a balance in a file, for clients on a Unix socket.

    A request is a line of JSON: {"token": 41} reads, {"token": 41, "balance": 110} writes.
    """

    def __init__(self, directory: Path, *, fenced: bool) -> None:
        self.address = str(directory / "socket")
        self._file = directory / "balance"
        self._file.write_text("100")
        self._fence = Fence(directory / "fence") if fenced else None

    @property
    def balance(self) -> int:
        return int(self._file.read_text())

    def answer(self, request: dict[str, int]) -> dict[str, int | str]:
        """Do what is asked, unless somebody with a newer token was here before."""
        if self._fence is None:
            return self._do(request)
        try:
            with self._fence.guard(request["token"]):
                return self._do(request)
        except StaleFence as error:
            return {"refused": str(error)}

    def _do(self, request: dict[str, int]) -> dict[str, int | str]:
        if "balance" in request:
            self._file.write_text(str(request["balance"]))
        return {"balance": self.balance}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        async for line in reader:
            writer.write(json.dumps(self.answer(json.loads(line))).encode() + b"\n")
            await writer.drain()
        writer.close()


def ask(address: str, **request: int) -> dict[str, int | str]:
    """Ask the storage service."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        connection.sendall(json.dumps(request).encode() + b"\n")
        found: dict[str, int | str] = json.loads(connection.makefile().readline())
        return found


def work(name: str, amount: int, storage: str, *, fenced: bool) -> None:
    """Add `amount` to both balances under the lock. Print one line when they are read, and one for each write."""
    try:
        with Client.from_env() as client, client.lock(LOCK, ttl=TTL_S) as held:
            token, fence = held.token, held.fence() if fenced else None
            pair = client.get(KEY)
            assert pair is not None
            in_store, in_file = int(pair.value), int(ask(storage, token=token)["balance"])
            print(f"{name} holds the lock with token {token}, and has read {in_store} and {in_file}", flush=True)

            sys.stdin.readline()  # a long computation. Whoever is stopped here does not notice.

            try:
                client.put(KEY, str(in_store + amount), fence=fence)
                print(f"{name} wrote {in_store + amount} to raftkv", flush=True)
            except StaleFence as error:
                print(f"{name} was refused by raftkv: {error}", flush=True)
            answer = ask(storage, token=token, balance=in_file + amount)
            if "refused" in answer:
                print(f"{name} was refused by the storage: {answer['refused']}", flush=True)
            else:
                print(f"{name} wrote {in_file + amount} to the storage", flush=True)
    except LockLost as error:
        print(f"{name} has lost the lock: {error}", flush=True)  # noticed, but after the writes


class Worker:
    """The process of a worker."""

    def __init__(self, name: str, amount: int, storage: Storage, *, fenced: bool) -> None:
        command = [sys.executable, __file__, "--worker", name, str(amount), storage.address]
        if not fenced:
            command.append("--without-fence")
        # In a process group of its own: should this program die, the system wakes up whom it has stopped.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
        )

    async def says(self) -> str:
        """Return the next line it prints, and print it; empty when it has ended."""
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        print(f"  {line}", end="", flush=True)
        return line

    def compute(self) -> None:
        """Let it go on to its writes."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


async def story(client: AsyncClient, storage: Storage, *, fenced: bool) -> bool:
    """Tell it. Return whether what Bob added was kept, and Ann refused by both."""
    await client.put(KEY, "100")
    print("Both balances are 100. Ann adds 10, and Bob adds 1.")
    ann = Worker("Ann", 10, storage, fenced=fenced)
    workers = [ann]
    try:
        assert await ann.says()
        ann.send(signal.SIGSTOP)
        print("SIGSTOP: Ann is stopped, and her lease runs out.")
        bob = Worker("Bob", 1, storage, fenced=fenced)
        workers.append(bob)
        bob.compute()
        while await bob.says():
            pass
        print("SIGCONT: Ann wakes up and writes.")
        ann.compute()
        ann.send(signal.SIGCONT)
        lines = []
        while line := await ann.says():
            lines.append(line)
    finally:
        for worker in workers:
            await asyncio.to_thread(worker.close)
    pair = await client.get(KEY)
    assert pair is not None
    in_store, in_file = int(pair.value), storage.balance
    refused = [line for line in lines if "was refused by" in line]
    print(f"The balances are {in_store} and {in_file}; late writes that were refused: {len(refused)} of 2.")
    return len(refused) == 2 and (in_store, in_file) == (101, 101)


async def tell(*, fenced: bool) -> bool:
    """Start the storage service, and tell the story."""
    with tempfile.TemporaryDirectory() as directory:
        storage = Storage(Path(directory), fenced=fenced)
        async with AsyncClient.from_env() as client, await asyncio.start_unix_server(storage.serve, storage.address):
            return await story(client, storage, fenced=fenced)


def main() -> int:
    parser = argparse.ArgumentParser(description="Stop the holder of a lock, and show what a fence is for.")
    parser.add_argument("--without-fence", action="store_true", help="show the update that is lost without")
    parser.add_argument("--worker", nargs=3, metavar=("NAME", "AMOUNT", "STORAGE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    fenced = not arguments.without_fence
    if arguments.worker is not None:
        name, amount, address = arguments.worker
        work(name, int(amount), address, fenced=fenced)
        return 0
    kept = asyncio.run(tell(fenced=fenced))
    print("Nothing was lost." if kept else "LOST UPDATE: what Bob added is gone.")
    return 0 if kept else LOST_UPDATE


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RaftKVError as error:
        sys.exit(f"fenced_storage: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
