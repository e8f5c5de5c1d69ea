"""The alerts: Prometheus reads them, and each fires in a history in which it should, and only there.

The histories are in alerts.test.yaml, for promtool, Prometheus' own tool (Debian: apt-get install prometheus).
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.monitoring.queries import RULES, alerts

HISTORIES = Path(__file__).with_name("alerts.test.yaml")
NEEDS_PROMTOOL = "needs promtool, which comes with Prometheus (Debian: apt-get install prometheus)"


def promtool(*arguments: str) -> None:
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip(NEEDS_PROMTOOL)
    done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_reads_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


def test_the_alerts_fire_when_they_should_and_only_then() -> None:
    promtool("test", "rules", str(HISTORIES))


def test_every_alert_has_a_history_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires, quiet = set(), set()
    for history in yaml.safe_load(HISTORIES.read_text())["tests"]:
        for looked in history["alert_rule_test"]:
            (fires if looked["exp_alerts"] else quiet).add(looked["alertname"])
    names = {rule["alert"] for rule in alerts()}
    assert fires == quiet == names
