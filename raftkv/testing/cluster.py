"""A real cluster on this machine: one operating-system process a node, on free loopback ports.

    async with LocalCluster(3) as cluster, AsyncClient(cluster.url) as client:
        await client.put("k", "v")
        await cluster.node(await cluster.leader()).kill()

Nodes can be killed, stopped, paused and started again; their data stays in the cluster's directory until it is closed.
They die with this process, however that ends (Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from raftkv.client import AsyncClient, KeyValue, ReadLevel, Role, StateHash, Status, Tls
from raftkv.errors import RaftKVError
from raftkv.testing.processes import LOOPBACK, bound_to_parent, port_of, reserve_port
from raftkv.tls.directory import CA, DEFAULT_CLIENT, CertificateDirectory

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.02
CLUSTER_NAME: Final = "raftkv"
"""What the nodes are told by default."""
PROGRAM: Final = (sys.executable, "-m", "raftkv.cli", "serve")


class ClusterError(RaftKVError):
    """A node did not do what it was told: it did not start, or ended by itself. The message ends with its log."""


class NodeProcess:
    """One node. Its addresses and its data directory stay the same over restarts."""

    def __init__(self, cluster: LocalCluster, node_id: int, *, joins: bool = False) -> None:
        self.id = node_id
        self.joins: list[str] = cluster.endpoints if joins else []
        """Through whom it enters the running cluster; empty for a founder."""
        self.client_address = self._reserve_address()
        self.peer_address = self._reserve_address()
        self.data_dir = cluster.directory / f"node-{node_id}"
        self.log_path = cluster.directory / f"node-{node_id}.log"
        self.extra_arguments: list[str] = []
        """Further flags of `raftkv serve`, from the next start on."""
        self.program: Sequence[str] = cluster.program
        """What takes these flags, from the next start on."""
        self.environment: dict[str, str] = {}
        """Additions to the environment, from the next start on."""
        self._cluster = cluster
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise ClusterError(f"node {self.id} was never started")
        return self._process.pid

    def command(self) -> list[str]:
        """Return the command line that runs this node."""
        arguments = ["--id", str(self.id), "--data-dir", str(self.data_dir), "--listen", self.client_address]
        for founder, address in self._cluster.founders.items() if not self.joins else ():
            arguments += ["--member", f"{founder}={address}"]
        for node in self._cluster.nodes:
            dialled = self._cluster.dial_address(self.id, node.id)
            if node.id != self.id and dialled is not None:
                arguments += ["--peer-dial", f"{node.id}={dialled}"]
        for address in self.joins:
            arguments += ["--join", address]
        return [*self.program, *arguments, *self.extra_arguments]

    def _tls_environment(self) -> dict[str, str]:
        """Return the settings of TLS; makes this node's certificate if it has none yet."""
        certificates = self._cluster.certificates
        if certificates is None:
            return {}
        name = certificates.node(self.id)
        if not certificates.cert(name).exists():
            certificates.renew(CLUSTER_NAME, {self.id: [LOOPBACK]}, (), datetime.now(UTC))
        cert, key, ca = certificates.cert(name), certificates.key(name), certificates.cert(CA)
        files = {"TLS_CERT": cert, "TLS_KEY": key, "TLS_CA": ca}
        clients = {f"RAFTKV_{name}": str(path) for name, path in files.items()} | {"RAFTKV_TLS_CLIENT_AUTH": "true"}
        return clients | {f"RAFTKV_PEER_{name}": str(path) for name, path in files.items()}

    async def start(self) -> None:
        """Start the process and return when it answers. Raises ClusterError."""
        self.launch()
        await self.answers()

    def launch(self) -> None:
        """Start the process and wait for nothing."""
        if self.running:
            raise ClusterError(f"node {self.id} is running already")
        self._process = self._spawn()
        self._paused = False

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTKV_")}
        with self.log_path.open("ab") as log:
            # Not the event loop's way of starting a process: uvloop forks, and gRPC's fork handlers have crashed the
            # child before it became a node. Popen uses vfork, which runs no handlers.
            return subprocess.Popen(
                bound_to_parent(self.command()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,  # a Ctrl-C at the terminal is for the parent, which then ends its nodes
                env=environment | self._tls_environment() | self.environment,
            )

    async def answers(self, timeout_s: float = START_TIMEOUT_S) -> Status:
        """Wait until the node answers a status request. Raises ClusterError when it ends, or after `timeout_s`."""
        async with AsyncClient([self.client_address], tls=self._cluster.tls) as client:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    while self.running:
                        if (status := await _ask(client, self.client_address)) is not None:
                            return status
                        await asyncio.sleep(POLL_S)
        state = "does not answer" if self.running else f"ended with code {self._returncode()}"
        raise ClusterError(f"node {self.id} {state}: {self.log_tail()}")

    async def kill(self) -> None:
        """SIGKILL: gone between two instructions."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM: hand over, flush, go. Return the exit code. Escalates to SIGKILL when that takes too long."""
        return await self._end(signal.SIGTERM)

    def pause(self) -> None:
        """SIGSTOP: alive for the kernel, dead for everybody else; its connections stay open."""
        self._signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        """SIGCONT: it goes on, believing that no time has passed."""
        self._signal(signal.SIGCONT)
        self._paused = False

    async def restart(self) -> None:
        """Stop if running, and start."""
        if self.running:
            await self.stop()
        await self.start()

    async def wait_ended(self) -> int:
        """Wait until the process is gone. Return its exit code."""
        if self._process is None:
            raise ClusterError(f"node {self.id} was never started")
        return await asyncio.to_thread(self._process.wait)

    def log(self) -> str:
        """Return what the node has written to stdout and stderr, over all its runs; empty before the first."""
        with contextlib.suppress(FileNotFoundError):
            return self.log_path.read_text(errors="replace")
        return ""

    def log_tail(self, lines: int = 3) -> str:
        """Return the end of the node's log."""
        return " | ".join(self.log().splitlines()[-lines:]) or "(no log)"

    def _reserve_address(self) -> str:
        reservation = reserve_port()
        if sys.platform == "linux":
            weakref.finalize(self, reservation.close)
        else:
            reservation.close()
        return f"{LOOPBACK}:{port_of(reservation)}"

    async def _end(self, how: signal.Signals) -> int:
        if self._process is None or self._process.poll() is not None:
            return self._returncode()
        self._signal(how)
        if self._paused and how is not signal.SIGKILL:
            self.resume()
        try:
            return await asyncio.to_thread(self._process.wait, STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            return await asyncio.to_thread(self._process.wait)

    def _signal(self, number: signal.Signals) -> None:
        if not self.running or self._process is None:
            raise ClusterError(f"node {self.id} is not running")
        self._process.send_signal(number)

    def _returncode(self) -> int:
        return self._process.returncode or 0 if self._process is not None else 0


class LocalCluster:
    """Some nodes that form one cluster."""

    def __init__(
        self,
        size: int = 3,
        *,
        directory: Path | None = None,
        arguments: Sequence[str] = (),
        dial: Callable[[int, int], str] | None = None,
        program: Sequence[str] = PROGRAM,
        tls: bool = False,
    ) -> None:
        """Prepare `size` nodes; nothing runs until `start`.

        `directory` holds data and logs and is kept; without it a temporary one is used and removed. `arguments` are
        further flags of `raftkv serve` for every node. `dial(source, target)` gives the address at which one node dials
        another one (fault proxies); it may be set later, as `dial`, but before `start`. `program` runs a
        node, given the flags of `raftkv serve`. With `tls`, an authority of the cluster's own issues certificates, and
        nodes and clients show them to each other; `cluster.tls` is the clients' part.
        """
        self._temporary = directory is None
        self.directory = directory if directory is not None else Path(tempfile.mkdtemp(prefix="raftkv-"))
        self.directory.mkdir(parents=True, exist_ok=True)
        self.dial = dial
        self.program = program
        self.certificates = _certificates(self.directory / "tls") if tls else None
        self.nodes = [NodeProcess(self, node_id) for node_id in range(1, size + 1)]
        self.founders = {node.id: node.peer_address for node in self.nodes}
        """Whom the cluster was founded with, whoever has been removed since: its nodes are always told the same."""
        self._arguments = list(arguments)
        for node in self.nodes:
            node.extra_arguments += arguments

    def node(self, node_id: int) -> NodeProcess:
        return next(node for node in self.nodes if node.id == node_id)

    async def add(self, *, witness: bool = False, start: bool = True) -> NodeProcess:
        """Add a node to the running cluster, as a learner or a witness, and start it. Raises RaftKVError."""
        node = NodeProcess(self, max(one.id for one in self.nodes) + 1, joins=True)
        node.extra_arguments += self._arguments
        async with AsyncClient(self.endpoints, tls=self.tls) as client:
            await client.add_member(node.id, node.peer_address, witness=witness)
        self.nodes.append(node)
        if start:
            await node.start()
        return node

    async def discard(self, node_id: int) -> None:
        """Stop a node that was removed from the cluster, and forget it."""
        node = self.node(node_id)
        await node.stop()
        self.nodes.remove(node)

    def dial_address(self, source: int, target: int) -> str | None:
        """Return where `source` dials `target`; None: at its own address."""
        return self.dial(source, target) if self.dial is not None and source != target else None

    @property
    def endpoints(self) -> list[str]:
        """The nodes' own client addresses."""
        return [node.client_address for node in self.nodes]

    @property
    def tls(self) -> Tls | None:
        """What clients have to say to speak with the nodes; None: nothing."""
        certificates = self.certificates
        if certificates is None:
            return None
        client = DEFAULT_CLIENT
        return Tls(ca=certificates.cert(CA), cert=certificates.cert(client), key=certificates.key(client))

    @property
    def url(self) -> str:
        return f"raftkv{'s' if self.tls else ''}://" + ",".join(self.endpoints)

    async def start(self) -> None:
        """Start every node; return when all answer. Raises ClusterError, with nothing left running."""
        try:
            await asyncio.gather(*(node.start() for node in self.nodes))
        except BaseException:
            await self.close()
            raise

    async def leader(self, timeout_s: float = 30.0, *, other_than: int = 0) -> int:
        """Wait until a leader leads that a majority follows, and that is not node `other_than`. Return its id."""
        async with AsyncClient(self.endpoints, tls=self.tls) as client:
            try:
                async with asyncio.timeout(timeout_s):
                    while True:
                        found = _agreed_leader(
                            await asyncio.gather(*(_ask(client, endpoint) for endpoint in self.endpoints))
                        )
                        if found not in (None, other_than):
                            assert found is not None
                            return found
                        await asyncio.sleep(POLL_S)
            except TimeoutError:
                logs = "; ".join(f"node {node.id}: {node.log_tail(1)}" for node in self.nodes)
                raise ClusterError(f"no leader after {timeout_s} s. {logs}") from None

    async def converged(self, timeout_s: float = 60.0) -> StateHash:
        """Wait until every node has applied the leader's whole log; return the state that all of them hold.

        Ask when nobody writes any more. Raises ClusterError when that takes too long, and at once when two nodes
        hold different states at the same index.
        """
        try:
            return await converged(self.endpoints, timeout_s, tls=self.tls)
        except NotConverged as error:
            known = "; ".join(
                f"node {node.id}: {said}, its log ends: {node.log_tail()}"
                for node, said in zip(self.nodes, error.nodes, strict=False)
            )
            raise ClusterError(f"the nodes have not converged after {timeout_s} s: {known}") from None

    async def contents(self, node_id: int, prefix: bytes | str = b"") -> dict[bytes, KeyValue]:
        """Return the pairs under `prefix` as this node holds them itself (LOCAL reads, at one revision)."""
        start = prefix.encode() if isinstance(prefix, str) else prefix
        endpoint = self.node(node_id).client_address
        found: dict[bytes, KeyValue] = {}
        async with AsyncClient([endpoint], tls=self.tls) as client:
            page = await client.prefix(start, level=ReadLevel.LOCAL, endpoint=endpoint)
            while True:
                in_range = [pair for pair in page.pairs if pair.key.startswith(start)]
                found.update((pair.key, pair) for pair in in_range)
                if not page.more or len(in_range) < len(page.pairs):
                    return found
                page = await client.range(
                    page.pairs[-1].key + b"\0", None, revision=page.revision, level=ReadLevel.LOCAL, endpoint=endpoint
                )

    async def close(self) -> None:
        """Kill what runs and remove the temporary directory. Idempotent."""
        for node in self.nodes:
            if node.running:
                await node.kill()
        if self._temporary:
            await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.shield(self.close())


def leaders_by_term(logs: Mapping[int, str]) -> dict[int, set[int]]:
    """Return the nodes that say in their logs that they led a term, by term. `logs`: by node id."""
    found: dict[int, set[int]] = {}
    for node, text in logs.items():
        for term in re.findall(r"\] leading +.*?term=(\d+)", text):
            found.setdefault(int(term), set()).add(node)
    return found


def _certificates(directory: Path) -> CertificateDirectory:
    """Return the certificates in a directory: made now, or found where a cluster goes on with its files."""
    found = CertificateDirectory(directory)
    if not found.cert(CA).exists():
        found.init(CLUSTER_NAME, {}, [DEFAULT_CLIENT], datetime.now(UTC))
    return found


class NodesDiverged(ClusterError):
    """Two nodes hold different states at the same index: what must never be."""


class NotConverged(ClusterError):
    """The nodes of a cluster have not come to one state in time."""

    def __init__(self, timeout_s: float, endpoints: Sequence[str], nodes: Sequence[str]) -> None:
        known = "; ".join(f"{endpoint}: {said}" for endpoint, said in zip(endpoints, nodes, strict=False))
        super().__init__(f"the nodes have not converged after {timeout_s} s: {known}")
        self.nodes = nodes
        """What was last known of each."""


async def converged(endpoints: Sequence[str], timeout_s: float, *, tls: Tls | None = None) -> StateHash:
    """Wait until the nodes at all these addresses have applied the leader's whole log; return the state they hold.

    Raises NotConverged when that takes too long, and NodesDiverged at once when two nodes hold different states at the
    same index.
    """
    statuses: Sequence[Status | None] = ()
    async with AsyncClient(endpoints, tls=tls) as client:
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    statuses = await asyncio.gather(*(_ask(client, endpoint) for endpoint in endpoints))
                    keepers = [one.endpoint for one in statuses if one is not None and not one.is_witness]
                    if _all_applied(statuses) and (state := await _common_state(client, keepers)) is not None:
                        return state
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise NotConverged(timeout_s, endpoints, [_describe(status) for status in statuses]) from None


async def _common_state(client: AsyncClient, endpoints: Sequence[str]) -> StateHash | None:
    """Return the state of all these nodes; None while they are not at the same index. Raises ClusterError."""
    try:
        states = await asyncio.gather(*(client.state_hash(endpoint, timeout=10.0) for endpoint in endpoints))
    except RaftKVError:
        return None
    first = states[0]
    if any(state.applied_index != first.applied_index for state in states):
        return None
    if any((state.applied_term, state.hash) != (first.applied_term, first.hash) for state in states):
        hashes = ", ".join(f"node {state.member_id}: {state.hash.hex()}" for state in states)
        raise NodesDiverged(f"the nodes diverged: different states at index {first.applied_index}: {hashes}")
    return first


async def _ask(client: AsyncClient, endpoint: str) -> Status | None:
    try:
        return await client.status(endpoint, timeout=1.0)
    except RaftKVError:
        return None


def _agreed_leader(statuses: Sequence[Status | None]) -> int | None:
    found = [status for status in statuses if status is not None]
    leaders = {status.member_id: status.term for status in found if status.role is Role.LEADER}
    for leader, term in leaders.items():
        followers = sum(1 for status in found if (status.leader_id, status.term) == (leader, term))
        if 2 * followers > len(statuses):
            return leader
    return None


def _all_applied(statuses: Sequence[Status | None]) -> bool:
    leader = _agreed_leader(statuses)
    last_index = next((status.last_index for status in statuses if status and status.member_id == leader), None)
    return all(
        status is not None and status.leader_id == leader and status.applied_index == last_index for status in statuses
    )


def _describe(status: Status | None) -> str:
    if status is None:
        return "no answer"
    return (
        f"{status.role.name.lower()} of term {status.term} under {status.leader_id}, "
        f"applied {status.applied_index} of {status.last_index}"
    )
