"""What is done to the clusters, and what must be true of them then."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection

from raftkv.client import AsyncClient, Tls
from raftkv.errors import RaftKVError
from raftkv.testing.cluster import converged
from raftkv.testing.link_faults import BLOCKED
from raftkv.testing.toxiproxy import HEALTHY, Toxiproxy
from tests.deploy.compose.project import Project, voters
from tests.deploy.compose.shell import CommandFailed, say
from tests.deploy.compose.writer import Acknowledged

MINORITY_S = 5.0
"""How long a minority is asked for a write that it must not acknowledge."""


def require(holds: bool, otherwise: str) -> None:
    """`assert`, for what is told to whoever runs this."""
    if not holds:
        raise CommandFailed(otherwise)


async def three(project: Project) -> None:
    """Three nodes: a killed one, a network that is cut, a leader that is stopped, two drills, a restart of all."""
    written = Acknowledged()
    await project.up()
    say("three nodes are healthy")
    await _container_is_as_promised(project, 1)
    await _writes_from_inside_and_outside(project, written)
    await _kill(project, written, await project.leader())
    await _cut_off(project, written, [await project.leader()])
    await _stop_the_leader(project, written)
    await _drill(project, written, "kill", "start")
    await _drill(project, written, "pause", "unpause")
    await _restart_all(project, written)


async def five(project: Project) -> None:
    """Five nodes, which three founded: two die, two are cut off, the leader is stopped, all restart."""
    written = Acknowledged()
    await project.up()
    await project.until(lambda: _voters(project) == set(project.nodes), "five voters")
    say("five nodes are healthy, and voters")
    await _writes_from_inside_and_outside(project, written)
    leader = await project.leader()
    await _kill(project, written, leader, leader % 5 + 1)
    leader = await project.leader()
    await _cut_off(project, written, [leader, leader % 5 + 1])
    await _stop_the_leader(project, written)
    await _restart_all(project, written)
    await project.do("up", "--detach", "--no-build", "--pull", "never", timeout_s=180)
    require(_voters(project) == set(project.nodes), f"another `up` changed the members: {_voters(project)}")
    say("another `up` changes nothing: still five voters")


async def chaos(project: Project) -> None:
    """Everything between nodes goes through Toxiproxy, and a minority behind it acknowledges nothing."""
    written = Acknowledged()
    await project.up()
    pairs = list(itertools.permutations(project.nodes, 2))
    proxies = Toxiproxy("127.0.0.1", project.toxiproxy_port)
    try:
        require({f"{a}-to-{b}" for a, b in pairs} <= proxies.names(), f"proxies are missing: {proxies.names()}")
        say(f"{len(project.nodes)} nodes are healthy behind {len(pairs)} proxies")
        await _writes_from_inside_and_outside(project, written)
        leader = await project.leader()
        async with written.under_way(project.client()):
            for a, b in pairs:
                if leader in (a, b):
                    await asyncio.to_thread(proxies.apply, f"{a}-to-{b}", BLOCKED["blackhole"])
            successor = await project.leader(other_than=leader)
            say(f"node {leader}, which led, is parted from the others by Toxiproxy; node {successor} leads now")
            await written.more(100)
            await _minority_is_silent(project, [leader])
        for a, b in pairs:
            await asyncio.to_thread(proxies.apply, f"{a}-to-{b}", HEALTHY)
        await project.ready(*project.nodes)
        say("healed")
        # The other way round: every link but the leader's own, so that this proves that none goes past Toxiproxy.
        async with written.under_way(project.client(timeout_s=5.0)):
            for a, b in pairs:
                await asyncio.to_thread(proxies.apply, f"{a}-to-{b}", BLOCKED["cut"])
            await _minority_is_silent(project, project.nodes)
            for a, b in pairs:
                await asyncio.to_thread(proxies.apply, f"{a}-to-{b}", HEALTHY)
            await written.more(100)
        say("with every link cut nobody acknowledges anything; healed, writes go on")
    finally:
        proxies.close()
    await project.ready(*project.nodes)
    seen = await project.do("logs", "--no-color", "client")
    require("compose/" in seen, f"the client of the profile has seen no change:\n{seen[-2000:]}")
    await _everything_is_there(project, written)


async def tls(project: Project) -> None:
    """TLS everywhere, with certificates for clients, too: who has none gets nothing; certificates are replaced."""
    written = Acknowledged()
    await project.up()
    say("three nodes are healthy, with TLS for clients, HTTP and peers")
    await _writes_from_inside_and_outside(project, written)
    assert project.tls is not None
    ca_only = Tls(ca=project.tls.ca)
    for what, other in (("plain text", None), ("no certificate", ca_only)):
        try:
            async with AsyncClient(project.endpoints, timeout=MINORITY_S, tls=other) as client:
                await client.put("intruder", what)
        except RaftKVError as error:
            say(f"a client with {what} is refused: {error.message[:150]}")
        else:
            raise CommandFailed(f"a client with {what} could write")
    await _kill(project, written, await project.leader())
    await _cut_off(project, written, [await project.leader()])
    await _stop_the_leader(project, written)


async def _container_is_as_promised(project: Project, node: int) -> None:
    user = await project.execute(node, "id", "-u")
    require(user == "10001", f"the node runs as user {user}")
    first = await project.execute(node, "cat", "/proc/1/cmdline")
    require("raftkv" in first and "/sh" not in first, f"process 1 is {first!r}")
    for script, what in (
        ("touch /opt/raftkv/x /etc/x /x", "the root file system can be written"),
        ("python3 -m pip --version || /opt/raftkv/bin/python3 -m pip --version", "there is a pip"),
        ("command -v gcc || command -v cc || command -v make", "there are build tools"),
    ):
        said = await project.execute(node, "sh", "-c", f"{{ {script}; }} >/dev/null 2>&1 && echo yes || echo no")
        require(said == "no", f"in the container, {what}")
    status, body = await project.http(node, "/readyz")
    require(status == 200, f"/readyz of node {node}: {status} {body}")
    say("the container: not root, process 1 is raftkv, read-only, no pip, no compiler; /readyz says 200")


async def _writes_from_inside_and_outside(project: Project, written: Acknowledged) -> None:
    async with project.client() as client:
        await written.write(client, 200)
        await project.run_client("put", "compose/from-a-container", "hello")
        pair = await client.get("compose/from-a-container")
        require(pair is not None and pair.value == b"hello", "the write of the client container is not there")
        written.values["compose/from-a-container"] = "hello"
    key, value = next(iter(written.values.items()))
    said = await project.run_client("get", key)
    require(value in said, f"the client container reads {said!r} for {key}, not {value!r}")
    say("200 writes from outside, one from a client container, each read by the other")


async def _kill(project: Project, written: Acknowledged, *nodes: int) -> None:
    async with written.under_way(project.client()):
        await written.more(50)
        await project.do("kill", *(f"node{node}" for node in nodes))
        await project.leader(other_than=nodes[0])
        await written.more(100)
        say(f"killed the container of node {', '.join(map(str, nodes))}: writes went on")
        await project.do("start", *(f"node{node}" for node in nodes))
        await project.ready(*nodes)
    await _everything_is_there(project, written)


async def _cut_off(project: Project, written: Acknowledged, nodes: list[int]) -> None:
    async with written.under_way(project.client()):
        await written.more(50)
        await project.cut(*nodes)
        await project.leader(other_than=nodes[0])
        await written.more(100)
        await _minority_is_silent(project, nodes)
        say(f"cut node {', '.join(map(str, nodes))} off the peers' network: the majority went on, the minority did not")
        await project.mend(*nodes)
        await project.ready(*nodes)
    await _everything_is_there(project, written)


async def _minority_is_silent(project: Project, nodes: Collection[int]) -> None:
    """Ask these nodes alone for a write, and for what they think of themselves."""

    async def attempt(node: int) -> str | None:
        try:
            # Only what is configured is dialled, so no other node can have answered.
            async with project.client(node, timeout_s=MINORITY_S, dial_learned=False) as client:
                await client.put(f"minority/{node}", "no")
        except RaftKVError:
            return None
        return f"node {node}, in a minority, acknowledged a write"

    for failure in await asyncio.gather(*map(attempt, nodes)):
        require(failure is None, failure or "")
    for node in nodes:
        status, _ = await project.http(node, "/readyz")
        require(status == 503, f"/readyz of node {node}, in a minority, says {status}")
        status, _ = await project.http(node, "/livez")
        require(status == 200, f"/livez of node {node}, in a minority, says {status}: it would be restarted")


async def _stop_the_leader(project: Project, written: Acknowledged) -> None:
    """SIGTERM to process 1 of the leader's container: no client may notice more than a pause."""
    before = len(written.failures)
    async with written.under_way(project.client()):
        await written.more(50)
        leader = await project.leader()
        await project.do("stop", f"node{leader}")
        await written.more(100)
        code = project.inspect(leader)["State"]["ExitCode"]
        require(code == 0, f"the leader was not done in its grace period: exit code {code}\n{project.log(leader, 15)}")
        require("no other node took over" not in project.log(leader), "the leader found nobody to hand over to")
        successor = await project.leader(other_than=leader)
        await project.do("start", f"node{leader}")
        await project.ready(leader)
        await written.more(50)
    failed = written.failures[before:]
    require(not failed, f"{len(failed)} requests failed while the leader was stopped: {failed[:3]}")
    say(f"stopped the leader, node {leader}: exit code 0, node {successor} took over, no request failed")
    await _everything_is_there(project, written)


async def _drill(project: Project, written: Acknowledged, strike: str, undo: str) -> None:
    """`raftkv drill` strikes the leader's container, this project's and no other, and puts it right."""
    began = time.time()
    told = await project.drill(strike)
    require(told["how"] == strike and told["passed"] is True, f"the drill failed: {told}")
    require(told["rpo"] == 0 and told["writes_acknowledged"] >= 100, f"the drill lost or did not write: {told}")
    (only,) = told["rounds"]
    # It looks for itself who leads when it begins; that the engine did it, to that container, the engine tells.
    struck = only["old_leader"]
    happened = await project.events(struck, began, strike, undo)
    require(happened == [strike, undo], f"the drill said {strike} of node {struck}; to the container: {happened}")
    await project.ready(*project.nodes)
    await _everything_is_there(project, written)
    say(
        f"raftkv drill --{strike} on the container of node {struck}: node {only['new_leader']} "
        f"took over, {told['writes_acknowledged']} writes acknowledged, none lost, all healthy"
    )


async def _restart_all(project: Project, written: Acknowledged) -> None:
    await project.do("restart", timeout_s=180)
    await project.ready(*project.nodes)
    await _everything_is_there(project, written)
    say("restarted all containers at once")
    await project.do("down", timeout_s=180)
    await project.up()
    await _everything_is_there(project, written)
    say("removed the containers and made new ones on the same volumes")


async def _everything_is_there(project: Project, written: Acknowledged) -> None:
    count = await written.read_back(project.client())
    state = await converged(project.endpoints, 60.0, tls=project.tls)
    say(f"    read back {count} acknowledged writes; all nodes hold the same state at index {state.applied_index}")


def _voters(project: Project) -> set[int]:
    """As the leader sees it; empty when it does not answer yet."""
    try:
        return voters(project.compose("exec", "-T", "node1", "raftkv", "member", "list"))
    except CommandFailed:
        return set()
