"""Every query of the dashboards has data: a real Prometheus scrapes a real coordinator, whose job loses a worker.

What happens to the job is what the dashboards are for: a worker is killed and comes back, the job is resized, a
checkpoint fails. Then each query of each panel, mark and variable is put to Prometheus as Grafana would put it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.coordinator.trial import Trial
from tests.monitoring.prometheus import Prometheus, interpolated
from tests.monitoring.queries import DASHBOARDS, asked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

STEP_SECONDS = 1


@pytest.fixture
def trial(make_job: Callable[[], Any]) -> Iterator[Trial]:
    made = Trial(make_job())
    yield made
    made.stop()


@pytest.fixture
def prometheus(trial: Trial, tmp_path: Path) -> Iterator[Prometheus]:
    trial.serve()
    with trial.client() as client:
        target = client.endpoint.url.removeprefix("http://")
    made = Prometheus(tmp_path / "prometheus", target, trial.state / "token")
    yield made
    made.stop()


def test_every_query_of_every_dashboard_has_data(trial: Trial, prometheus: Prometheus) -> None:
    trial.job.slow_down(0.05)
    trial.submit("1:2", checkpoint={"intervalSeconds": 1})
    of = f'{{job_id="{trial.id}"}}'
    prometheus.until(f"cordee_job_step{of} > 3", "the job trains")
    prometheus.until(f"cordee_job_checkpoint_step{of}", "there is a checkpoint")

    os.kill(trial.job.members()[f"{trial.id}-w1"], signal.SIGKILL)
    prometheus.until(f"sum(cordee_job_recoveries_total{of}) > 0", "a recovery is seen")
    back = f'cordee_job_workers{{job_id="{trial.id}", count="now"}} == 2'
    prometheus.until(f"{back} and on (job_id) cordee_job_generation{of} > 1", "the worker is back")
    prometheus.until(f"sum(cordee_job_stall_seconds_total{of}) > 0", "the stall is told")
    agent = json.loads((trial.state / "agents" / f"{trial.id}-w1.json").read_text())
    os.kill(agent["process"]["pid"], signal.SIGKILL)
    prometheus.until(f"sum(cordee_job_agent_exits_total{of}) > 0", "an agent's end is seen")
    with trial.client() as client:
        client.scale(trial.id, 2, 3)
        prometheus.until(f'cordee_job_worlds_total{{job_id="{trial.id}", cause="scale"}} > 0', "it is resized")
        place = Path(client.job(trial.id)["checkpoints"])
        aside = place.rename(place.with_name("aside"))
        place.write_text("in the way")
        prometheus.until(f"sum(cordee_job_checkpoint_failures_total{of}) > 0", "a checkpoint fails")
        place.unlink()
        aside.rename(place)
        client.job(trial.id)  # a request while it is watched
    prometheus.until(f"sum(cordee_job_checkpoint_failures_total{of} offset 3s) > 0", "all of it is some steps old")

    variables = {"job": trial.id, "namespace": ".*"}
    until = time.time()
    empty = [
        query.where
        for name in DASHBOARDS
        for query in asked(name)
        if not prometheus.found(query.expr, instant=query.instant, until=until, step=STEP_SECONDS, variables=variables)
    ]
    assert not empty, "\n".join(["no data:", *empty])
    trial.until_ended()

    # The picker finds what lived in the time that is looked at, whatever lives now.
    trial.stop()
    prometheus.until("absent(cordee_jobs)", "the coordinator is gone")
    [picker] = [variable for variable in DASHBOARDS["job"]["templating"]["list"] if variable["name"] == "job"]
    [query] = [query for query in asked("job") if query.where == "job / variable job"]
    expr = interpolated(query.expr, step=STEP_SECONDS, seconds=time.time() - prometheus.began, variables={})
    options = []
    for one in prometheus.ask("query", query=expr):
        # Grafana's form of a result, which the variable's pattern is for
        labels = ",".join(f'{name}="{value}"' for name, value in one["metric"].items())
        shown = f"{{{labels}}} {one['value'][1]} {one['value'][0] * 1000:.0f}"
        options += re.findall(picker["regex"].strip("/"), shown)
    assert options == [trial.id]
