"""The elastic step: shards, exact reduction, commit, and state handed to a joiner."""

from cordee.trainer.elastic.protocols import (
    CheckpointPolicy,
    Communicator,
    Membership,
    PeerLostError,
    ProgressReport,
    RunResult,
    World,
)
from cordee.trainer.elastic.run import Run
from cordee.trainer.elastic.state import StateError
from cordee.trainer.elastic.step import Step
from cordee.trainer.elastic.weights import weights_sha256

__all__ = [
    "CheckpointPolicy",
    "Communicator",
    "Membership",
    "PeerLostError",
    "ProgressReport",
    "Run",
    "RunResult",
    "StateError",
    "Step",
    "World",
    "weights_sha256",
]
