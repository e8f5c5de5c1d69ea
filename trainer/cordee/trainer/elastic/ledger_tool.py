"""The proof of a ledger as one JSON object, for whoever may not import the trainer: the command `cordee ledger`.

    python -P -m cordee.trainer.elastic.ledger_tool FILE [--steps N | --at-least N] [--compare OTHER]

Exit codes: 0 proven (and equal, if compared), 1 not, 2 there is nothing to be proven: the object has `error` alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cordee.trainer.elastic.ledger_entry import LedgerError
from cordee.trainer.elastic.ledger_proof import Proof, prove

__all__ = ["claim", "comparison", "main", "told"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the proof; the exit code says how it came out."""
    parser = argparse.ArgumentParser(description="Proves by a ledger that every sample came exactly once per epoch.")
    parser.add_argument("file", type=Path)
    parser.add_argument("--steps", type=int, help="how many steps the run made in all")
    parser.add_argument("--at-least", type=int, default=0, help="how many it made at least")
    parser.add_argument("--compare", type=Path, metavar="OTHER", help="a ledger that is to have the same content")
    given = parser.parse_args(arguments)
    try:
        proof = prove(given.file, steps=given.steps, at_least=given.at_least)
        answer = told(given.file, proof, finished=given.steps is not None)
        good = proof.proven
        if given.compare is not None:
            answer["compared"] = comparison(given.compare, proof)
            good &= answer["compared"]["equal"]
    except OSError as error:
        answer, good = {"error": f"{error.filename}: {error.strerror}"}, None
    except LedgerError as error:
        answer, good = {"error": str(error)}, None
    sys.stdout.write(json.dumps(answer) + "\n")
    return 2 if good is None else 0 if good else 1


def told(path: Path, proof: Proof, *, finished: bool) -> dict[str, Any]:
    """The proof as JSON has it."""
    return {
        "file": str(path),
        "proven": proof.proven,
        "claim": claim(proof, finished=finished),
        "finished": finished,
        "loader": proof.data.loader,
        "order": proof.data.order,
        "steps": proof.steps,
        "samples": proof.samples,
        "epochs": [{**asdict(epoch), "complete": epoch.complete} for epoch in proof.epochs],
        "worlds": proof.worlds,
        "redone": proof.redone,
        "recorded_twice": proof.recorded_twice,
        "torn_bytes": proof.torn_bytes,
        "skipped_bytes": proof.skipped_bytes,
        "violations": proof.violations,
        "num_violations": proof.num_violations,
        "sha256": proof.sha256,
    }


def claim(proof: Proof, *, finished: bool) -> str:
    """What is proven, in a sentence, and no more than that."""
    if not proof.proven:
        return f"not proven: {proof.num_violations} violation{'s' if proof.num_violations > 1 else ''}"
    data = proof.data
    whole = sum(epoch.complete for epoch in proof.epochs)
    if data.order == "sampler":
        what = "every step read the samples that its sampler visits, each as often as it is visited"
    elif data.samples is not None and data.samples_per_epoch < data.samples:
        what = (
            f"no sample came twice in an epoch, and {data.samples_per_epoch} of {data.samples} came in every finished "
            "one (drop_last leaves out the others)"
        )
    else:
        thing = "position of the stream" if data.order == "stream" else "sample"
        what = f"every {thing} exactly once in {whole} finished epoch{'' if whole == 1 else 's'}"
    rest = proof.epochs[-1] if proof.epochs and not proof.epochs[-1].complete else None
    if rest is not None:
        what += f", and at most once in epoch {rest.epoch}, up to its step {rest.steps} of {rest.steps_total}"
    return f"proven{'' if finished else ' so far'}: {what}"


def comparison(path: Path, proof: Proof) -> dict[str, Any]:
    """How another ledger differs: a run that is not finished is equal to one that is, as far as it goes."""
    other = prove(path)
    steps = min(proof.steps, other.steps)
    different = [step for step in range(1, steps + 1) if proof.step_digests.get(step) != other.step_digests.get(step)]
    return {
        "file": str(path),
        "equal": not different and proof.data == other.data and bool(steps),
        "same_data": proof.data == other.data,
        "loader": other.data.loader,
        "steps": other.steps,
        "steps_compared": steps,
        "first_difference": different[0] if different else None,
        "sha256": other.sha256,
    }


if __name__ == "__main__":
    sys.exit(main())
