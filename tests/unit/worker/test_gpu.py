"""Workers of one job spread over the GPUs there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from cordee.worker.gpu import count_gpus, visible_devices


@pytest.mark.parametrize(
    ("worker", "device", "given", "num_gpus", "chosen"),
    [
        ("job-w0", "cuda", None, 4, "0"),
        ("job-w3", "auto", None, 4, "3"),
        ("job-w5", "cuda", None, 4, "1"),  # more workers than GPUs share
        ("job-w1", "cuda", "2,3", 4, "3"),  # the user's own choice bounds ours
        ("job-w1", "cuda", "GPU-8a1b", 4, "GPU-8a1b"),
        ("job-w1", "cpu", None, 4, None),
        ("job-w1", "auto", None, 0, None),
        ("job-w1", "cuda", "", 4, None),  # set to nothing: no GPU is to be seen, and none is given
        ("odd", "cuda", None, 4, None),
    ],
)
def test_a_worker_sees_the_gpu_of_its_slot(
    worker: str, device: str, given: str | None, num_gpus: int, chosen: str | None
) -> None:
    environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    assert visible_devices(worker, device, environment, num_gpus) == chosen


def test_gpus_are_counted_by_their_device_files(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert count_gpus(tmp_path) == 3
