"""The sixteen scenarios that other systems' fault tests come to, as disturbed runs or as the tests that play them.

Where a scenario is a run, `spec` is what `cordee run --chaos` is told; all runs train the same model for the same
steps, so all must end with the same weights and the same ledger. Where it takes a finer hand than a plan's (a kill
between backward and step, a coordinator killed while it schedules), `tests` names who has it; a unit test sees that
they exist.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SCENARIOS", "Scenario"]

CORE = "tests/unit/coordinator/test_core_"
LEDGER = "tests/unit/trainer/test_elastic_ledger.py"
RESTART = "tests/integration/coordinator/test_coordinator_restart.py"


@dataclass(frozen=True)
class Scenario:
    """One of them."""

    number: int
    title: str
    spec: str = ""
    workers: str = "1:4"
    sees: tuple[str, ...] = ()
    """Events that must be in the job's history afterwards."""
    fails: bool = False
    """The job is to fail, at once."""
    policy: str = ""
    """Of the job file's failurePolicy."""
    tests: tuple[str, ...] = ()


SCENARIOS: tuple[Scenario, ...] = (
    Scenario(1, "soak: kills, stops, partitions (--soak: at full length)", "soak@3s for 16s"),
    Scenario(2, "the same, twice as often", "soak@1500ms for 15s; seed 1"),
    Scenario(
        3,
        "kill at a chosen rank and step; one exchange fails",
        "at step 40 kill rank 0; at step 120 drop rank 1; at step 200 kill rank 2; at step 280 drop",
        tests=(f"{LEDGER}::test_kill_of_all_but_a_joiner_that_was_just_healed",),
    ),
    Scenario(
        4,
        "every kind of fault",
        "at 1s kill; at 3s stop; at 5s gil; at 9s term; at 11s exit; at 13s exit0; at 15s segfault; at 17s abort; "
        "at 19s memory; at 22s exception; at 24s kill-agent; at 27s cut-off for 3s; at 32s hang",
        policy="{stuckSeconds: 3}",
        sees=("died", "stuck"),
    ),
    Scenario(
        5,
        "{A} → {A, B} → {B}: rank 0 leaves, the state stays",
        "at step 60 term rank 0; at step 140 kill rank 0; at step 220 term rank 0",
        workers="1:2",
        tests=(
            "tests/unit/worker/test_restart.py::test_deaths_without_a_committed_step_wait_longer_each_time_up_to_a_limit",
            f"{CORE}deaths.py::test_below_the_minimum_a_job_waits_as_long_as_its_user_wants_and_then_fails_with_a_sentence",
        ),
    ),
    Scenario(
        6,
        "a graceful loss below the minimum, and a return",
        "at step 60 term w1; at step 200 term w0",
        workers="2",
        tests=(f"{CORE}deaths.py::test_a_graceful_loss_below_the_minimum_and_a_return_is_no_deadlock",),
    ),
    Scenario(
        7,
        "a peer dies between backward and step",
        tests=(
            LEDGER
            + "::test_scenario_7_a_peer_dies_between_backward_and_step_and_its_successor_is_not_one_batch_behind",
        ),
    ),
    Scenario(
        8,
        "everybody is lost: model and loader resume at one step",
        "at step 150 mass 4",
        sees=("restored",),
        tests=(f"{LEDGER}::test_scenario_8_the_model_and_the_loader_stand_at_the_same_step",),
    ),
    Scenario(
        9,
        "the coordinator is killed, twice, and a worker meanwhile",
        "at 2s coordinator; at 8s kill; at 10s coordinator; at 10100ms stop",
        tests=(
            f"{RESTART}::test_after_kill_9_the_next_coordinator_lists_the_same_jobs_and_readopts_their_workers",
            "tests/unit/coordinator/test_core_job.py::test_a_worker_of_a_generation_that_the_store_does_not_know_is_fenced",
        ),
    ),
    Scenario(10, "14 of 16 workers are lost at once", "at step 100 mass 14", workers="1:16"),
    Scenario(11, "a silent worker, and a silent connection", "at step 40 stop; at step 160 half-open for 2s"),
    Scenario(
        12,
        "a slow worker is told of, with figures",
        "at step 40 slow w1 times 5 for 12s",
        sees=("straggler",),
        tests=(f"{CORE}stuck.py::test_a_straggler_is_replaced_where_that_is_wanted_and_loses_nothing",),
    ),
    Scenario(
        13,
        "a disk is full; the newest checkpoint is damaged, and then everybody is lost",
        "at 3s disk-full rank 0 for 4s; at 9s damage; at 9200ms mass 4",
        sees=("checkpoint_failed", "checkpoint_damaged", "restored"),
    ),
    Scenario(
        14,
        "a worker leaves and comes back: no jump in the logged loss",
        tests=(f"{LEDGER}::test_scenario_14_a_replica_that_leaves_and_comes_back_makes_no_jump_in_the_logged_loss",),
    ),
    Scenario(
        15,
        "the budget of restarts survives",
        tests=(
            f"{CORE}deaths.py::test_the_budget_of_restarts_survives_the_coordinator",
            f"{CORE}deaths.py::test_a_job_that_is_old_does_not_run_out_of_restarts_for_being_old",
        ),
    ),
    Scenario(16, "a permanent error is not tried again", "at step 60 bug w1", fails=True),
)
