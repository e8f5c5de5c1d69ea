"""`fit`: what Keras' users expect of one call, and sentences for their mistakes."""

from __future__ import annotations

import csv
import io
import math
import pickle
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cordee import trainer
from cordee.trainer import data, elastic, fit, nn, optim


def _net(seed: int = 0) -> nn.Module:
    trainer.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))


def _points(num: int = 60) -> tuple[Any, Any]:
    generator = np.random.default_rng(0)
    y = np.arange(num) % 3
    return generator.standard_normal((num, 4)).astype(np.float32) + 2 * np.eye(3, 4, dtype=np.float32)[y], y


def _model(**options: Any) -> fit.Model:
    return fit.Model(_net()).compile("adam", "cross_entropy", ["accuracy"], lr=0.02, **options)


def test_one_call_trains_evaluates_and_predicts() -> None:
    x, y = _points()
    model = _model()
    before = model.evaluate(x, y)
    history = model.fit(x, y, epochs=8, validation_split=0.2, verbose=0)
    after = model.evaluate(x, y)
    assert after["loss"] < before["loss"]
    assert after["accuracy"] > 0.8
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history.epoch == list(range(1, 9))
    outputs = model.predict(x, batch_size=7)
    assert outputs.shape == (60, 3)
    assert (outputs.argmax(1) == y).mean() == pytest.approx(after["accuracy"])


def test_the_weights_are_those_of_the_elastic_loop_written_out() -> None:
    x, y = _points()
    model = _model(clip_norm=0.5)
    model.fit(x, y, batch_size=16, epochs=3, verbose=0, seed=5)
    net = _net()
    optimizer = optim.Adam(net.parameters(), lr=0.02)

    def clip(*_: Any) -> None:
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)

    optimizer.register_step_pre_hook(clip)
    run = elastic.Run(
        net, optimizer, data.DataLoader(data.TensorDataset(x, y), batch_size=16, shuffle=True, shards=8, seed=5)
    )
    losses = []
    for step in run.steps(3):
        for batch in step.shards:
            step.backward(nn.functional.cross_entropy(net(batch.x), batch.y))
        step.commit()
        losses.append(step.loss * step.num_samples)
    assert model.run is not None
    assert model.run.weights_sha256() == run.weights_sha256()
    assert model.history["loss"][-1] == pytest.approx(math.fsum(losses[-4:]) / 60, rel=1e-12)


def test_figures_do_not_depend_on_the_number_of_shards_samples_fall_into() -> None:
    x, y = _points(50)
    found = [
        _model().fit(x, y, batch_size=16, epochs=2, verbose=0, shards=shards).history["accuracy"]
        for shards in (1, 7, 16)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=0.05)
    model = _model()
    model.fit(x, y, batch_size=50, epochs=1, verbose=0, shards=7)
    first = fit.Model(_net()).compile("adam", "cross_entropy", ["accuracy"]).evaluate(x, y)
    assert model.history["accuracy"][0] == pytest.approx(first["accuracy"])
    assert model.history["loss"][0] == pytest.approx(first["loss"], rel=1e-6)


def test_the_historys_columns_are_in_the_order_in_which_metrics_were_given() -> None:
    x, y = _points()
    metrics = {name: lambda output, target: 1.0 for name in "zyxwvutsrq"}
    model = fit.Model(_net()).compile("sgd", "cross_entropy", metrics)
    history = model.fit(x, y, epochs=1, validation_split=0.2, verbose=0)
    assert list(history.history) == ["loss", *metrics, "val_loss", *(f"val_{name}" for name in metrics)]


def test_fit_called_again_goes_on() -> None:
    x, y = _points()
    once, twice = _model(), _model()
    whole = once.fit(x, y, epochs=4, verbose=0)
    first = twice.fit(x, y, epochs=2, verbose=0)
    second = twice.fit(x, y, epochs=2, verbose=0)
    assert whole["loss"] == [*first["loss"], *second["loss"]]
    assert second.epoch == [3, 4]


def test_datasets_loaders_and_validation_data_are_taken() -> None:
    x, y = _points()
    dataset = data.TensorDataset(x, y)
    from_dataset = _model().fit(dataset, epochs=2, validation_data=(x, y), verbose=0)
    loader = data.DataLoader(dataset, batch_size=32, shuffle=True, shards=8, seed=0)
    from_loader = _model().fit(loader, epochs=2, validation_data=dataset, verbose=0)
    assert from_dataset.history == from_loader.history


def test_double_precision_inputs_are_made_what_the_module_computes_in() -> None:
    x, y = _points()
    assert _model().fit(x.astype(np.float64), y, verbose=0).history == _model().fit(x, y, verbose=0).history


def test_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            self.left, self.right = nn.Linear(4, 3), nn.Linear(2, 3)

        def forward(self, a: Any, b: Any) -> Any:
            return self.left(a) + self.right(b)

    x, y = _points()
    model = fit.Model(Two()).compile()
    model.fit((x, x[:, :2]), y, epochs=1, verbose=0, validation_split=0.5)
    assert model.predict((x, x[:, :2])).shape == (60, 3)


# -- callbacks ---------------------------------------------------------------------------------------------------------


class Fixed(fit.Callback):
    """Says what the validation loss is."""

    def __init__(self, *values: float) -> None:
        self.values = values

    def on_epoch_end(self, epoch: int, figures: dict[str, float]) -> None:
        figures["val_loss"] = self.values[epoch - 1]


def test_early_stopping_waits_for_its_patience_and_restores_the_best() -> None:
    x, y = _points()
    model = _model()
    seen: dict[int, Any] = {}
    keep = fit.LambdaCallback(
        on_epoch_end=lambda epoch, _: seen.update({epoch: model.net.state_dict()["0.weight"].clone()})
    )
    stop = fit.EarlyStopping(patience=1, restore_best_weights=True, min_delta=0.05)
    history = model.fit(x, y, epochs=9, callbacks=[Fixed(5, 4, 4.0, 4.2, 1), keep, stop], verbose=0)
    assert history.epoch == [1, 2, 3, 4]
    assert (stop.best_epoch, stop.stopped_epoch) == (2, 4)
    assert model.net.state_dict()["0.weight"].equal(seen[2])


def test_a_rising_figure_is_known_by_its_name() -> None:
    for name, rising in (("val_accuracy", True), ("score", True), ("val_loss", False), ("mse", False)):
        watch = fit.EarlyStopping(name)
        watch.improved(1.0)
        assert watch.improved(2.0) is rising
        assert not watch.improved(math.nan)


def test_learning_rates_follow_functions_schedules_and_plateaus() -> None:
    x, y = _points()
    model = _model()
    history = model.fit(x, y, epochs=3, callbacks=[fit.LearningRate(lambda epoch, lr: lr / epoch)], verbose=0)
    assert history["lr"] == pytest.approx([0.02, 0.01, 0.01 / 3])
    model = _model()
    schedule = optim.lr_scheduler.StepLR(model.optimizer, 1, gamma=0.5)
    history = model.fit(x, y, epochs=3, callbacks=[fit.LearningRate(schedule)], verbose=0)
    assert history["lr"] == pytest.approx([0.02, 0.01, 0.005])
    model = _model()
    plateau = fit.ReduceLROnPlateau(factor=0.5, patience=2, min_lr=0.004)
    history = model.fit(x, y, epochs=7, callbacks=[Fixed(*[1.0] * 7), plateau], verbose=0)
    assert history["lr"] == pytest.approx([0.02, 0.02, 0.02, 0.01, 0.01, 0.005, 0.005])


def test_files_are_written_whole(tmp_path: Path) -> None:
    x, y = _points()
    model = _model()
    best = fit.ModelCheckpoint(tmp_path / "best.safetensors", save_best_only=True)
    every = fit.ModelCheckpoint(tmp_path / "w-{epoch:02d}-{val_loss:.1f}.safetensors")
    log = fit.CSVLogger(tmp_path / "log" / "h.csv")
    history = model.fit(x, y, epochs=3, callbacks=[log, Fixed(3, 1, 2), best, every], verbose=0)
    assert sorted(p.name for p in tmp_path.glob("w-*")) == [
        f"w-0{i}-{v}.0.safetensors" for i, v in ((1, 3), (2, 1), (3, 2))
    ]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "log" / "h.csv").read_text())))
    assert [float(row["loss"]) for row in rows] == history["loss"]
    assert [float(row["val_loss"]) for row in rows] == [3, 1, 2]
    twin = fit.Model(_net(1)).load(tmp_path / "best.safetensors")
    second = fit.Model(_net(2)).load(tmp_path / "w-02-1.0.safetensors")
    assert twin.net.state_dict()["0.bias"].equal(second.net.state_dict()["0.bias"])


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    x, y = _points()
    model = fit.Model(_net()).compile("sgd", lambda out, _: out.sum() * math.inf)
    history = model.fit(x, y, epochs=5, callbacks=[fit.TerminateOnNaN()], verbose=0)
    assert len(history) == 1


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_progress_is_a_line_per_epoch_or_a_bar() -> None:
    x, y = _points()
    lines, bar = io.StringIO(), io.StringIO()
    _model().fit(x, y, epochs=2, verbose=0, callbacks=[fit.ProgressBar(2, lines), fit.ProgressBar(1, bar)])
    first, second = lines.getvalue().splitlines()
    assert first.startswith("epoch 1/2  ")
    assert "loss " in second
    assert "accuracy " in second
    assert "━" in bar.getvalue()
    assert "\r" in bar.getvalue()


def test_the_history_is_plotted_without_any_library(tmp_path: Path) -> None:
    x, y = _points()
    history = _model().fit(x, y, epochs=3, validation_split=0.2, verbose=0)
    root = ET.fromstring(history.plot(tmp_path / "plots" / "h.svg").read_text())
    texts = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"loss", "val_loss", "accuracy", "val_accuracy"} <= texts
    lines = list(root.iter("{http://www.w3.org/2000/svg}polyline"))
    assert [len(line.get("points", "").split()) for line in lines] == [3, 3, 3, 3]
    assert "3 epochs" in repr(history)


def test_models_can_be_pickled_to_predict_elsewhere() -> None:
    x, y = _points()
    model = fit.Model(_net()).compile("adam", "cross_entropy")
    model.fit(x, y, verbose=0)
    twin = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(twin.predict(x), model.predict(x))
    with pytest.raises(RuntimeError, match="call compile"):
        twin.fit(x, y)


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mistake", "kind", "words"),
    [
        (lambda x, y: fit.Model(_net()).fit(x, y), RuntimeError, "compile"),
        (lambda x, y: fit.Model(_net()).compile("adamm"), ValueError, "no optimizer called 'adamm'; there are adagrad"),
        (lambda x, y: fit.Model(_net()).compile(loss="crossentropy"), ValueError, "no loss called 'crossentropy'"),
        (lambda x, y: fit.Model(_net()).compile(metrics="accuracy"), TypeError, r"such as \['accuracy'\]"),
        (lambda x, y: _model().fit(x, y[:-1]), ValueError, "input 0 60, targets 59"),
        (lambda x, y: _model().fit(x, y, validation_split=1.5), ValueError, "between 0 and 1"),
        (lambda x, y: _model().fit(x, y, validation_split=0.1, validation_data=(x, y)), ValueError, "either"),
        (lambda x, y: _model().fit(data.TensorDataset(x, y), y), TypeError, "gives the targets itself"),
        (lambda x, y: _model().fit(x, y, verbose=3), ValueError, "verbose is 0, 1, 2 or 'auto'"),
        (lambda x, y: _model().fit(x, y, verbose=0, callbacks=[fit.EarlyStopping()]), KeyError, "validation_split"),
        (lambda x, y: fit.LambdaCallback(on_epoch=print), TypeError, "on_epoch_end"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_a_sentence(mistake: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        mistake(*_points())
