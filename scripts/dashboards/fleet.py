"""All jobs of one or several coordinators, and how the coordinators are."""

from grafana_foundation_sdk.builders import dashboard
from scripts.dashboards.coordinator import coordinator
from scripts.dashboards.fleet_queries import HERE, quantile, rate, rises
from scripts.dashboards.parts import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Ask,
    Column,
    annotation,
    bars,
    base,
    colored,
    heat_map,
    lines,
    link,
    number,
    stacked,
    table_of,
    values_variable,
)

__all__ = ["STATE_COLORS", "fleet"]

STATE_COLORS = {
    "pending": "#8e8e8e",
    "starting": "light-blue",
    "running": GREEN,
    "recovering": ORANGE,
    "succeeded": BLUE,
    "failed": RED,
    "cancelled": "purple",
}
JOB_URL = "/d/cordee-job/cordee-job?var-datasource=${datasource}&var-job=${__data.fields.Job}&${__url_time_range}"


def _of_job(expr: str) -> str:
    return f"max by (job_id, name) ({expr})"


def _numbers(made: dashboard.Dashboard) -> None:
    made.with_panel(
        number(
            "Jobs that have workers",
            "Starting, running or recovering now.",
            Ask(f'sum(cordee_jobs{{{HERE}, state=~"starting|running|recovering"}})'),
            thresholds=((None, GREEN),),
        )
    )
    made.with_panel(
        number(
            "Jobs that wait",
            "Pending: the scheduler cannot give them their minimum of workers yet.",
            Ask(f'sum(cordee_jobs{{{HERE}, state="pending"}})'),
            thresholds=((None, GREEN), (1, ORANGE)),
        )
    )
    made.with_panel(
        number(
            "Workers that train",
            "Members of a world, of the workers that the scheduler has granted.",
            Ask(f'sum(cordee_job_workers{{{HERE}, count="now"}})', "training"),
            Ask(f'sum(cordee_job_workers{{{HERE}, count="wanted"}})', "wanted"),
            graph=False,
        )
    )
    made.with_panel(
        number(
            "Slots in use",
            "Worker slots that jobs hold, of all there are.",
            Ask(f"sum(cordee_slots_used{{{HERE}}}) / sum(cordee_slots{{{HERE}}})"),
            unit="percentunit",
            decimals=0,
            thresholds=((None, GREEN), (0.9, ORANGE)),
        )
    )
    made.with_panel(
        number(
            "Goodput",
            "Share of the jobs' time that went into steps that count, over the time that is looked at. Missing: "
            "detection, rendezvous, lost steps, state handed over, steps done again, time below the minimum.",
            Ask(
                f"sum(increase(cordee_job_useful_seconds_total{{{HERE}}}[$__range]))"
                f" / sum(increase(cordee_job_training_seconds_total{{{HERE}}}[$__range]))",
                instant=True,
            ),
            unit="percentunit",
            decimals=1,
            graph=False,
            thresholds=((None, RED), (0.8, ORANGE), (0.95, GREEN)),
        )
    )
    made.with_panel(
        number(
            "Recoveries",
            "Worlds that were formed because workers were lost, over the time that is looked at; and how long half of "
            "them took, from the loss being seen to the next world being sent.",
            Ask(f"round(sum(increase(cordee_job_recoveries_total{{{HERE}}}[$__range])))", "recoveries", instant=True),
            graph=False,
        )
    )


def _jobs(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Jobs"))
    columns = [
        Column("job_id", "Job", url=JOB_URL),
        Column("state", "State", colors=STATE_COLORS, width=110),
        Column("Value #C", "Workers", decimals=0, width=90),
        Column("Value #D", "Wanted", decimals=0, width=90),
        Column("Value #E", "Step", decimals=0, width=100),
        Column("Value #F", "Progress", unit="percentunit", bar=True, width=160),
        Column("Value #G", "Loss", width=100),
        Column("Value #H", "Samples/s", decimals=0, width=110),
        Column(
            "Value #I",
            "Goodput",
            unit="percentunit",
            decimals=1,
            thresholds=((None, RED), (0.8, ORANGE), (0.95, GREEN)),
        ),
        Column("Value #J", "Recoveries", decimals=0, thresholds=((None, GREEN), (1, ORANGE)), width=110),
        Column("Value #K", "Checkpoint", unit="s", thresholds=((None, GREEN), (3600, ORANGE)), width=120),
        Column("Value #B", "Age", unit="s", width=110),
    ]
    asks = [
        Ask(f"max by (job_id, name, state) (cordee_job_state{{{HERE}}} == 1)", name="A"),
        Ask(f"time() - {_of_job(f'cordee_job_created_timestamp_seconds{{{HERE}}}')}", name="B"),
        Ask(_of_job(f'cordee_job_workers{{{HERE}, count="now"}}'), name="C"),
        Ask(_of_job(f'cordee_job_workers{{{HERE}, count="wanted"}}'), name="D"),
        Ask(_of_job(f"cordee_job_step{{{HERE}}}"), name="E"),
        Ask(
            f"{_of_job(f'cordee_job_step{{{HERE}}}')} / {_of_job(f'cordee_job_planned_steps{{{HERE}}}')}",
            name="F",
        ),
        Ask(_of_job(f"cordee_job_loss{{{HERE}}}"), name="G"),
        Ask(_of_job(f"cordee_job_samples_per_second{{{HERE}}}"), name="H"),
        Ask(
            f"sum by (job_id, name) (cordee_job_useful_seconds_total{{{HERE}}})"
            f" / (sum by (job_id, name) (cordee_job_training_seconds_total{{{HERE}}}) > 0)",
            name="I",
        ),
        Ask(f"sum by (job_id, name) (cordee_job_recoveries_total{{{HERE}}})", name="J"),
        Ask(f"time() - {_of_job(f'cordee_job_checkpoint_timestamp_seconds{{{HERE}}}')}", name="K"),
    ]
    made.with_panel(
        table_of(
            "Jobs",
            "Those that live, and those that ended in the last 15 minutes. A job's name leads to its own dashboard. "
            "Goodput and recoveries count since the coordinator started; Checkpoint is the newest one's age.",
            asks,
            columns,
        )
    )
    made.with_panel(
        colored(
            stacked(
                "Jobs by state",
                "All jobs that the coordinator knows, those that ended included.",
                Ask(f"sum by (state) (cordee_jobs{{{HERE}}})", "{{state}}"),
                width=8,
            ),
            STATE_COLORS,
        )
    )
    made.with_panel(
        colored(
            lines(
                "Workers",
                "What jobs ask for at most, what the scheduler grants, and what trains. Where training is below wanted "
                "for long, workers cannot start: see the job.",
                Ask(f'sum(cordee_job_workers{{{HERE}, count="now"}})', "training"),
                Ask(f'sum(cordee_job_workers{{{HERE}, count="wanted"}})', "wanted"),
                Ask(f"sum(cordee_slots_used{{{HERE}}})", "slots in use"),
                Ask(f"sum(cordee_slots{{{HERE}}})", "slots"),
                width=8,
                steps=True,
            ),
            {"training": GREEN, "wanted": BLUE, "slots in use": ORANGE, "slots": "#8e8e8e"},
        )
    )
    made.with_panel(
        lines(
            "Goodput",
            "Share of time that went into steps that count: all jobs, each by its time.",
            Ask(
                "clamp_max("
                f"{rate('cordee_job_useful_seconds_total')} / {rate('cordee_job_training_seconds_total')}, 1)",
                "all jobs",
            ),
            unit="percentunit",
            most=1.0,
            width=8,
            limits=((None, "transparent"), (0.8, ORANGE)),
        )
    )


def _failures(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Failures"))
    made.with_panel(
        bars(
            "Recoveries by cause",
            "Worlds that were formed because workers were lost, by how the loss was noticed first.",
            Ask(rises("cordee_job_recoveries_total", "cause"), "{{cause}}"),
            width=8,
        )
    )
    made.with_panel(
        bars(
            "What workers and agents died of",
            "Workers, as their agents saw it; and agents (in a cluster: pods), as the platform saw it.",
            Ask(rises("cordee_job_worker_deaths_total", "cause"), "{{cause}}"),
            Ask(rises("cordee_job_agent_exits_total", "cause"), "agent: {{cause}}"),
            width=8,
        )
    )
    made.with_panel(
        lines(
            "Recovery time",
            "From a loss being seen to the next world being sent; what came before (detection) and comes after "
            "(state, the first step) is in the stalls.",
            Ask(quantile(0.5, "cordee_job_recovery_seconds"), "half of them"),
            Ask(quantile(0.99, "cordee_job_recovery_seconds"), "99 %"),
            unit="s",
            width=8,
        )
    )
    made.with_panel(
        stacked(
            "Training that stands still, by reason",
            "Seconds without a commit per second, over all jobs, by what the world was changed for.",
            Ask(rate("cordee_job_stall_seconds_total", by="cause"), "{{cause}}"),
            unit="percentunit",
            width=8,
        )
    )
    made.with_panel(
        lines(
            "Step time",
            "Wall time of committed steps, over all jobs.",
            Ask(quantile(0.5, "cordee_job_step_duration_seconds"), "half of them"),
            Ask(quantile(0.9, "cordee_job_step_duration_seconds"), "90 %"),
            Ask(quantile(0.99, "cordee_job_step_duration_seconds"), "99 %"),
            unit="s",
            logarithmic=True,
            width=8,
        )
    )
    made.with_panel(
        stacked(
            "Workers by state",
            "What the workers of all jobs are about. Starting: no agent is there yet, or its worker has not attached.",
            Ask(f"sum by (state) (cordee_job_workers_by_state{{{HERE}}})", "{{state}}"),
            width=8,
        )
    )
    made.with_panel(
        heat_map(
            "Recovery times",
            "Each recovery by how long it took.",
            Ask(f"sum by (le) (increase(cordee_job_recovery_seconds_bucket{{{HERE}}}[$__rate_interval]))"),
            unit="s",
        )
    )
    made.with_panel(
        heat_map(
            "Step times",
            "Committed steps by how long they took.",
            Ask(f"sum by (le) (increase(cordee_job_step_duration_seconds_bucket{{{HERE}}}[$__rate_interval]))"),
            unit="s",
        )
    )


def fleet() -> dashboard.Dashboard:
    """The dashboard."""
    made = base(
        "cordee-fleet",
        "Cordee / Fleet",
        "All jobs: which there are, how much of their time counts, what they recover from; and how the coordinator is.",
        since="now-6h",
        refresh="30s",
    )
    made.with_variable(
        values_variable(
            "namespace",
            "Namespace",
            "Where the coordinators run; All where there is no such label.",
            "cordee_build_info",
        )
    )
    made.link(link("One job", "/d/cordee-job/cordee-job?var-datasource=${datasource}", "A job's own dashboard"))
    made.annotation(
        annotation(
            "Coordinator's restarts",
            f"count by (instance) (time() - process_start_time_seconds{{{HERE}}}"
            " < scalar(clamp_min(vector($__interval_ms / 1000), 60))"
            f" and on (job, instance) cordee_build_info{{{HERE}}})",
            "purple",
            title="Coordinator started",
            text="{{instance}}",
            tags="instance",
        )
    )
    _numbers(made)
    _jobs(made)
    _failures(made)
    coordinator(made)
    return made
