"""A script that trains by `fit`: dropout, a schedule, metrics, and an early stop that restores the best weights."""

import argparse
import json
import os
import time
from pathlib import Path

from cordee import trainer
from cordee.trainer import data, fit, nn

parser = argparse.ArgumentParser()
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--epochs", type=int, default=6)
arguments = parser.parse_args()
arguments.log.mkdir(parents=True, exist_ok=True)
worker = os.environ.get("CORDEE_WORKER", "alone")
slow = arguments.log / "slow"


class Log(fit.Callback):
    """A line per committed step."""

    def on_step_end(self, step, figures):
        if slow.exists():
            time.sleep(0.1)
        run = self.model.run
        entry = {"worker": worker, "pid": os.getpid(), "step": step.number, "generation": run.generation,
                 "size": run.world_size, "rank": run.rank, "loss": step.loss}  # fmt: skip
        with (arguments.log / f"{worker}.{os.getpid()}.jsonl").open("a") as log:
            log.write(json.dumps(entry) + "\n")


class Drop(fit.Callback):
    """Makes the validation loss rise from the third epoch on, so that the training stops early."""

    def on_epoch_end(self, epoch, figures):
        if epoch > 2:
            figures["val_loss"] += epoch


trainer.manual_seed(1)
images, labels = data.datasets.digits()
images = images.reshape(-1, 64) / 16
net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.3), nn.Linear(48, 10))
model = fit.Model(net).compile("adamw", "cross_entropy", ["accuracy"], lr=3e-3, clip_norm=1.0)
stop = fit.EarlyStopping(patience=1, restore_best_weights=True)
history = model.fit(
    images, labels, batch_size=64, epochs=arguments.epochs, validation_split=0.1, seed=3,
    callbacks=[Log(), fit.LearningRate(lambda epoch, rate: rate * 0.9), Drop(), stop,
               fit.CSVLogger(arguments.log / "history.csv")],
)  # fmt: skip
(arguments.log / f"{worker}.history").write_text(json.dumps(history.to_json()))
(arguments.log / f"{worker}.sha256").write_text(model.run.weights_sha256())
