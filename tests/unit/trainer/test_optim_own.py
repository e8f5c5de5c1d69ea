"""An optimiser written as PyTorch's are, with a `step` over `self.state`: its state is saved, resumed and handed on."""

from __future__ import annotations

import copy
import json
import pickle
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import cordee.trainer as ct
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.elastic.state import TrainingState
from cordee.trainer.optim.snapshot import Snapshot


class Momentum(optim.Optimizer):
    """SGD with momentum, by the book."""

    def __init__(self, params: Any, lr: float = 0.1, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})

    @ct.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with ct.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["step"] = 0
                    state["buffer"] = ct.zeros_like(p)
                    state["seen"] = ct.tensor(0.0)
                state["step"] += 1
                state["seen"] += 2
                state["buffer"] = state["buffer"] * group["beta"] + p.grad  # rebound, not written into
                p.add_(state["buffer"], alpha=-group["lr"])
        return loss


def model() -> nn.Module:
    ct.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))


X = ct.tensor(np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32))


def train(net: nn.Module, optimizer: optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = net(X).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_it_is_the_librarys_own_momentum() -> None:
    net, other = model(), model()
    ours = train(net, Momentum(net.parameters()), 5)
    np.testing.assert_allclose(ours, train(other, optim.SGD(other.parameters(), lr=0.1, momentum=0.9), 5), rtol=1e-6)


def test_a_state_resumes_to_the_bit() -> None:
    net = model()
    optimizer = Momentum(net.parameters())
    train(net, optimizer, 3)
    weights, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    rest = train(net, optimizer, 3)
    again = model()
    resumed = Momentum(again.parameters(), lr=5.0)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    p = next(again.parameters())
    assert resumed.state[p]["step"] == 3
    assert resumed.state[p]["seen"] == 6
    assert resumed.state[p]["buffer"].shape == p.shape
    assert train(again, resumed, 3) == rest


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_goes_on_alike(copied: Callable[[Any], Any]) -> None:
    net = model()
    optimizer = Momentum(net.parameters())
    train(net, optimizer, 2)
    net2, optimizer2 = copied((net, optimizer))
    assert train(net2, optimizer2, 2) == train(net, optimizer, 2)


def test_a_joiner_is_handed_the_state() -> None:
    loader = data.DataLoader(data.TensorDataset(np.zeros((8, 3))), batch_size=8)
    net = model()
    optimizer = Momentum(net.parameters())
    train(net, optimizer, 2)
    state = TrainingState(net, optimizer, loader)
    arrays, scalars = state.host_copies(), json.loads(json.dumps(state.scalars(), allow_nan=False))
    joining = model()
    joiner = Momentum(joining.parameters())
    TrainingState(joining, joiner, loader).restore(arrays, scalars)
    assert train(joining, joiner, 2) == train(net, optimizer, 2)


def test_it_trains_in_an_elastic_run() -> None:
    net = model()
    optimizer = Momentum(net.parameters())
    loader = data.DataLoader(data.TensorDataset(X), batch_size=8, shards=2)
    run = elastic.Run(net, optimizer, loader)
    losses = []
    for step in run.steps(epochs=4):
        for (x,) in step.shards:
            step.backward(net(x).square().mean())
        with pytest.raises(RuntimeError, match="in an elastic run"):
            optimizer.step()
        step.commit()
        losses.append(run.loss)
    assert losses[-1] < losses[0]


def test_a_schedule_and_hooks_see_its_steps() -> None:
    net = model()
    optimizer = Momentum(net.parameters())
    schedule = optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    seen: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(net, optimizer, 1)
    schedule.step()  # would warn if no step had been seen
    assert seen == ["before", "after"]
    assert optimizer.param_groups[0]["lr"] == 0.05


def test_what_cannot_be_saved_is_refused() -> None:
    class Keeper(optim.Optimizer):
        def step(self, closure: Any = None) -> None:
            del closure
            for p in self.param_groups[0]["params"]:
                self.state[p]["history"] = [1, 2]

    with pytest.raises(TypeError, match=r"Keeper: state\[p\]\['history'\] is a list"):
        Keeper(model().parameters(), {"lr": 0.1}).step()


def test_a_class_that_extends_a_given_optimiser_keeps_its_state() -> None:
    class Counting(optim.SGD):
        count = 0

        def step(self, closure: Any = None) -> Any:
            self.count += 1
            return super().step(closure)

    net, other = model(), model()
    optimizer = Counting(net.parameters(), lr=0.1, momentum=0.9)
    assert train(net, optimizer, 3) == train(other, optim.SGD(other.parameters(), lr=0.1, momentum=0.9), 3)
    assert optimizer.count == 3
    assert "momentum_buffer" in optimizer.state[next(net.parameters())]


class Kinds(optim.Optimizer):
    """Numbers of every kind, whose rounding depends on what they are."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.1})
        self.total = np.float32(0)
        self.history: dict[Any, list[Any]] = {}
        self.function = print

    def step(self, closure: Callable[[], Any] | None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state.update(scale=ct.tensor(1.0), wide=np.float64(1), narrow=np.float32(1), rows=np.ones(2))
                state["scale"] = state["scale"] * 0.9
                state["narrow"] *= np.float32(0.9)
                state["rows"] *= 0.9
                self.total += np.float32(0.1)
                self.history.setdefault(p, []).append(state["rows"].copy())


def test_numbers_keep_their_kinds_where_they_are_handed_on() -> None:
    """A float32 that comes back as Python's float is rounded otherwise from then on."""
    loader = data.DataLoader(data.TensorDataset(np.zeros((8, 3))), batch_size=8)
    net, joining = model(), model()
    giver, taker = Kinds(net.parameters()), Kinds(joining.parameters())
    train(net, giver, 3)
    state = TrainingState(net, giver, loader)
    arrays, scalars = state.host_copies(), json.loads(json.dumps(state.scalars(), allow_nan=False))
    TrainingState(joining, taker, loader).restore(arrays, scalars)
    for optimizer in (giver, taker):
        optimizer.step()
    for one, other in zip(net.parameters(), joining.parameters(), strict=True):
        ours, theirs = giver.state[one], taker.state[other]
        assert {key: type(value) for key, value in ours.items()} == {key: type(value) for key, value in theirs.items()}
        assert all(np.array_equal(ours[key], theirs[key]) for key in ("wide", "narrow", "rows"))
        assert ours["scale"].item() == theirs["scale"].item()
        assert np.array_equal(giver.history[one], taker.history[other])
    assert type(taker.total) is np.float32
    assert taker.total == giver.total
    assert taker.function is print


def test_a_dictionary_goes_on_making_its_missing_values_after_a_state_is_taken() -> None:
    class Counting(optim.Optimizer):
        def __init__(self, params: Any) -> None:
            super().__init__(params, {"lr": 0.1})
            self.seen = defaultdict(lambda: 3)

        def step(self, closure: Any = None) -> None:
            self.seen["steps"] += 1

    optimizer = Counting([nn.Parameter(np.ones(2, np.float32))])
    optimizer.step()

    snapshot = Snapshot(optimizer)
    snapshot.take()
    optimizer.seen["more"] += 1
    snapshot.put_back()
    assert optimizer.seen == {"steps": 4}
    assert optimizer.seen["other"] == 3
