"""What computes here, what it gains, and what it would gain: the trainer's side of `cordee doctor`.

    python -P -m cordee.trainer.doctor [--no-measure]

It answers in one JSON object. What is not installed cannot be measured; it says what runs on NumPy instead.
"""

from cordee.trainer.doctor.findings import examine
from cordee.trainer.doctor.gains import measure

__all__ = ["examine", "measure"]
