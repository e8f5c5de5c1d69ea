"""What Prometheus sees.

The numbers of a job are read from the job when Prometheus asks, not kept in a second place: a series ends with its job
(a while after it, so that the last scrape sees how it ended) and nothing piles up. Of a job that ended long ago only
its state is looked at: a scrape costs what the living jobs cost. What a job does not tell is counted beside it
(`counts`). `families` lists what there is; `page` puts it together.
"""

from cordee.coordinator.service.metrics.families import FAMILIES, PROCESS, Family
from cordee.coordinator.service.metrics.page import STATES, Metrics

__all__ = ["FAMILIES", "PROCESS", "STATES", "Family", "Metrics"]
