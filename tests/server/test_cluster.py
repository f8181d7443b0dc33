"""Which cluster a node takes part in: what its directory remembers counts, then what the flags say."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from raftkv.errors import ConfigurationError, DataDirectoryMismatch, NoLeader, StorageError
from raftkv.kv.machine import StateMachine
from raftkv.raft import NO_MEMBERS, Configuration, Entry, EntryKind, HardState, Index, NodeId, Raft, RaftConfig, Term
from raftkv.raft.membership import decode_configuration
from raftkv.server.app import serve
from raftkv.server.checkpoints import Checkpoints
from raftkv.server.clock import MonotonicClock
from raftkv.server.cluster import Cluster, find_cluster
from raftkv.server.disk_health import unwatched
from raftkv.server.pulse import Pulse
from raftkv.server.settings import ServerSettings, load_settings
from raftkv.storage.checkpoint import CheckpointRefused
from raftkv.storage.data_dir import IDENTITY_NAME, open_data_dir
from raftkv.storage.json_files import unseal
from raftkv.storage.memory import MemoryDisk, MemoryLogStore, MemoryOrderedStore
from raftkv.transport.memory import MemoryHub
from raftkv.v1 import cluster_pb2, cluster_pb2_grpc
from tests.server.memory_cluster import NoCheckpoints

MEMBERS = {NodeId(1): "127.0.0.1:7101", NodeId(2): "127.0.0.1:7102", NodeId(3): "127.0.0.1:7103"}
MEMBER = [f"{node}={address}" for node, address in MEMBERS.items()]
NOBODY = ["127.0.0.1:1"]


def settings(data_dir: Path, **flags: Any) -> ServerSettings:
    return load_settings({"id": 1, "data_dir": data_dir, **flags})


def make(data_dir: Path, cluster: Cluster, node: int = 1) -> None:
    """Make the data directory of a node of `cluster`, as the first start does."""
    open_data_dir(
        data_dir,
        cluster_id=cluster.cluster_id,
        node_id=NodeId(node),
        members=cluster.members,
        founded=cluster.founded,
    ).close()


async def founder(data_dir: Path, **flags: Any) -> Cluster:
    """Make the data directory of a founder; return its cluster."""
    cluster = await find_cluster(settings(data_dir, member=MEMBER, **flags))
    make(data_dir, cluster)
    return cluster


def edit_identity(data_dir: Path, **changed: Any) -> None:
    path = data_dir / IDENTITY_NAME
    stored = unseal(path.read_bytes()) | changed
    path.write_text(json.dumps({name: value for name, value in stored.items() if value is not ...}))


async def test_a_founder_that_is_restarted_with_join_keeps_its_members(tmp_path: Path) -> None:
    """They are not in the log: without them nobody had a voter, and three healthy nodes had no leader."""
    founded = await founder(tmp_path)
    assert founded.founded_with.voters == frozenset(MEMBERS)
    assert await find_cluster(settings(tmp_path, join=NOBODY)) == founded
    assert await find_cluster(settings(tmp_path, member=MEMBER)) == founded


async def test_a_node_that_has_run_needs_neither_flag(tmp_path: Path) -> None:
    founded = await founder(tmp_path / "founder")
    assert await find_cluster(settings(tmp_path / "founder")) == founded
    joined = Cluster(0xC1, NO_MEMBERS, MEMBERS, MEMBERS[NodeId(1)], NodeId(1))
    make(tmp_path / "joined", joined)
    assert await find_cluster(settings(tmp_path / "joined")) == joined
    with pytest.raises(ConfigurationError, match="give --member for every founding member, or --join HOST:PORT"):
        await find_cluster(settings(tmp_path / "new"))


async def test_a_founder_of_before_that_was_recorded_keeps_its_members_too(tmp_path: Path) -> None:
    founded = await founder(tmp_path)
    edit_identity(tmp_path, founded=...)
    for flags in ({"join": NOBODY}, {"member": MEMBER}, {}):
        assert await find_cluster(settings(tmp_path, **flags)) == founded
    with pytest.raises(ConfigurationError, match="does not say whether its node founded the cluster"):
        await find_cluster(settings(tmp_path, cluster_name="not-that-of-then"))


@pytest.mark.parametrize("recorded", [False, ...], ids=["recorded", "before-that"])
async def test_a_node_that_joined_makes_up_no_members(tmp_path: Path, recorded: Any) -> None:
    joined = Cluster(0xC1, NO_MEMBERS, MEMBERS, MEMBERS[NodeId(1)], NodeId(1))
    make(tmp_path, joined)
    edit_identity(tmp_path, founded=recorded)
    assert await find_cluster(settings(tmp_path, join=NOBODY)) == joined


@pytest.mark.parametrize("changed", [{"member": [*MEMBER, "4=127.0.0.1:7104"]}, {"cluster_name": "other"}])
async def test_a_founder_whose_flags_were_edited_is_told_what_they_were(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    """It was told to start with an empty directory: to throw a good node's data away."""
    await founder(tmp_path)
    with pytest.raises(DataDirectoryMismatch) as refused:
        await find_cluster(settings(tmp_path, **{"member": MEMBER, **changed}))
    said = refused.value.message
    assert f"--member is the list that the cluster was founded with: {','.join(MEMBER)}; later members come" in said
    assert "empty" not in said


async def test_a_node_that_joined_needs_no_members(tmp_path: Path) -> None:
    make(tmp_path, Cluster(0xC1, NO_MEMBERS, MEMBERS, MEMBERS[NodeId(1)], NodeId(1)))
    with pytest.raises(DataDirectoryMismatch, match=r"joined its cluster\. The way out: start it without --member"):
        await find_cluster(settings(tmp_path, member=MEMBER))


async def test_another_nodes_directory_is_refused_before_a_port_is_opened(tmp_path: Path) -> None:
    """With --join there was no address to listen on, and the complaint was about a port in use."""
    await founder(tmp_path)
    with pytest.raises(DataDirectoryMismatch, match=r"belongs to node 1 of cluster 0x\w+, but this is node 8 of"):
        await serve(settings(tmp_path, id=8, join=NOBODY), asyncio.Event())


async def test_a_directory_that_does_not_know_its_own_address_is_damaged(tmp_path: Path) -> None:
    await founder(tmp_path)
    edit_identity(tmp_path, members={"2": "127.0.0.1:7102"})
    with pytest.raises(StorageError, match="does not say where node 1 is reached"):
        await find_cluster(settings(tmp_path, join=NOBODY))


class Answers(cluster_pb2_grpc.ClusterServicer):
    """A node that says who leads and who the members are, and nothing else."""

    def __init__(self) -> None:
        self.response = cluster_pb2.StatusResponse()

    async def Status(  # noqa: N802
        self, request: cluster_pb2.StatusRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> cluster_pb2.StatusResponse:
        return self.response


@asynccontextmanager
async def answering(leader: str | None, *members: int) -> AsyncIterator[str]:
    """Serve as a node that knows `leader` ("": itself, None: nobody) and these members; yield its address."""
    answers = Answers()  # type: ignore[abstract]
    server = grpc.aio.server()
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    answers.response = cluster_pb2.StatusResponse(
        members=[cluster_pb2.Member(id=member, peer_address=f"127.0.0.1:{7100 + member}") for member in members]
    )
    answers.response.header.cluster_id = 0xC1
    answers.response.header.leader_address = "" if leader is None else leader or address
    cluster_pb2_grpc.add_ClusterServicer_to_server(answers, server)
    await server.start()
    try:
        yield address
    finally:
        await server.stop(None)


async def test_a_node_joins_by_whoever_knows_that_it_was_added(tmp_path: Path) -> None:
    """A removed node knows no leader, and a leader that is cut off not the newest members: the next one is asked."""
    async with answering(None, 1, 5) as removed, answering("", 1, 2) as cut_off, answering("", 1, 2, 5) as good:
        flags = settings(tmp_path, id=5, join=[*NOBODY, removed, cut_off, good])
        cluster = await find_cluster(flags)
    assert cluster == Cluster(
        0xC1, NO_MEMBERS, {NodeId(node): f"127.0.0.1:{7100 + node}" for node in (1, 2, 5)}, "127.0.0.1:7105", NodeId(5)
    )


async def test_who_may_not_join_hears_what_each_node_said(tmp_path: Path) -> None:
    async with answering(None, 1, 2) as removed, answering("", 1, 2) as good:
        with pytest.raises(ConfigurationError) as refused:
            await find_cluster(settings(tmp_path, id=5, join=[removed, good]))
        with pytest.raises(NoLeader, match=f"{removed} knows no leader"):
            await find_cluster(settings(tmp_path, id=5, join=[removed]))
    assert f"{removed} knows no leader" in refused.value.message
    assert f"node 5 is not a member of the cluster at {good} (members: 1, 2)" in refused.value.message
    assert "run `raftkv member add 5 HOST:PORT`" in refused.value.message


async def test_a_peer_address_is_no_address_to_join_by(tmp_path: Path) -> None:
    server = grpc.aio.server()
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        with pytest.raises(ConfigurationError, match=f"{address} answers, but not to clients: --join wants the client"):
            await find_cluster(settings(tmp_path, id=5, join=[address]))
    finally:
        await server.stop(None)


async def test_a_follower_that_does_not_know_yet_names_the_leader(tmp_path: Path) -> None:
    async with answering("", 1, 2, 5) as leader, answering(leader, 1, 2) as follower:
        assert (await find_cluster(settings(tmp_path, id=5, join=[follower]))).peer_address == "127.0.0.1:7105"


def test_no_checkpoint_is_made_where_the_members_are_not_known() -> None:
    """It would be believed at every later start: the node would be a member of nothing, whatever its flags say."""
    known = Configuration(frozenset(MEMBERS))
    assert _configuration_in_a_checkpoint(known) == known
    with pytest.raises(CheckpointRefused, match="the members at entry 1 are not known here"):
        _configuration_in_a_checkpoint(NO_MEMBERS)


def _configuration_in_a_checkpoint(founded_with: Configuration) -> Configuration:
    """Return what a checkpoint says of the members once a node that began with `founded_with` has applied an entry."""
    raft = Raft(
        RaftConfig(node_id=NodeId(1), configuration=founded_with),
        hard_state=HardState(Term(1), None, Index(1)),
        entries=(Entry(Term(1), Index(1), EntryKind.NOOP, b""),),
        applied=Index(1),
        rng=random.Random(0),
    )
    log_store, _ = MemoryLogStore.open(MemoryDisk())
    checkpoints = Checkpoints(
        raft=raft,
        keeper=NoCheckpoints(StateMachine(store := MemoryOrderedStore()), store),
        log_store=log_store,
        transport=MemoryHub().transport(NodeId(1)),
        due_bytes=1,
        due_entries=1 << 30,
        begin_task=lambda name, coroutine: pytest.fail(f"{name} was started"),
        pulse=Pulse(),
        deliver=lambda message: None,
        wake=lambda: None,
        fail=lambda error: pytest.fail(str(error)),
        disk_health=unwatched(MonotonicClock()),
        diverged=pytest.fail,
    )
    return decode_configuration(checkpoints._configuration_at(Index(1), Term(1)))
