"""Trains a small GPT on the characters of a text, and lets it write some of its own.

    python examples/char_transformer.py                        # on the sources of Python's standard library
    python examples/char_transformer.py --text input.txt       # on a text of yours
    cordee run examples/char_transformer.py --workers 1:3      # with three workers; kill any of them while it runs

All end with the same weights, bit for bit. The usual text is tinyshakespeare, 1.1 MB; `--text` takes an address, too:

    --text https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt \\
    --sha256 86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed

With it the validation loss comes to about 1.8 in 2000 steps: some minutes on a laptop.
"""

import argparse
import math
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np

from cordee import trainer
from cordee.trainer import Tensor, data, elastic, nn, optim
from cordee.trainer.nn import functional

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--text", help="a file in UTF-8, or where to download one from (default: Python's own sources)")
parser.add_argument("--sha256", default="", help="what a downloaded file is to hash to")
parser.add_argument("--layers", type=int, default=4, help="(default: %(default)s)")
parser.add_argument("--heads", type=int, default=4, help="(default: %(default)s)")
parser.add_argument("--width", type=int, default=128, help="numbers per character (default: %(default)s)")
parser.add_argument("--context", type=int, default=64, help="characters seen at once (default: %(default)s)")
parser.add_argument("--batch", type=int, default=12, help="windows per step (default: %(default)s)")
parser.add_argument("--dropout", type=float, default=0.0, help="(default: %(default)s)")
parser.add_argument("--lr", type=float, default=1e-3, help="the highest learning rate (default: %(default)s)")
parser.add_argument("--steps", type=int, default=2000, help="(default: %(default)s)")
parser.add_argument("--every", type=int, default=250, help="steps between evaluations (default: %(default)s)")
parser.add_argument("--write", type=int, default=500, help="characters to write at the end (default: %(default)s)")
parser.add_argument("--seed", type=int, default=0, help="of weights, order and dropout (default: %(default)s)")
arguments = parser.parse_args()


def read_text() -> str:
    """The text of `--text`, or a megabyte of the standard library: as good a text as any, and always there."""
    if arguments.text is None:
        sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
        texts = [source.read_text(encoding="utf-8") for source in sources]
        return "\n".join(text for text in texts if text.isascii())[:1_000_000]
    path = Path(arguments.text)
    if "://" in arguments.text:
        path = data.datasets.download(arguments.text, Path(path.name), arguments.sha256)
    return path.read_text(encoding="utf-8")


class Block(nn.Module):
    """What every character takes from those before it, then what it makes of that: (N, T, width) to the same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, width = x.shape
        heads = self.qkv(self.norm1(x)).reshape(n, t, 3, self.heads, width // self.heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        mixed = self.project(mixed.permute(0, 2, 1, 3).reshape(n, t, width))
        x = x + functional.dropout(mixed, self.dropout, self.training)
        made = self.contract(functional.gelu(self.expand(self.norm2(x)), approximate="tanh"))
        return x + functional.dropout(made, self.dropout, self.training)


class CharTransformer(nn.Module):
    """GPT-2's layers: characters of shape (N, T) to logits of the next ones, (N, T, num_characters)."""

    def __init__(self, num_characters: int, context: int, width: int, layers: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.context = context
        self.token, self.position = nn.Embedding(num_characters, width), nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, heads, dropout) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_characters)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                last_of_branch = name.endswith(("project.weight", "contract.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if last_of_branch else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, characters: Tensor) -> Tensor:
        places = trainer.arange(characters.shape[1])
        x = self.drop(self.token(characters) + self.position(places))
        return self.head(self.norm(self.blocks(x)))


def loss_of(batch: data.Batch) -> Tensor:
    return functional.cross_entropy(model(batch.x).flatten(0, 1), batch.y.flatten())


def clip(*_: Any) -> None:
    """Comes just before the update, when the gradient is that of the whole batch, summed over all workers."""
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)


def evaluate() -> float:
    """The mean loss over the text's last tenth, in windows one after the other."""
    model.eval()
    with trainer.no_grad():
        total = math.fsum(loss_of(batch).item() * len(batch) for batch in held_out)
    model.train()
    return total / len(held_out.dataset)


def write(num_characters: int) -> str:
    """What the model goes on to write after a line's end."""
    rng = np.random.default_rng(arguments.seed)
    written: Any = tokenizer.encode("\n").tolist()
    model.eval()
    with trainer.no_grad():
        for _ in range(num_characters):
            logits = model(trainer.tensor([written[-model.context :]]))[0, -1]
            probabilities = functional.softmax(logits, 0).numpy().astype(np.float64)
            written.append(int(rng.choice(len(tokenizer), p=probabilities / probabilities.sum())))
    return tokenizer.decode(written[1:])


trainer.manual_seed(arguments.seed)
text = read_text()
tokenizer = data.datasets.CharTokenizer(text)
characters = tokenizer.encode(text)
split = len(characters) * 9 // 10
windows = data.TokenDataset(characters[:split], arguments.context, stride=1)
some = data.RandomSampler(windows, num_samples=arguments.batch * arguments.every)
loader = data.DataLoader(windows, arguments.batch, sampler=some, shards=4, seed=arguments.seed)
held_out = data.DataLoader(data.TokenDataset(characters[split:], arguments.context), 64)

model = CharTransformer(
    len(tokenizer), arguments.context, arguments.width, arguments.layers, arguments.heads, arguments.dropout
)
matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
optimizer = optim.AdamW(
    [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
    lr=arguments.lr,
    betas=(0.9, 0.99),
)
rise = max(arguments.steps // 20, 1)
schedule = optim.lr_scheduler.warmup(
    optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=arguments.steps - rise, eta_min=arguments.lr / 10),
    num_steps=rise,
    start_factor=0.01,
)
optimizer.register_step_pre_hook(clip)

run = elastic.Run(model, optimizer, loader)
for step in run.steps(epochs=arguments.steps // arguments.every):
    for batch in step.shards:
        step.backward(loss_of(batch))
    step.commit()
    schedule.step()
    if step.committed and step.epoch_end:
        print(f"step {step.number:5d}  loss {step.loss:.4f}  validation loss {evaluate():.4f}", flush=True)

run.report(validation_loss=evaluate())
print(f"\n{write(arguments.write)}\n\nweights {run.weights_sha256()[:16]}")
