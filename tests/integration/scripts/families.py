"""Families of what people train with, as scripts of a job: none may depend on what happens to its workers."""

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np

from cordee import trainer
from cordee.trainer import amp, data, elastic, nn, optim

parser = argparse.ArgumentParser()
parser.add_argument("--log", type=Path, required=True)
parser.add_argument("--family", choices=["turns", "state", "loops", "halves", "evaluation"], required=True)
arguments = parser.parse_args()
arguments.log.mkdir(parents=True, exist_ok=True)
worker = os.environ.get("CORDEE_WORKER", "alone")
log = (arguments.log / f"{worker}.{os.getpid()}.jsonl").open("a", buffering=1)

trainer.manual_seed(1)
images, labels = data.datasets.digits()
images = images.reshape(-1, 64)[:480] / 16
dataset = data.TensorDataset(images, labels[:480])
loader = data.DataLoader(dataset, batch_size=48, shuffle=True, shards=6, seed=3)


def shards(step):
    for batch in step.shards:
        if (arguments.log / "slow").exists():  # a test is still at its scenario: the run must not end before
            time.sleep(0.02)
        yield batch


def note(run, step, world):
    if step.committed:
        entry = {"worker": worker, "pid": os.getpid(), "step": step.number, "loss": step.loss, **world}
        log.write(json.dumps(entry) + "\n")


def world_of(run):
    return {"generation": run.generation, "size": run.world_size, "rank": run.rank}


def turns():
    """Two models that learn in turn, each with its optimiser; one with clipping, batch norm, and weights clamped."""
    g = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 64))
    d = nn.Sequential(nn.Linear(64, 32), nn.Dropout(0.2), nn.LeakyReLU(), nn.Linear(32, 1))
    opt_g, opt_d = optim.Adam(g.parameters(), lr=0.01), optim.RMSprop(d.parameters(), lr=0.01)
    run = elastic.Run({"g": g, "d": d}, {"g": opt_g, "d": opt_d}, loader)
    for step in run.steps(12):
        world = world_of(run)
        for x, _ in shards(step):
            step.backward(d(g(trainer.randn(len(x), 8)).detach()).mean() - d(x).mean())
        step.clip_grad_norm_(1.0)
        step.update(opt_d)
        for parameter in d.parameters():
            parameter.data *= np.float32(0.95)
            parameter.data.clip(-0.1, 0.1, out=parameter.data)
        for x, _ in shards(step):
            step.backward(-d(g(trainer.randn(len(x), 8))).mean())
        if step.number % 2:
            step.update(opt_g)  # so that the commit has no gradient left to exchange
        step.commit()
        note(run, step, world)
    return run, []


class Momentum(optim.Optimizer):
    """With its state in attributes."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.05})
        self.velocity = {}

    def step(self, closure=None):
        for parameter in self.param_groups[0]["params"]:
            velocity = self.velocity.setdefault(parameter, np.zeros(parameter.shape, np.float32))
            velocity *= np.float32(0.9)
            velocity += parameter.grad.data
            parameter.data[...] -= self.param_groups[0]["lr"] * velocity


def state():
    """An optimiser of one's own, a generator and a tally that are registered, a part that is unfrozen on the way."""
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    model[0].requires_grad_(False)
    optimizer, draws, tally = Momentum(model[1:].parameters()), np.random.default_rng(4), {"best": 1e9, "steps": []}
    run = elastic.Run(model, optimizer, loader, state={"draws": draws, "tally": tally})
    for step in run.steps(12):
        world = world_of(run)
        if step.number == 25:
            model[1].eval()
        optimizer.param_groups[0]["lr"] = 0.02 + 0.05 * draws.random()
        for x, y in shards(step):
            step.backward(nn.functional.cross_entropy(model(x), y))
        step.commit()
        note(run, step, world)
        tally["steps"].append(step.number)
        tally["best"] = min(tally["best"], run.loss)
    return run, [tally, draws.random()]


def loops():
    """A loop per epoch, with the schedule's step, an evaluation and a change of weights between them; in float16, with
    a scale that grows until gradients overflow."""
    model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 10))
    optimizer = optim.AdamW(model.parameters(), lr=0.02)
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    average = optim.swa_utils.AveragedModel(model)
    scaler = amp.GradScaler("cpu", init_scale=2.0**18, growth_interval=6)
    run = elastic.Run(model, optimizer, loader, state={"losses": (losses := [])}, scaler=scaler)
    for epoch in range(12):
        for step in run.steps(epoch + 1):
            world = world_of(run)
            for x, y in shards(step):
                with trainer.autocast("cpu", dtype=trainer.float16):
                    loss = nn.functional.cross_entropy(model(x), y)
                step.backward(loss)
            step.commit()
            note(run, step, world)
        schedule.step()
        average.update_parameters(model)
        losses.append(run.loss)
        with trainer.no_grad():
            model[3].weight += 0.01 * trainer.randn(*model[3].weight.shape)
    kept = {name: array.tobytes().hex() for name, array in average.arrays().items()}
    return run, [
        losses,
        hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest(),
        optimizer.scalars(),
        scaler.state_dict(),
    ]


class Halves(nn.Module):
    """Convolution, pooling, attention and products: what has kernels of its own for bfloat16."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16 * 16, 10)

    def forward(self, x):
        x = nn.functional.max_pool2d(self.convolution(trainer.as_tensor(x).reshape(-1, 1, 8, 8)).relu(), 2)
        x = x.flatten(2).transpose(1, 2)
        y = self.norm(x)
        return self.head((x + self.attention(y, y, y, need_weights=False)[0]).flatten(1))


def halves():
    """Everything in bfloat16 but the parameters."""
    model = Halves()
    run = elastic.Run(model, optim.AdamW(model.parameters(), lr=0.01), loader, state={"losses": (losses := [])})
    for step in run.steps(12):
        world = world_of(run)
        for x, y in shards(step):
            with trainer.autocast("cpu", dtype=trainer.bfloat16):
                loss = nn.functional.cross_entropy(model(x), y)
            step.backward(loss)
        step.commit()
        losses.append(run.loss)
        note(run, step, world)
    assert losses[-1] < 0.5 * losses[0], "it learns nothing"
    return run, [losses]


def evaluation():
    """Rank 0 alone evaluates, for longer than a heartbeat's age, drawing numbers; all of them do so, too."""
    model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 10))
    run = elastic.Run(model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9), loader)

    def accuracy(x):
        model.eval()
        with trainer.no_grad():
            found = model(trainer.tensor(x)).numpy().argmax(1)
        model.train()
        return float((found == labels[: len(x)]).mean())

    for step in run.steps(12):
        world = world_of(run)
        for x, y in shards(step):
            step.backward(nn.functional.cross_entropy(model(x), y))
        if step.commit():
            run.report(accuracy=accuracy(images))
            if world["rank"] == 0:
                accuracy(images + trainer.randn(*images.shape).numpy())
                if step.number == 10:
                    time.sleep(4)
        note(run, step, world)
    return run, run.metrics


run, more = globals()[arguments.family]()
end = run.weights_sha256() + " " + json.dumps(more, sort_keys=True)
(arguments.log / f"{worker}.end").write_text(end)
