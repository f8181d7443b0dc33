"""Write what is made of other files: `python -m tests.deploy.generate`, as `make deploy-files` does.

| made | of |
|---|---|
| the dashboard | tests/deploy/dashboard.py |
| promtool's tests of the alerts | tests/deploy/alert_cases.py |
| the PrometheusRule of kustomize | deploy/observability/alerts.yml |
| the chart's copy of the alerts | the same; a chart cannot read beyond its own directory |

Tests compare.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from tests.deploy.alert_cases import rendered_cases
from tests.deploy.dashboard import dashboard
from tests.deploy.paths import ALERT_TESTS, ALERTS, CHART, DASHBOARD, KUBERNETES, ROOT

_MADE: Final = "# Made of deploy/observability/alerts.yml by `make deploy-files`: edit that.\n"

_RULE_HEAD: Final = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: raftkv
  labels:
    app.kubernetes.io/name: raftkv
    app.kubernetes.io/instance: raftkv
spec:
"""


def generated() -> dict[Path, str]:
    """Return what each file is to hold."""
    alerts = ALERTS.read_text(encoding="utf-8")
    groups = alerts[alerts.index("groups:\n") :]
    indented = "".join(f"  {line}" if line.strip() else line for line in groups.splitlines(keepends=True))
    return {
        ALERT_TESTS: rendered_cases(),
        DASHBOARD: json.dumps(dashboard(), indent=2) + "\n",
        KUBERNETES / "components" / "monitoring" / "prometheusrule.yaml": _MADE + _RULE_HEAD + indented,
        CHART / "files" / "alerts.yml": _MADE + groups,
    }


def main() -> int:
    for path, text in generated().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
