"""The script of the chain tests: a small model with dropout on real digits, and a line per committed step."""

import argparse
import contextlib
import json
import os
import signal
import time
from pathlib import Path

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.checkpoint import writer
from cordee.trainer.elastic import early

early.BUCKET_BYTES = 1 << 10  # these small models' gradients travel beside backward, too

parser = argparse.ArgumentParser()
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--model", choices=["mlp", "conv", "attention", "norm"], default="mlp")
parser.add_argument("--epochs", type=int, default=4)
parser.add_argument("--width", type=int, default=48, help="of the MLP; a wide one's checkpoint has several parts")
parser.add_argument("--ledger", type=Path, help="under plain python; a job keeps its own")
parser.add_argument("--raise-at", type=int, default=0, help="step at which the script raises")
parser.add_argument("--die-at-part", type=int, help="whoever is to write this one of three parts is killed")
arguments = parser.parse_args()


class Attention(nn.Module):
    """Rows of the image are the tokens: one head attends over the eight of them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 32)
        self.position = nn.Embedding(8, 32)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        tokens = self.embed(x) + self.position(trainer.arange(8))
        q, k, v = (self.qkv(self.norm(tokens))[:, :, i * 32 : (i + 1) * 32] for i in range(3))
        weights = nn.functional.softmax(q @ k.transpose(-2, -1) / 32**0.5, dim=-1)
        return self.head((tokens + weights @ v).mean(dim=1))


def write_part(storage, snapshot, write=writer.write_part):
    if snapshot.number == arguments.die_at_part and snapshot.attempt.num_parts == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(storage, snapshot)


writer.write_part = write_part


def make_model() -> nn.Module:
    if arguments.model == "attention":
        return Attention()
    if arguments.model == "norm":  # whose running statistics every shard moves
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(),
            nn.Linear(32, 10),
        )  # fmt: skip
    if arguments.model == "conv":
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.1), nn.Flatten(), nn.Linear(128, 10)
        )
    return nn.Sequential(nn.Linear(64, arguments.width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(arguments.width, 10))


worker = os.environ.get("CORDEE_WORKER", "alone")
threads = arguments.log / f"{worker}.threads"
if threads.exists():  # processes of this worker that start from now on compute differently
    trainer.set_num_threads(int(threads.read_text()))
trainer.manual_seed(1)
images, labels = data.datasets.digits()
shape = {"mlp": (-1, 64), "conv": (-1, 1, 8, 8), "norm": (-1, 1, 8, 8), "attention": (-1, 8, 8)}[arguments.model]
images = images.reshape(shape) / 16
model = make_model()
optimizer = optim.AdamW(model.parameters(), lr=3e-3)
criterion = nn.CrossEntropyLoss()
# 1797 samples: the last batch of an epoch is a partial one, of 5 samples, fewer than the shards.
loader = data.DataLoader(data.TensorDataset(images, labels), batch_size=64, shuffle=True, shards=8, seed=3)
arguments.log.mkdir(parents=True, exist_ok=True)
slow = arguments.log / "slow"
with (arguments.log / f"{worker}.{os.getpid()}.jsonl").open("a", buffering=1) as log:
    run = elastic.Run(model, optimizer, loader, ledger=arguments.ledger)
    for step in run.steps(epochs=arguments.epochs):
        if arguments.raise_at and step.number == arguments.raise_at:
            raise ArithmeticError(f"step {step.number} is where this script raises")
        generation, size, rank = run.generation, run.world_size, run.rank
        for batch in step.shards:
            with contextlib.suppress(FileNotFoundError):  # a test is still at its scenario: the run must not end before
                time.sleep(float(slow.read_text() or 0.02))
            step.backward(criterion(model(batch.x), batch.y))
        if step.commit():
            entry = {"worker": worker, "pid": os.getpid(), "step": step.number, "generation": generation,
                     "size": size, "rank": rank, "loss": step.loss}  # fmt: skip
            log.write(json.dumps(entry) + "\n")
run.report(loss=run.loss)
(arguments.log / f"{worker}.sha256").write_text(run.weights_sha256())
print(f"weights {run.weights_sha256()}")
