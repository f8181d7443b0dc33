"""The scanner that the tests of the alerts and of the dashboard stand on."""

from __future__ import annotations

import pytest

from tests.deploy.promql import NotPromQL, named_in


@pytest.mark.parametrize(
    ("expression", "metrics", "matched", "grouping"),
    [
        ("up == 0", {"up"}, set(), set()),
        ("sum by (job) (rate(a_total[5m]))", {"a_total"}, set(), {"job"}),
        ("sum without(le)(a_bucket) / on(x) group_left(y) b", {"a_bucket", "b"}, set(), {"le", "x", "y"}),
        ('a{job="b", c=~"d{e}",} offset 5m and f', {"a", "f"}, {("a", "job"), ("a", "c")}, set()),
        ('absent(up{job="x"}) or vector(1)', {"up"}, {("up", "job")}, set()),
        ("histogram_quantile(0.99, sum by (le) (rate(h_bucket[$__rate_interval])))", {"h_bucket"}, set(), {"le"}),
        ("min_over_time((a - 1e9)[1h30m:5m]) > bool 0x1F", {"a"}, set(), set()),
        ("sum(rate(x[5m])) by (instance) # not(this)", {"x"}, set(), {"instance"}),
        ("label_replace(a, 'node', '$1', 'peer', '(.+)')", {"a"}, set(), set()),
        ("topk(3, a) unless ignoring (b) c", {"a", "c"}, set(), {"b"}),
        ("a:b:rate5m * -Inf", {"a:b:rate5m"}, set(), set()),
        ("a @ end()", {"a"}, set(), set()),
    ],
)
def test_it_names_metrics_and_labels_and_nothing_else(
    expression: str, metrics: set[str], matched: set[tuple[str, str]], grouping: set[str]
) -> None:
    found = named_in(expression)
    assert (set(found.metrics), set(found.matched), set(found.grouping)) == (metrics, matched, grouping)


@pytest.mark.parametrize("expression", ['{job="x"}', "a ~ b", "a{b}", 'a{b="c"', "sum by (1) (a)", 'a{"b"="c"}'])
def test_what_it_cannot_read_is_an_error(expression: str) -> None:
    with pytest.raises((NotPromQL, IndexError, ValueError)):
        named_in(expression)
