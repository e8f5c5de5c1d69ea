"""One job: its failures, checkpoints and workers."""

from grafana_foundation_sdk.builders import dashboard
from scripts.dashboards.job_queries import JOB, WORKER_COLORS, now, rate, rises
from scripts.dashboards.parts import (
    GREEN,
    ORANGE,
    RED,
    Ask,
    Column,
    bars,
    lines,
    stacked,
    table_of,
)

__all__ = ["checkpoints", "failures", "workers"]


def failures(made: dashboard.Dashboard) -> None:
    """What went wrong, and what it cost."""
    made.with_row(dashboard.Row("Failures"))
    made.with_panel(
        bars(
            "Recoveries by cause",
            "By how the loss was noticed first.",
            Ask(rises("job_recoveries_total", "cause"), "{{cause}}"),
            width=6,
        )
    )
    made.with_panel(
        bars(
            "What workers and agents died of",
            "Workers, as their agents saw it; and agents (in a cluster: pods), as the platform saw it.",
            Ask(rises("job_worker_deaths_total", "cause"), "{{cause}}"),
            Ask(rises("job_agent_exits_total", "cause"), "agent: {{cause}}"),
            width=6,
        )
    )
    made.with_panel(
        lines(
            "Recovery time",
            "Mean, from the loss being seen to the next world being sent.",
            Ask(
                f"{rate('job_recovering_seconds_total')} / {rate('job_recovery_seconds_count')}",
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
            Ask(rate("job_stall_part_seconds_total", "part"), "{{part}}"),
            unit="percentunit",
            width=6,
        )
    )


def checkpoints(made: dashboard.Dashboard) -> None:
    """What losing everybody would cost."""
    made.with_row(dashboard.Row("Checkpoints"))
    made.with_panel(
        lines(
            "Checkpoint's age",
            "What losing everybody would cost.",
            Ask(f"time() - {now('job_checkpoint_timestamp_seconds')}", "age"),
            unit="s",
            width=6,
        )
    )
    made.with_panel(
        lines(
            "Writing",
            "Mean time from a checkpoint's begin to its commit; training goes on meanwhile.",
            Ask(
                f"{rate('job_checkpoint_write_seconds_sum')} / {rate('job_checkpoint_write_seconds_count')}",
                "mean",
            ),
            unit="s",
            width=6,
        )
    )
    made.with_panel(lines("Size", "Of the newest.", Ask(now("job_checkpoint_bytes"), "size"), unit="bytes", width=6))
    made.with_panel(
        bars(
            "Written and failed",
            "Committed ones, ones that could not be written, and damaged ones that were passed over.",
            Ask(rises("job_checkpoints_total", "job_id"), "written"),
            Ask(rises("job_checkpoint_failures_total", "kind"), "{{kind}}"),
            width=6,
        )
    )


def workers(made: dashboard.Dashboard) -> None:
    """One by one."""
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
            Ask(rises("worker_restarts_total", "worker"), "{{worker}}"),
            height=6,
        )
    )
    made.with_panel(
        lines(
            "Stragglers",
            "Workers that take more than twice as long as the others.",
            Ask(now("job_stragglers"), "stragglers"),
            unit="none",
            steps=True,
            height=6,
        )
    )
