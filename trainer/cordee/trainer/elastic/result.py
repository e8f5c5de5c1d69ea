"""What a run leaves behind: the final weights as a file, and a word to the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cordee.trainer.elastic.position import Position
from cordee.trainer.elastic.protocols import RunResult
from cordee.trainer.elastic.weights import weights_sha256, write_weights

if TYPE_CHECKING:
    from cordee.trainer.elastic.protocols import Membership

__all__ = ["announce"]


def announce(membership: Membership, position: Position, weights: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Tells what stands now as the result. Every worker does; they hold the same."""
    sha256 = weights_sha256(weights)
    path = None
    if membership.result_directory is not None:
        path = membership.result_directory / "model.safetensors"
        write_weights(path, weights, sha256)
    membership.finished(RunResult(position.step, position.samples, sha256, dict(position.metrics), path))
