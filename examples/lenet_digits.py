"""A convolutional net in the manner of LeNet-5 (LeCun et al. 1998) reads handwritten digits: bundled, no download.

    python examples/lenet_digits.py                          # alone
    cordee run examples/lenet_digits.py --workers 1:3        # with three workers; kill any of them while it runs

Both end with the same weights, bit for bit. It takes some seconds and gets about 98 % of the held-out digits right.
"""

import argparse

import numpy as np

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.nn import functional

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=20, help="passes over the training part (default: %(default)s)")
parser.add_argument("--lr", type=float, default=0.005, help="the highest learning rate (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: %(default)s)")
arguments = parser.parse_args()


class LeNet(nn.Module):
    """Images of shape (N, 1, 8, 8) to the logits of ten digits, (N, 10). The original has 32 × 32 pixels and tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 16, 3, padding=1)
        self.fc1 = nn.Linear(16 * 2 * 2, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: trainer.Tensor) -> trainer.Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)  # (N, 6, 4, 4)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)  # (N, 16, 2, 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        return self.fc3(functional.relu(self.fc2(x)))


trainer.manual_seed(arguments.seed)
images, labels = data.datasets.digits()
images = images[:, None] / 16
order = np.random.default_rng(0).permutation(len(images))
train, held_out = order[:1437], order[1437:]  # a fifth is held out, the same one whatever --seed is

model = LeNet()
optimizer = optim.AdamW(model.parameters(), lr=arguments.lr)
criterion = nn.CrossEntropyLoss()
loader = data.DataLoader(
    data.TensorDataset(images[train], labels[train]), batch_size=64, shuffle=True, shards=8, seed=arguments.seed
)
schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=arguments.epochs * len(loader))

run = elastic.Run(model, optimizer, loader)
for step in run.steps(epochs=arguments.epochs):
    for batch in step.shards:
        step.backward(criterion(model(batch.x), batch.y))
    step.commit()
    schedule.step()
    if step.committed and step.epoch_end:
        print(f"epoch {step.epoch:3d}  loss {step.loss:.4f}")

model.eval()
with trainer.no_grad():
    predicted = model(trainer.tensor(images[held_out])).numpy().argmax(axis=1)
accuracy = float((predicted == labels[held_out]).mean())
run.report(accuracy=accuracy)
print(f"held-out accuracy {accuracy:.2%}, weights {run.weights_sha256()[:16]}")
