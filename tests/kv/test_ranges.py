from __future__ import annotations

import pytest

from raftkv.errors import Compacted, FutureRevision
from raftkv.invariant import InvariantViolation
from raftkv.kv.keys import META
from raftkv.kv.limits import PAGE_BYTES
from raftkv.kv.ranges import Order, RangeQuery, RangeScan
from raftkv.kv.records import encode_meta, read_meta

from .dict_store import DictStore, DictView
from .host import Host, delete, put


def keys_of(host: Host, query: RangeQuery) -> list[bytes]:
    return [pair.key for pair in host.range(query).pairs]


@pytest.fixture
def host() -> Host:
    """Keys a..e at revisions 2..6; then c is deleted at 7 and a rewritten at 8."""
    host = Host()
    host.do(*(put(key, b"first") for key in (b"a", b"b", b"c", b"d", b"e")), delete(b"c"), put(b"a", b"second"))
    return host


def test_bounds(host: Host) -> None:
    assert keys_of(host, RangeQuery(b"b")) == [b"b"]
    assert keys_of(host, RangeQuery(b"c")) == []
    assert keys_of(host, RangeQuery(b"b", b"e")) == [b"b", b"d"]
    assert keys_of(host, RangeQuery(b"b", b"\0")) == [b"b", b"d", b"e"]
    assert keys_of(host, RangeQuery(b"b", b"b")) == []
    assert keys_of(host, RangeQuery(b"\0", b"\0")) == [b"a", b"b", b"d", b"e"]


def test_a_limited_page_says_whether_there_is_more(host: Host) -> None:
    page = host.range(RangeQuery(b"a", b"\0", limit=2))
    assert ([pair.key for pair in page.pairs], page.more, page.count) == ([b"a", b"b"], True, 2)
    page = host.range(RangeQuery(b"b\0", b"\0", limit=2))
    assert ([pair.key for pair in page.pairs], page.more, page.count) == ([b"d", b"e"], False, 2)
    # The only key left is deleted: that is not more.
    assert not host.range(RangeQuery(b"a", b"d", limit=2)).more


def test_keys_only_and_count_only(host: Host) -> None:
    page = host.range(RangeQuery(b"a", b"c", keys_only=True))
    assert [(pair.key, pair.mod_revision, pair.value) for pair in page.pairs] == [(b"a", 8, b""), (b"b", 3, b"")]
    page = host.range(RangeQuery(b"a", b"\0", limit=1, count_only=True))
    assert (page.pairs, page.more, page.count) == ((), False, 4)


def test_a_past_revision_shows_the_keys_as_they_were(host: Host) -> None:
    page = host.range(RangeQuery(b"\0", b"\0", revision=6))
    assert [(pair.key, pair.value) for pair in page.pairs] == [
        (key, b"first") for key in (b"a", b"b", b"c", b"d", b"e")
    ]
    assert page.revision == 6
    assert keys_of(host, RangeQuery(b"\0", b"\0", revision=7)) == [b"a", b"b", b"d", b"e"]
    assert keys_of(host, RangeQuery(b"\0", b"\0", revision=3)) == [b"a", b"b"]
    assert keys_of(host, RangeQuery(b"\0", b"\0", revision=1)) == []
    assert host.range(RangeQuery(b"\0", b"\0")).revision == 8


def test_a_future_revision_is_an_error(host: Host) -> None:
    with pytest.raises(FutureRevision, match="revision 9 is in the future: the store is at 8"):
        host.range(RangeQuery(b"a", revision=9))
    with pytest.raises(FutureRevision):
        host.get(b"a", 9)


def test_a_compacted_revision_is_an_error(host: Host) -> None:
    with host.store.write() as writer:
        writer.put(META, encode_meta(read_meta(writer)._replace(compacted_revision=5)))
    with pytest.raises(Compacted, match="revision 4 is compacted: history begins at 5"):
        host.range(RangeQuery(b"a", revision=4))
    with pytest.raises(Compacted):
        host.get(b"a", 4)
    assert host.range(RangeQuery(b"a", revision=5)).count == 1


def test_a_page_ends_at_its_byte_limit_and_the_next_goes_on() -> None:
    host = Host()
    value = b"v" * (PAGE_BYTES // 4 - 1)
    host.do(*(put(b"%d" % number, value) for number in range(6)))
    page = host.range(RangeQuery(b"\0", b"\0"))
    assert ([pair.key for pair in page.pairs], page.more) == ([b"0", b"1", b"2", b"3"], True)
    page = host.range(RangeQuery(page.pairs[-1].key + b"\0", b"\0"))
    assert ([pair.key for pair in page.pairs], page.more) == ([b"4", b"5"], False)
    assert len(keys_of(host, RangeQuery(b"\0", b"\0", keys_only=True))) == 6


def test_a_pair_larger_than_a_page_still_fits() -> None:
    host = Host()
    host.do(put(b"a", b"v" * PAGE_BYTES), put(b"b"))
    page = host.range(RangeQuery(b"\0", b"\0"))
    assert ([pair.key for pair in page.pairs], page.more) == ([b"a"], True)


@pytest.mark.parametrize("max_rows", [1, 2, 3, 100])
def test_steps_of_any_length_give_the_same_page(host: Host, max_rows: int) -> None:
    for query in (RangeQuery(b"\0", b"\0"), RangeQuery(b"\0", b"\0", revision=6, limit=3)):
        with host.machine.view() as view:
            scan = view.scan(query)
            while not scan.step(max_rows):
                pass
            assert scan.step(max_rows)
            assert scan.result() == view.range(query)


def test_a_step_reads_no_more_than_it_was_allowed() -> None:
    host = Host()
    host.do(*(put(b"%04d" % number) for number in range(1000)), delete(b"0500", b"0999"))
    view = _counted(host)
    scan = RangeScan(view, read_meta(view), RangeQuery(b"\0", b"\0"))
    steps = 0
    done = False
    while not done:
        before = view.reads
        done = scan.step(10)
        steps += 1
        assert view.reads - before <= 10
    assert steps > 100
    assert scan.result().count == 501


def test_a_large_value_counts_as_many_rows() -> None:
    host = Host()
    host.do(*(put(b"%d" % number, b"v" * 4096 * 9) for number in range(10)))
    view = _counted(host)
    scan = RangeScan(view, read_meta(view), RangeQuery(b"\0", b"\0", keys_only=True))
    assert not scan.step(20)
    assert view.reads == 2


def test_a_long_history_is_skipped() -> None:
    host = Host()
    host.do(*(put(key) for _ in range(1000) for key in (b"a", b"b", b"c")))
    for revision in (0, 4, 1500):
        view = _counted(host)
        scan = RangeScan(view, read_meta(view), RangeQuery(b"\0", b"\0", revision=revision))
        assert scan.step(100)
        assert [pair.key for pair in scan.result().pairs] == [b"a", b"b", b"c"]
        assert view.reads <= 9


def test_a_page_that_is_not_complete_has_no_result(host: Host) -> None:
    with host.machine.view() as view:
        scan = view.scan(RangeQuery(b"\0", b"\0"))
        assert not scan.step(1)
        with pytest.raises(InvariantViolation):
            scan.result()


def test_a_view_does_not_move(host: Host) -> None:
    with host.machine.view() as view:
        scan = view.scan(RangeQuery(b"\0", b"\0"))
        assert not scan.step(2)
        host.do(delete(b"\0", b"\0"))
        assert host.get(b"a") is None
        assert view.get(b"a") is not None
        while not scan.step(2):
            pass
        assert scan.result().count == 4
        assert view.meta.revision == 8


def _counted(host: Host) -> DictView:
    assert isinstance(host.store, DictStore)
    return DictView(host.store.rows, host.store.order)


@pytest.mark.parametrize("descending", [False, True])
def test_pages_in_another_order_lose_nothing_to_the_byte_limit(*, descending: bool) -> None:
    """What had to go for its size must not be passed over by something smaller that lies behind it."""
    host = Host()
    ranks = [1, 9, 5, 10]
    share = [0, 9, 5, 2]  # tenths of a page: the second goes for the third, and the fourth would fit again
    if descending:
        ranks = [20 - rank for rank in ranks]
    for number, (rank, tenths) in enumerate(zip(ranks, share, strict=True)):
        host.do(put(b"%d" % number, b"%02d" % rank + b"-" * (tenths * PAGE_BYTES // 10)))
    seen: list[int] = []
    cursor = b""
    more = True
    while more:
        query = RangeQuery(b"\0", b"\0", order=Order.VALUE, descending=descending, cursor=cursor)
        with host.machine.view() as view:
            page = view.range(query)
        seen += [int(pair.value[:2]) for pair in page.pairs]
        cursor, more = page.cursor, page.more
    assert seen == sorted(ranks, reverse=descending)
