"""How all jobs are asked about."""

from scripts.dashboards.parts import happened

__all__ = ["HERE", "quantile", "rate", "rises"]

HERE = 'namespace=~"$namespace"'


def rate(metric: str, more: str = "", by: str = "") -> str:
    """Per second."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{HERE}{more}}}[$__rate_interval]))"


def rises(metric: str, by: str) -> str:
    """How often, in each interval."""
    return happened(f"{metric}{{{HERE}}}", by)


def quantile(share: float, metric: str, window: str = "$__rate_interval", by: str = "") -> str:
    """Of a histogram."""
    return f"histogram_quantile({share}, sum by (le{by}) (rate({metric}_bucket{{{HERE}}}[{window}])))"
