"""The synchronous client, in processes of its own: it must behave with threads, forks, signals and at exit."""

from __future__ import annotations

import asyncio
import os
import sys
import textwrap

import pytest

from tests.client.fake import FakeCluster, ignore


async def run(cluster: FakeCluster, script: str, *, returncode: int = 0) -> str:
    """Run a script in another Python; return its output. Fails on anything on stderr: a library makes no noise."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-W",
        "error",
        "-c",
        textwrap.dedent(script),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"RAFTKV_ENDPOINTS": ",".join(cluster.addresses), "GRPC_VERBOSITY": "NONE"},
    )
    out, err = await process.communicate()
    assert err.decode() == ""
    assert process.returncode == returncode
    return out.decode()


async def test_all_calls(cluster: FakeCluster) -> None:
    output = await run(
        cluster,
        """
        from raftkv.client import Client, Guarantee, ReadLevel
        from raftkv.errors import ConnectionFailed
        with Client.from_env() as client:
            for number in range(5):
                assert client.put(f"k{number}", "v").revision == number + 1
            assert client.get("k1").value == b"v"
            pair = client.get("k1", level=ReadLevel.LOCAL, endpoint=client.endpoints[1])
            assert pair.guarantee is Guarantee.STALE_PREFIX
            assert client.range("k1", "k3").count == client.prefix("k", limit=2).count == 2
            assert [pair.key for pair in client.scan("k", page=2)] == [b"k0", b"k1", b"k2", b"k3", b"k4"]
            assert client.count("k") == 5
            assert client.delete("k0").deleted == 1
            assert client.delete_range("k1", "k3").deleted == 2
            assert client.delete_prefix("k").deleted == 2
            assert len(client.members()) == len(client.statuses()) == 3
            client.transfer_leader(2)
            assert client.status().leader_id == 2
            assert client.state_hash(client.endpoints[2]).member_id == 3
        client.close()
        try:
            client.put("k", "v")
        except ConnectionFailed as error:
            print(error.message)
        """,
    )
    assert output == "the client is closed\n"


async def test_leases_locks_and_transactions(single: FakeCluster) -> None:
    output = await run(
        single,
        """
        from raftkv.client import Client, get, put, version
        from raftkv.errors import InvalidArgument, KeyExists, LeaseExpired, LockBusy, LockLost, RevisionMismatch
        def refused(error, call):
            try:
                call()
            except error:
                return True
        with Client.from_env() as client:
            assert client.txn().when(version("a") == 0).then(put("a", "1")).otherwise(get("a")).commit().succeeded
            assert refused(KeyExists, lambda: client.create("a", "2"))
            assert refused(RevisionMismatch, lambda: client.update("a", "2", if_revision=7))
            assert client.update("a", "2", if_revision=1).revision == 2
            with client.lease(ttl=5.0) as lease:
                client.put("b", "v", lease=lease)
                assert 0 < lease.remaining() <= 4.75 and not lease.lost.is_set()
                assert client.get("b").lease == lease.id
                lease.check()
            assert lease.lost.is_set() and lease.remaining() == 0 and refused(LeaseExpired, lease.check)
            lock = client.lock("x")
            with lock as held:
                assert held.token == held.fence().token == 1 and lock.held is held
                assert refused(InvalidArgument, lock.acquire)
                assert refused(LockBusy, lambda: client.lock("x").acquire(wait=False))
                assert not held.lost.is_set()
            assert held.lost.is_set() and refused(LockLost, held.check) and refused(LockLost, held.fence)
            assert not lock.release()
            def lose(held):
                held.grant.kept.tenure.deadline = 0.0
            def body():
                with lock as held:
                    lose(held)
                    assert refused(LockLost, lambda: held.token) and refused(LockLost, held.fence)
                    assert held.lost.is_set() and held.remaining() == 0
            assert refused(LockLost, body)
            with client.semaphore("s", limit=2) as one, client.semaphore("s", limit=2) as two:
                assert one.token < two.token
            rwlock = client.rwlock("rw")
            with rwlock.reader(), rwlock.reader():
                assert refused(LockBusy, lambda: rwlock.writer().acquire(wait=False))
            election = client.election("e", "me")
            with election as led:
                assert election.leader().value == b"me" and election.leader().token == led.token
                election.proclaim("you")
                observed = election.observe()
                assert next(observed).value == b"you"
                observed.close()
            assert election.leader() is None
            assert client.lock_state("x").newest_token == 2
            granted = client.grant_lease(2.5)
            assert client.renew_leases(granted) == (2.5,) and granted.id in client.lease_ids()
            assert client.lease_status(granted).ttl == 2.5
            client.revoke_lease(granted)
            assert client.compact(2) == 2
            print("done")
        """,
    )
    assert output == "done\n"


async def test_threads_share_one_client(single: FakeCluster) -> None:
    output = await run(
        single,
        """
        import threading
        from concurrent.futures import ThreadPoolExecutor
        from raftkv.client import Client
        with Client.from_env() as client, Client.from_env() as other, ThreadPoolExecutor(8) as pool:
            def work(thread):
                for number in range(25):
                    (client if number % 2 else other).put(f"{thread}/{number}", "v")
            list(pool.map(work, range(8)))
            print(client.count(), sum(thread.name == "raftkv-client" for thread in threading.enumerate()))
        """,
    )
    assert output == "200 1\n"
    assert len(single.store.applied) == len(set(single.store.applied)) == 200


async def test_exit_without_close_is_quick_and_quiet(single: FakeCluster) -> None:
    async with asyncio.timeout(60):
        output = await run(
            single,
            """
            from raftkv.client import Client
            client = Client.from_env()
            print(client.put("k", "v").revision)
            """,
        )
    assert output == "1\n"


async def test_ctrl_c_ends_the_call_and_leaves_the_client_usable(single: FakeCluster) -> None:
    single[1].script = ignore
    output = await run(
        single,
        """
        import signal
        from raftkv.client import Client, ReadLevel
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        client = Client.from_env()
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            client.put("k", "v")
        except KeyboardInterrupt:
            print("interrupted")
        print(client.get("k", level=ReadLevel.LOCAL, endpoint=client.endpoints[0]))
        """,
    )
    assert output == "interrupted\nNone\n"


async def test_what_an_interrupted_enter_has_opened_already_is_closed_again(single: FakeCluster) -> None:
    """Ctrl-C may come between the answer and the return: `with` knows nothing of what it has to leave then."""
    output = await run(
        single,
        """
        from raftkv.client import Client
        with Client.from_env() as client:
            client.put("k", "v")
            work_done = client._run
            service = client.service("api").register("10.0.0.7:8000")
            things = client.lease(10.0), client.lock("a"), service
            for thing in things:
                def run(work):
                    thing._run = work_done
                    work_done(work)
                    raise KeyboardInterrupt
                thing._run = run
                try:
                    with thing:
                        print("entered")
                except KeyboardInterrupt:
                    print("interrupted")
            print(len(client._async._keeper._kept))
        """,
    )
    assert output == "interrupted\n" * 3 + "0\n"


async def test_a_release_that_is_interrupted_before_it_has_begun_is_made_up_for(single: FakeCluster) -> None:
    output = await run(
        single,
        """
        from raftkv.client import Client
        with Client.from_env() as client:
            lock = client.lock("a")
            lock.acquire()
            def run(work):
                lock._run = client._run
                work.close()
                raise KeyboardInterrupt
            lock._run = run
            try:
                lock.release()
            except KeyboardInterrupt:
                print(client.lock_state("a").contenders)
        """,
    )
    assert output == "()\n"


async def test_a_generator_that_outlives_the_interpreters_last_client_ends_quietly(single: FakeCluster) -> None:
    output = await run(
        single,
        """
        from raftkv.client import Client
        leaders = Client.from_env().election("scheduler").observe()
        print(next(leaders))
        """,
    )
    assert output == "None\n"


async def test_a_child_forked_before_the_first_client_makes_its_own(single: FakeCluster) -> None:
    output = await run(
        single,
        """
        import os, sys
        from raftkv.client import Client
        child = os.fork()
        if child == 0:
            with Client.from_env() as client:
                print(client.put("k", "v").revision, flush=True)
            sys.exit(3)
        with Client.from_env() as client:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), client.put("k", "v").revision)
        """,
    )
    assert output == "1\n3 2\n"


async def test_a_child_forked_too_late_is_told_so_at_once(single: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    # With grpcio's own handlers of forks on, it crashes in one child of ten, whatever this library does.
    monkeypatch.setenv("GRPC_ENABLE_FORK_SUPPORT", "0")
    output = await run(
        single,
        """
        import os
        from raftkv.client import Client
        from raftkv.errors import ConfigurationError
        client = Client.from_env()
        client.put("k", "v")
        child = os.fork()
        if child == 0:
            for attempt in (lambda: client.put("k", "v"), Client.from_env):
                try:
                    attempt()
                except ConfigurationError as error:
                    print(error.message, flush=True)
            client.close()
            os._exit(3)  # as multiprocessing does: grpcio may crash in a whole finalisation after a fork
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), client.put("k", "v").revision)
        """,
    )
    told = (
        "gRPC does not work in a child forked after its parent made a Client; "
        "make clients only after the fork, or start children by spawn or exec\n"
    )
    assert output == f"{told}{told}3 2\n"
