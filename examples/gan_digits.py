"""A generator learns to draw digits against a discriminator: two models and two optimisers that take turns in one step.

    python examples/gan_digits.py                            # alone
    cordee run examples/gan_digits.py --workers 1:3          # with three workers; kill any of them while it runs

Both end with the same weights, bit for bit: in the middle of a step as well, a worker that dies costs nothing. The
generator's moving average draws the digits in the end. (Goodfellow et al. 2014.)
"""

import argparse

from cordee import trainer
from cordee.trainer import data, elastic, nn, optim
from cordee.trainer.nn import functional

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=40, help="passes over the digits (default: %(default)s)")
parser.add_argument("--width", type=int, default=128, help="of both models (default: %(default)s)")
parser.add_argument("--noise", type=int, default=16, help="numbers that a drawing is made of (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of weights, order and noise (default: %(default)s)")
arguments = parser.parse_args()

trainer.manual_seed(arguments.seed)
width = arguments.width
generator = nn.Sequential(
    nn.Linear(arguments.noise, width), nn.BatchNorm1d(width), nn.ReLU(),
    nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 64), nn.Sigmoid(),
)  # fmt: skip
discriminator = nn.Sequential(
    nn.Linear(64, width), nn.LeakyReLU(0.2), nn.Dropout(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2),
    nn.Linear(width, 1),
)  # fmt: skip
opt_g = optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
opt_d = optim.Adam(discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999))
average = optim.swa_utils.AveragedModel(generator, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.99))

images, _ = data.datasets.digits()
dataset = data.TensorDataset(images.reshape(-1, 64) / 16)
loader = data.DataLoader(dataset, batch_size=128, shuffle=True, shards=8, seed=arguments.seed, drop_last=True)


def drawings(count: int) -> trainer.Tensor:
    return generator(trainer.randn(count, arguments.noise))  # (N, 64); in a shard, noise of the shard's own


def loss(images: trainer.Tensor, real: bool) -> trainer.Tensor:
    """How far the discriminator is from saying so. Real ones are 0.9 sure, which keeps it from being certain."""
    said = discriminator(images)
    return functional.binary_cross_entropy_with_logits(said, trainer.full_like(said, 0.9 if real else 0.0))


run = elastic.Run(
    {"generator": generator, "discriminator": discriminator}, {"generator": opt_g, "discriminator": opt_d}, loader
)
for step in run.steps(epochs=arguments.epochs):
    for (real,) in step.shards:
        step.backward(loss(real, real=True) + loss(drawings(len(real)).detach(), real=False))
    step.update(opt_d)  # the discriminator learns now; the generator is to fool the new one
    loss_d = step.loss
    for (real,) in step.shards:
        said = discriminator(drawings(len(real)))
        step.backward(functional.binary_cross_entropy_with_logits(said, trainer.ones_like(said)))
    step.clip_grad_norm_(5.0)
    step.commit()
    average.update_parameters(generator)
    if step.committed and step.epoch_end and step.epoch % 10 == 0:
        print(f"epoch {step.epoch:3d}  discriminator {loss_d:.4f}  generator {step.loss:.4f}")

average.eval()
with trainer.no_grad():
    drawn = average(trainer.randn(6, arguments.noise)).reshape(6, 8, 8).numpy()
for rows in range(8):
    print("  ".join("".join(" ·▒█"[min(int(value * 4), 3)] * 2 for value in one[rows]) for one in drawn))
print(f"weights {run.weights_sha256()[:16]}")
