"""`make deploy-check`: all that can be known of deploy/ without a cluster, by the tools that will read it.

Renders every overlay, and the chart with several values; validates against the schemas of the oldest and of the newest
Kubernetes; lints the chart, and gives it values that it must refuse; lets promtool read the alerts and every expression
of the dashboard, and run the alerts' unit tests. A tool that is missing is a failure.

`--rewrite-golden` commits what was rendered to tests/deploy/testdata/rendered; read the diff as carefully as code.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import yaml

from tests.deploy.dashboard import dashboard
from tests.deploy.paths import ALERT_TESTS, ALERTS, CHART, GOLDEN, OBSERVABILITY
from tests.deploy.rendering import (
    SOURCES,
    VALUES,
    RenderingFailed,
    digest_of_sources,
    golden,
    helm_template,
    names,
    parsed,
    render,
    run,
)
from tests.deploy.schemas import VERSIONS, complaint
from tests.deploy.tools import HELM, PROMTOOL, TOOLS, ToolUnavailable, get

REFUSED: Final = {
    "replicas=2": "fewer than founders",
    "founders=2": "founders",
    "tls.enabled=true": "needs tls.secretName",
    "tls.enabled=true,tls.secretName=x,tls.certManager.enabled=true": "give one of them",
    "tls.enabled=true,tls.certManager.enabled=true": "issuerRef.name",
    "settings.insecure=true": "'insecure'",
    "settings.Log-Level=debug": "'Log-Level'",
    "replica=3": "replica",
    "networkPolicy.enable=true": "enable",
    "antiAffinity=soft": "antiAffinity",
}
"""Values, and a word of what helm says to them."""


class Failed(Exception):
    """A check found something."""


def check_rendering(*, rewrite: bool) -> str:
    stale = []
    for name in names():
        fresh = render(name)
        for resource in parsed(fresh):
            for version in VERSIONS:
                if found := complaint(resource, version):
                    kind, called = resource["kind"], resource["metadata"]["name"]
                    raise Failed(f"{name}: {kind} {called} is not valid in Kubernetes {version}: {found}")
        path = golden(name)
        if not path.exists() or path.read_text(encoding="utf-8") != fresh:
            stale.append(name)
            if rewrite:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(fresh, encoding="utf-8")
    gone = {path.stem for path in GOLDEN.glob("*.yaml")} - set(names())
    for name in gone if rewrite else ():
        golden(name).unlink()
    if rewrite:
        SOURCES.write_text(digest_of_sources() + "\n", encoding="utf-8")
    elif stale or gone or SOURCES.read_text(encoding="utf-8").strip() != digest_of_sources():
        raise Failed(
            f"{', '.join(stale) or 'nothing'} is rendered otherwise than committed; gone: {', '.join(gone) or 'none'}. "
            "Run .venv/bin/python -m tests.deploy.check --rewrite-golden and read the diff"
        )
    return f"{len(names())} renderings, valid in Kubernetes {' and '.join(VERSIONS)}, " + (
        f"{len(stale)} rewritten" if rewrite else "as committed"
    )


def check_chart() -> str:
    for path in sorted(VALUES.glob("*.yaml")):
        run([str(get(HELM)), "lint", "--strict", "--kube-version", VERSIONS[0], "--values", str(path), str(CHART)])
        helm_template("--values", str(path), kubernetes=VERSIONS[1])
    for values, word in REFUSED.items():
        try:
            helm_template("--set", values)
        except RenderingFailed as refusal:
            if word not in str(refusal):
                raise Failed(f"helm refuses {values}, but does not say {word!r}: {refusal}") from refusal
        else:
            raise Failed(f"the chart takes {values}")
    return f"lint with {len(list(VALUES.glob('*.yaml')))} files of values; {len(REFUSED)} bad values refused"


def check_alerts() -> str:
    promtool = str(get(PROMTOOL))
    run([promtool, "check", "config", "--syntax-only", str(OBSERVABILITY / "prometheus.yml")])
    run([promtool, "check", "rules", "--lint=all", "--lint-fatal", str(ALERTS)])
    run([promtool, "test", "rules", str(ALERT_TESTS)])
    tests = yaml.load(ALERT_TESTS.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["tests"]
    return f"alerts are rules, and {len(tests)} unit tests pass"


def check_dashboard() -> str:
    """Let promtool read every expression, as rules, with Grafana's variables filled in."""
    expressions = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", ())]
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$\w+", "1m", expression)}
        for number, expression in enumerate(expressions)
    ]
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "dashboard.json"
        path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
        run([str(get(PROMTOOL)), "check", "rules", "--lint=none", str(path)])
    return f"{len(expressions)} expressions are PromQL"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make deploy-check", description=__doc__)
    parser.add_argument("--rewrite-golden", action="store_true", help="commit what is rendered")
    rewrite = parser.parse_args().rewrite_golden
    checks: dict[str, Callable[[], str]] = {
        "tools": lambda: ", ".join(get(tool).name for tool in TOOLS),
        "rendering": lambda: check_rendering(rewrite=rewrite),
        "chart": check_chart,
        "alerts": check_alerts,
        "dashboard": check_dashboard,
    }
    failed = False
    for name, check in checks.items():
        began = time.monotonic()
        try:
            said = f"ok      {check()}"
        except (Failed, RenderingFailed, ToolUnavailable) as error:
            said, failed = f"FAILED  {error}", True
        sys.stdout.write(f"{name:10} {said} ({time.monotonic() - began:.1f} s)\n")
        sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
