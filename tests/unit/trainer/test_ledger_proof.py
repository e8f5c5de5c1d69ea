"""The proof proves what is so, and objects to everything that is not: each kind of violation is made, and named."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee.trainer import data
from cordee.trainer.data import epoch_order
from cordee.trainer.elastic import ledger_tool
from cordee.trainer.elastic.ledger_entry import LedgerData, LedgerError, frame, pack_entry, pack_part, plan_digest
from cordee.trainer.elastic.ledger_proof import prove
from cordee.trainer.elastic.state import ORDER_KIND
from cordee.trainer.elastic.tree import deal

Reads = dict[int, list[Any]]
"""By step, what is read for each shard."""


def loader(**options: Any) -> data.DataLoader:
    """Ten samples in batches of four, in three shards: the last batch has two."""
    given = {"batch_size": 4, "shuffle": True, "shards": 3, "seed": 5, **options}
    return data.DataLoader(given.pop("dataset", range(10)), **given)


def reads(of: data.DataLoader, epochs: int = 2) -> Reads:
    """What the loader really reads."""
    found: Reads = {}
    for number in range(epochs * len(of)):
        epoch, index = divmod(number, len(of))
        batches = [of.shard_batch(epoch, index, shard) for shard in range(of.num_shards)]
        found[number + 1] = [range(0) if batch is None else batch.indices for batch in batches]
    return found


def step_entry(
    of: data.DataLoader, step: int, shards: Sequence[Any], *, size: int = 2, generation: int = 1, plan: bool = True
) -> bytes:
    """A step as the workers of a world of `size` note it."""
    epoch, index = divmod(step - 1, len(of))
    digest = 0
    if plan and (of.sampler is not None or of.batch_sampler is not None):
        digest = plan_digest(of.batch_indices(epoch, index))
    parts = [
        pack_part(0, digest if not rank else 0, start, shards[start:stop])
        for rank, (start, stop) in enumerate(deal(len(shards), size))
    ]
    return frame(pack_entry(step, epoch + 1, index, generation, parts))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(of: data.DataLoader, found: Reads, *more: bytes, **options: Any) -> Path:
        path = tmp_path / "samples.ledger"
        pieces = [step_entry(of, step, shards, **options) for step, shards in found.items()]
        path.write_bytes(LedgerData.of(of, ORDER_KIND).line() + b"".join(pieces) + b"".join(more))
        return path

    return written


class Numbers(data.IterableDataset[int]):
    def __len__(self) -> int:
        return 10

    def stream(self, epoch: int, start: int) -> Any:
        return iter(range(start, 10))


GOOD: list[Any] = [
    ({}, [(4 + 4 + 2, 10, 0, 0, 0)] * 2, "every sample exactly once in 2 finished epochs"),
    ({"shuffle": False}, [(10, 10, 0, 0, 0)] * 2, "every sample exactly once in 2 finished epochs"),
    ({"drop_last": True}, [(8, 8, 0, 0, 2)] * 2, "no sample came twice in an epoch, and 8 of 10 came"),
    ({"dataset": Numbers(), "shuffle": None}, [(10, 10, 0, 0, 0)] * 2, "every position of the stream exactly once"),
    ({"shuffle": None, "sampler": [3, 3, 1, 9, 0]}, [(5, 4, None, 1, 0)] * 2, "the samples that its sampler visits"),
    (
        {"shuffle": None, "sampler": data.RandomSampler(range(10), replacement=True, seed=1)},
        None,
        "the samples that its sampler visits, each as often as it is visited",
    ),
    (
        {"batch_size": 1, "shuffle": None, "batch_sampler": [[1, 2, 3], [4], [5, 6]]},
        [(6, 6, None, 0, 0)] * 2,
        "the samples that its sampler visits",
    ),
]


@pytest.mark.parametrize(("options", "counted", "words"), GOOD)
def test_what_a_loader_reads_is_proven(
    options: dict[str, Any], counted: Any, words: str, write: Callable[..., Path]
) -> None:
    of = loader(**options)
    found = reads(of)
    proof = prove(write(of, found), steps=len(found))
    assert proof.proven, proof.violations
    assert (proof.steps, proof.worlds, proof.redone, proof.recorded_twice) == (len(found), 1, 0, 0)
    if counted is not None:
        assert [(e.samples, e.distinct, e.missing, e.twice, e.left_out) for e in proof.epochs] == counted
    assert words in ledger_tool.claim(proof, finished=True)


def test_the_fingerprint_is_of_the_content_alone_and_can_be_computed_by_anybody(write: Callable[..., Path]) -> None:
    of = loader()
    found = reads(of, 1)
    alone = prove(write(of, found, size=1))
    disturbed = prove(write(of, found, step_entry(of, 2, found[2], generation=7, size=1), size=3, generation=4))
    assert disturbed.proven
    assert (disturbed.redone, disturbed.worlds) == (1, 2)
    assert alone.sha256 == disturbed.sha256

    epoch = hashlib.sha256()
    for number, shards in found.items():
        counts = [len(shard) for shard in shards]
        epoch.update(struct.pack("<QQQI6I", number, 1, number - 1, 3, 0, 1, 2, *counts))
        epoch.update(np.concatenate([np.asarray(shard) for shard in shards]).astype("<i8").tobytes())
    line = LedgerData.of(of, ORDER_KIND).line()
    assert alone.epochs[0].sha256 == epoch.hexdigest()
    assert alone.sha256 == hashlib.sha256(line + epoch.digest()).hexdigest()


def test_another_seed_has_another_fingerprint(write: Callable[..., Path]) -> None:
    fingerprints = set()
    for seed in range(3):
        of = loader(seed=seed)
        fingerprints.add(prove(write(of, reads(of))).sha256)
    assert len(fingerprints) == 3


def exchange(found: Reads, one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    (a, b, c), (d, e, f) = one, other
    found[a][b], found[d][e] = np.array(found[a][b]), np.array(found[d][e])
    found[a][b][c], found[d][e][f] = found[d][e][f], found[a][b][c]


def swap(found: Reads) -> None:
    exchange(found, (1, 0, 0), (2, 0, 0))


def repeat(found: Reads) -> None:
    found[2][0] = np.array(found[2][0])
    found[2][0][0] = found[1][0][0]


def shift(found: Reads) -> None:
    """The batch of the step after: a loader that is one ahead."""
    found[1], found[2] = found[2], found[1]


def invent(found: Reads) -> None:
    found[1][0] = np.array([99])


def recut(found: Reads) -> None:
    found[1][0], found[1][1] = found[1][0][:0], np.concatenate([found[1][0], found[1][1]])


def lose(found: Reads) -> None:
    found[1][2] = found[1][2][:1]


def next_epoch(found: Reads) -> None:
    """The order of another epoch: each sample comes once, and yet it is not what the seed says."""
    order = epoch_order(10, seed=5, epoch=1)
    for step, start in ((1, 0), (2, 4), (3, 8)):
        ends = np.cumsum([len(shard) for shard in found[step]])
        found[step] = np.split(order[start : start + ends[-1]], ends[:-1])


FIRST = int(epoch_order(10, seed=5, epoch=0)[0])
BAD: list[Any] = [
    (swap, "step 1 read sample .* where its seed and epoch say"),
    (repeat, f"epoch 1: sample {FIRST} came 2 times, in steps 1, 2"),
    (repeat, "epoch 1: sample .* did not come"),
    (shift, "step 1 read sample .* where its seed and epoch say"),
    (invent, "there is no sample 99, but it was read"),
    (recut, r"step 1: its 4 samples are cut into shards of \[0, 2, 2\]"),
    (lose, "step 1 has 3 samples, not 4"),
    (next_epoch, "step 1 read sample .* where its seed and epoch say"),
    (lambda found: found.pop(2), "step 2 is missing"),
    (lambda found: [found.pop(step) for step in (2, 3, 4)], "steps 2 to 4 are missing"),
    (lambda found: found.pop(1), "step 1 is missing"),
    (lambda found: found.pop(6), "step 6 is missing"),
    (lambda found: found[1].pop(), r"step 1 has the shards \[0, 1\], not 0 to 2"),
    (lambda found: found.update({7: found[1]}), "the job has made 6 steps, and the ledger has step 7"),
]


@pytest.mark.parametrize(("tamper", "words"), BAD)
def test_every_violation_is_found_and_named(
    tamper: Callable[[Reads], Any], words: str, write: Callable[..., Path]
) -> None:
    of = loader()
    found = reads(of)
    tamper(found)
    proof = prove(write(of, found), steps=6)
    assert not proof.proven
    assert any(re.search(words, violation) for violation in proof.violations), proof.violations
    assert ledger_tool.claim(proof, finished=True).startswith("not proven: ")


def test_a_step_that_was_done_again_and_read_other_samples_is_a_violation(write: Callable[..., Path]) -> None:
    of = loader()
    found = reads(of)
    again = step_entry(of, 2, found[3] and found[1], generation=4)
    proof = prove(write(of, found, again))
    assert proof.violations == ["step 2 was done in generations 1 and 4, and did not read the same samples"]


def test_a_commit_that_two_have_written_is_not_done_again(write: Callable[..., Path]) -> None:
    of = loader()
    found = reads(of)
    proof = prove(write(of, found, step_entry(of, 6, found[6]), step_entry(of, 6, found[6])))
    assert proof.proven
    assert (proof.redone, proof.recorded_twice) == (0, 2)


def test_a_sampler_is_held_to_what_it_visits(write: Callable[..., Path]) -> None:
    of = loader(shuffle=None, sampler=[3, 3, 1, 9, 0])
    found = reads(of)
    found[1][0] = np.array([2])
    assert prove(write(of, found)).violations == ["step 1 did not read what its sampler visits"]
    assert prove(write(of, reads(of), plan=False)).violations[0] == "step 1 does not say what its sampler visits"


def test_entries_out_of_order_and_in_pieces_are_put_together(write: Callable[..., Path]) -> None:
    of = loader()
    found = reads(of)
    torn = step_entry(of, 4, found[4])[:-3]
    late = [step_entry(of, step, found.pop(step), generation=2) for step in (3, 5)]
    path = write(of, found, torn, *late, step_entry(of, 6, [range(9)])[:11])
    proof = prove(path, steps=6)
    assert proof.proven, proof.violations
    assert (proof.skipped_bytes, proof.torn_bytes) == (len(torn), 11)


def test_of_an_epoch_that_is_under_way_no_more_is_claimed_than_is_so(write: Callable[..., Path]) -> None:
    of = loader()
    found = {step: shards for step, shards in reads(of).items() if step < 6}
    proof = prove(write(of, found), at_least=4)
    assert proof.proven
    assert [(epoch.complete, epoch.missing) for epoch in proof.epochs] == [(True, 0), (False, None)]
    assert ledger_tool.claim(proof, finished=False) == (
        "proven so far: every sample exactly once in 1 finished epoch, "
        "and at most once in epoch 2, up to its step 2 of 3"
    )
    behind = prove(write(of, found), at_least=6)
    assert behind.violations == ["step 6 is missing"]


def test_only_the_first_ten_violations_are_told_and_all_are_counted(write: Callable[..., Path]) -> None:
    of = loader(dataset=range(200))
    found = reads(of, 1)
    for step in range(1, 51):
        found[step] = [np.array(shard) * 0 for shard in found[step]]
    proof = prove(write(of, found))
    assert len(proof.violations) == 10
    assert proof.num_violations == 50 + 1 + 199  # the order of each step; sample 0, too often; the other samples


@pytest.mark.parametrize(
    ("text", "words"), [(b"", "has no first line"), (b"\0" * 99, "has no first line"), (b"{}\nx", "does not begin")]
)
def test_another_file_is_no_ledger(text: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(text)
    with pytest.raises(LedgerError, match=words):
        prove(tmp_path / "x")


# --- the tool ---


def run_tool(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    code = ledger_tool.main([str(word) for word in words])
    return code, json.loads(capsys.readouterr().out)


def test_the_tool_says_it_in_json_and_by_its_exit_code(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    of = loader()
    found = reads(of)
    path = write(of, found)
    code, answer = run_tool(capsys, path, "--steps", 6)
    assert (code, answer["proven"], answer["steps"], len(answer["epochs"])) == (0, True, 6, 2)
    other = path.rename(tmp_path / "other")

    code, answer = run_tool(capsys, other, "--compare", write(of, found, generation=3, size=1))
    assert (code, answer["compared"]["equal"], answer["compared"]["sha256"]) == (0, True, answer["sha256"])
    shorter = {step: shards for step, shards in found.items() if step < 5}
    code, answer = run_tool(capsys, other, "--compare", write(of, shorter))
    assert (code, answer["compared"]["equal"], answer["compared"]["steps_compared"]) == (0, True, 4)
    swap(found)
    code, answer = run_tool(capsys, other, "--compare", write(of, found))
    assert (code, answer["compared"]["equal"], answer["compared"]["first_difference"]) == (1, False, 1)
    another = loader(seed=6)
    code, answer = run_tool(capsys, other, "--compare", write(another, reads(another)))
    assert (code, answer["compared"]["same_data"]) == (1, False)

    code, answer = run_tool(capsys, write(of, found), "--steps", 6)
    assert (code, answer["proven"]) == (1, False)
    code, answer = run_tool(capsys, tmp_path / "nowhere")
    assert (code, answer) == (2, {"error": f"{tmp_path / 'nowhere'}: No such file or directory"})


def test_the_tool_is_a_module_that_runs(write: Callable[..., Path]) -> None:
    of = loader()
    words = [sys.executable, "-P", "-m", "cordee.trainer.elastic.ledger_tool", str(write(of, reads(of)))]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, json.loads(ran.stdout)["proven"], ran.stderr) == (0, True, "")
