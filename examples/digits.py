"""Classifies handwritten digits: 1,797 real 8×8 images, bundled, no download.

    python examples/digits.py                        # alone
    cordee run examples/digits.py --workers 1:3      # with three workers; kill any of them while it runs

Both end with the same weights, bit for bit.
"""

import argparse

import numpy as np

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=30, help="passes over the training part (default: %(default)s)")
parser.add_argument("--width", type=int, default=256, help="units per hidden layer (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of weights, order and dropout (default: %(default)s)")
arguments = parser.parse_args()

trainer.manual_seed(arguments.seed)
images, labels = data.datasets.digits()
images = images.reshape(len(images), -1) / 16
order = np.random.default_rng(0).permutation(len(images))
train, held_out = order[:1437], order[1437:]  # a fifth is held out, the same one whatever --seed is

model = nn.Sequential(
    nn.Linear(64, arguments.width),
    nn.ReLU(),
    nn.Dropout(0.2),
    nn.Linear(arguments.width, arguments.width),
    nn.ReLU(),
    nn.Linear(arguments.width, 10),
)
optimizer = optim.AdamW(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()
loader = data.DataLoader(
    data.TensorDataset(images[train], labels[train]), batch_size=64, shuffle=True, shards=8, seed=arguments.seed
)

run = elastic.Run(model, optimizer, loader)
for step in run.steps(epochs=arguments.epochs):
    for batch in step.shards:
        step.backward(criterion(model(batch.x), batch.y))
    step.commit()
    if step.committed and step.epoch_end:
        print(f"epoch {step.epoch:3d}  loss {step.loss:.4f}")

model.eval()
with trainer.no_grad():
    predicted = model(trainer.tensor(images[held_out])).numpy().argmax(axis=1)
accuracy = float((predicted == labels[held_out]).mean())
run.report(accuracy=accuracy)
print(f"held-out accuracy {accuracy:.2%}, weights {run.weights_sha256()[:16]}")
