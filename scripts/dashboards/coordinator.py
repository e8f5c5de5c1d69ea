"""How the coordinator itself is: a row of the fleet's dashboard."""

from grafana_foundation_sdk.builders import dashboard
from scripts.dashboards.fleet_queries import HERE, quantile, rate
from scripts.dashboards.parts import (
    RED,
    Ask,
    bars,
    lines,
)

__all__ = ["coordinator"]


def coordinator(made: dashboard.Dashboard) -> None:
    """The row."""
    made.with_row(dashboard.Row("Coordinator"))
    made.with_panel(
        lines(
            "Event loop's lateness",
            "How much later than asked the loop wakes up: every answer to a loss waits for it.",
            Ask(quantile(0.5, "cordee_event_loop_lag_seconds"), "half"),
            Ask(quantile(0.99, "cordee_event_loop_lag_seconds"), "99 %"),
            unit="s",
            width=6,
            limits=((None, "transparent"), (0.5, RED)),
        )
    )
    made.with_panel(
        lines(
            "Store's writes",
            "How long it takes to write what a turn decided, before it is acted on.",
            Ask(quantile(0.5, "cordee_store_write_seconds"), "half"),
            Ask(quantile(0.99, "cordee_store_write_seconds"), "99 %"),
            unit="s",
            width=6,
            limits=((None, "transparent"), (0.5, RED)),
        )
    )
    made.with_panel(
        bars(
            "REST requests",
            "By status.",
            Ask(rate("cordee_rest_requests_total", by="status"), "{{status}}"),
            unit="reqps",
            width=6,
        )
    )
    made.with_panel(
        lines(
            "REST latency",
            "To the begin of the answer, 99 %, by route.",
            Ask(
                "histogram_quantile(0.99, sum by (le, route)"
                f" (rate(cordee_rest_request_seconds_bucket{{{HERE}}}[$__rate_interval])))",
                "{{route}}",
            ),
            unit="s",
            width=6,
        )
    )
    made.with_panel(
        lines(
            "CPU",
            "Cores that the coordinator uses.",
            Ask(
                f"sum by (instance) (rate(process_cpu_seconds_total{{{HERE}}}[$__rate_interval]) * {_ours()})",
                "{{instance}}",
            ),
            width=6,
        )
    )
    made.with_panel(
        lines(
            "Memory",
            "Resident memory of the coordinator.",
            Ask(f"sum by (instance) (process_resident_memory_bytes{{{HERE}}} * {_ours()})", "{{instance}}"),
            unit="bytes",
            width=6,
        )
    )
    made.with_panel(
        lines(
            "Streams",
            "Workers that are attached by gRPC.",
            Ask(f"sum(cordee_workers_attached{{{HERE}}})", "attached"),
            width=6,
            steps=True,
        )
    )
    made.with_panel(
        lines(
            "Up since",
            "How long each coordinator's process runs: a tooth is a restart, which no training is interrupted by.",
            Ask(
                f"max by (instance, version) ((time() - process_start_time_seconds{{{HERE}}})"
                f" * on (job, instance) group_left (version) cordee_build_info{{{HERE}}})",
                "{{instance}} {{version}}",
            ),
            unit="s",
            width=6,
        )
    )


def _ours() -> str:
    """Only the processes that are coordinators: others have metrics of these names as well."""
    return f"on (job, instance) group_left () cordee_build_info{{{HERE}}}"
