"""Grafana's dashboards, as code: `parts` is how panels look here, `fleet` and `job` are what stands where."""

from scripts.dashboards.fleet import fleet
from scripts.dashboards.job import job
from scripts.dashboards.parts import to_json

__all__ = ["DASHBOARDS", "to_json"]

DASHBOARDS = {"fleet": fleet, "job": job}
"""File name → what makes it."""
