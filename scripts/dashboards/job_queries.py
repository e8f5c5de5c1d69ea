"""How one job is asked about: the queries that its dashboard is made of."""

from scripts.dashboards.parts import BLUE, GREEN, RED, happened

__all__ = ["JOB", "WORKER_COLORS", "now", "quantile", "rate", "risen", "rises"]

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
    "kept out": "dark-purple",
    "lost": RED,
    "given up": "dark-red",
}


def now(metric: str, more: str = "") -> str:
    """Its newest value."""
    return f"max(cordee_{metric}{{{JOB}{more}}})"


def rate(metric: str, by: str = "") -> str:
    """Per second."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate(cordee_{metric}{{{JOB}}}[$__rate_interval]))"


def rises(metric: str, by: str, more: str = "") -> str:
    """How often, in each interval."""
    return happened(f"cordee_{metric}{{{JOB}{more}}}", by)


def risen(metric: str) -> str:
    """How often, over all the time that is looked at."""
    return f"round(sum(increase(cordee_{metric}{{{JOB}}}[$__range])))"


def quantile(share: float, metric: str) -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, sum by (le) (rate(cordee_{metric}_bucket{{{JOB}}}[$__rate_interval])))"
