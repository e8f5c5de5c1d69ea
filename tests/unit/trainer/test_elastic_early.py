"""Gradients that travel while backward still runs: nothing that a script does to them afterwards is lost.

That every history of deaths ends the same with them is in `test_elastic_matrix`, that they are exchanged beside other
work in `tests/unit/worker/test_communicator`.
"""

from __future__ import annotations

import copy
import importlib
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee import trainer
from cordee.trainer import Tensor, data, elastic, nn, optim
from cordee.trainer.autograd.arrive import WATCHED
from cordee.trainer.elastic import early
from cordee.trainer.elastic.early import cut

sys.path.insert(0, str(Path(__file__).parent))
try:
    world: Any = importlib.import_module("elastic_world")
finally:
    sys.path.remove(str(Path(__file__).parent))

NUM_STEPS, SHARDS = 8, 5
LAYERS = 4


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(early, "BUCKET_BYTES", 1)


class Net(nn.Module):
    """Four layers, of which one can be left out, and whose first weight may be used again."""

    def __init__(self) -> None:
        self.layers = nn.ModuleList([nn.Linear(5, 5, bias=False) for _ in range(LAYERS)])

    def forward(self, x: Tensor, *, without: int = -1, tied: bool = False) -> Tensor:
        for number, layer in enumerate(self.layers):
            x = x if number == without else layer(x).tanh()
        return self.layers[-1](x) if tied else x


Backward = Callable[[Any, Net, Any], None]


def loss(net: Net, batch: Any, **options: Any) -> Tensor:
    return ((net(batch.x, **options) - batch.y) ** 2).mean()


def plain(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))


def used_twice(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch, tied=True))


def two_losses(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))
    step.backward(0.5 * loss(net, batch, tied=True))


def left_out_at_times(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch, without=step.number % LAYERS))


def looked_at(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))
    for layer in net.layers:
        gradient = layer.weight.grad
        assert np.isfinite(gradient.numpy()).all()
        for copied in (copy.copy(gradient), copy.deepcopy(gradient), pickle.loads(pickle.dumps(gradient))):
            assert type(copied) is Tensor
            assert copied.tolist() == gradient.tolist()


def scaled_by_hand(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))
    if step.number in {3, 5}:
        net.layers[-1].weight.grad *= 2.0


def written_into(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))
    if step.number > 2:
        with trainer.no_grad():
            net.layers[2].weight.grad.data[0] = 0.25


def replaced(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))
    if step.number == 4:
        net.layers[3].weight.grad = trainer.ones(5, 5)


def taken_away(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))
    if step.number == 4:
        net.layers[3].weight.grad = None


def a_loss_more_at_times(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))
    if step.number in {3, 4}:
        step.backward((net.layers[3].weight ** 2).sum())


def kept_and_written_into(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))
    kept = net.layers[3].weight.grad
    step.backward(loss(net, batch))
    if step.number in {3, 5}:
        kept.data[0] = 0.25


def another_graph(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch), create_graph=step.number == 4)


def clipped_by_hand(step: Any, net: Net, batch: Any) -> None:
    step.backward(loss(net, batch))
    nn.utils.clip_grad_norm_(net.parameters(), 1e-3)


KEEP_ON = (plain, used_twice, two_losses, looked_at)
"""Nothing of what these send has to be sent again."""
SCRIPTS = (
    *KEEP_ON, left_out_at_times, scaled_by_hand, written_into, replaced, taken_away, a_loss_more_at_times,
    another_graph, clipped_by_hand, kept_and_written_into,
)  # fmt: skip


def script(
    backward: Backward, prepare: Callable[[Net], object] = lambda net: None, **options: Any
) -> Callable[[], Any]:
    def run_script() -> Any:
        trainer.manual_seed(3)
        net = Net()
        prepare(net)
        generator = np.random.default_rng(1)
        dataset = data.TensorDataset(*generator.standard_normal((2, 20, 5)).astype(np.float32))
        optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
        run = elastic.Run(net, optimizer, data.DataLoader(dataset, batch_size=20, shards=SHARDS), **options)
        gradients = []
        for step in run.steps(NUM_STEPS):
            for batch in step.shards:
                backward(step, net, batch)
            if step.commit():
                gradients += [None if layer.weight.grad is None else layer.weight.grad.tolist() for layer in net.layers]
        return run.weights_sha256(), gradients

    return run_script


@pytest.mark.parametrize("workers", [2, 3, 7])
@pytest.mark.parametrize("backward", SCRIPTS)
def test_the_sums_are_those_of_one_worker(backward: Backward, workers: int) -> None:
    (expected,) = world.play(script(backward), world.History(1, ())).results
    outcome = world.play(script(backward), world.History(workers, ()))
    assert all(result == expected for result in outcome.results)
    assert outcome.num_early, "nothing was sent early: this would prove nothing"
    if backward in KEEP_ON:  # but in the first step all has gone early, the last bucket excepted
        assert outcome.num_early == (NUM_STEPS - 1) * (LAYERS - 1) * min(workers, SHARDS)
        assert outcome.num_exchanges == NUM_STEPS * LAYERS
    assert not WATCHED


def test_a_script_that_changes_what_was_sent_again_and_again_sends_nothing_early_any_more() -> None:
    outcome = world.play(script(clipped_by_hand), world.History(2, ()))
    assert outcome.num_early == 3 * (LAYERS - 1) * 2
    assert outcome.num_exchanges == NUM_STEPS * LAYERS + 3 * (LAYERS - 1)


def test_hooks_come_before_anything_is_sent() -> None:
    def prepare(net: Net) -> None:
        def halve(parameter: Tensor) -> None:
            assert parameter.grad is not None
            parameter.grad *= 0.5

        net.layers[3].weight.register_post_accumulate_grad_hook(halve)
        net.layers[2].weight.register_hook(lambda gradient: gradient * 3.0)

    (expected,) = world.play(script(plain, prepare), world.History(1, ())).results
    outcome = world.play(script(plain, prepare), world.History(2, ()))
    assert all(result == expected for result in outcome.results)
    assert outcome.num_early
    assert outcome.num_exchanges == NUM_STEPS * LAYERS, "nothing had to be sent again"


def test_a_hook_may_change_what_another_parameter_has_sent() -> None:
    def prepare(net: Net) -> None:
        def double_the_last(_: Tensor) -> None:
            net.layers[3].weight.grad *= 2.0

        net.layers[0].weight.register_post_accumulate_grad_hook(double_the_last)

    (expected,) = world.play(script(plain, prepare), world.History(1, ())).results
    outcome = world.play(script(plain, prepare), world.History(2, ()))
    assert all(result == expected for result in outcome.results)


def test_a_gradient_that_a_hook_has_kept_may_be_changed_after_it_was_sent() -> None:
    kept = threading.local()

    def prepare(net: Net) -> None:
        def keep(parameter: Tensor) -> None:
            kept.gradient = parameter.grad

        net.layers[3].weight.register_post_accumulate_grad_hook(keep)

    def backward(step: Any, net: Net, batch: Any) -> None:
        step.backward(loss(net, batch))
        kept.gradient.data[0] *= 2.0

    (expected,) = world.play(script(backward, prepare), world.History(1, ())).results
    outcome = world.play(script(backward, prepare), world.History(2, ()))
    assert all(result == expected for result in outcome.results)
    assert outcome.num_early


def test_an_optimizer_may_be_applied_more_than_once_in_a_step() -> None:
    def several_passes() -> Any:
        trainer.manual_seed(3)
        net = Net()
        dataset = data.TensorDataset(*np.random.default_rng(1).standard_normal((2, 20, 5)).astype(np.float32))
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        run = elastic.Run(net, optimizer, data.DataLoader(dataset, batch_size=20, shards=SHARDS))
        for step in run.steps(NUM_STEPS):
            for _ in range(3):
                for batch in step.shards:
                    step.backward(loss(net, batch))
                step.update(optimizer)
            step.commit()
        return run.weights_sha256()

    (expected,) = world.play(several_passes, world.History(1, ())).results
    for history in (world.History(2, ()), world.history(5, 7, 4 * NUM_STEPS)):
        outcome = world.play(several_passes, history)
        assert set(outcome.results) == {expected}
        assert outcome.num_early


def test_it_can_be_turned_off() -> None:
    outcome = world.play(script(plain, overlap=False), world.History(2, ()))
    assert (outcome.num_early, outcome.num_exchanges) == (0, NUM_STEPS)


@pytest.mark.parametrize("least_bytes", [1, 64, 200, 1 << 20])
def test_buckets_cover_everything_once_from_the_end_on(least_bytes: int) -> None:
    first = [trainer.nn.Parameter(trainer.zeros(size)) for size in (3, 40, 1)]
    second = [trainer.nn.Parameter(trainer.zeros(size)) for size in (100, 2)]
    groups = optim.SGD([{"params": first}, {"params": second, "lr": 0.5}], lr=0.1).groups
    buckets = cut(groups, least_bytes)
    assert [bucket.group for bucket in buckets] == sorted((bucket.group for bucket in buckets), reverse=True)
    for number, group in enumerate(groups):
        of_group = [bucket for bucket in reversed(buckets) if bucket.group == number]
        assert [index for bucket in of_group for index in bucket.parameters] == list(range(len(group.parameters)))
        assert [place for b in of_group for place in range(b.where.start, b.where.stop)] == list(range(group.size))
        for bucket in of_group[1:]:
            assert (bucket.where.stop - bucket.where.start) * 4 >= least_bytes


def test_a_step_that_is_left_in_the_middle_holds_nobody_up() -> None:
    def leaves() -> Any:
        trainer.manual_seed(3)
        net = Net()
        dataset = data.TensorDataset(*np.random.default_rng(1).standard_normal((2, 20, 5)).astype(np.float32))
        optimizer = optim.SGD(net.parameters(), lr=0.1)
        run = elastic.Run(net, optimizer, data.DataLoader(dataset, batch_size=20, shards=SHARDS))
        for step in run.steps(NUM_STEPS):
            for batch in step.shards:
                step.backward(loss(net, batch))
            if step.number == 4:
                break
            step.commit()
        for step in run.steps(NUM_STEPS):
            for batch in step.shards:
                step.backward(loss(net, batch))
            step.commit()
        return run.weights_sha256()

    (expected,) = world.play(leaves, world.History(1, ())).results
    outcome = world.play(leaves, world.History(3, ()))
    assert outcome.results == [expected] * 3
    assert not WATCHED
