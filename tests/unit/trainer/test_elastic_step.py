"""What a step offers beside `backward` and `commit`: updates in its middle, clipping; and what it refuses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.array import to_numpy
from cordee.trainer.elastic.protocols import PeerLostError
from cordee.trainer.elastic.solo import SoloCommunicator

X = np.random.default_rng(0).standard_normal((24, 3)).astype(np.float32)


def loader(shards: int = 4, batch_size: int = 8, **options: Any) -> data.DataLoader:
    return data.DataLoader(data.TensorDataset(X), batch_size=batch_size, shards=shards, **options)


def model(width: int = 2) -> nn.Sequential:
    ct.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, width))


def weights(net: nn.Module) -> list[Any]:
    return [to_numpy(parameter.data).copy() for parameter in net.parameters()]


class Dying(SoloCommunicator):
    """Loses its peer at an exchange, counted from 0."""

    def __init__(self, at: int) -> None:
        self.at = at

    def all_reduce(self, *arguments: Any, **options: Any) -> list[bytes]:
        self.at -= 1
        if self.at < 0:
            raise PeerLostError("gone")
        return super().all_reduce(*arguments, **options)


# Several optimisers


def test_taking_turns_is_what_a_plain_loop_does() -> None:
    def losses(g: Any, d: Any, x: Any, noise: Any) -> tuple[Any, Any]:
        return (d(x) - d(g(noise).detach())).mean(), d(g(noise)).mean()

    def things() -> Any:
        g, d = model(3), model(1)
        return g, d, optim.Adam(g.parameters(), lr=0.01), optim.SGD(d.parameters(), lr=0.1, momentum=0.9)

    noise = ct.tensor(np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32))
    g, d, opt_g, opt_d = things()
    run = elastic.Run({"g": g, "d": d}, {"g": opt_g, "d": opt_d}, loader(shards=1))
    for step in run.steps(2):
        for (x,) in step.shards:
            step.backward(losses(g, d, x, noise)[0])
        assert step.update(opt_d)
        for (x,) in step.shards:
            step.backward(losses(g, d, x, noise)[1])
        assert step.commit()
    plain_g, plain_d, opt_g, opt_d = things()
    for start in [0, 8, 16] * 2:
        for turn, optimizer in enumerate((opt_d, opt_g)):
            opt_g.zero_grad()
            opt_d.zero_grad()
            losses(plain_g, plain_d, ct.tensor(X[start : start + 8]), noise)[turn].backward()
            optimizer.step()
    for ours, theirs in ((g, plain_g), (d, plain_d)):
        for one, other in zip(weights(ours), weights(theirs), strict=True):
            np.testing.assert_array_equal(one, other)


def test_names_come_first_and_a_single_ones_stay_as_they_were() -> None:
    g, d = model(), model()
    run = elastic.Run({"g": g, "d": d}, {"g": optim.Adam(g.parameters()), "d": optim.Adam(d.parameters())}, loader())
    assert set(run.weights()) == {f"{name}.{i}.{kind}" for name in "gd" for i in (0, 2) for kind in ("weight", "bias")}
    assert {"model.g.0.weight", "optimizer.d.exp_avg.d.0.weight"} <= run._state.views().keys()
    listed = elastic.Run([g, d], [optim.SGD([*g.parameters(), *d.parameters()], lr=0.1)], loader())
    assert "1.2.bias" in listed.weights()
    net = model()
    state = elastic.Run(net, optim.Adam(net.parameters()), loader())._state
    assert {"model.0.weight", "optimizer.exp_avg.0.weight"} <= state.views().keys()
    assert "optimizer" in state.scalars()


def test_a_commit_applies_those_that_were_not_updated_before() -> None:
    g, d = model(), model()
    opt_g, opt_d = optim.SGD(g.parameters(), lr=0.1), optim.SGD(d.parameters(), lr=0.1)
    run = elastic.Run([g, d], [opt_g, opt_d], loader())
    step = next(run.steps(1))
    for (x,) in step.shards:
        step.backward((g(x) + d(x)).square().mean())
    before = weights(g), weights(d)
    step.update("1")
    assert all(np.array_equal(a, b) for a, b in zip(weights(g), before[0], strict=True))
    moved = weights(d)
    assert not any(np.array_equal(a, b) for a, b in zip(moved, before[1], strict=True))
    step.commit()  # with the gradients of the same pass
    assert not any(np.array_equal(a, b) for a, b in zip(weights(g), before[0], strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(weights(d), moved, strict=True))
    assert opt_d.groups[0].steps.tolist() == [1] * 4


def test_each_pass_draws_numbers_of_its_own_and_reads_the_same_samples() -> None:
    net = model()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    seen: list[Any] = []
    for step in elastic.Run(net, optimizer, loader(num_workers=1)).steps(2):
        for _ in range(2):
            rows, draws = [], []
            for batch in step.shards:
                step.backward(net(batch.x).mean())
                rows.append(batch.x.numpy().copy())
                batch.x.data[...] = 0
                draws.append(ct.rand(1).item())
            step.update(optimizer)
            seen.append((np.concatenate(rows), draws))
        step.commit()
    for i in range(0, len(seen), 2):
        np.testing.assert_array_equal(seen[i][0], seen[i + 1][0])
    everything = [draw for _, draws in seen for draw in draws]
    assert len(set(everything)) == len(everything) == 2 * 2 * 3 * 4


@pytest.mark.parametrize("at", [0, 1, 2])
def test_after_a_loss_the_rest_of_the_body_has_no_effect(at: int) -> None:
    g, d = model(), model()
    opt_g, opt_d = optim.Adam(g.parameters(), lr=0.1), optim.Adam(d.parameters(), lr=0.1)
    run = elastic.Run([g, d], [opt_g, opt_d], loader())
    start = {name: array.copy() for name, array in run.weights().items()}
    states = []
    for step in run.steps(1):
        if step.number == 1 and len(states) == 0:
            step._communicator = Dying(at)
        states.append({name: to_numpy(array).copy() for name, array in run._state.views().items()})
        outcomes = []
        for optimizer in (opt_d, opt_g):
            for (x,) in step.shards:
                step.backward((g(x) + d(x)).square().mean())
            outcomes.append(step.update(optimizer))
            opt_g.param_groups[0]["lr"] *= 0.5
        outcomes.append(step.commit())
        if len(states) == 1:
            assert outcomes == [n < at for n in range(3)]
            assert list(step.shards) == []
            assert step.commit() is False
            assert step.update(opt_g) is False
            assert math.isnan(step.loss) or at > 0
        for parameter in g.parameters():
            parameter.data = parameter.data * 0.5
        if len(states) == 2:
            break
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert states[0].keys() == states[1].keys()
    assert all(np.array_equal(start[name], states[1][f"model.{name}"]) for name in start)


# Clipping


def test_the_exact_sum_is_clipped() -> None:
    nets = model(), model()
    options = {"lr": 0.3, "momentum": 0.9}
    optimizer = optim.SGD(nets[0].parameters(), **options)
    run = elastic.Run(nets[0], optimizer, loader(shards=3))
    norms = []
    for step in run.steps(1):
        for (x,) in step.shards:
            step.backward(nets[0](x).square().mean() * 5)
        step.clip_grad_value_(0.6)
        step.clip_grad_norm_(0.5)
        step.clip_grad_norm_(0.1, math.inf, parameters=nets[0][0].weight)
        step.clip_grad_norm_(math.inf)
        assert step.commit()
        norms.append(step.grad_norm)
    plain = optim.SGD(nets[1].parameters(), **options)
    for i in range(3):
        plain.zero_grad()
        (nets[1](ct.tensor(X[8 * i : 8 * i + 8])).square().mean() * 5).backward()
        nn.utils.clip_grad_value_(nets[1].parameters(), 0.6)
        assert nn.utils.clip_grad_norm_(nets[1].parameters(), 0.5).item() > 0.5, "it clips"
        nn.utils.clip_grad_norm_([nets[1][0].weight], 0.1, math.inf)
        assert norms[i] == pytest.approx(
            nn.utils.get_total_norm([p.grad for p in nets[1].parameters()]).item(), rel=1e-4
        )
        plain.step()
    for one, other in zip(weights(nets[0]), weights(nets[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=1e-6)


def test_a_norm_that_is_no_number_is_refused_when_asked() -> None:
    net = model()
    run = elastic.Run(net, optim.SGD(net.parameters(), lr=0.1), loader())
    before = run.weights_sha256()
    step = next(run.steps(1))
    for (x,) in step.shards:
        step.backward(net(x).mean() * math.inf)
    step.clip_grad_norm_(1.0, error_if_nonfinite=True)
    with pytest.raises(ValueError, match="cannot be clipped"):
        step.commit()
    assert run.weights_sha256() == before
    with pytest.raises(ValueError, match="max_norm must be positive"):
        step.clip_grad_norm_(0)
    with pytest.raises(ValueError, match="clip_value must be positive"):
        step.clip_grad_value_(-1)


def test_shards_are_the_accumulation_of_micro_batches() -> None:
    """As many have written it for PyTorch: losses divided by the number of micro-batches, one update for all."""
    nets = model(), model()
    run = elastic.Run(nets[0], optim.SGD(nets[0].parameters(), lr=0.3), loader(shards=4, batch_size=12))
    for step in run.steps(1):
        for (x,) in step.shards:
            assert len(x) == 3, "what is in memory at a time"
            step.backward(nets[0](x).square().mean())
        step.commit()
    plain = optim.SGD(nets[1].parameters(), lr=0.3)
    for i in range(8):
        (nets[1](ct.tensor(X[3 * i : 3 * i + 3])).square().mean() / 4).backward()
        if i % 4 == 3:
            plain.step()
            plain.zero_grad()
    for one, other in zip(weights(nets[0]), weights(nets[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


# What is refused


def test_an_update_in_the_wrong_place_is_refused() -> None:
    net = model()
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    run = elastic.Run(net, optimizer, loader())
    step = next(run.steps(1))
    with pytest.raises(RuntimeError, match=r"step\.update\(\) comes too early: 4 of this worker's 4 shards"):
        step.update(optimizer)
    with pytest.raises(TypeError, match="takes the optimizers to apply now"):
        step.update()
    for (x,) in step.shards:
        step.backward(net(x).mean())
    with pytest.raises(ValueError, match="no such optimizer"):
        step.update(optim.SGD(net.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match=r"gone through already \(step\.update\(optimizer\) goes between"):
        list(step.shards)
    step.commit()
    with pytest.raises(RuntimeError, match="committed already"):
        step.update(optimizer)
    with pytest.raises(RuntimeError, match=r"gone through already$"):
        list(step.shards)


class Wrapping(optim.Optimizer):
    def __init__(self, params: Any, inner: Any) -> None:
        super().__init__(params, {"lr": 0.1})
        self.inner = inner

    def step(self, closure: Any = None) -> None:
        self.inner.step()


class Closing(optim.Optimizer):
    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})

    def step(self, closure: Any) -> None:
        closure()


def test_optimisers_that_cannot_train_in_steps_are_refused() -> None:
    net = model()
    with pytest.raises(ValueError, match="the optimizer is LBFGS, whose step computes the loss several times"):
        elastic.Run(net, optim.LBFGS(net.parameters()), loader())
    with pytest.raises(ValueError, match="optimizer 'a' is Closing, whose step"):
        elastic.Run(net, {"a": Closing(net.parameters())}, loader())
    inner = optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="holds another one as 'inner', whose state would not travel"):
        elastic.Run(net, Wrapping(net.parameters(), inner), loader())


@pytest.mark.parametrize(
    ("models", "optimizers", "message"),
    [
        (lambda m: {}, lambda o: o, "model is empty"),
        (lambda m: {"a.b": m}, lambda o: o, "without dots"),
        (lambda m: [m, 3], lambda o: o, "model '1' is to be a module, not int"),
        (lambda m: m.parameters(), lambda o: o, "model is to be a module, or a dictionary or list"),
        (lambda m: m, lambda o: [o, o], "an optimizer is given twice"),
        (lambda m: m, lambda o: "sgd", "optimizer is to be an optimizer, or a dictionary or list"),
        (lambda m: m, lambda o: {"a": None}, "optimizer 'a' is to be one of cordee"),
        (lambda m: {"other": model()}, lambda o: {"a": o}, "the optimizer 'a' trains a parameter of shape"),
    ],
)
def test_what_is_no_model_or_optimiser_is_refused(models: Any, optimizers: Any, message: str) -> None:
    net = model()
    with pytest.raises((TypeError, ValueError), match=message):
        elastic.Run(models(net), optimizers(optim.SGD(net.parameters(), lr=0.1)), loader())


def train(run: elastic.Run, net: Any, epochs: int) -> None:
    for step in run.steps(epochs):
        for (x,) in step.shards:
            step.backward(net(x).square().mean())
        step.commit()


def test_a_model_that_grows_is_refused() -> None:
    net = model()
    run = elastic.Run(net, optim.SGD(net.parameters(), lr=0.1), loader())
    net.add_module("early", nn.Linear(2, 2))  # before the first step is as good as before the run
    train(run, net[:3], 1)
    net.add_module("late", nn.BatchNorm1d(2))
    with pytest.raises(RuntimeError, match=r"the model has got late\.bias, late\.num_batches_tracked.* since elastic"):
        train(run, net[:3], 2)


def test_a_parameter_group_that_comes_late_is_refused() -> None:
    net, more = model(), nn.Linear(2, 2)
    optimizer = optim.SGD(net.parameters(), lr=0.1)
    run = elastic.Run([net, more], optimizer, loader())
    optimizer.add_param_group({"params": more.parameters()})
    with pytest.raises(RuntimeError, match=r"got another parameter group since elastic\.Run was made"):
        train(run, net, 1)


def test_a_batch_norm_of_one_sample_says_what_to_do() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    run = elastic.Run(net, optim.SGD(net.parameters(), lr=0.1), loader(shards=8))
    with pytest.raises(ValueError, match=r"more than one value per channel.*one shard.*drop_last=True"):
        train(run, net, 1)
