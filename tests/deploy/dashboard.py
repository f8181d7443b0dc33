"""The Grafana dashboard, as a program: `make deploy-files` makes deploy/observability/grafana/dashboards/raftkv.json.

Panels are dense, rows are named, and every panel has a unit and says what it shows; the tests hold it to that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

SCHEMA_VERSION: Final = 39
"""Of Grafana 11; newer versions migrate it when they load it."""

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_NODES: Final = 'job="$job",instance=~"$instance"'
_ALL: Final = 'job="$job"'
_WIDTH: Final = 24

_GREEN, _YELLOW, _RED, _GREY = "green", "#EAB839", "red", "text"


@dataclass(frozen=True, slots=True)
class Query:
    expr: str
    legend: str = "{{instance}}"


@dataclass(frozen=True, slots=True)
class Panel:
    title: str
    unit: str
    """Grafana's name of it."""
    description: str
    queries: tuple[Query, ...]
    width: int = 8
    height: int = 7
    kind: str = "timeseries"
    steps: tuple[tuple[float | None, str], ...] = ((None, _GREEN),)
    """Colours from values on."""
    words: tuple[tuple[str, str, str], ...] = ()
    """Value, word, colour."""
    decimals: int | None = None
    stacked: bool = False
    log_scale: bool = False
    least: float | None = 0


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


def _stat(
    title: str, unit: str, description: str, expr: str, legend: str = "", *, width: int = 4, **more: Any
) -> Panel:
    return Panel(title, unit, description, (Query(expr, legend),), width, 4, "stat", **more)


def _quantiles(metric: str, *quantiles: float, by: str = "instance") -> tuple[Query, ...]:
    grouped = f"{by}, le" if by else "le"
    legend = "{{" + by + "}} " if by else ""
    return tuple(
        Query(
            f"histogram_quantile({quantile}, sum by ({grouped}) (rate({metric}_bucket{{{_NODES}}}[$__rate_interval])))",
            f"{legend}p{quantile * 100:g}",
        )
        for quantile in quantiles
    )


_BAD_IF_ANY: Final = ((None, _GREEN), (1, _RED))

OVERVIEW: Final = Row(
    "Overview",
    (
        _stat(
            "Leader",
            "none",
            "The node that leads. None: nothing is written.",
            f"raftkv_is_leader{{{_ALL}}} == 1",
            "{{instance}}",
            steps=((None, _GREEN),),
        ),
        _stat(
            "Can still be lost",
            "short",
            "So many more voters may fail before writes stop. 0: the next one does it.",
            f"max(raftkv_active_voters{{{_ALL}}} - raftkv_quorum_size{{{_ALL}}})",
            steps=((None, _RED), (1, _GREEN)),
        ),
        _stat(
            "Write quorum",
            "none",
            "Whether the leader hears enough voters to commit anything.",
            f"max(raftkv_write_quorum_reached{{{_ALL}}})",
            words=(("1", "reached", _GREEN), ("0", "LOST", _RED)),
        ),
        _stat(
            "Last change of leaders (RTO)",
            "s",
            "From when a node heard the old leader last to when an entry of the new one was committed: the longest, as "
            "any node saw the newest change.",
            f"max(raftkv_failover_duration_seconds{{{_ALL}}})",
            steps=((None, _GREEN), (1, _YELLOW), (5, _RED)),
        ),
        _stat(
            "Largest lag",
            "s",
            "For how long the leader has had an entry that some peer has not confirmed.",
            f"max(raftkv_peer_lag_seconds{{{_ALL}}})",
            steps=((None, _GREEN), (1, _YELLOW), (5, _RED)),
        ),
        _stat(
            "Alarms",
            "none",
            "Alarms that are on, on all nodes together; the table at the end says which.",
            f"sum(raftkv_alarm{{{_ALL}}})",
            steps=_BAD_IF_ANY,
        ),
        Panel(
            "Who leads",
            "none",
            "1: the node leads. Exactly one line is up, except for the moments of a change.",
            (Query(f"raftkv_is_leader{{{_NODES}}}"),),
            width=12,
        ),
        Panel(
            "Changes of leaders per hour",
            "short",
            "Planned ones (a leader that handed over) and others, as the node saw them that saw most; leaders seen: "
            "those that had not committed anything too, and each node's first.",
            (
                Query(
                    f"max by (planned) (increase(raftkv_failovers_total{{{_ALL}}}[1h]))",
                    "planned: {{planned}}",
                ),
                Query(f"max(increase(raftkv_leader_changes_total{{{_ALL}}}[1h]))", "leaders seen"),
            ),
            width=12,
        ),
    ),
)

TRAFFIC: Final = Row(
    "Throughput and latency",
    (
        Panel(
            "Requests",
            "reqps",
            "Operations that the nodes answered, by kind.",
            (Query(f"sum by (kind) (rate(raftkv_requests_total{{{_NODES}}}[$__rate_interval]))", "{{kind}}"),),
            stacked=True,
        ),
        Panel(
            "Requests that failed",
            "reqps",
            "By outcome: the code of the error. A conflict or a missing key is an answer like any other to its client.",
            (
                Query(
                    f'sum by (outcome) (rate(raftkv_requests_total{{{_NODES},outcome!="ok"}}[$__rate_interval]))',
                    "{{outcome}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Writes that failed",
            "reqps",
            "Writes that a leader had taken, and that failed or were given up, by reason.",
            (
                Query(
                    f"sum by (reason) (rate(raftkv_proposals_failed_total{{{_NODES}}}[$__rate_interval]))",
                    "{{reason}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Time to commit",
            "s",
            "From when the leader put an entry into its log to when a majority had it on disk.",
            _quantiles("raftkv_commit_duration_seconds", 0.5, 0.95, 0.99, by=""),
            log_scale=True,
            least=None,
        ),
        Panel(
            "Writes in flight",
            "short",
            "Writes that wait for an entry, or for theirs to be applied.",
            (Query(f"raftkv_proposals_pending{{{_NODES}}}"),),
        ),
        Panel(
            "Entries committed",
            "ops",
            "How fast the log grows; one entry carries many writes under load.",
            (Query(f"rate(raftkv_commit_index{{{_NODES}}}[$__rate_interval])"),),
        ),
    ),
)

REPLICATION: Final = Row(
    "Replication",
    (
        Panel(
            "Lag in time",
            "s",
            "For how long the leader has had an entry that the peer has not confirmed.",
            (Query(f"raftkv_peer_lag_seconds{{{_ALL}}}", "node {{peer}}"),),
        ),
        Panel(
            "Lag in entries",
            "short",
            "Entries that the peer has not confirmed.",
            (Query(f"raftkv_peer_lag_entries{{{_ALL}}}", "node {{peer}}"),),
        ),
        Panel(
            "Peers that the leader hears",
            "none",
            "1: the peer answered within an election timeout.",
            (Query(f"raftkv_peer_active{{{_ALL}}}", "node {{peer}}"),),
        ),
    ),
)

DISK: Final = Row(
    "Disk",
    (
        Panel(
            "Flushes of the log (p99)",
            "s",
            "One flush in a hundred takes longer. Every write waits for the flushes of a majority.",
            _quantiles("raftkv_wal_fsync_duration_seconds", 0.99),
            log_scale=True,
            least=None,
        ),
        Panel(
            "Size",
            "bytes",
            "The log, the state store (free pages included), and the newest checkpoint.",
            (
                Query(f"raftkv_wal_bytes{{{_NODES}}}", "{{instance}} log"),
                Query(f"raftkv_store_bytes{{{_NODES}}}", "{{instance}} store"),
                Query(f"raftkv_checkpoint_bytes{{{_NODES}}}", "{{instance}} checkpoint"),
            ),
        ),
        Panel(
            "Quota in use",
            "percentunit",
            "At 100 %, writes that make the state grow are refused. Empty: there is no quota.",
            (Query(f"raftkv_store_used_bytes{{{_NODES}}} / (raftkv_quota_bytes{{{_NODES}}} > 0)"),),
            steps=((None, _GREEN), (0.85, _YELLOW), (0.95, _RED)),
        ),
        Panel(
            "Free on the disk",
            "bytes",
            "And the reserve: with less than that free, the node takes no further writes.",
            (
                Query(f"raftkv_disk_free_bytes{{{_NODES}}}"),
                Query(f"max(raftkv_disk_reserve_bytes{{{_NODES}}})", "reserve"),
            ),
        ),
        Panel(
            "Read again in search of bit rot",
            "Bps",
            "Cold files that are scrubbed.",
            (Query(f"rate(raftkv_scrubbed_bytes_total{{{_NODES}}}[$__rate_interval])"),),
        ),
        Panel(
            "Damaged files",
            "short",
            "Found since the node started. Any is a reason to look at the disk.",
            (Query(f"raftkv_scrub_damaged_files{{{_NODES}}}"),),
            steps=_BAD_IF_ANY,
        ),
    ),
)

CHECKPOINTS: Final = Row(
    "Checkpoints and snapshots",
    (
        Panel(
            "Entries since the last checkpoint",
            "short",
            "What a start would have to replay.",
            (Query(f"raftkv_applied_index{{{_NODES}}} - raftkv_checkpoint_index{{{_NODES}}}"),),
        ),
        Panel(
            "Age of the last checkpoint",
            "s",
            "Checkpoints are due by work, not by time: an idle node has an old one. Empty: made before the start.",
            (Query(f"time() - (raftkv_checkpoint_timestamp_seconds{{{_NODES}}} > 0)"),),
        ),
        Panel(
            "Checkpoints on their way",
            "percentunit",
            "How much of a checkpoint that is sent to a peer, or received, is there.",
            (
                Query(
                    f"raftkv_checkpoint_transfer_bytes{{{_NODES}}} "
                    f"/ (raftkv_checkpoint_transfer_size_bytes{{{_NODES}}} > 0)",
                    "{{instance}} {{direction}} node {{peer}}",
                ),
            ),
        ),
    ),
)

CLIENTS: Final = Row(
    "Sessions and watches",
    (
        Panel(
            "Watches",
            "short",
            "Watches that each node serves.",
            (Query(f"raftkv_watches{{{_NODES}}}"),),
        ),
        Panel(
            "Sessions and leases",
            "short",
            "In the replicated state: the same on all nodes, but for lag.",
            (
                Query(f"max(raftkv_sessions{{{_ALL}}})", "sessions"),
                Query(f"max(raftkv_leases{{{_ALL}}})", "leases"),
            ),
        ),
        Panel(
            "Revisions of history",
            "short",
            "From where history begins to the newest revision: what reads of the past and resuming watches can use.",
            (Query(f"raftkv_revision{{{_NODES}}} - raftkv_compacted_revision{{{_NODES}}}"),),
        ),
    ),
)

NODES: Final = Row(
    "Nodes",
    (
        Panel(
            "Nodes",
            "none",
            "One row for each node: whether it is scraped, ready, knows a leader or leads, its term and version, the "
            "protocol that all speak, its memory and alarms.",
            (
                Query(f"max by (instance, version) (raftkv_build_info{{{_NODES}}})", "version"),
                Query(f"max by (instance) (up{{{_NODES}}})", "scraped"),
                Query(f"max by (instance) (raftkv_ready{{{_NODES}}})", "ready"),
                Query(f"max by (instance) (raftkv_has_leader{{{_NODES}}})", "knows a leader"),
                Query(f"max by (instance) (raftkv_is_leader{{{_NODES}}})", "leads"),
                Query(f"max by (instance) (raftkv_term{{{_NODES}}})", "term"),
                Query(f"max by (instance) (raftkv_applied_index{{{_NODES}}})", "applied"),
                Query(f"max by (instance) (raftkv_protocol_version{{{_NODES}}})", "protocol"),
                Query(f"sum by (instance) (raftkv_alarm{{{_NODES}}})", "alarms"),
                Query(f"max by (instance) (process_resident_memory_bytes{{{_NODES}}})", "memory"),
                Query(f"max by (instance) (time() - process_start_time_seconds{{{_NODES}}})", "up for"),
            ),
            width=24,
            height=8,
            kind="table",
        ),
        Panel(
            "Alarms that are on",
            "none",
            "`raftkv endpoint status` has their texts, with the way out.",
            (Query(f"raftkv_alarm{{{_NODES}}} == 1", "{{instance}} {{alarm}}"),),
        ),
        Panel(
            "Held up (event loop)",
            "s",
            "The longest that everything in the node had to wait, within the last minute.",
            (Query(f"raftkv_event_loop_delay_seconds{{{_NODES}}}"),),
            steps=((None, _GREEN), (0.1, _RED)),
        ),
        Panel(
            "Processor",
            "percentunit",
            "Of one core; the event loop can use one, and flushes and checkpoints a little of another.",
            (Query(f"rate(process_cpu_seconds_total{{{_NODES}}}[$__rate_interval])"),),
        ),
        Panel(
            "Certificates end in",
            "s",
            "Empty without TLS. They are taken up from their files without a restart.",
            (
                Query(
                    f"raftkv_certificate_not_after_timestamp_seconds{{{_NODES}}} - time()",
                    "{{instance}} {{purpose}}",
                ),
            ),
        ),
        Panel(
            "Settings that differ",
            "short",
            "Settings that should agree, and that a peer was given differently. Empty: all agree.",
            (Query(f"raftkv_settings_drift{{{_NODES}}}", "{{instance}} and node {{peer}}"),),
            steps=_BAD_IF_ANY,
        ),
        Panel(
            "Members whose data differ",
            "short",
            "At the last comparison. Any is an emergency.",
            (Query(f"raftkv_states_differ{{{_NODES}}}"),),
            steps=_BAD_IF_ANY,
        ),
    ),
)

ROWS: Final = (OVERVIEW, TRAFFIC, REPLICATION, DISK, CHECKPOINTS, CLIENTS, NODES)

_TABLE_UNITS: Final = {"memory": "bytes", "up for": "s"}
_YES_NO: Final = ("scraped", "ready", "knows a leader", "leads")


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana's JSON model."""
    return {
        "uid": "raftkv",
        "title": "raftkv",
        "description": "Clusters of raftkv: who leads, how fast, how far behind, and what needs somebody to look.",
        "tags": ["raftkv"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": [_source_variable(), *_variables()]},
        "panels": _laid_out(ROWS),
    }


def _source_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "refresh": 1,
    }


def _variables() -> list[dict[str, Any]]:
    found = []
    for name, label, query, several in (
        ("job", "Cluster", "label_values(raftkv_has_leader, job)", False),
        ("instance", "Node", 'label_values(raftkv_has_leader{job="$job"}, instance)', True),
    ):
        found.append(
            {
                "name": name,
                "label": label,
                "type": "query",
                "datasource": _SOURCE,
                "query": {"query": query, "refId": name},
                "definition": query,
                "current": {"text": "All", "value": "$__all"} if several else {},
                "includeAll": several,
                "multi": several,
                "allValue": ".*" if several else None,
                "refresh": 2,
                "sort": 1,
                "hide": 0,
            }
        )
    return found


def _laid_out(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return all rows and panels, with ids and places."""
    found: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        found.append(
            {
                "id": len(found) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": y, "w": _WIDTH, "h": 1},
                "panels": [],
            }
        )
        y, x, tallest = y + 1, 0, 0
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                x, y, tallest = 0, y + tallest, 0
            place = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            found.append({"id": len(found) + 1, "gridPos": place, **_model(panel)})
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return found


def _model(panel: Panel) -> dict[str, Any]:
    table = panel.kind == "table"
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": _SOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend,
            # A value of now; over a range, whoever led before would be shown as well.
            "instant": panel.kind != "timeseries",
            "range": panel.kind == "timeseries",
            **({"format": "table"} if table else {}),
        }
        for number, query in enumerate(panel.queries)
    ]
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": colour} for value, colour in panel.steps],
        },
        "mappings": _mappings(panel.words),
    }
    if panel.least is not None:
        defaults["min"] = panel.least
    model: dict[str, Any] = {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {},
    }
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 5,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "scaleDistribution": {"type": "log", "log": 10} if panel.log_scale else {"type": "linear"},
            "thresholdsStyle": {"mode": "line" if len(panel.steps) > 1 else "off"},
        }
        model["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        named = bool(panel.queries[0].legend)
        model["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "value",
            "graphMode": "none",
            "textMode": "name" if named else "value",
        }
    else:
        model |= _as_table(panel)
        model["fieldConfig"]["overrides"] = _overrides()
    return model


def _mappings(words: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    if not words:
        return []
    return [
        {
            "type": "value",
            "options": {
                value: {"text": text, "color": colour, "index": number}
                for number, (value, text, colour) in enumerate(words)
            },
        }
    ]


def _as_table(panel: Panel) -> dict[str, Any]:
    """Join the queries by node: one row each."""
    columns = [f"Value #{chr(ord('A') + number)}" for number in range(len(panel.queries))]
    names = dict(zip(columns, (query.legend for query in panel.queries), strict=True))
    order = ["instance", "version", *columns]
    return {
        "transformations": [
            {"id": "joinByField", "options": {"byField": "instance", "mode": "outer"}},
            {
                "id": "organize",
                "options": {
                    # The version is a label; the value of its query, always 1, is no news.
                    "excludeByName": {"Value #A": True, "Time": True}
                    | {f"Time {number + 1}": True for number in range(len(columns))},
                    "indexByName": {name: number for number, name in enumerate(order)},
                    "renameByName": {"instance": "node"} | {k: v for k, v in names.items() if k != "Value #A"},
                },
            },
        ],
        "options": {"showHeader": True, "cellHeight": "sm"},
    }


def _overrides() -> list[dict[str, Any]]:
    yes_no = _mappings((("1", "yes", _GREEN), ("0", "no", _GREY)))
    found = [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [
                {"id": "mappings", "value": yes_no},
                {"id": "custom.cellOptions", "value": {"type": "color-text"}},
            ],
        }
        for name in _YES_NO
    ]
    return found + [
        {"matcher": {"id": "byName", "options": name}, "properties": [{"id": "unit", "value": unit}]}
        for name, unit in _TABLE_UNITS.items()
    ]
