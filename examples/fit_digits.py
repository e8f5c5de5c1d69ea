"""Classifies handwritten digits without a loop of its own: `compile`, `fit`, callbacks, and a plot of the history.

    python examples/fit_digits.py                            # alone
    cordee run examples/fit_digits.py --workers 1:3          # with three workers; kill any of them while it runs

Both end with the same weights, bit for bit. The digits are bundled. They are ordered by writer, so the validation part
and the test part are by people whose writing the training part does not have.
"""

import argparse

from cordee import trainer
from cordee.trainer import data, fit, nn, optim

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=60, help="at most so many (default: %(default)s)")
parser.add_argument("--patience", type=int, default=5, help="epochs without improvement (default: %(default)s)")
parser.add_argument("--plot", default="fit_digits.svg", help="where the curves go (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of weights, order and dropout (default: %(default)s)")
arguments = parser.parse_args()

trainer.manual_seed(arguments.seed)
images, labels = data.datasets.digits()
images = images.reshape(len(images), -1) / 16
test_images, test_labels = images[1500:], labels[1500:]

net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10))
model = fit.Model(net).compile(
    lambda parameters: optim.AdamW(parameters, lr=5e-3, weight_decay=0.05),
    nn.CrossEntropyLoss(label_smoothing=0.05),
    ["accuracy", "top_5_accuracy"],
    clip_norm=1.0,
)
stopper = fit.EarlyStopping(monitor="val_loss", patience=arguments.patience, restore_best_weights=True)
history = model.fit(
    images[:1500],
    labels[:1500],
    batch_size=64,
    epochs=arguments.epochs,
    validation_split=0.2,
    callbacks=[
        fit.ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=2),
        stopper,
        fit.LambdaCallback(
            on_epoch_end=lambda epoch, figures: print(
                f"epoch {epoch:3d}  loss {figures['loss']:.4f}  accuracy {figures['accuracy']:.2%}  "
                f"validation {figures['val_loss']:.4f}  {figures['val_accuracy']:.2%}"
            )
        ),
    ],
    verbose=0,  # "auto" shows a bar on a terminal
    seed=arguments.seed,
)

if model.leads:  # in a job one worker writes the file
    print(f"the curves are in {history.plot(arguments.plot, ['loss', 'accuracy'])}")
figures = model.evaluate(test_images, test_labels)
assert model.run is not None
model.run.report(**{f"test_{name}": value for name, value in figures.items()})
print(f"best epoch {stopper.best_epoch}, test accuracy {figures['accuracy']:.2%}", end=", ")
print(f"weights {model.run.weights_sha256()[:16]}")
