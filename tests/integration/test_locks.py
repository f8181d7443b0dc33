"""Locks, leases, elections and services on real nodes: what holds when leaders and holders die or sleep."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from raftkv.client import AsyncClient, AsyncHeld, FencingToken, InstanceEventKind
from raftkv.errors import DeadlineExceeded, FailedPrecondition, LockBusy, LockLost, StaleFence
from raftkv.testing.cluster import LocalCluster

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

HOLDER = """
import sys
from raftkv.client import Client
from raftkv.errors import StaleFence

name, key, fenced = sys.argv[1:]
with Client.from_env(timeout=60.0) as client:
    lock = client.lock(name, ttl=1.0)
    held = lock.acquire()
    fence = held.fence()
    count = int(client.get(key).value)
    print(held.token, flush=True)
    sys.stdin.readline()  # stopped meanwhile, for longer than the ttl
    print("lost" if held.lost.is_set() else "held", flush=True)
    try:
        client.put(key, str(count + 1), fence=fence if fenced == "fenced" else None)
        print("written", flush=True)
    except StaleFence as error:
        print("refused", error.current_token, flush=True)
    lock.release()
"""


@asynccontextmanager
async def python(cluster: LocalCluster, script: str, *args: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a script that uses the cluster; it is killed at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        *args,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"RAFTKV_ENDPOINTS": ",".join(cluster.endpoints)},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().split()


async def in_line(client: AsyncClient, name: str, count: int) -> None:
    """Wait until so many hold a lock or wait for it."""
    while len((await client.lock_state(name)).contenders) < count:  # noqa: ASYNC110 - there is no event on the nodes
        await asyncio.sleep(0.01)


async def test_holders_exclude_each_other_and_their_tokens_grow(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    tokens: list[int] = []
    await client.put(f"{prefix}count", "0")

    async def work() -> None:
        async with AsyncClient(cluster.url, timeout=60.0) as mine:
            for _ in range(5):
                async with mine.lock(prefix) as held:
                    tokens.append(held.token)
                    pair = await mine.get(f"{prefix}count")
                    assert pair is not None
                    await mine.put(f"{prefix}count", str(int(pair.value) + 1), fence=held.fence())

    await asyncio.gather(*(work() for _ in range(6)))
    pair = await client.get(f"{prefix}count")
    assert pair is not None
    assert pair.value == b"30"
    assert tokens == sorted(set(tokens))
    assert not (await client.lock_state(prefix)).contenders


async def test_bug_44_an_acquire_over_a_leader_that_is_killed_is_granted_once(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    await client.put(f"{prefix}warm", "up")
    victim = cluster.node(await cluster.leader())
    held: list[AsyncHeld] = []

    async def work(number: int) -> None:
        for turn in range(10):
            one = await client.lock(f"{prefix}{number}/{turn}", ttl=60.0).acquire(wait=False)
            held.append(one)

    working = [asyncio.create_task(work(number)) for number in range(16)]
    while len(held) < 40:  # noqa: ASYNC110 - in the middle of it
        await asyncio.sleep(0)
    await victim.kill()
    await asyncio.gather(*working)
    await victim.start()
    assert len({one.token for one in held}) == len(held) == 160
    for one in held:
        state = await client.lock_state(one.name)
        assert [contender.token for contender in state.contenders] == [one.token]
        assert state.newest_token == one.token  # no grant before or after it


async def test_a_holder_and_its_waiters_live_through_a_change_of_leader(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    order: list[int] = []
    first = client.lock(prefix, ttl=10.0)
    held = await first.acquire()

    async def work(number: int) -> None:
        async with client.lock(prefix, ttl=10.0):
            order.append(number)

    waiting: list[asyncio.Task[None]] = []
    for number in range(3):
        waiting.append(asyncio.create_task(work(number)))
        await in_line(client, prefix, number + 2)
    victim = cluster.node(await cluster.leader())
    await victim.kill()
    assert await client.put(f"{prefix}k", "v", fence=held.fence())
    assert await first.release()
    async with asyncio.timeout(60.0):
        await asyncio.gather(*waiting)
    await victim.start()
    assert order == [0, 1, 2]


@pytest.mark.parametrize("fenced", ["fenced", "unfenced"])
async def test_bug_46_a_holder_that_was_stopped_wakes_too_late(
    cluster: LocalCluster, client: AsyncClient, prefix: str, fenced: str
) -> None:
    """The control, without a fence, shows what the lock alone cannot prevent: an update is lost."""
    name, key = f"{prefix}lock", f"{prefix}count"
    await client.put(key, "0")
    async with python(cluster, HOLDER, name, key, fenced) as sleeper, asyncio.timeout(60.0):
        (token,) = await line_of(sleeper)
        sleeper.send_signal(signal.SIGSTOP)
        async with client.lock(name, ttl=10.0) as held:
            assert held.token > int(token)
            pair = await client.get(key)
            assert pair is not None
            await client.put(key, str(int(pair.value) + 100), fence=held.fence())
            sleeper.send_signal(signal.SIGCONT)
            assert sleeper.stdin is not None
            sleeper.stdin.write(b"\n")
            assert await line_of(sleeper) == ["lost"]  # by its clock, whatever it was told
            outcome = await line_of(sleeper)
            assert outcome == (["refused", str(held.token)] if fenced == "fenced" else ["written"])
        assert await sleeper.wait() == 0
    pair = await client.get(key)
    assert pair is not None
    assert pair.value == (b"100" if fenced == "fenced" else b"1")


async def test_fences_are_judged_for_every_kind_of_write(client: AsyncClient, prefix: str) -> None:
    lock, other = client.lock(f"{prefix}a"), client.lock(f"{prefix}b")
    old = (await lock.acquire()).fence()
    await lock.release()
    held, foreign = await lock.acquire(), await other.acquire()
    await client.put(f"{prefix}k", "v", fence=[held.fence(), foreign.fence()])
    wrong_lock = FencingToken(held.name, foreign.token)
    for fence in (old, wrong_lock, [held.fence(), old]):
        for write in (
            client.put(f"{prefix}k", "w", fence=fence),
            client.create(f"{prefix}new", "w", fence=fence),
            client.delete(f"{prefix}k", fence=fence),
            client.delete_prefix(prefix, fence=fence),
            client.txn().commit(fence=fence),
        ):
            with pytest.raises(StaleFence) as raised:
                await write
            assert raised.value.current_token == held.token
            assert not raised.value.ambiguous
    pair = await client.get(f"{prefix}k")
    assert pair is not None
    assert (pair.value, pair.version) == (b"v", 1)


async def test_a_lock_is_of_one_kind_at_a_time(client: AsyncClient, prefix: str) -> None:
    async with client.semaphore(prefix, limit=2):
        with pytest.raises(FailedPrecondition):
            await client.semaphore(prefix, limit=3).acquire()
        with pytest.raises(FailedPrecondition):
            await client.lock(prefix).acquire()
        async with client.semaphore(prefix, limit=2):
            with pytest.raises(LockBusy):
                await client.semaphore(prefix, limit=2).acquire(wait=False)
            with pytest.raises(DeadlineExceeded):
                await client.semaphore(prefix, limit=2, timeout=0.05).acquire()
    async with client.rwlock(prefix).reader(), client.rwlock(prefix).reader():
        with pytest.raises(LockBusy):
            await client.rwlock(prefix).writer().acquire(wait=False)


async def test_a_revoked_lease_takes_the_lock_and_the_keys_in_one_revision(client: AsyncClient, prefix: str) -> None:
    with pytest.raises(LockLost, match="the store has ended it"):  # noqa: PT012 - it is the body that matters
        async with client.lock(prefix, ttl=3.0) as held:
            await client.put(f"{prefix}a", "v", lease=held.lease_id)
            await client.put(f"{prefix}b", "v", lease=held.lease_id)
            status = await client.lease_status(held.lease_id, keys=True)
            assert status is not None
            assert f"{prefix}a".encode() in status.keys
            async with client.watch(prefix=prefix) as events:
                assert await client.revoke_lease(held.lease_id) >= 2
                first, second = await anext(events), await anext(events)
            assert first.revision == second.revision
            await asyncio.Event().wait()
    assert not await client.count(prefix)


async def test_a_lease_outlives_the_leader(cluster: LocalCluster, client: AsyncClient, prefix: str) -> None:
    async with client.lease(ttl=10.0) as lease:
        await client.put(f"{prefix}k", "v", lease=lease)
        victim = cluster.node(await cluster.leader())
        await victim.kill()
        await client.put(f"{prefix}other", "v")
        await victim.start()
        assert lease.remaining() > 0
        assert await client.get(f"{prefix}k") is not None
    assert await client.get(f"{prefix}k") is None


async def test_observers_see_every_leader(client: AsyncClient, prefix: str) -> None:
    election = client.election(prefix)
    async with asyncio.timeout(60.0), aclosing(election.observe()) as observed:
        assert await anext(observed) is None
        tokens = []
        for number in range(3):
            candidate = client.election(prefix, f"candidate {number}")
            led = await candidate.campaign()
            tokens.append(led.token)
            seen = await anext(observed)
            assert seen is not None
            assert (seen.value, seen.token) == (f"candidate {number}".encode(), led.token)
            await candidate.proclaim("changed")
            seen = await anext(observed)
            assert seen is not None
            assert (seen.value, seen.token) == (b"changed", led.token)
            following = client.election(prefix, "next")
            waiting = asyncio.create_task(following.campaign())
            await in_line(client, prefix, 2)
            await candidate.resign()
            await waiting
            seen = await anext(observed)  # from one to the other, in one step
            assert seen is not None
            assert seen.value == b"next"
            await following.resign()
            assert await anext(observed) is None
    assert tokens == sorted(tokens)


async def test_instances_are_found_as_long_as_they_live(
    cluster: LocalCluster, client: AsyncClient, prefix: str
) -> None:
    service = client.service(prefix.rstrip("/"))
    kinds = InstanceEventKind
    async with asyncio.timeout(60.0), aclosing(service.watch()) as events:
        async with service.register("10.0.0.1:80", {"zone": "a"}, instance_id="1") as registration:
            event = await anext(events)
            assert (event.kind, event.instance.id, event.instance.address) == (kinds.JOIN, "1", "10.0.0.1:80")
            assert [one.address for one in await service.instances()] == ["10.0.0.1:80"]
            await registration.update({"zone": "b"})
            event = await anext(events)
            assert (event.kind, dict(event.instance.meta)) == (kinds.CHANGE, {"zone": "b"})
            await client.revoke_lease(event.instance.lease)  # cut off for too long, say
            assert (await anext(events)).kind is kinds.LEAVE
        await client.put(f"{service.prefix}no-instance", "what is this")
        script = (
            "import sys\n"
            "from raftkv.client import Client\n"
            "client = Client.from_env(timeout=60.0)\n"
            "client.service(sys.argv[1]).register('h:1', instance_id='2', ttl=0.5).join()\n"
            "print('registered', flush=True)\n"
            "sys.stdin.readline()\n"
        )
        async with python(cluster, script, service.name) as process:
            assert await line_of(process) == ["registered"]
            event = await anext(events)
            assert (event.kind, event.instance.id) == (kinds.JOIN, "2")
            process.kill()
            event = await anext(events)
            assert (event.kind, event.instance.address) == (kinds.LEAVE, "h:1")
    assert await service.instances() == ()


async def test_an_instance_that_lost_its_registration_comes_back(client: AsyncClient, prefix: str) -> None:
    service = client.service(prefix.rstrip("/"))
    async with (
        asyncio.timeout(60.0),
        service.register("h:1", instance_id="1", ttl=3.0) as registration,
        aclosing(service.watch()) as events,
    ):
        first = await anext(events)
        await client.revoke_lease(first.instance.lease)
        assert (await anext(events)).kind is InstanceEventKind.LEAVE
        again = await anext(events)
        assert (again.kind, again.instance.id) == (InstanceEventKind.JOIN, "1")
        assert again.instance.lease != first.instance.lease
        while not registration.registered:  # noqa: ASYNC110 - the event may come before the answer to the put
            await asyncio.sleep(0.01)
