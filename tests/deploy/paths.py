"""Where what is deployed lies."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy"
KUBERNETES: Final = DEPLOY / "kubernetes"
CHART: Final = DEPLOY / "helm" / "raftkv"
OBSERVABILITY: Final = DEPLOY / "observability"
ALERTS: Final = OBSERVABILITY / "alerts.yml"
ALERT_TESTS: Final = OBSERVABILITY / "alerts.test.yml"
DASHBOARD: Final = OBSERVABILITY / "grafana" / "dashboards" / "raftkv.json"
OPERATIONS: Final = ROOT / "docs" / "operations.md"
GOLDEN: Final = Path(__file__).parent / "testdata" / "rendered"
