"""One job: is it learning, how fast, with whom, and what happened to it."""

from grafana_foundation_sdk.builders import dashboard
from scripts.dashboards.fleet import STATE_COLORS
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
    lines,
    link,
    mapped,
    number,
    result_variable,
    stacked,
    table_of,
)

__all__ = ["job"]

JOB = 'job_id="$job"'
WORKER_COLORS = {
    "training": GREEN,
    "starting": "light-blue",
    "joining": BLUE,
    "waiting": "yellow",
    "leaving": "light-orange",
    "stopping": "light-orange",
    "finished": "#8e8e8e",
    "isolated": "purple",
    "lost": RED,
    "given up": "dark-red",
}


def _now(metric: str, more: str = "") -> str:
    return f"max(cordee_{metric}{{{JOB}{more}}})"


def _rate(metric: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate(cordee_{metric}{{{JOB}}}[$__rate_interval]))"


def _rise(metric: str, by: str) -> str:
    return f"sum by ({by}) (increase(cordee_{metric}{{{JOB}}}[$__rate_interval])) > 0"


def _risen(metric: str) -> str:
    return f"round(sum(increase(cordee_{metric}{{{JOB}}}[$__range])))"


def _quantile(share: float, metric: str) -> str:
    return f"histogram_quantile({share}, sum by (le) (rate(cordee_{metric}_bucket{{{JOB}}}[$__rate_interval])))"


def _happened(metric: str, by: str, more: str = "") -> str:
    """Above zero in the one interval in which it rose; `increase` would miss what rises between two windows."""
    counted = f"sum by ({by}) (cordee_{metric}{{{JOB}{more}}}"
    return f"{counted}) - {counted} offset $__interval) > 0"


def _annotations(made: dashboard.Dashboard) -> None:
    made.annotation(
        annotation(
            "Failures",
            _happened("job_recoveries_total", "cause"),
            RED,
            title="Workers lost",
            text="noticed by: {{cause}}; a new world was formed without them",
            tags="cause",
        )
    )
    made.annotation(
        annotation(
            "Resizes",
            _happened("job_worlds_total", "cause", ', cause=~"scale|join|drain"'),
            BLUE,
            title="World resized",
            text="a new world was formed: {{cause}}",
            tags="cause",
        )
    )
    made.annotation(
        annotation(
            "Checkpoints that failed",
            _happened("job_checkpoint_failures_total", "kind"),
            "purple",
            title="Checkpoint {{kind}}",
            text="see the job's events",
            tags="kind",
        )
    )


def _numbers(made: dashboard.Dashboard) -> None:
    made.with_panel(
        mapped(
            number(
                "State",
                "What the coordinator says of the job.",
                Ask(f"max by (state) (cordee_job_state{{{JOB}}} == 1)", "{{state}}"),
                width=3,
                graph=False,
                by_name=True,
            ),
            STATE_COLORS,
        )
    )
    made.with_panel(
        number(
            "Progress",
            "Committed steps, of those that the script plans.",
            Ask(f"{_now('job_step')} / {_now('job_planned_steps')}"),
            unit="percentunit",
            decimals=1,
            width=3,
            thresholds=((None, BLUE), (1, GREEN)),
        )
    )
    made.with_panel(
        number(
            "Time left",
            "If the steps that are left take as long as those of late.",
            Ask(
                f"({_now('job_planned_steps')} - {_now('job_step')})"
                f" / (sum(rate(cordee_job_steps_total{{{JOB}}}[$__rate_interval])) > 0)"
            ),
            unit="s",
            width=3,
            graph=False,
        )
    )
    made.with_panel(
        number(
            "Workers",
            "Members of the world, and how many the scheduler has granted.",
            Ask(_now("job_workers", ', count="now"'), "training"),
            Ask(_now("job_workers", ', count="wanted"'), "wanted"),
            width=3,
            graph=False,
        )
    )
    made.with_panel(
        number(
            "Goodput",
            "Share of the time since the first world that went into steps that count (since the coordinator started).",
            Ask(
                f"sum(cordee_job_useful_seconds_total{{{JOB}}}) / (sum(cordee_job_training_seconds_total{{{JOB}}}) > 0)"
            ),
            unit="percentunit",
            decimals=1,
            width=3,
            thresholds=((None, RED), (0.8, ORANGE), (0.95, GREEN)),
        )
    )
    made.with_panel(
        number(
            "Recoveries",
            "Over the time that is looked at.",
            Ask(_risen("job_recoveries_total"), instant=True),
            width=3,
            graph=False,
            thresholds=((None, GREEN), (1, ORANGE)),
        )
    )
    made.with_panel(
        number(
            "Steps done again",
            "Committed, lost with everybody, and done again from a checkpoint; over the time that is looked at. "
            "While one worker is left that holds the state, there are none.",
            Ask(_risen("job_redone_steps_total"), instant=True),
            width=3,
            graph=False,
            thresholds=((None, GREEN), (1, ORANGE)),
        )
    )
    made.with_panel(
        number(
            "Newest checkpoint",
            "Its age: what losing everybody would cost.",
            Ask(f"time() - {_now('job_checkpoint_timestamp_seconds')}"),
            unit="s",
            width=3,
            none="none",
            thresholds=((None, GREEN), (3600, ORANGE)),
        )
    )


def _training(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Training"))
    made.with_panel(
        lines(
            "Loss",
            "The script's loss at the newest step. A gap: it was no number (NaN, infinity), or there was no step.",
            Ask(_now("job_loss"), "loss"),
            unit="none",
            least=None,
        )
    )
    made.with_panel(
        lines(
            "Samples per second",
            "Over the whole world. Marks: failures (red), resizes (blue), checkpoints that failed (purple).",
            Ask(_rate("job_samples_total"), "committed"),
            Ask(_now("job_samples_per_second"), "as rank 0 tells it"),
            unit="none",
        )
    )
    made.with_panel(
        lines(
            "Step time",
            "Wall time of committed steps; means of a few at a time, where steps are short.",
            Ask(
                f"{_rate('job_step_duration_seconds_sum')} / {_rate('job_step_duration_seconds_count')}",
                "mean",
            ),
            Ask(_quantile(0.5, "job_step_duration_seconds"), "half of them"),
            Ask(_quantile(0.99, "job_step_duration_seconds"), "99 %"),
            unit="s",
            width=8,
        )
    )
    made.with_panel(
        lines(
            "Steps",
            "The newest committed step, the newest checkpoint's, and the last that is planned.",
            Ask(_now("job_step"), "step"),
            Ask(_now("job_checkpoint_step"), "checkpoint"),
            Ask(_now("job_planned_steps"), "planned"),
            unit="none",
            width=8,
        )
    )
    made.with_panel(
        lines(
            "Goodput",
            "Share of time that went into steps that count.",
            Ask(f"{_rate('job_useful_seconds_total')} / {_rate('job_training_seconds_total')}", "goodput"),
            unit="percentunit",
            most=1.0,
            width=8,
            limits=((None, "transparent"), (0.8, ORANGE)),
        )
    )


def _world(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("World"))
    made.with_panel(
        colored(
            lines(
                "World size",
                "Who trains together, within the limits of the job. Marks: each failure (red) and each resize (blue).",
                Ask(_now("job_workers", ', count="now"'), "training"),
                Ask(_now("job_workers", ', count="wanted"'), "wanted"),
                Ask(_now("job_workers", ', count="min"'), "min"),
                Ask(_now("job_workers", ', count="max"'), "max"),
                steps=True,
                unit="none",
            ),
            {"training": GREEN, "wanted": BLUE, "min": RED, "max": "#8e8e8e"},
        )
    )
    made.with_panel(
        colored(
            stacked(
                "Workers by state",
                "Starting: the agent is not there yet (in a cluster: its pod waits), or its worker has not attached.",
                Ask(f"max by (state) (cordee_job_workers_by_state{{{JOB}}}) > 0", "{{state}}"),
                unit="none",
            ),
            WORKER_COLORS,
        )
    )
    made.with_panel(
        bars(
            "Worlds by what they were for",
            "A loss, a resize (scale), a worker that came (join) or left in good order (drain).",
            Ask(_rise("job_worlds_total", "cause"), "{{cause}}"),
            width=8,
        )
    )
    made.with_panel(
        lines(
            "Generation",
            "The number of the current world.",
            Ask(_now("job_generation"), "generation"),
            unit="none",
            steps=True,
            width=8,
        )
    )
    made.with_panel(
        stacked(
            "Training that stands still, by reason",
            "Seconds without a commit per second, around changes of the world, as rank 0 tells it.",
            Ask(_rate("job_stall_seconds_total", "cause"), "{{cause}}"),
            unit="percentunit",
            width=8,
        )
    )


def _failures(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Failures"))
    made.with_panel(
        bars(
            "Recoveries by cause",
            "By how the loss was noticed first.",
            Ask(_rise("job_recoveries_total", "cause"), "{{cause}}"),
            width=6,
        )
    )
    made.with_panel(
        bars(
            "What workers died of",
            "Processes of workers that died unasked, as their agents saw it.",
            Ask(_rise("job_worker_deaths_total", "cause"), "{{cause}}"),
            width=6,
        )
    )
    made.with_panel(
        lines(
            "Recovery time",
            "Mean, from the loss being seen to the next world being sent.",
            Ask(
                f"{_rate('job_recovering_seconds_total')} / {_rate('job_recovery_seconds_count')}",
                "mean",
            ),
            unit="s",
            width=6,
        )
    )
    made.with_panel(
        stacked(
            "What stalls went into",
            "Before: until the step at hand was given up. World: until the next world was there. Mesh: connections. "
            "State: taking it or giving it. Step: the first one.",
            Ask(_rate("job_stall_part_seconds_total", "part"), "{{part}}"),
            unit="percentunit",
            width=6,
        )
    )


def _checkpoints(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Checkpoints"))
    made.with_panel(
        lines(
            "Checkpoint's age",
            "What losing everybody would cost.",
            Ask(f"time() - {_now('job_checkpoint_timestamp_seconds')}", "age"),
            unit="s",
            width=6,
        )
    )
    made.with_panel(
        lines(
            "Writing",
            "Mean time from a checkpoint's begin to its commit; training goes on meanwhile.",
            Ask(
                f"{_rate('job_checkpoint_write_seconds_sum')} / {_rate('job_checkpoint_write_seconds_count')}",
                "mean",
            ),
            unit="s",
            width=6,
        )
    )
    made.with_panel(lines("Size", "Of the newest.", Ask(_now("job_checkpoint_bytes"), "size"), unit="bytes", width=6))
    made.with_panel(
        bars(
            "Written and failed",
            "Committed ones, ones that could not be written, and damaged ones that were passed over.",
            Ask(f"sum(increase(cordee_job_checkpoints_total{{{JOB}}}[$__rate_interval]))", "written"),
            Ask(
                f"sum by (kind) (increase(cordee_job_checkpoint_failures_total{{{JOB}}}[$__rate_interval]))", "{{kind}}"
            ),
            width=6,
        )
    )


def _workers(made: dashboard.Dashboard) -> None:
    made.with_row(dashboard.Row("Workers"))

    def of_worker(metric: str) -> str:
        return f"max by (worker) (cordee_worker_{metric}{{{JOB}}})"

    asks = [
        Ask(f"max by (worker, state) (cordee_worker_state{{{JOB}}})", name="A"),
        Ask(of_worker("rank"), name="B"),
        Ask(of_worker("step"), name="C"),
        Ask(of_worker("restarts_total"), name="D"),
        Ask(of_worker("shard_seconds"), name="E"),
    ]
    columns = [
        Column("worker", "Worker"),
        Column("state", "State", colors=WORKER_COLORS, width=110),
        Column("Value #B", "Rank", decimals=0, width=80),
        Column("Value #C", "Step", decimals=0, width=100),
        Column("Value #D", "Restarts", decimals=0, thresholds=((None, GREEN), (3, ORANGE), (10, RED)), width=100),
        Column("Value #E", "Per shard", unit="s", width=110),
    ]
    words = "Now. Restarts: how often another process took the worker's place. Per shard: how long it computes, lately."
    made.with_panel(table_of("Workers", words, asks, columns, width=12))
    made.with_panel(
        lines(
            "Time per shard",
            "How long each worker computes for its shard of a step: a line far above the others is a straggler.",
            Ask(of_worker("shard_seconds"), "{{worker}}"),
            unit="s",
            height=10,
        )
    )
    made.with_panel(
        bars(
            "Restarts",
            "Another process took the worker's place.",
            Ask(
                f"sum by (worker) (increase(cordee_worker_restarts_total{{{JOB}}}[$__rate_interval])) > 0", "{{worker}}"
            ),
            height=6,
        )
    )
    made.with_panel(
        lines(
            "Stragglers",
            "Workers that take more than twice as long as the others.",
            Ask(_now("job_stragglers"), "stragglers"),
            unit="none",
            steps=True,
            height=6,
        )
    )


def job() -> dashboard.Dashboard:
    """The dashboard."""
    made = base(
        "cordee-job",
        "Cordee / One job",
        "Is it learning, how fast, with whom, and what happened to it. Red marks are failures, blue ones resizes.",
        since="now-1h",
        refresh="10s",
    )
    made.with_variable(
        result_variable(
            "job",
            "Job",
            "Those that lived in the time that is looked at, newest first.",
            "sort_desc(max by (job_id) (last_over_time(cordee_job_created_timestamp_seconds[$__range])))",
            "job_id",
        )
    )
    made.link(link("Fleet", "/d/cordee-fleet/cordee-fleet?var-datasource=${datasource}", "All jobs"))
    _annotations(made)
    _numbers(made)
    _training(made)
    _world(made)
    _failures(made)
    _checkpoints(made)
    _workers(made)
    return made
