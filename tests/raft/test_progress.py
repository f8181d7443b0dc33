"""What a leader knows of one follower: probing, pipelining, back-off and in-flight accounting."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftkv.raft import Index, ProgressState
from raftkv.raft.log import ENTRY_OVERHEAD_BYTES
from raftkv.raft.messages import AppendRequest, AppendResponse, HeartbeatResponse
from raftkv.raft.progress import Progress
from tests.raft.network import Network

LIMIT = 100


def replicating(match: int) -> Progress:
    progress = Progress(next_index=Index(match + 1))
    progress.accepted(Index(match))
    return progress


def test_a_new_follower_is_probed_with_one_request_at_a_time() -> None:
    progress = Progress(next_index=Index(8))
    assert not progress.paused(LIMIT)
    progress.sent(Index(9), 50)
    assert progress.paused(LIMIT)
    assert progress.next == 8, "a probe is not optimistic"


def test_an_accepted_probe_opens_the_pipeline() -> None:
    progress = Progress(next_index=Index(8))
    progress.sent(Index(9), 50)
    assert progress.accepted(Index(9))
    assert (progress.state, progress.match, progress.next) == (ProgressState.REPLICATE, 9, 10)
    assert not progress.paused(LIMIT)


def test_the_pipeline_is_bounded_by_bytes_and_drained_by_answers() -> None:
    progress = replicating(3)
    progress.sent(Index(4), 60)
    assert not progress.paused(LIMIT)
    progress.sent(Index(6), 60)
    assert progress.paused(LIMIT)
    assert progress.next == 7
    assert progress.accepted(Index(5)), "half of the second request"
    assert progress.inflight_bytes == 60, "only whole requests are taken off"
    assert progress.accepted(Index(6))
    assert progress.inflight_bytes == 0
    assert progress.next == 7


def test_a_repeated_answer_is_no_news() -> None:
    progress = replicating(5)
    assert not progress.accepted(Index(5))
    assert not progress.accepted(Index(2))
    assert (progress.match, progress.next) == (5, 6)


def test_a_refused_probe_goes_back_as_far_as_the_hint_says() -> None:
    progress = Progress(next_index=Index(100))
    progress.sent(Index(100), 1)
    assert progress.rejected(Index(99), next_probe=Index(40))
    assert progress.next == 41
    assert not progress.paused(LIMIT), "it may be sent at once"


def test_a_refused_probe_goes_back_at_least_one_step() -> None:
    """A hint at or above the refused index (a follower in another term) must not make the leader ask the same again."""
    progress = Progress(next_index=Index(100))
    assert progress.rejected(Index(99), next_probe=Index(99))
    assert progress.next == 99


def test_a_refusal_of_an_earlier_probe_changes_nothing() -> None:
    progress = Progress(next_index=Index(100))
    progress.rejected(Index(99), next_probe=Index(40))
    progress.sent(Index(45), 1)
    assert not progress.rejected(Index(99), next_probe=Index(10))
    assert (progress.next, progress.paused(LIMIT)) == (41, True)


def test_a_refusal_while_replicating_restarts_from_what_is_known_to_match() -> None:
    """A request was lost: the one behind it did not fit (paper 5.3)."""
    progress = replicating(3)
    for index in (4, 5, 6):
        progress.sent(Index(index), 30)
    assert progress.rejected(Index(4), next_probe=Index(3))
    assert (progress.state, progress.next, progress.inflight_bytes) == (ProgressState.PROBE, 4, 0)


def test_a_refusal_of_what_has_matched_since_is_out_of_date() -> None:
    """Messages overtake each other: the log matches there now, whatever an older answer says."""
    progress = replicating(6)
    assert not progress.rejected(Index(5), next_probe=Index(1))
    assert (progress.state, progress.next) == (ProgressState.REPLICATE, 7)


def test_next_is_always_above_match() -> None:
    """Raft-bugs 12."""
    progress = replicating(6)
    progress.probe(Index(2))
    assert progress.next == 7


def test_nothing_is_sent_to_a_follower_that_waits_for_a_snapshot() -> None:
    progress = Progress(next_index=Index(5))
    progress.await_snapshot(Index(40))
    assert progress.paused(LIMIT)
    assert not progress.rejected(Index(4), next_probe=Index(1))
    progress.accepted(Index(39))
    assert progress.state is ProgressState.SNAPSHOT, "the snapshot has not arrived"
    progress.accepted(Index(40))
    assert (progress.state, progress.next) == (ProgressState.REPLICATE, 41)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.integers(1, 4), st.integers(1, 60)),
        st.tuples(st.just("accept"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("reject"), st.integers(0, 40), st.integers(0, 40)),
        st.tuples(st.just("probe"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("snapshot"), st.integers(0, 40), st.just(0)),
    ),
    max_size=60,
)


@given(steps)
def test_no_sequence_of_answers_breaks_the_invariants(script: list[tuple[str, int, int]]) -> None:
    """Answers come late, twice and in any order: match < next, match never falls, and the bytes add up."""
    progress = Progress(next_index=Index(10))
    for action, a, b in script:
        match_before = progress.match
        match action:
            case "send" if not progress.paused(LIMIT):
                progress.sent(Index(progress.next + a - 1), b)
            case "accept":
                progress.accepted(Index(a))
            case "reject":
                progress.rejected(Index(a), Index(b))
            case "probe":
                progress.probe(Index(a))
            case "snapshot":
                progress.await_snapshot(Index(a))
        progress.validate()
        assert progress.match >= match_before
        assert progress.inflight_bytes < LIMIT + 60, "more is in flight than one request above the limit"


# --- the same, seen from the outside ----------------------------------------------------------------------------------


def appends_to(network: Network, node_id: int) -> list[AppendRequest]:
    return [m for m in network.delivered if isinstance(m, AppendRequest) and m.receiver == node_id]


def test_proposals_are_pipelined_without_waiting_for_answers() -> None:
    network = Network()
    network.elect(1)
    for number in range(5):
        network.propose(1, b"%d" % number, settle=False)
    waiting = [m for m in network.queue if isinstance(m, AppendRequest) and m.receiver == 2]
    assert [len(m.entries) for m in waiting] == [1] * 5


def test_a_slow_follower_is_sent_a_bounded_number_of_bytes() -> None:
    network = Network(max_inflight_bytes=10 * (ENTRY_OVERHEAD_BYTES + 100))
    network.elect(1)
    network.node(3).disk_is_slow = True
    network.delivered.clear()
    for _ in range(50):
        network.propose(1, bytes(100))
    assert sum(len(m.entries) for m in appends_to(network, 3)) == 10
    assert network[1].log.commit == 51, "the others do not wait for it"

    network.node(3).disk_is_slow = False
    network.flush(3)
    network.settle()
    assert network.node(3).disk_log == network.node(1).disk_log


def test_a_request_carries_at_most_max_append_bytes() -> None:
    network = Network(max_append_bytes=3 * (ENTRY_OVERHEAD_BYTES + 100))
    network.elect(1)
    network.isolate(3)
    for _ in range(10):
        network.propose(1, bytes(100))
    network.heal()
    network.delivered.clear()
    network.tick(3)
    assert [len(m.entries) for m in appends_to(network, 3) if m.entries] == [3, 3, 3, 1]


@pytest.mark.parametrize("lost", ["a request", "an answer"])
def test_whatever_is_lost_is_made_good_within_two_heartbeats(lost: str) -> None:
    """Paper 5.3: the leader retries until all followers store all entries; here without a timer a request."""
    kind = AppendRequest if lost == "a request" else AppendResponse
    network = Network()
    network.elect(1)
    network.propose(1, b"a")
    network.drop = lambda message: isinstance(message, kind)
    network.propose(1, b"b")
    network.propose(1, b"c")
    assert network[1].log.commit == 2
    network.heal()
    network.tick(2 * network.node(1).config.heartbeat_ticks)
    assert [network[node_id].log.commit for node_id in network.nodes] == [4, 4, 4]


def test_read_rounds_do_not_multiply_appends() -> None:
    """A round of reads sends heartbeats, and an answer to one asks again for what may be lost: once an interval only.

    Otherwise every round would send a follower that is being probed another max_append_bytes.
    """
    network = Network()
    network.elect(1)
    network.node(3).disk_is_slow = True
    network.propose(1, b"x")
    network.delivered.clear()
    for _ in range(100):
        network.read(1)
    assert len(network.node(1).reads) == 100
    assert len([m for m in network.delivered if isinstance(m, HeartbeatResponse) and m.sender == 3]) == 100
    assert len(appends_to(network, 3)) <= 1

    network.tick(2 * network.node(1).config.heartbeat_ticks)
    assert 1 <= len(appends_to(network, 3)) <= 3, "it must still be asked"


def test_a_broken_connection_means_that_what_was_in_flight_is_lost() -> None:
    network = Network()
    network.elect(1)
    network.cut.add((1, 3))
    network.propose(1, b"lost")
    network.heal()
    network[1].unreachable(network.node(3).id)
    assert network[1].followers()[network.node(3).id].state is ProgressState.PROBE
    network.propose(1, b"next")
    assert network.applied_data(1) == [b"lost", b"next"]
    assert network.node(3).disk_log == network.node(1).disk_log, "the next request started from what is known to match"
