"""Every metric there is: its name, its kind, its labels, and what it says.

One table, so that nothing drifts: the page that is served, the reference in the documentation, and the dashboards and
alerts, which are tested to name nothing that is not in here. Names follow prometheus.io's "Metric and label naming":
`cordee_` first, base units, `_total` on counters only. What is bounded is a label, what grows is none: never a step,
a generation, an address or a path.
"""

from dataclasses import dataclass
from typing import Final, Literal

__all__ = [
    "AGENT_EXITS",
    "BUILD",
    "CERTIFICATE",
    "CHECKPOINTS",
    "CHECKPOINT_AT",
    "CHECKPOINT_BYTES",
    "CHECKPOINT_FAILURES",
    "CHECKPOINT_SECONDS",
    "CHECKPOINT_STEP",
    "CREATED",
    "EPOCH",
    "EPOCHS",
    "FAMILIES",
    "FINISHED",
    "GENERATION",
    "JOBS",
    "LOOP_LAG",
    "LOSS",
    "PROCESS",
    "RECOVERIES",
    "RECOVERING",
    "RECOVERY",
    "REDONE",
    "REQUESTS",
    "REQUEST_SECONDS",
    "SAMPLES",
    "SAMPLES_RATE",
    "SLOTS",
    "SLOTS_USED",
    "SLOW_NOW",
    "STALL",
    "STALL_PARTS",
    "STANDBY",
    "STATE",
    "STEP",
    "STEPS",
    "STEPS_PLANNED",
    "STEP_SECONDS",
    "STORE_SECONDS",
    "STRAGGLERS",
    "TRAINING",
    "USEFUL",
    "WORKERS",
    "WORKERS_ATTACHED",
    "WORKERS_BY_STATE",
    "WORKER_DEATHS",
    "WORKER_PACE",
    "WORKER_RANK",
    "WORKER_RESTARTS",
    "WORKER_STATE",
    "WORKER_STEP",
    "WORLDS",
    "Family",
]

JOB: Final = ("job_id", "name")  # `job` is the scraper's own label
WORKER: Final = (*JOB, "worker")


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: all series of one name."""

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """The names that queries use."""
        if self.kind != "histogram":
            return (self.name,)
        return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))


# -- the coordinator

BUILD: Final = Family("cordee_build_info", "gauge", "The coordinator's version; always 1.", ("version",))
STANDBY: Final = Family(
    "cordee_standby",
    "gauge",
    "Whether this coordinator stands by (1), and shows nothing else, or decides (0).",
)
JOBS: Final = Family("cordee_jobs", "gauge", "Jobs by state.", ("state",))
SLOTS: Final = Family("cordee_slots", "gauge", "How many workers can run at once, all jobs together.")
SLOTS_USED: Final = Family(
    "cordee_slots_used", "gauge", "How many of them jobs hold, starting and ending ones included."
)
WORKERS_ATTACHED: Final = Family("cordee_workers_attached", "gauge", "Workers' streams that are open.")
REQUESTS: Final = Family(
    "cordee_rest_requests_total", "counter", "REST requests that were answered.", ("method", "route", "status")
)
REQUEST_SECONDS: Final = Family(
    "cordee_rest_request_seconds", "histogram", "From a REST request to the begin of its answer.", ("method", "route")
)
LOOP_LAG: Final = Family(
    "cordee_event_loop_lag_seconds", "histogram", "How much later than asked the coordinator's loop wakes up."
)
STORE_SECONDS: Final = Family("cordee_store_write_seconds", "histogram", "Time to write one turn into the store.")
CERTIFICATE: Final = Family(
    "cordee_tls_certificate_expiry_timestamp_seconds",
    "gauge",
    "When the certificate in use expires, Unix time.",
)

# -- a job's life

STATE: Final = Family("cordee_job_state", "gauge", "1 for the state the job is in, 0 for the others.", (*JOB, "state"))
CREATED: Final = Family("cordee_job_created_timestamp_seconds", "gauge", "When it was submitted, Unix time.", JOB)
FINISHED: Final = Family("cordee_job_finished_timestamp_seconds", "gauge", "When it ended, Unix time.", JOB)
WORKERS: Final = Family(
    "cordee_job_workers",
    "gauge",
    "Workers of a job: its limits (`min`, `max`), wanted by the scheduler, training now.",
    (*JOB, "count"),
)
WORKERS_BY_STATE: Final = Family(
    "cordee_job_workers_by_state", "gauge", "Workers of a job by what they are about.", (*JOB, "state")
)
GENERATION: Final = Family("cordee_job_generation", "gauge", "The number of the current world.", JOB)
WORLDS: Final = Family("cordee_job_worlds_total", "counter", "Worlds formed, by what they were for.", (*JOB, "cause"))

# -- training

STEP: Final = Family("cordee_job_step", "gauge", "The newest committed step.", JOB)
STEPS_PLANNED: Final = Family("cordee_job_planned_steps", "gauge", "How many steps the job will take.", JOB)
STEPS: Final = Family("cordee_job_steps_total", "counter", "Committed steps; what is done again counts again.", JOB)
REDONE: Final = Family(
    "cordee_job_redone_steps_total", "counter", "Steps that were committed, lost with everybody, and done again.", JOB
)
STEP_SECONDS: Final = Family("cordee_job_step_duration_seconds", "histogram", "Wall time of a committed step.", JOB)
SAMPLES: Final = Family("cordee_job_samples_total", "counter", "Samples in committed steps, counted likewise.", JOB)
SAMPLES_RATE: Final = Family("cordee_job_samples_per_second", "gauge", "Samples per second, lately.", JOB)
LOSS: Final = Family("cordee_job_loss", "gauge", "The script's loss at the newest step.", JOB)
EPOCH: Final = Family("cordee_job_epoch", "gauge", "The epoch in progress, from 1.", JOB)
EPOCHS: Final = Family("cordee_job_planned_epochs", "gauge", "How many epochs the job will take.", JOB)
TRAINING: Final = Family(
    "cordee_job_training_seconds_total", "counter", "Seconds from the first world to now, or to the job's end.", JOB
)
USEFUL: Final = Family(
    "cordee_job_useful_seconds_total", "counter", "Of these, the time that steps took which were not done before.", JOB
)
DATA_WAITS: Final = Family(
    "cordee_job_data_wait_seconds_total",
    "counter",
    "Of the useful seconds, those in which steps waited for data: in each step, the worker that waited longest.",
    JOB,
)

# -- failures

WORKER_DEATHS: Final = Family(
    "cordee_job_worker_deaths_total", "counter", "Worker processes that died unasked, by what of.", (*JOB, "cause")
)
AGENT_EXITS: Final = Family(
    "cordee_job_agent_exits_total", "counter", "Agents that ended unasked, by why.", (*JOB, "cause")
)
RECOVERIES: Final = Family(
    "cordee_job_recoveries_total", "counter", "Worlds formed because workers were lost.", (*JOB, "cause")
)
RECOVERY: Final = Family(
    "cordee_job_recovery_seconds", "histogram", "From a loss being seen to the next world being sent.", JOB
)
RECOVERING: Final = Family(
    "cordee_job_recovering_seconds_total", "counter", "The same time, summed up by the loss's cause.", (*JOB, "cause")
)
STALL: Final = Family(
    "cordee_job_stall_seconds_total",
    "counter",
    "Without a commit around a change of the world, by what the world was for, as rank 0 tells it.",
    (*JOB, "cause"),
)
STALL_PARTS: Final = Family(
    "cordee_job_stall_part_seconds_total", "counter", "The same time, by what it went into.", (*JOB, "part")
)

# -- checkpoints

CHECKPOINTS: Final = Family("cordee_job_checkpoints_total", "counter", "Checkpoints that were committed.", JOB)
CHECKPOINT_FAILURES: Final = Family(
    "cordee_job_checkpoint_failures_total",
    "counter",
    "Checkpoints that could not be written, or were damaged when they were read.",
    (*JOB, "kind"),
)
CHECKPOINT_STEP: Final = Family("cordee_job_checkpoint_step", "gauge", "The newest checkpoint's step.", JOB)
CHECKPOINT_AT: Final = Family(
    "cordee_job_checkpoint_timestamp_seconds", "gauge", "When the newest checkpoint was committed, Unix time.", JOB
)
CHECKPOINT_SECONDS: Final = Family(
    "cordee_job_checkpoint_write_seconds", "histogram", "From a checkpoint's begin to its commit, beside training.", JOB
)
CHECKPOINT_BYTES: Final = Family("cordee_job_checkpoint_bytes", "gauge", "The newest checkpoint's size.", JOB)

# -- workers

WORKER_STATE: Final = Family(
    "cordee_worker_state", "gauge", "1: the worker is in this state. Other states have no series.", (*WORKER, "state")
)
WORKER_RANK: Final = Family("cordee_worker_rank", "gauge", "Its rank; none while it is no member.", WORKER)
WORKER_STEP: Final = Family("cordee_worker_step", "gauge", "The newest step that it told of.", WORKER)
WORKER_RESTARTS: Final = Family(
    "cordee_worker_restarts_total", "counter", "How often another process took the worker's place.", WORKER
)
WORKER_PACE: Final = Family(
    "cordee_worker_shard_seconds", "gauge", "How long a worker computes per shard, lately.", WORKER
)
WORKER_DATA_WAITS: Final = Family(
    "cordee_worker_data_wait_seconds_total", "counter", "How long a worker has waited for data in its steps.", WORKER
)
SLOW_NOW: Final = Family("cordee_job_stragglers", "gauge", "Workers that are much slower than the others now.", JOB)
STRAGGLERS: Final = Family(
    "cordee_stragglers_total", "counter", "How often a worker was found to be much slower than the others.", JOB
)

FAMILIES: Final = tuple(value for value in list(vars().values()) if isinstance(value, Family))
"""All of them, in this order."""

PROCESS: Final = (
    Family("process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes."),
    Family("process_resident_memory_bytes", "gauge", "Resident memory size in bytes."),
    Family("process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds."),
    Family("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds."),
    Family("process_open_fds", "gauge", "Number of open file descriptors."),
    Family("process_max_fds", "gauge", "Maximum number of open file descriptors."),
)
"""What every Prometheus client says of its own process: `prometheus_client` collects these."""
