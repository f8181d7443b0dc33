"""The documents show code that works, and tables that are true."""

from __future__ import annotations

import asyncio
import re

import pytest

from raftkv import client as package
from raftkv import errors
from raftkv.cli.exits import Exit, exit_code
from raftkv.client import AsyncClient
from raftkv.client.calls import Call, Kind, Verdict, final_error, judge
from raftkv.errors import ErrorCode, RaftKVError
from raftkv.kv import limits
from raftkv.server import wire
from raftkv.server.services.status import status_code
from raftkv.v1 import cluster_pb2, kv_pb2, lease_pb2, lock_pb2, maintenance_pb2, watch_pb2
from tests.examples.blocks import ROOT, Block, example_of, run_all, sections, table

API = "docs/api.md"
TEXT = (ROOT / API).read_text()
SHOWN = [
    pytest.param(blocks, id=f"{document}: {title}")
    for document in (API, "README.md")
    for title, blocks in sections(document).items()
]
ERROR_ROWS = [
    *table(API, "## Errors"),
    *table(API, "The client deals with these by itself; clients in other languages meet them:"),
]
# How the store bounds its own work.
INTERNAL_LIMITS = {
    "GRANT_WEIGHT",
    "MAX_EXPIRED_KEYS",
    "MAX_GRANTED_BYTES",
    "MAX_GRANTS",
    "MAX_SWEPT_VERSIONS",
    "MIN_GRANTS",
    "PLACE_WEIGHT",
    "PLAIN_KEY_BYTES",
    "SESSION_SAFE_MS",
}
OF_NODES = {errors.CorruptLog, errors.DataDirectoryMismatch, errors.NoRoom}


@pytest.mark.processes
@pytest.mark.asyncio(loop_scope="package")
@pytest.mark.parametrize("blocks", SHOWN)
async def test_what_a_section_shows_works(blocks: list[Block], client: AsyncClient) -> None:
    await run_all(blocks, client)


def test_blocks_are_found() -> None:
    assert len(SHOWN) >= 12
    assert TEXT.count("```python") == sum(len(blocks) for blocks in sections(API).values())


@pytest.mark.asyncio(loop_scope="package")
async def test_a_block_that_is_wrong_fails_with_its_line(client: AsyncClient) -> None:
    for source in ("x = 1\nawait client.get()\n", "x = 1\nassert x == 2\n"):
        with pytest.raises((TypeError, AssertionError)) as raised:
            await run_all([Block(source, "shown.md", 7)], client)
        assert (str(raised.traceback[-1].path).endswith("shown.md"), raised.traceback[-1].lineno + 1) == (True, 8)


@pytest.mark.asyncio(loop_scope="package")
async def test_an_error_that_is_shown_must_be_raised(client: AsyncClient) -> None:
    source = "try:\n    await client.get('k')\nexcept Exception:\n    pass\n"
    with pytest.raises(AssertionError, match=r"line \[9\]"):
        await run_all([Block(source, "shown.md", 7)], client)


def test_the_table_of_limits_is_that_of_the_state_machine() -> None:
    told = {name.strip("`"): int(number.replace(",", "")) for name, number, _ in table(API, "## Limits")}
    known = {name: number for name, number in vars(limits).items() if name.isupper() and isinstance(number, int)}
    assert told == {name: number for name, number in known.items() if name not in INTERNAL_LIMITS}


def every(kind: type[RaftKVError]) -> set[type[RaftKVError]]:
    return {one for sub in kind.__subclasses__() for one in (sub, *every(sub)) if one.__module__ == errors.__name__}


def an_error(kind: type[RaftKVError]) -> RaftKVError:
    """Return an error of a kind, whatever its constructor wants."""
    error = kind.__new__(kind)
    RaftKVError.__init__(error, "message")
    return error


def in_doubt() -> Call:
    """Return a write of which an earlier attempt was not answered."""
    call = Call(
        Kind.WRITE, kv_pb2.Operation(), 0, timeout=1.0, deadline=1.0, future=asyncio.get_running_loop().create_future()
    )
    call.doubtful = True
    return call


def test_every_error_has_a_row() -> None:
    assert sorted(row[0].strip("`") for row in ERROR_ROWS) == sorted(
        one.__name__ for one in every(RaftKVError) - OF_NODES
    )


@pytest.mark.parametrize("row", ERROR_ROWS, ids=lambda row: row[0].strip("`"))
async def test_a_row_of_the_table_of_errors_is_true(row: list[str]) -> None:
    name, _, retryable, ambiguous, _, status, exits = row
    error = an_error(getattr(errors, name.strip("`")))
    assert retryable == ("yes" if error.retryable else "no")
    assert ambiguous in ("no", "maybe")
    if error.code is ErrorCode.UNSPECIFIED:
        assert status == ""
    else:
        assert status_code(wire.to_error(error)).name == status
    assert exit_code(error, writes=True) == int(exits)
    if error.code is not ErrorCode.UNSPECIFIED and judge(in_doubt(), error) is Verdict.FAIL:
        assert ambiguous == ("maybe" if final_error(in_doubt(), error).ambiguous else "no")
    if ambiguous == "maybe":
        error.ambiguous = True
        assert exit_code(error, writes=True) is Exit.UNKNOWN_OUTCOME
        assert status_code(wire.to_error(error)).name != "UNAVAILABLE"


def test_every_service_and_call_for_clients_is_named() -> None:
    told = {
        service.strip("`"): set(re.findall(r"`(\w+)`", calls))
        for service, calls in table(API, "## Other languages: gRPC")
    }
    files = (kv_pb2, watch_pb2, lease_pb2, lock_pb2, cluster_pb2, maintenance_pb2)
    services = [one for file in files for one in file.DESCRIPTOR.services_by_name.values()]
    assert told == {service.name: {call.name for call in service.methods} for service in services}


def test_every_call_of_the_client_is_named() -> None:
    calls = {name for name in dir(AsyncClient) if not name.startswith("_")} - {"from_url", "closed", "close"}
    assert {name for name in calls if not re.search(rf"\b{name}\b", TEXT)} == set()


def test_every_name_of_raftkv_that_is_shown_exists() -> None:
    for module, names in re.findall(r"^from (raftkv[\w.]*) import (.+)$", TEXT, re.MULTILINE):
        for name in names.split(", "):
            assert hasattr({"raftkv.client": package, "raftkv.errors": errors}[module], name), name


def test_examples_of_docstrings_are_found() -> None:
    block = example_of(
        "Say it.\n\n    Example::\n\n        a = 1\n        if a:\n            b = 2\n\n    More.\n", "f"
    )
    assert block == Block("a = 1\nif a:\n    b = 2\n", "f", 1)
    assert example_of("Say it.\n", "f") is None
