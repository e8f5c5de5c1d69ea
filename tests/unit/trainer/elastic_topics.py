"""What people train with, each as a small script whose end must not depend on what happens to the workers.

Every script makes its things anew, as a process does, trains, and returns what must be the same in every history: the
weights' fingerprint, and more where there is more. The scripts are written as one writes them for PyTorch: nearly none
asks whether a step was committed.
"""

from __future__ import annotations

import json
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from cordee import trainer as ct
from cordee.trainer import amp, data, elastic, fit, nn, optim
from cordee.trainer.array import as_array, to_numpy
from cordee.trainer.optim import lr_scheduler, swa_utils

__all__ = ["TOPICS"]

SAMPLES, FEATURES, CLASSES = 22, 5, 3

Topic = Callable[[], Any]
TOPICS: dict[str, Topic] = {}


def topic(script: Topic) -> Topic:
    TOPICS[script.__name__.replace("_", " ")] = script
    return script


class Noisy(data.Dataset):
    """Samples with a random augmentation."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        generator = data.sample_rng()
        flip = -1.0 if generator.random() < 0.5 else 1.0
        noise = generator.standard_normal(FEATURES).astype(np.float32)
        return np.float32(flip) * self.x[index] + np.float32(0.1) * noise, self.y[index]


def arrays(samples: int = SAMPLES) -> tuple[Any, Any]:
    generator = np.random.default_rng(11)
    x = generator.standard_normal((samples, FEATURES)).astype(np.float32)
    return x, generator.integers(0, CLASSES, samples)


def loader(batch_size: int = 8, shards: int = 5, drop_last: bool = False, noisy: bool = False) -> data.DataLoader:
    """22 samples in batches of 8, so that the last batch is smaller and shards are uneven; 5 shards, which neither 2
    nor 3 nor 8 workers divide."""
    x, y = arrays()
    dataset: Any = Noisy(x, y) if noisy else data.TensorDataset(x, y)
    return data.DataLoader(dataset, batch_size=batch_size, shuffle=True, shards=shards, seed=2, drop_last=drop_last)


def mlp(*middle: nn.Module) -> nn.Sequential:
    ct.manual_seed(7)
    return nn.Sequential(nn.Linear(FEATURES, 6), *middle, nn.Tanh(), nn.Linear(6, CLASSES))


def shards(step: Any, model: Any) -> None:
    for batch in step.shards:
        step.backward(nn.functional.cross_entropy(model(batch.x), batch.y))


def digest(named: Any) -> str:
    return elastic.weights_sha256({name: to_numpy(array) for name, array in named.items()})


def state_of(run: elastic.Run) -> str:
    """All arrays and scalars of the run, optimisers and whatever travels included."""
    scalars = run._state.scalars()
    del scalars["loop"]
    return digest(run._state.views()) + json.dumps(scalars, sort_keys=True)


@topic
def batch_norm_dropout_augmentation() -> Any:
    model = mlp(nn.BatchNorm1d(6), nn.Dropout(0.3), nn.BatchNorm1d(6, momentum=None))
    optimizer = optim.AdamW(model.parameters(), lr=0.05)
    run = elastic.Run(model, optimizer, loader(batch_size=10, drop_last=True, noisy=True))
    for step in run.steps(5):
        for batch in step.shards:
            output = model(batch.x)
            step.backward(nn.functional.cross_entropy(output, batch.y))
            step.measure(accuracy=(output.argmax(1) == batch.y).float().mean().item())
        if step.commit() and step.epoch_end:
            run.report(accuracy=step.measures["accuracy"])
    return state_of(run), run.loss, run.metrics


@topic
def clipping() -> Any:
    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    run = elastic.Run(model, optimizer, loader(), state={"norms": (norms := [])})
    for step in run.steps(4):
        shards(step, model)
        if step.epoch % 2:
            step.clip_grad_norm_(0.3, parameters=model[0].parameters())
        step.clip_grad_value_(0.05)
        step.clip_grad_norm_(0.2)
        step.commit()
        norms.append(step.grad_norm)
    return state_of(run), norms


@topic
def accumulation_in_micro_batches() -> Any:
    model = mlp(nn.Dropout(0.1))
    run = elastic.Run(model, optim.Adam(model.parameters(), lr=0.05), loader(batch_size=16, shards=11))
    for step in run.steps(5):
        for batch in step.shards:  # of one or two samples
            step.backward(nn.functional.cross_entropy(model(batch.x), batch.y))
            step.backward(0.01 * sum((p**2).sum() for p in model.parameters()))
        step.commit()
    return state_of(run), run.loss


@topic
def mixed_precision() -> Any:
    """float16 with a scale that is too large at first and grows into the infinite later; and weights of bfloat16."""
    np.seterr(all="ignore")  # as in every process of ours, which a thread is not born with
    model, narrow = mlp(nn.LayerNorm(6)), mlp().bfloat16()
    optimizers = [
        optim.AdamW(model.parameters(), lr=0.05),
        optim.AdamW(narrow.parameters(), lr=0.05, master_weights=True),
    ]
    scaler = amp.GradScaler("cpu", init_scale=2.0**18, growth_interval=2)
    run = elastic.Run([model, narrow], optimizers, loader(), scaler=scaler, state={"skipped": (skipped := [])})
    with ct.autocast("cpu", dtype=ct.float16):  # around it all, so that casts of weights outlive the weights
        for step in run.steps(4):
            for batch in step.shards:
                loss = nn.functional.cross_entropy(model(batch.x), batch.y)
                with ct.autocast("cpu", enabled=False):
                    loss = loss + nn.functional.cross_entropy(narrow(batch.x.bfloat16()).float(), batch.y)
                step.backward(loss)
            step.clip_grad_norm_(0.5)
            step.commit()
            skipped.append(step.skipped)
    assert len(set(skipped)) == 2
    return state_of(run), run.loss, scaler.state_dict()


@topic
def schedules() -> Any:
    model = mlp()
    optimizer = optim.NAdam([{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 0.02}], lr=0.05)
    per_step = lr_scheduler.warmup(lr_scheduler.CosineAnnealingLR(optimizer, 12), 3, 0.1)
    per_epoch = lr_scheduler.MultiplicativeLR(optimizer, lambda epoch: 0.9)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.7, threshold=0.5)
    run = elastic.Run(model, optimizer, loader())
    for step in run.steps(5):
        shards(step, model)
        step.commit()
        per_step.step()
        if step.epoch_end:
            per_epoch.step()
            plateau.step(step.loss)
    return state_of(run), [group["lr"] for group in optimizer.param_groups]


@topic
def averages() -> Any:
    model = mlp(nn.BatchNorm1d(6))
    optimizer = optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    train = loader(batch_size=10, drop_last=True)
    run = elastic.Run(model, optimizer, train)
    ema = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.8), use_buffers=True)
    schedule = swa_utils.SWALR(optimizer, swa_lr=0.05, anneal_epochs=3)
    of_a_part = swa_utils.AveragedModel(model[0], avg_fn=swa_utils.get_ema_avg_fn(0.5))
    swa = None
    for step in run.steps(5):
        shards(step, model)
        step.commit()
        schedule.step()
        ema.update_parameters(model)
        of_a_part.update_parameters(model[0])
        if step.number >= 4:
            swa = swa or swa_utils.AveragedModel(model)
            swa.update_parameters(model)
    swa = swa or swa_utils.AveragedModel(model)  # a worker that joined at the very end
    swa_utils.update_bn(train, swa)
    return [digest(each.arrays()) for each in (ema, of_a_part, swa)], state_of(run)[:64]


class Own(optim.Optimizer):
    """With state of every kind in `self.state`."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})

    @ct.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update(step=ct.tensor(0.0), seen=np.float32(1), buffer=ct.zeros_like(p))
                    state.update(square=np.zeros(p.shape, np.float64), count=0, phase=1j)
                state["step"] += 1
                state["count"] += 1
                state["seen"] = np.float32(state["seen"] * np.float32(0.9))  # rounded to 32 bits
                state["phase"] *= 1j
                state["buffer"] = state["buffer"] * 0.9 + p.grad  # bound anew
                gradient = to_numpy(p.grad.data)
                state["square"] *= 0.9
                state["square"] += gradient.astype(np.float64) ** 2
                scale = 1 / (1e-3 + np.sqrt(state["square"])) * float(state["seen"]) * float(state["step"])
                p.sub_(state["buffer"] * ct.Tensor(as_array(scale.astype(np.float32))) * (group["lr"] * 0.1))


@topic
def an_optimiser_with_state_of_its_own() -> Any:
    model = mlp()
    run = elastic.Run(model, Own(model.parameters()), loader())
    for step in run.steps(4):
        shards(step, model)
        step.commit()
    return state_of(run), run.loss


class Plain(optim.Optimizer):
    """With state in Python's and NumPy's types, in attributes, by parameter and by a parameter's id."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})
        self.calls = 0
        self.velocity: dict[Any, Any] = {}
        self.sizes: dict[int, float] = {}
        self.recent: deque[float] = deque(maxlen=3)
        self.first = next(iter(self.param_groups[0]["params"]))
        self.describe = lambda: "no state"

    def step(self, closure: Any = None) -> None:
        self.calls += 1
        for group in self.param_groups:
            for p in group["params"]:
                gradient = to_numpy(p.grad.data)
                velocity = self.velocity.setdefault(p, np.zeros_like(gradient))
                velocity *= 0.9
                velocity += gradient
                self.sizes[id(p)] = self.sizes.get(id(p), 0.0) + float(np.abs(gradient).sum())
                p.data[...] -= as_array(velocity * np.float32(group["lr"] / (1 + self.sizes[id(p)] / self.calls)))
        self.recent.append(float(np.abs(to_numpy(self.first.data)).sum()))


@topic
def an_optimiser_with_attributes() -> Any:
    model = mlp()
    optimizer = Plain(model.parameters())
    run = elastic.Run(model, optimizer, loader())
    for step in run.steps(4):
        shards(step, model)
        step.commit()
    return state_of(run), list(optimizer.recent), optimizer.calls


class Remembering(nn.Module):
    """Buffers of many kinds that forward changes, in place or by binding the name, and state that is no tensor."""

    def __init__(self) -> None:
        self.linear = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("mean", ct.zeros(FEATURES))
        self.register_buffer("calls", ct.Tensor(as_array(np.array(120, np.int8))), persistent=False)
        self.register_buffer("started", ct.Tensor(as_array(np.zeros(2, np.bool_))))
        self.register_buffer("turn", ct.Tensor(as_array(np.ones((), np.complex64))))
        self.last = nn.Buffer(ct.zeros(2).data)
        self.alias = self.mean
        self.table = np.zeros(3)
        self.name = "cold"

    def forward(self, x: Any) -> Any:
        if self.training:
            with ct.no_grad():
                self.mean = self.mean * 0.9 + x.mean(0) * 0.1
                self.calls.data[...] += np.int8(1)
                self.started.data[0] = True
                self.started.data[1] = not bool(self.started.data[1])
                self.turn.data[...] *= np.complex64(1j) * np.complex64(len(x))
                self.last.data[...] = -x.data[0, :2]
        return self.linear(x - self.mean) * (1 + float(self.table[0])) + self.last.sum()

    def get_extra_state(self) -> Any:
        return {"table": self.table, "name": self.name}

    def set_extra_state(self, state: Any) -> None:
        self.table, self.name = state["table"], state["name"]


@topic
def buffers_and_extra_state() -> Any:
    ct.manual_seed(7)
    model = Remembering()
    run = elastic.Run(model, optim.SGD(model.parameters(), lr=0.1), loader())
    for step in run.steps(4):
        if step.index == 0:
            with ct.no_grad():
                model.mean *= 0.5  # before the shards, relative to what it is
        shards(step, model)
        step.commit()
        model.table[0] += 0.01
        model.name += "er"
        model.calls.data[...] += np.int8(1)
    assert len(model.name) > 8
    return state_of(run), model.name, model.table.tolist()


def gan() -> tuple[Any, Any]:
    ct.manual_seed(3)
    g = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, FEATURES))
    d = nn.Sequential(nn.Linear(FEATURES, 6), nn.Dropout(0.2), nn.LeakyReLU(), nn.Linear(6, 1))
    return g, d


def judged(d: Any, x: Any, as_real: bool) -> Any:
    output = d(x)
    return nn.functional.binary_cross_entropy_with_logits(output, ct.full_like(output, float(as_real)))


@topic
def two_models_in_turn() -> Any:
    g, d = gan()
    opt_g, opt_d = optim.Adam(g.parameters(), lr=0.02), optim.Adam(d.parameters(), lr=0.02)
    schedule = lr_scheduler.ExponentialLR(opt_d, 0.95)
    train = loader(batch_size=11, drop_last=True)
    run = elastic.Run({"g": g, "d": d}, {"g": opt_g, "d": opt_d}, train)
    for step in run.steps(5):
        d.requires_grad_(True)
        for real, _ in step.shards:
            fake = g(ct.randn(len(real), 2)).detach()
            step.backward(judged(d, real, True) + judged(d, fake, False))
            step.measure(fake=fake.mean().item())
        step.clip_grad_norm_(0.5)
        step.update(opt_d)
        d.requires_grad_(False)
        for real, _ in step.shards:
            real.data[...] = 0  # what one pass does to its batch is not seen by the other
            step.backward(judged(d, g(ct.randn(len(real), 2)), True))
            step.measure(scale=float(ct.rand(1).item()))
        step.commit()
        schedule.step()
    return state_of(run), run.loss


@topic
def several_updates_in_a_step() -> Any:
    """A critic that learns twice as often, with its weights clamped by hand; and a third optimiser, applied last."""
    g, d = gan()
    scale = nn.Linear(1, 1)
    optimizers = [optim.RMSprop(g.parameters(), lr=0.01), Own(d.parameters(), 0.05), Plain(scale.parameters(), 0.01)]
    run = elastic.Run([g, d, scale], optimizers, loader(batch_size=11, drop_last=True), state={"seen": (seen := {})})
    for step in run.steps(4):
        for turn in range(2):
            for real, _ in step.shards:
                fake = g(ct.randn(len(real), 2)).detach()
                step.backward(d(fake).mean() - d(real).mean())
            step.update("1")
            for parameter in d.parameters():  # relative, and without asking whether there was an update
                parameter.data *= np.float32(0.9)
                parameter.data.clip(-0.3, 0.3, out=parameter.data)
            seen[turn] = seen.get(turn, 0.0) + (step.loss if not step.lost else 1e9)
        for real, _ in step.shards:
            step.backward(-d(g(ct.randn(len(real), 2))).mean() + scale(ct.ones(1, 1)).square().mean())
        if step.number % 2:
            step.update(optimizers[2])
            step.update(optimizers[0])  # with the gradients of the same pass; nothing is left for the commit
        step.commit()
    return state_of(run), seen


@topic
def state_of_the_users() -> Any:
    class Best:
        def __init__(self) -> None:
            self.loss, self.weights = float("inf"), np.zeros(0)

        def state_dict(self) -> Any:
            return {"loss": self.loss, "weights": self.weights, "as": ("tuple", {1, 2}, b"bytes")}

        def load_state_dict(self, state: Any) -> None:
            assert state["as"] == ("tuple", {1, 2}, b"bytes")
            self.loss, self.weights = state["loss"], state["weights"]

    model = mlp()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    best, draws, python, table = Best(), np.random.default_rng(5), random.Random(6), np.zeros(3)
    tally: dict[Any, Any] = {"steps": 0, (1, "a"): []}
    run = elastic.Run(model, optimizer, loader(), state={"best": best, "draws": draws, "tally": tally})
    run.register("python", python)
    run.register("table", table)
    late: list[float] | None = None
    for step in run.steps(4):
        optimizer.param_groups[0]["lr"] = 0.05 + 0.1 * float(draws.random()) + 0.01 * python.random()
        tally["steps"] += 1
        if step.number >= 5 and late is None:
            late = []
            run.register("late", late)
        shards(step, model)
        step.commit()
        table[step.index] += tally["steps"] * 0.25
        tally[1, "a"].append(step.number)
        if late is not None:
            late.append(float(table.sum()))
        if step.loss < best.loss:
            best.loss, best.weights = step.loss, model[0].weight.detach().numpy().copy()
    assert tally["steps"] == run.step
    assert tally[1, "a"] == list(range(1, run.step + 1))
    return state_of(run).replace("\n", ""), best.loss, digest({"best": best.weights})


@topic
def freezing_and_modes() -> Any:
    model = mlp(nn.BatchNorm1d(6), nn.Dropout(0.5))
    model[0].requires_grad_(False)
    run = elastic.Run(model, optim.Adam(model.parameters(), lr=0.05), loader(batch_size=10, drop_last=True))
    for step in run.steps(6):
        if step.number == 4:  # once, so that a joiner has to be told
            model[0].requires_grad_(True)
            model[1].eval()
        shards(step, model)
        step.commit()
        model[3].train(not model[3].training)  # every other step without dropout, by what it was before
        if step.number == 8:
            model[2].eval()
            model[4].bias.requires_grad = False
    return state_of(run), run.loss


@topic
def evaluation() -> Any:
    """On all workers, and on rank 0 alone, drawing numbers there that nobody else draws."""
    model = mlp(nn.Dropout(0.4), nn.BatchNorm1d(6))
    run = elastic.Run(model, optim.SGD(model.parameters(), lr=0.2), loader(batch_size=10, drop_last=True))
    x, y = arrays()

    def accuracy() -> float:
        model.eval()
        with ct.no_grad():
            found = model(ct.tensor(x)).numpy().argmax(1)
        model.train()
        return float((found == y).mean())

    for step in run.steps(5):
        noise = ct.randn(FEATURES) * 0.1  # in the step, in no shard: the same on all workers
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(model(batch.x + noise), batch.y))
        if step.commit():
            run.report(accuracy=accuracy())
            if run.rank == 0:
                model.eval()
                with ct.no_grad():
                    model(ct.randn(4, FEATURES) + ct.rand(4, FEATURES))
                model.train()
    return state_of(run), run.metrics


@topic
def loops_by_epoch() -> Any:
    """A loop over epochs outside, with what one does after each: a worker that joins comes through there, too."""
    model = mlp(nn.Dropout(0.2))
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    schedule = lr_scheduler.StepLR(optimizer, 1, 0.8)
    run = elastic.Run(model, optimizer, loader(), state={"losses": (losses := [])})
    for epoch in range(5):
        for step in run.steps(epoch + 1):
            shards(step, model)
            step.commit()
        schedule.step()
        losses.append(run.loss)
        with ct.no_grad():
            model[3].weight *= 0.9
            model[3].weight += 0.01 * ct.randn(*model[3].weight.shape)
    return state_of(run), losses


def net() -> Any:
    ct.manual_seed(5)
    return nn.Sequential(nn.Linear(FEATURES, 6), nn.Tanh(), nn.Dropout(0.2), nn.Linear(6, CLASSES))


@topic
def fit_with_callbacks() -> Any:
    x, y = arrays(40)
    model = fit.Model(net()).compile(optim.SGD, "cross_entropy", ["accuracy"], lr=0.5, clip_norm=0.7, clip_value=0.5)
    schedule = lr_scheduler.LinearLR(model.optimizer, 1.0, 0.5, 10)
    seen: list[int] = []

    class Own(fit.Callback):
        def on_epoch_begin(self, epoch: int) -> None:
            seen.append(epoch)

        def state_dict(self) -> Any:
            return {"seen": seen}

        def load_state_dict(self, state: Any) -> None:
            seen[:] = state["seen"]

    history = model.fit(
        x, y, batch_size=12, epochs=7, validation_split=0.25, shards=5, verbose=0, seed=4,
        callbacks=[
            fit.EarlyStopping(patience=1, restore_best_weights=True), fit.LearningRate(schedule, per_step=True),
            fit.ReduceLROnPlateau(patience=1, factor=0.5), Own(),
        ],
    )  # fmt: skip
    assert model.run is not None
    return history.to_json(), seen, model.run.weights_sha256(), model.optimizer.param_groups[0]["lr"]


@topic
def fit_twice() -> Any:
    x, y = arrays(40)
    model = fit.Model(net()).compile("adam", "cross_entropy", ["accuracy"], lr=0.05)
    best = fit.EarlyStopping(monitor="loss", patience=3, restore_best_weights=True)
    first = model.fit(x, y, batch_size=16, epochs=2, shards=4, verbose=0, callbacks=[best])
    shown = first["accuracy"][-1]
    for group in model.optimizer.param_groups:
        group["lr"] *= 0.5
    second = model.fit(x, y, batch_size=16, epochs=3, shards=4, verbose=0)
    third = model.fit(x, y, batch_size=16, epochs=2, shards=4, verbose=0, callbacks=[fit.EarlyStopping("loss")])
    assert model.run is not None
    return [each.to_json() for each in (first, second, third)], shown, model.run.weights_sha256()


@topic
def parameters_of_two_dtypes() -> Any:
    """Two flat buffers per optimiser, so two sums per exchange; and a parameter that two optimisers train."""
    ct.manual_seed(9)
    first, second = nn.Linear(FEATURES, 4), nn.Linear(4, CLASSES).double()
    one = optim.SGD([*first.parameters(), *second.parameters()], lr=0.1, momentum=0.9)
    other = optim.Lion(first.parameters(), lr=0.01)
    run = elastic.Run({"first": first, "second": second}, {"one": one, "other": other}, loader())
    for step in run.steps(4):
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(second(first(batch.x).double()), batch.y))
        step.commit()
    return state_of(run), run.loss


@topic
def a_target_network_moved_by_hand() -> Any:
    """After the commit, relative to what it is, and without asking whether there was one."""
    online, target = mlp(), mlp()
    run = elastic.Run({"online": online, "target": target}, optim.Adam(online.parameters(), lr=0.05), loader())
    for step in run.steps(4):
        for batch in step.shards:
            with ct.no_grad():
                goal = target(batch.x)
            loss = nn.functional.cross_entropy(online(batch.x), batch.y)
            step.backward(loss + (online(batch.x) - goal).square().mean())
        step.commit()
        for ours, theirs in zip(target.parameters(), online.parameters(), strict=True):
            ours.data *= np.float32(0.9)
            ours.data += np.float32(0.1) * theirs.data
    return state_of(run), run.loss
