"""What Prometheus is told: every metric of the table, with the right value in each situation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from raftkv.raft import Configuration, FollowerStatus, Index, NodeId, ProgressState, Role
from raftkv.server.http.site import numbers_of
from raftkv.server.metrics.document import DOCUMENT, table
from raftkv.server.metrics.exposition import encode
from raftkv.server.metrics.families import Numbers, families, samples
from raftkv.server.metrics.names import FROM_THE_LIBRARY, METRICS, Kind, Presence
from raftkv.server.metrics.timed_files import TimedFiles
from raftkv.server.tallies import Durations, RecentLongest, Tallies
from raftkv.server.write_quorum import WriteQuorum, write_quorum
from raftkv.storage.files import OsFileSystem
from raftkv.storage.wal import WriteAheadLog
from raftkv.v1 import cluster_pb2 as pb
from raftkv.v1 import common_pb2, kv_pb2
from tests.server.memory_cluster import MemoryCluster, MemoryNode, until

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def numbers(**changes: object) -> Numbers:
    values: dict[str, object] = {
        "ready": True,
        "tallies": Tallies(),
        "pending_writes": 0,
        "delay_s": 0.0,
        "failovers": {},
        "quorum": None,
    }
    return Numbers(**(values | changes))  # type: ignore[arg-type]


EVERYTHING = pb.StatusResponse(
    header=common_pb2.ResponseHeader(member_id=1, leader_id=1, raft_term=7, revision=30),
    version="1.2.3",
    role=pb.LEADER,
    commit_index=90,
    applied_index=89,
    last_index=100,
    durable_index=99,
    store_bytes=1000,
    used_bytes=900,
    log_bytes=2000,
    quota_bytes=5000,
    members=[
        pb.Member(id=1, kind=pb.VOTER),
        pb.Member(id=2, kind=pb.VOTER),
        pb.Member(id=3, kind=pb.WITNESS),
        pb.Member(id=4, kind=pb.LEARNER),
    ],
    progress=[
        pb.PeerProgress(id=2, match_index=100, recently_active=True, connected=True),
        pb.PeerProgress(id=3, match_index=60, lag_ms=1500),
    ],
    alarms=[pb.RaisedAlarm(alarm=pb.SLOW_DISK, message="slow")],
    disk=pb.DiskStatus(free_bytes=70, reserve_bytes=60),
    checkpoint=pb.CheckpointStatus(index=80, size_bytes=500, made_at_ms=1_700_000_000_500),
    transfers=[
        pb.CheckpointTransfer(peer=3, receiving=False, done_bytes=100, size_bytes=500),
        pb.CheckpointTransfer(peer=2, receiving=True, done_bytes=7, size_bytes=8),
    ],
    compacted_revision=11,
    sessions=3,
    leases=4,
    watches=5,
    scrub=pb.ScrubStatus(scrubbed_bytes=12, damaged_files=2),
    comparison=pb.StateComparison(differ=[3]),
    drift=[
        pb.SettingsDrift(peer=2, setting="election_ms", here="250", there="500"),
        pb.SettingsDrift(peer=2, setting="quota_bytes", here="1", there="2"),
    ],
    failover=pb.Failover(term=7, leader=1, duration_ms=312, planned=True),
    protocol_version=2,
    certificates=[
        pb.CertificateStatus(purpose="clients", not_after_ms=1_800_000_000_000),
        pb.CertificateStatus(purpose="peers", not_after_ms=1_900_000_000_000, refused="its key is another one's"),
    ],
)


def told(status: pb.StatusResponse, of: Numbers | None = None) -> dict[str, dict[tuple[str, ...], float]]:
    """Return what is exposed, as a parser reads it: by name, by values of the labels (in the order of their names)."""
    text, _ = encode(list(families(status, of or numbers())), "")
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in parse(text.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(value for _, value in sorted(sample.labels.items()))] = sample.value
    return found


def one(value: float) -> Mapping[tuple[str, ...], float]:
    return {(): value}


def test_a_leader_tells_everything() -> None:
    tallies = Tallies()
    tallies.leader_changes = 4
    tallies.answered.update({("write", "ok"): 8, ("write", "overloaded"): 2})
    tallies.failed_writes["leader_changed"] = 6
    quorum = WriteQuorum(reached=False, active=1, size=2)
    found = told(
        EVERYTHING,
        numbers(tallies=tallies, quorum=quorum, failovers={True: 2}, pending_writes=9, delay_s=0.25, ready=False),
    )
    expected: dict[str, Mapping[tuple[str, ...], float]] = {
        "raftkv_build_info": {("1.2.3",): 1},
        "raftkv_has_leader": one(1),
        "raftkv_is_leader": one(1),
        "raftkv_ready": one(0),
        "raftkv_term": one(7),
        "raftkv_leader_changes_total": one(4),
        "raftkv_failovers_total": {("false",): 0, ("true",): 2},
        "raftkv_failover_duration_seconds": one(0.312),
        "raftkv_members": {("voter",): 2, ("learner",): 1, ("witness",): 1},
        "raftkv_commit_index": one(90),
        "raftkv_applied_index": one(89),
        "raftkv_last_index": one(100),
        "raftkv_durable_index": one(99),
        "raftkv_peer_lag_entries": {("2",): 0, ("3",): 40},
        "raftkv_peer_lag_seconds": {("2",): 0, ("3",): 1.5},
        "raftkv_peer_active": {("2",): 1, ("3",): 0},
        "raftkv_peer_connected": {("2",): 1, ("3",): 0},
        "raftkv_write_quorum_reached": one(0),
        "raftkv_active_voters": one(1),
        "raftkv_quorum_size": one(2),
        "raftkv_requests_total": {("read", "ok"): 0, ("write", "ok"): 8, ("write", "overloaded"): 2},
        "raftkv_proposals_pending": one(9),
        "raftkv_proposals_failed_total": {
            ("deadline_exceeded",): 0,
            ("leader_changed",): 6,
            ("not_leader",): 0,
            ("overloaded",): 0,
            ("shutting_down",): 0,
        },
        "raftkv_wal_bytes": one(2000),
        "raftkv_store_bytes": one(1000),
        "raftkv_store_used_bytes": one(900),
        "raftkv_quota_bytes": one(5000),
        "raftkv_disk_free_bytes": one(70),
        "raftkv_disk_reserve_bytes": one(60),
        "raftkv_alarm": {
            ("no_space",): 0,
            ("disk_full",): 0,
            ("slow_disk",): 1,
            ("damaged",): 0,
            ("corrupt",): 0,
            ("diverged",): 0,
        },
        "raftkv_checkpoint_index": one(80),
        "raftkv_checkpoint_bytes": one(500),
        "raftkv_checkpoint_timestamp_seconds": one(1_700_000_000.5),
        "raftkv_checkpoint_transfer_bytes": {("send", "3"): 100, ("receive", "2"): 7},
        "raftkv_checkpoint_transfer_size_bytes": {("send", "3"): 500, ("receive", "2"): 8},
        "raftkv_sessions": one(3),
        "raftkv_leases": one(4),
        "raftkv_watches": one(5),
        "raftkv_revision": one(30),
        "raftkv_compacted_revision": one(11),
        "raftkv_states_differ": one(1),
        "raftkv_scrubbed_bytes_total": one(12),
        "raftkv_scrub_damaged_files": one(2),
        "raftkv_event_loop_delay_seconds": one(0.25),
        "raftkv_certificate_not_after_timestamp_seconds": {("clients",): 1_800_000_000, ("peers",): 1_900_000_000},
        "raftkv_certificate_refused": {("clients",): 0, ("peers",): 1},
        "raftkv_settings_drift": {("2",): 2},
        "raftkv_protocol_version": one(2),
    }
    histograms = {name for name, metric in METRICS.items() if metric.kind is Kind.HISTOGRAM}
    assert set(expected) == set(METRICS) - histograms, "the table and this test know the same metrics"
    for name, values in expected.items():
        assert found[name] == values, name
    for name in histograms:
        assert found[f"{name}_count"] == one(0)
        assert found[f"{name}_bucket"]["+Inf",] == 0
    parts = {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}
    assert {name for name in found if not name.startswith(FROM_THE_LIBRARY)} == set(expected) | parts


def test_what_does_not_apply_is_absent() -> None:
    """Of a follower, without certificates, transfers and drift."""
    status = pb.StatusResponse(header=common_pb2.ResponseHeader(member_id=1, leader_id=2))
    found = told(status)
    assert {name for name, metric in METRICS.items() if metric.presence is not Presence.ALWAYS}.isdisjoint(found)
    always = [name for name, metric in METRICS.items() if metric.presence is Presence.ALWAYS]
    missing = [name for name in always if name not in found and f"{name}_count" not in found]
    assert not missing
    assert found["raftkv_is_leader"] == one(0)
    assert found["raftkv_has_leader"] == one(1)
    assert told(pb.StatusResponse())["raftkv_is_leader"] == one(0), "nobody leads, and this node has no number"


def test_what_a_new_leader_has_not_heard_of_a_peer_yet_is_no_lag() -> None:
    """A peer that was down when the leaders changed may lack one entry, or all: nobody knows."""
    status = pb.StatusResponse()
    status.CopyFrom(EVERYTHING)
    del status.progress[:]
    status.progress.add(id=2, match_index=99, state="replicate")
    status.progress.add(id=3, state="probe", lag_ms=2500)
    status.progress.add(id=4, state="snapshot")
    found = told(status)
    assert found["raftkv_peer_lag_entries"] == {("2",): 1, ("4",): 100}
    assert found["raftkv_peer_lag_seconds"][("3",)] == 2.5


def test_kinds_and_labels_are_those_of_the_table() -> None:
    """In both formats, by their own parsers; OpenMetrics' is strict about what names and types go together."""
    found = list(families(EVERYTHING, numbers(quorum=WriteQuorum(reached=True, active=3, size=2))))
    plain, plain_type = encode(found, "")
    strict, strict_type = encode(found, OPENMETRICS)
    assert plain_type.startswith("text/plain")
    assert strict_type.startswith("application/openmetrics-text")
    assert strict.endswith(b"# EOF\n")
    for parsed in (list(parse(plain.decode())), list(parse_openmetrics(strict.decode()))):  # type: ignore[no-untyped-call]
        seen = set()
        for family in parsed:
            if family.name.startswith(FROM_THE_LIBRARY):
                continue
            name = f"{family.name}_total" if family.type == "counter" else family.name
            metric = METRICS[name]
            assert (family.type, family.documentation) == (metric.kind.value, metric.help)
            for sample in family.samples:
                assert set(sample.labels) - {"le"} == set(metric.labels), name
            seen.add(name)
        assert seen == set(METRICS)


def test_names_keep_to_the_conventions() -> None:
    for name, metric in METRICS.items():
        assert name == metric.name
        assert name.startswith("raftkv_")
        assert name.endswith("_total") == (metric.kind is Kind.COUNTER)
        assert not {"key", "session", "watch", "client"} & set(metric.labels), "labels do not grow with the data"
        assert metric.help.endswith(".")
        assert not re.search(r"_(ms|us|ns|millis|kb|mb|minutes)(_|$)", name), "base units"


def test_samples_are_made_for_every_name_and_no_other() -> None:
    counted = {name for name, metric in METRICS.items() if metric.kind is not Kind.HISTOGRAM}
    assert set(samples(EVERYTHING, numbers())) == counted


def test_a_histogram_is_cumulative() -> None:
    tallies = Tallies()
    for took_s in (0.00005, 0.0001, 0.02, 99.0):
        tallies.commits.observe(took_s)
    found = told(pb.StatusResponse(), numbers(tallies=tallies))
    buckets = found["raftkv_commit_duration_seconds_bucket"]
    assert [buckets[bound,] for bound in ("0.0001", "0.00025", "0.01", "0.025", "10.0", "+Inf")] == [2, 2, 2, 3, 3, 4]
    assert found["raftkv_commit_duration_seconds_count"] == one(4)
    assert found["raftkv_commit_duration_seconds_sum"][()] == pytest.approx(99.02015)


def test_the_longest_delay_is_that_of_the_last_minute() -> None:
    longest = RecentLongest()
    assert longest.at(0) == 0
    for now_s, took_s in ((1.0, 0.5), (1.2, 0.1), (1.4, 0.7), (30.0, 0.2)):
        longest.observe(now_s, took_s)
    assert longest.at(30.0) == 0.7
    assert longest.at(61.5) == 0.2
    assert longest.at(500.0) == 0


async def test_flushes_of_the_log_are_timed(tmp_path: Path) -> None:
    flushes = Durations()
    wal, recovered = WriteAheadLog.open(
        tmp_path / "wal", segment_bytes=1 << 16, files=TimedFiles(OsFileSystem(), flushes)
    )
    before = sum(flushes.counts)
    await wal.append(recovered.hard_state, ())
    assert sum(flushes.counts) > before
    assert flushes.sum_s > 0
    await wal.close()


# --- in a cluster -----------------------------------------------------------------------------------------------------


def quorum_of(member: MemoryNode) -> WriteQuorum | None:
    return numbers_of(member.node, ready=True).quorum


async def test_the_lag_of_a_follower_that_is_cut_off_grows_and_ends() -> None:
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        gone = cluster.follower(leader)

        def lag_ms() -> float:
            follower = leader.node.raft.followers()[gone.id]
            return leader.node.lag_ms(gone.id, follower.match)

        await leader.put(b"k", b"1")
        await until(lambda: lag_ms() == 0)
        cluster.isolate(gone.id)
        await leader.put(b"k", b"2")
        first_ms = await until(lag_ms)
        assert await until(lambda: lag_ms() > first_ms + 20)
        others = [peer for peer in leader.node.raft.followers() if peer != gone.id]
        assert await until(lambda: not leader.node.lag_ms(others[0], leader.node.raft.followers()[others[0]].match))
        cluster.heal()
        await until(lambda: lag_ms() == 0)
        assert gone.node.lag_ms(leader.id, Index(0)) == 0, "who does not lead knows of no lag"


async def test_whether_a_quorum_is_reached() -> None:
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        assert quorum_of(leader) == WriteQuorum(reached=True, active=3, size=2)
        assert quorum_of(cluster.follower(leader)) is None
        cluster.isolate(cluster.follower(leader).id)
        await until(lambda: quorum_of(leader) == WriteQuorum(reached=True, active=2, size=2))


async def test_while_the_members_change_both_sets_of_voters_are_needed() -> None:
    """The numbers are those of the set that has fewer to spare; an old majority alone commits nothing."""

    def raft(*heard: int) -> object:
        joint = Configuration(
            frozenset(map(NodeId, (1, 2, 3))),
            outgoing=frozenset(map(NodeId, (1, 4, 5))),
            learners=frozenset({NodeId(6)}),
        )
        status = {
            NodeId(peer): FollowerStatus(Index(1), ProgressState.REPLICATE, 0 if peer in heard else 25)
            for peer in (2, 3, 4, 5, 6)
        }
        return SimpleNamespace(
            role=Role.LEADER, node_id=NodeId(1), election_ticks=25, configuration=joint, followers=lambda: status
        )

    def found(*heard: int) -> WriteQuorum | None:
        return write_quorum(raft(*heard))  # type: ignore[arg-type]

    assert found(2, 3, 4, 5) == WriteQuorum(reached=True, active=3, size=2)
    assert found(2, 4) == WriteQuorum(reached=True, active=2, size=2)
    assert found(2, 3) == WriteQuorum(reached=False, active=1, size=2)
    assert found(4, 5, 6) == WriteQuorum(reached=False, active=1, size=2), "a learner does not count"


async def test_commits_leader_changes_and_requests_are_counted() -> None:
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        follower = cluster.follower(leader)
        for _ in range(3):
            await leader.put(b"k", b"1")
        await follower.put(b"k", b"2")
        await leader.get(b"k")
        await leader.get(b"")  # refused
        tallies = leader.node.tallies
        assert sum(tallies.commits.counts) == 4
        assert sum(follower.node.tallies.commits.counts) == 0
        assert tallies.answered == {("write", "ok"): 3, ("read", "ok"): 1, ("read", "invalid_argument"): 1}
        assert follower.node.tallies.answered == {("write", "ok"): 1, ("read", "ok"): 0}, "where the client asked"
        assert tallies.leader_changes == 1
        cluster.isolate(leader.id)
        second = await cluster.leader(other_than=leader.id)
        assert second.node.tallies.leader_changes == 2
        cluster.heal()
        await until(lambda: leader.node.leader == second.id)
        assert leader.node.tallies.leader_changes == 2


async def test_writes_that_fail_are_counted_once_by_reason() -> None:
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        cluster.isolate(leader.id)
        result = await leader.put(b"k", b"1")
        assert result.HasField("error")
        failed = leader.node.tallies.failed_writes
        await until(lambda: not leader.node.is_leader)
        assert sum(failed.values()) == 1, failed
        assert sum(count for (_, outcome), count in leader.node.tallies.answered.items() if outcome != "ok") == 1
        assert leader.node.pending_writes in (0, 1), "the log may still decide it"


async def test_writes_that_nobody_waits_for_any_more_are_not_counted_again() -> None:
    """Two groups, since a range is deleted by an entry of its own: their deadline passes, and then the node stops."""
    async with MemoryCluster(3) as cluster:
        leader = await cluster.leader()
        cluster.isolate(leader.id)
        operations = [
            kv_pb2.Operation(id=1, put=kv_pb2.PutRequest(key=b"a", value=b"1")),
            kv_pb2.Operation(id=2, delete=kv_pb2.DeleteRequest(key=b"a", range_end=b"b")),
        ]
        await leader.requests.run(kv_pb2.BatchRequest(timeout_ms=100, operations=operations), forwarded=False)
        await leader.node.stop()
        assert leader.node.tallies.failed_writes == {"deadline_exceeded": 2}


# --- the document -----------------------------------------------------------------------------------------------------


def test_the_document_has_the_table_as_it_is() -> None:
    text = (Path(__file__).parents[2] / DOCUMENT).read_text()
    assert table() in text, "run: .venv/bin/python -m raftkv.server.metrics.document"
