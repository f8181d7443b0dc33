"""The example programs do what they say, each as the process that a user would start."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import ModuleType

import pytest

from raftkv.client import AsyncClient
from raftkv.testing.processes import bound_to_parent
from tests.examples.blocks import PATIENCE_S, ROOT

pytestmark = [pytest.mark.processes, pytest.mark.asyncio(loop_scope="package")]

EXAMPLES = ROOT / "examples"
LOST_UPDATE = 3


class Program:
    """A running example. Warnings are errors."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []

    async def says(self, text: str) -> str:
        """Wait for a line with `text` in it, and return that."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            async for line in self.process.stdout:
                self.lines.append(line.decode())
                if text in self.lines[-1]:
                    return self.lines[-1]
        raise AssertionError(f"{text!r} is not said in {self.lines}")

    async def ends(self) -> int:
        """Wait for its end, and return its exit code."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            self.lines += [line.decode() async for line in self.process.stdout]
            return await self.process.wait()

    async def interrupt(self) -> int:
        """Press Ctrl-C, and return the exit code."""
        self.process.send_signal(signal.SIGINT)
        return await self.ends()

    @property
    def text(self) -> str:
        return "".join(self.lines)


@asynccontextmanager
async def started(name: str, *arguments: str) -> AsyncIterator[Program]:
    command = bound_to_parent([sys.executable, "-W", "error", str(EXAMPLES / name), *arguments])
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(name: str, *arguments: str) -> tuple[int, str]:
    """Run an example to its end; return its exit code and what it said."""
    async with started(name, *arguments) as program:
        code = await program.ends()
        return code, program.text


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


async def test_every_example_says_how_to_run_it_and_is_named_in_the_document() -> None:
    document = (ROOT / "docs" / "api.md").read_text()
    programs = sorted(EXAMPLES.glob("*.py"))
    assert len(programs) >= 6
    for program in programs:
        docstring = ast.get_docstring(ast.parse(program.read_text())) or ""
        assert f"python examples/{program.name}" in docstring
        assert "RAFTKV_ENDPOINTS" in docstring
        assert f"`{program.name}`" in document


async def test_late_writes_of_a_stopped_holder_are_refused(client: AsyncClient) -> None:
    code, text = await run("fenced_storage.py")
    assert code == 0, text
    assert "Ann was refused by raftkv: token" in text
    assert "Ann was refused by the storage: token" in text
    assert "Ann has lost the lock" in text
    assert "Nothing was lost" in text


async def test_without_a_fence_an_update_is_lost(client: AsyncClient) -> None:
    """The control of the test above: what it shows is owed to the fence, and nothing else."""
    code, text = await run("fenced_storage.py", "--without-fence")
    assert code == LOST_UPDATE, text
    assert "The balances are 110 and 110; late writes that were refused: 0 of 2." in text
    assert "LOST UPDATE" in text


async def test_counts_are_not_lost(client: AsyncClient) -> None:
    code, text = await run("counter.py", "visits", "--tasks", "3", "--times", "5")
    assert (code, "visits is 15" in text) == (0, True), text
    pair = await client.get("visits")
    assert pair is not None
    assert (pair.value, pair.version) == (b"15", 15)


async def test_a_configuration_is_followed(client: AsyncClient) -> None:
    await client.put("config/rate", "10")
    async with started("config_watch.py", "config/") as program:
        assert "{'config/rate': '10'}" in await program.says("loaded")
        await client.put("config/rate", "20")
        await program.says("config/rate = 20")
        await client.delete("config/rate")
        await program.says("config/rate is gone")
        assert await program.interrupt() == 0, program.text


async def test_instances_come_and_go(client: AsyncClient) -> None:
    async with (
        started("service_registry.py", "watch", "api") as watcher,
        started("service_registry.py", "register", "api", "10.0.0.7:8000", "zone=a") as one,
        started("service_registry.py", "register", "api", "10.0.0.8:8000", "--ttl", "5") as other,
    ):
        await asyncio.gather(one.says("registered"), other.says("registered"))
        code, text = await run("service_registry.py", "list", "api")
        assert (code, sorted(text.splitlines())) == (0, ["10.0.0.7:8000 zone=a", "10.0.0.8:8000"])
        assert await one.interrupt() == 0, one.text
        await watcher.says("leave 10.0.0.7:8000")
        other.process.kill()
        await watcher.says("leave 10.0.0.8:8000")


async def test_another_candidate_takes_over(client: AsyncClient) -> None:
    async with started("leader_election.py", "observe") as observer:
        await observer.says("nobody leads")
        async with started("leader_election.py", "campaign", "host-1", "--ttl", "3") as first:
            await first.says("host-1 leads")
            await observer.says("host-1")
            async with started("leader_election.py", "campaign", "host-2", "--ttl", "3") as second:
                first.process.kill()
                await second.says("host-2 leads")
                await observer.says("host-2")
                assert await second.interrupt() == 0, second.text
        await observer.says("nobody leads")


async def test_jobs_of_a_dead_worker_are_done_by_others(client: AsyncClient) -> None:
    jobs = [f"job {number}" for number in range(5)]
    code, text = await run("job_queue.py", "add", *jobs)
    assert code == 0, text
    async with started("job_queue.py", "work", "--name", "dead", "--ttl", "1", "--seconds", "3600") as dead:
        await dead.says("dead begins job 0")
        dead.process.kill()
        ended = await asyncio.gather(
            *(run("job_queue.py", "work", "--name", name, "--until-empty") for name in ("ann", "bob"))
        )
    assert [code for code, _ in ended] == [0, 0], ended
    done = [pair async for pair in client.scan("jobs/done/")]
    assert sorted(pair.value.decode().split(":")[0] for pair in done) == jobs
    assert {pair.version for pair in done} == {1}
    assert await client.count("jobs/") == len(jobs), "jobs or claims are left"
    assert sum(text.count("completed") for _, text in ended) == len(jobs)


async def test_a_worker_that_is_too_late_completes_nothing(client: AsyncClient) -> None:
    queue = module("job_queue")
    await queue.add(client, ["the job"])
    late, other = await client.lease(60.0).grant(), await client.lease(60.0).grant()
    job, _, _ = await queue.claim(client, late, "late")
    assert (await queue.claim(client, other, "other"))[0] is None, "two have claimed it"
    await late.revoke()
    assert (await queue.claim(client, other, "other"))[0] == job
    assert not await queue.complete(client, late, job, "late")
    assert await queue.complete(client, other, job, "in time")
    assert not await queue.complete(client, other, job, "again")
    (done,) = [pair async for pair in client.scan("jobs/done/")]
    assert done.value == b"in time"
    await other.revoke()
