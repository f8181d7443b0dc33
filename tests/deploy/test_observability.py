"""Alerts and dashboard name metrics and labels that exist, and say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import pytest
import yaml

from raftkv.server.metrics.names import METRICS, Kind
from raftkv.v1 import cluster_pb2
from tests.deploy.alert_cases import CASES
from tests.deploy.generate import generated
from tests.deploy.paths import ALERTS, DASHBOARD, OBSERVABILITY, OPERATIONS, ROOT
from tests.deploy.promql import Named, named_in

TARGET: Final = frozenset({"job", "instance", "namespace"})
"""Labels of whatever is scraped; in Kubernetes all three."""

OF_PROMETHEUS: Final = {"up": frozenset[str]()}
OF_THE_LIBRARY: Final = {
    "process_resident_memory_bytes": frozenset[str](),
    "process_start_time_seconds": frozenset[str](),
    "process_cpu_seconds_total": frozenset[str](),
}
"""What of prometheus_client's own metrics is used."""

VARIABLES: Final = {"job", "instance", "datasource", "__rate_interval"}


def labels_of(sample: str) -> frozenset[str] | None:
    """Return the labels of a sample by its name, those of the target apart; None: there is no such sample."""
    for known in (OF_PROMETHEUS, OF_THE_LIBRARY):
        if sample in known:
            return known[sample]
    metric = METRICS.get(sample)
    if metric is not None:
        return None if metric.kind is Kind.HISTOGRAM else frozenset(metric.labels)
    for ending in ("_bucket", "_count", "_sum"):
        metric = METRICS.get(sample.removesuffix(ending)) if sample.endswith(ending) else None
        if metric is not None and metric.kind is Kind.HISTOGRAM:
            return frozenset(metric.labels) | ({"le"} if ending == "_bucket" else frozenset())
    return None


@cache
def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@cache
def panels() -> list[dict[str, Any]]:
    return [one for one in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"] if one["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def wrong_names(found: Named) -> list[str]:
    """Return what is named and does not exist."""
    wrong = [f"metric {metric}" for metric in sorted(found.metrics) if labels_of(metric) is None]
    known = {metric: (labels_of(metric) or frozenset()) | TARGET for metric in found.metrics}
    wrong += [f"label {label} of {metric}" for metric, label in sorted(found.matched) if label not in known[metric]]
    anywhere = frozenset().union(*known.values())
    return wrong + [f"label {label}" for label in sorted(found.grouping - anywhere)]


@pytest.mark.parametrize(
    ("where", "expression"), [pytest.param(*one, id=f"{one[0]}: {one[1]}") for one in expressions()]
)
def test_every_metric_and_label_that_is_named_exists(where: str, expression: str) -> None:
    found = named_in(expression)
    assert found.metrics, where
    assert wrong_names(found) == []


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("raftkv_no_such_thing > 0", ["metric raftkv_no_such_thing"]),
        ("raftkv_commit_duration_seconds > 1", ["metric raftkv_commit_duration_seconds"]),
        ('raftkv_has_leader{peer="1"}', ["label peer of raftkv_has_leader"]),
        ("sum by (reason) (raftkv_has_leader)", ["label reason"]),
        ("sum(rate(raftkv_term_bucket[5m])) by (le)", ["metric raftkv_term_bucket", "label le"]),
    ],
)
def test_what_does_not_exist_is_found(expression: str, complaint: list[str]) -> None:
    assert wrong_names(named_in(expression)) == complaint


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in rules()])
def test_every_alert_says_how_bad_it_is_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule.keys() == {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    document, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert ROOT / document == OPERATIONS
    assert anchor in anchors(OPERATIONS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("rule", [pytest.param(rule, id=rule["alert"]) for rule in rules()])
def test_what_an_alert_says_uses_labels_that_its_expression_leaves(rule: dict[str, Any]) -> None:
    """A label that an aggregation has dropped would be an empty place in the message."""
    found = named_in(rule["expr"])
    said = " ".join(rule["annotations"].values())
    used = set(re.findall(r"\$labels\.(\w+)", said))
    aggregated = re.match(r"\W*(?:round\()?\(?\s*(?:sum|max|count) by", rule["expr"]) is not None
    left = found.grouping if aggregated else TARGET.union(*(labels_of(one) or set() for one in found.metrics))
    assert used <= left


def test_no_alert_is_named_twice_and_every_one_is_tested_both_ways() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    assert {case.alert for case in CASES} == set(names)
    assert all(case.fires and case.silent and case.fires != case.silent for case in CASES)


def test_alerts_know_every_alarm() -> None:
    """A new alarm has to be put on one side or the other; the pattern of the one is what the other leaves."""
    alarms = {name.lower() for name in cluster_pb2.Alarm.DESCRIPTOR.values_by_name if name != "ALARM_UNSPECIFIED"}
    of = {rule["alert"]: named_in(rule["expr"]).selectors[0].matches for rule in rules() if "Alarm" in rule["alert"]}
    ((_, selects, critical),) = of["RaftkvAlarmCritical"]
    assert (selects, of["RaftkvAlarm"]) == ("=~", (("alarm", "!~", critical),))
    assert alarms - set(critical.split("|")) == {"slow_disk", "damaged"}
    assert set(critical.split("|")) < alarms


def test_every_panel_has_a_unit_says_what_it_shows_and_uses_known_variables() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert {one["name"] for one in board["templating"]["list"]} == VARIABLES - {"__rate_interval"}
    assert {"datasource", "query"} == {one["type"] for one in board["templating"]["list"]}
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    text = DASHBOARD.read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{?([A-Za-z_]\w*)", text)) <= VARIABLES | {"__all"}


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    ids = [one["id"] for one in board["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for one in board["panels"]:
        place = one["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert all(x < 24 for x, _ in cells)
        assert not cells & taken, one["title"]
        taken |= cells


def test_every_metric_that_is_scraped_is_looked_at_somewhere() -> None:
    """Or is left out on purpose: what nobody sees is measured for nobody."""
    used = {metric for _, expression in expressions() for metric in named_in(expression).metrics}
    used |= {metric.removesuffix(ending) for metric in used for ending in ("_bucket", "_count", "_sum")}
    assert set(METRICS) - used == {
        "raftkv_last_index",
        "raftkv_durable_index",
        "raftkv_peer_connected",
    }


def test_made_files_are_as_their_sources() -> None:
    stale = [path.name for path, text in generated().items() if path.read_text(encoding="utf-8") != text]
    assert stale == [], "run make deploy-files"


def test_prometheus_loads_the_alerts_where_compose_puts_them_and_names_its_job_as_they_expect() -> None:
    config = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text(encoding="utf-8"))
    assert config["rule_files"] == ["/etc/prometheus/alerts.yml"]
    assert [one["job_name"] for one in config["scrape_configs"]] == ["raftkv"]
    patterns = {value for _, expr in expressions() for one in named_in(expr).selectors if one.metric == "up"
                for label, _, value in one.matches if label == "job" and value != "$job"}  # fmt: skip
    assert patterns == {"raftkv(/.+)?"}


def anchors(markdown: str) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+?) *$", markdown, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
