"""A cluster of real processes with TLS between all: it works as without, and who is no node of it gets nowhere."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raftkv.client import AsyncClient, ReadLevel
from raftkv.raft import NodeId, Term
from raftkv.raft.messages import HeartbeatRequest
from raftkv.raft.types import Index
from raftkv.testing.cluster import LocalCluster, NodeProcess
from raftkv.testing.processes import free_port
from raftkv.tls.material import CertificateFiles
from raftkv.tls.rotation import RotatingCertificate
from raftkv.transport.grpc_peer import GrpcTransport, Identity
from raftkv.transport.peer_tls import PeerTls
from tests.integration.waiting import PATIENCE_S, until
from tests.pki import BOTH
from tests.transport.test_contract import Recorder

pytestmark = pytest.mark.processes

SMALL = ["--checkpoint-entries", "20", "--wal-segment-bytes", "65536"]


async def test_a_cluster_with_tls(tmp_path: Path) -> None:
    cluster = LocalCluster(3, tls=True, arguments=SMALL)
    assert cluster.certificates is not None
    async with cluster, AsyncClient(cluster.url, tls=cluster.tls, timeout=PATIENCE_S) as client:
        leader = cluster.node(await cluster.leader())
        follower = next(node for node in cluster.nodes if node is not leader)
        await forwarded(cluster, follower)
        await rotated(cluster, client)
        await a_foreign_certificate_is_no_nodes(cluster, client, follower, tmp_path)
        assert (await client.status(leader.client_address)).term == 1, "nothing of this may cost an election"
        await told_on_the_command_line(cluster)
        await joined_by_a_snapshot(cluster, client)


async def forwarded(cluster: LocalCluster, follower: NodeProcess) -> None:
    """A follower hands a write to the leader, and asks it for a read, over the connection of peers."""
    async with AsyncClient([follower.client_address], tls=cluster.tls, dial_learned=False, timeout=PATIENCE_S) as one:
        await one.put("forwarded", "yes")
        found = await one.get("forwarded", level=ReadLevel.LINEARIZABLE, endpoint=follower.client_address)
        assert found is not None
        assert found.value == b"yes"


async def rotated(cluster: LocalCluster, client: AsyncClient) -> None:
    """All certificates are renewed under a running cluster, and in use at once."""
    assert cluster.certificates is not None
    before = {node.id: (await client.status(node.client_address)).certificates for node in cluster.nodes}
    cluster.certificates.renew("raftkv", {}, (), datetime.now(UTC).replace(microsecond=0))
    for node in cluster.nodes:
        after = (await client.status(node.client_address)).certificates
        assert [one.refused for one in after] == ["", ""]
        assert all(new.not_after > old.not_after for new, old in zip(after, before[node.id], strict=True))
    await client.put("rotated", "yes")


async def a_foreign_certificate_is_no_nodes(
    cluster: LocalCluster, client: AsyncClient, target: NodeProcess, tmp_path: Path
) -> None:
    """A valid certificate of the cluster's own authority is not enough to take part in the raft traffic."""
    assert cluster.certificates is not None
    authority = cluster.certificates.authority()
    issued = authority._issue("service", ["service.example"], BOTH, datetime.now(UTC))
    cert, key = tmp_path / "service.crt", tmp_path / "service.key"
    cert.write_bytes(issued.cert_pem)
    key.write_bytes(issued.key_pem)
    shown = RotatingCertificate(
        CertificateFiles(purpose="peers", cert=cert, key=key, ca=cluster.certificates.cert("ca"))
    )
    status = await client.status(target.client_address)
    stranger = NodeId(status.leader_id)
    transport = GrpcTransport(
        Identity(
            cluster_id=status.cluster_id,
            node_id=stranger,
            client_address="127.0.0.1:1",
            peer_address=f"127.0.0.1:{free_port()}",
        ),
        {NodeId(target.id): target.peer_address},
        tls=PeerTls(shown, "raftkv"),
    )
    await transport.start(Recorder())
    try:
        await until("the stranger is refused", lambda: "its certificate is not in the name" in target.log())
        of_the_future = HeartbeatRequest(
            sender=stranger, receiver=NodeId(target.id), term=Term(1_000), commit=Index(0), read_sequence=1
        )
        transport.send([of_the_future])
        await client.put("undisturbed", "yes")
    finally:
        await transport.close()
    after = await client.status(target.client_address)
    assert (after.term, after.leader_id) == (status.term, status.leader_id)


async def told_on_the_command_line(cluster: LocalCluster) -> None:
    assert cluster.tls is not None
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAFTKV_")}
    flags = ["--cacert", str(cluster.tls.ca), "--cert", str(cluster.tls.cert), "--key", str(cluster.tls.key)]
    command = [sys.executable, "-m", "raftkv.cli", "lock", "l", "--endpoints", cluster.url, *flags]
    inner = 'printf %s "$RAFTKV_CACERT,$RAFTKV_CERT,$RAFTKV_KEY"'
    child = await asyncio.create_subprocess_exec(
        *command, "--", "sh", "-c", inner, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await child.communicate()
    assert (child.returncode, out.decode()) == (0, ",".join(flags[1::2])), "what it runs can speak TLS as well"


async def joined_by_a_snapshot(cluster: LocalCluster, client: AsyncClient) -> None:
    """A new node asks its way with TLS, and is sent what the log has no more."""
    for number in range(3):
        await asyncio.gather(*(client.put(f"k{number}/{one}", "v") for one in range(30)))
        await client.checkpoint(cluster.node(await cluster.leader()).client_address)
    joined = await cluster.add()
    await cluster.converged()
    assert "installed a snapshot" in joined.log()
    assert (await client.status(joined.client_address)).certificates[1].subject == f"CN=node-{joined.id}"
