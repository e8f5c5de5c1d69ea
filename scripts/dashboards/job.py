"""One job: is it learning, how fast, with whom, and what happened to it."""

from grafana_foundation_sdk.builders import dashboard
from scripts.dashboards.fleet import STATE_COLORS
from scripts.dashboards.job_health import checkpoints, failures, workers
from scripts.dashboards.job_queries import JOB, WORKER_COLORS, now, quantile, rate, risen, rises
from scripts.dashboards.parts import (
    BLUE,
    GREEN,
    ORANGE,
    RED,
    Ask,
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
)

__all__ = ["job"]


def _annotations(made: dashboard.Dashboard) -> None:
    made.annotation(
        annotation(
            "Failures",
            rises("job_recoveries_total", "cause"),
            RED,
            title="Workers lost",
            text="noticed by: {{cause}}; a new world was formed without them",
            tags="cause",
        )
    )
    made.annotation(
        annotation(
            "Resizes",
            rises("job_worlds_total", "cause", ', cause=~"scale|join|drain"'),
            BLUE,
            title="World resized",
            text="a new world was formed: {{cause}}",
            tags="cause",
        )
    )
    made.annotation(
        annotation(
            "Checkpoints that failed",
            rises("job_checkpoint_failures_total", "kind"),
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
                Ask(f"max by (state) (cordee_job_state{{{JOB}}} == 1)", "{{state}}", instant=True),
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
            Ask(f"{now('job_step')} / {now('job_planned_steps')}"),
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
                f"({now('job_planned_steps')} - {now('job_step')})"
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
            Ask(now("job_workers", ', count="now"'), "training"),
            Ask(now("job_workers", ', count="wanted"'), "wanted"),
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
            Ask(risen("job_recoveries_total"), instant=True),
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
            Ask(risen("job_redone_steps_total"), instant=True),
            width=3,
            graph=False,
            thresholds=((None, GREEN), (1, ORANGE)),
        )
    )
    made.with_panel(
        number(
            "Newest checkpoint",
            "Its age: what losing everybody would cost.",
            Ask(f"time() - {now('job_checkpoint_timestamp_seconds')}"),
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
            Ask(now("job_loss"), "loss"),
            unit="none",
            least=None,
        )
    )
    made.with_panel(
        lines(
            "Samples per second",
            "Over the whole world. Marks: failures (red), resizes (blue), checkpoints that failed (purple).",
            Ask(rate("job_samples_total"), "committed"),
            Ask(now("job_samples_per_second"), "as rank 0 tells it"),
            unit="none",
        )
    )
    made.with_panel(
        lines(
            "Step time",
            "Wall time of committed steps; means of a few at a time, where steps are short.",
            Ask(
                f"{rate('job_step_duration_seconds_sum')} / {rate('job_step_duration_seconds_count')}",
                "mean",
            ),
            Ask(quantile(0.5, "job_step_duration_seconds"), "half of them"),
            Ask(quantile(0.99, "job_step_duration_seconds"), "99 %"),
            unit="s",
            width=8,
        )
    )
    made.with_panel(
        lines(
            "Steps",
            "The newest committed step, the newest checkpoint's, and the last that is planned.",
            Ask(now("job_step"), "step"),
            Ask(now("job_checkpoint_step"), "checkpoint"),
            Ask(now("job_planned_steps"), "planned"),
            unit="none",
            width=8,
        )
    )
    made.with_panel(
        lines(
            "Goodput",
            "Share of time that went into steps that count, and how much of that was waiting for data.",
            Ask(f"clamp_max({rate('job_useful_seconds_total')} / {rate('job_training_seconds_total')}, 1)", "goodput"),
            Ask(
                f"clamp_max({rate('job_data_wait_seconds_total')} / {rate('job_training_seconds_total')}, 1)",
                "of it, waiting for data",
            ),
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
                Ask(now("job_workers", ', count="now"'), "training"),
                Ask(now("job_workers", ', count="wanted"'), "wanted"),
                Ask(now("job_workers", ', count="min"'), "min"),
                Ask(now("job_workers", ', count="max"'), "max"),
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
            Ask(rises("job_worlds_total", "cause"), "{{cause}}"),
            width=8,
        )
    )
    made.with_panel(
        lines(
            "Generation",
            "The number of the current world.",
            Ask(now("job_generation"), "generation"),
            unit="none",
            steps=True,
            width=8,
        )
    )
    made.with_panel(
        stacked(
            "Training that stands still, by reason",
            "Seconds without a commit per second, around changes of the world, as rank 0 tells it.",
            Ask(rate("job_stall_seconds_total", "cause"), "{{cause}}"),
            unit="percentunit",
            width=8,
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
    failures(made)
    checkpoints(made)
    workers(made)
    return made
