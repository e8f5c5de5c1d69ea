"""The dashboards that are shipped: made from code, and asking for nothing that no coordinator has."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import warnings
from typing import Any

import pytest
from tests.monitoring.queries import DASHBOARDS, ROOT, TARGET_LABELS, Asked, alerts, asked, names, panels

from cordee.coordinator.core.model import Cause, JobState, LossCause
from cordee.coordinator.service.metrics import FAMILIES, PROCESS
from cordee.coordinator.service.metrics.counts import JobCounts
from cordee.coordinator.service.metrics.page import WORKER_STATES

FAMILY = {series: family for family in (*FAMILIES, *PROCESS) for series in family.series}
KNOWN = JobCounts()
VALUES: dict[tuple[str, str], set[str]] = {
    ("cordee_jobs", "state"): set(JobState),
    ("cordee_job_state", "state"): set(JobState),
    ("cordee_job_workers_by_state", "state"): set(WORKER_STATES),
    ("cordee_worker_state", "state"): set(WORKER_STATES),
    ("cordee_job_workers", "count"): {"min", "max", "wanted", "now"},
    ("cordee_job_worlds_total", "cause"): set(Cause),
    ("cordee_job_recoveries_total", "cause"): set(LossCause),
    ("cordee_job_worker_deaths_total", "cause"): set(KNOWN.deaths),
    ("cordee_job_agent_exits_total", "cause"): set(KNOWN.agent_exits),
    ("cordee_job_checkpoint_failures_total", "kind"): set(KNOWN.checkpoint_troubles),
}
"""What labels may be, where queries pick some of it."""
EVERYTHING = [*itertools.chain.from_iterable(asked(name) for name in DASHBOARDS)]
EVERYTHING += [Asked(f"alert {rule['alert']}", rule["expr"]) for rule in alerts()]


@pytest.mark.parametrize("query", EVERYTHING, ids=lambda query: query.where)
def test_a_query_names_only_what_the_coordinator_has(query: Asked) -> None:
    named = names(query.expr)
    assert named.metrics
    unknown = named.metrics - FAMILY.keys()
    assert not unknown, f"no coordinator has {sorted(unknown)}"
    labels = {label for metric in named.metrics for label in FAMILY[metric].labels} | TARGET_LABELS
    assert named.labels <= labels, f"these metrics have no {sorted(named.labels - labels)}"
    for metric, label, operator, value in named.matched:
        assert label in {*FAMILY[metric].labels, *TARGET_LABELS}, f"{metric} has no {label}"
        if "$" in value or label in ("status",):
            continue
        picked = set(value.split("|")) if operator.endswith("~") else {value}
        assert picked <= VALUES[metric, label], f"{metric} has no {label}={value}"


@pytest.mark.parametrize("query", EVERYTHING, ids=lambda query: query.where)
def test_what_is_shown_of_a_series_is_a_label_that_is_left(query: Asked) -> None:
    grouped = {label for group in re.findall(r"\bby \(([^)]*)\)", query.expr) for label in re.findall(r"\w+", group)}
    assert set(re.findall(r"{{(\w+)}}", query.legend)) <= grouped
    assert query.labels_needed <= grouped


def test_a_name_that_nobody_has_is_found() -> None:
    assert names("max(rate(cordee_job_stepz_total[5m]))").metrics == {"cordee_job_stepz_total"}
    found = names('sum by (a, b) (x{c="d|e", f=~"$g"} offset 5m) / on (h) group_left () y and z > bool 3')
    assert found.metrics == {"x", "y", "z"}
    assert found.labels == {"a", "b", "c", "f", "h"}
    assert found.matched == [("x", "c", "=", "d|e"), ("x", "f", "=~", "$g")]


def test_the_files_are_what_the_code_makes() -> None:
    pytest.importorskip(
        "grafana_foundation_sdk", reason="the dashboards are made with grafana-foundation-sdk (the extra 'lint')"
    )
    checked = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make_dashboards.py"), "--check"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_sdk_reads_a_dashboard_back_as_it_is(name: str) -> None:
    pytest.importorskip("grafana_foundation_sdk", reason="the extra 'lint' has grafana-foundation-sdk")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it would rather have its new schema
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.cog.plugins import register_default_plugins
        from grafana_foundation_sdk.models.dashboard import Dashboard

        register_default_plugins()
    read = json.loads(json.dumps(Dashboard.from_json(DASHBOARDS[name]), cls=JSONEncoder))
    for one in read["annotations"]["list"]:
        one.pop("placement", None)
    assert read == DASHBOARDS[name]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_whole(name: str) -> None:
    dashboard = DASHBOARDS[name]
    assert dashboard["uid"] == f"cordee-{name}"
    assert dashboard["timezone"] == "browser"
    assert dashboard["refresh"]
    assert dashboard["description"]
    assert "id" not in dashboard  # Grafana gives it
    here = [*panels(dashboard)]
    ids = [panel["id"] for panel in here]
    assert len(set(ids)) == len(ids)
    for panel in here:
        assert panel["type"] not in ("graph", "singlestat", "table-old")  # gone since Grafana 11
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["fieldConfig"]["defaults"]["unit"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_fill_their_grid_and_do_not_overlap(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for cell in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        ):
            assert cell not in taken, f"{panel['title']} lies on {taken[cell]}"
            taken[cell] = panel["title"]
    height = max(y for _, y in taken) + 1
    assert len(taken) == 24 * height, "there are holes"


def everything_within(value: Any) -> list[Any]:
    """A JSON value and all that is in it."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *itertools.chain.from_iterable(everything_within(one) for one in inner)]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_data_source_is_chosen_and_every_variable_is_there(name: str) -> None:
    dashboard = DASHBOARDS[name]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    inside = everything_within(dashboard)
    sources = [value["datasource"] for value in inside if isinstance(value, dict) and value.get("datasource")]
    assert sources
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)
    text = " ".join(value for value in inside if isinstance(value, str))
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used <= variables, f"there is no variable {sorted(used - variables)}"


def test_links_lead_to_dashboards_and_variables_that_there_are() -> None:
    urls = [
        value["url"]
        for value in everything_within([*DASHBOARDS.values()])
        if isinstance(value, dict) and "url" in value
    ]
    urls += [rule["annotations"]["dashboard_url"] for rule in alerts()]
    by_uid = {dashboard["uid"]: dashboard for dashboard in DASHBOARDS.values()}
    assert len(urls) > len(alerts()) + 2
    for url in urls:
        match = re.match(r"/d/([\w-]+)/([\w-]+)", url)
        assert match, url
        variables = {variable["name"] for variable in by_uid[match[1]]["templating"]["list"]}
        assert set(re.findall(r"[?&]var-(\w+)=", url)) <= variables


def test_an_alert_looks_as_alerts_do() -> None:
    seen = set()
    for rule in alerts():
        assert re.fullmatch(r"Cordee[A-Za-z]+", rule["alert"])
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url", "dashboard_url"}
        assert rule["annotations"]["summary"].endswith(".")
        seen.add(rule["alert"])
    assert len(seen) == len(alerts())


def test_every_alert_has_its_section_in_the_runbooks_and_every_section_its_alert() -> None:
    page = ROOT / "docs" / "reference" / "runbooks.md"
    sections = set(re.findall(r"^## (\w+)$", page.read_text(), re.MULTILINE))
    assert sections == {rule["alert"] for rule in alerts()}
    for rule in alerts():
        url = rule["annotations"]["runbook_url"]
        assert url == f"https://github.com/cordee/cordee/blob/main/docs/reference/runbooks.md#{rule['alert'].lower()}"
