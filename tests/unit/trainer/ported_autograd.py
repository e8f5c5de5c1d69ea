"""Scripts that ask more of the autograd, as PyTorch's users know them: graphs, policies, learning to learn, own parts.

Ideas: Kipf and Welling 2017 (GCN), Velickovic et al. 2018 (GAT), pytorch/examples (`reinforcement_learning`),
Finn et al. 2017 (MAML), PyTorch's tutorials on functions, optimisers and hooks of one's own.
"""

# ruff: noqa: B905, C408  (as such scripts are written: names of the papers, plain zip)

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from ported_support import Names, digits, seeded

__all__ = ["SCRIPTS"]


def _graph(names: Names) -> tuple[Any, Any, Any]:
    """Features, edges as (source, target) with loops, and labels of a random graph of two communities."""
    rng = np.random.default_rng(0)
    labels = np.arange(20) % 2
    linked = rng.random((20, 20)) < np.where(labels[:, None] == labels, 0.4, 0.05)
    edges = np.stack(np.nonzero(linked | np.eye(20, dtype=bool)))
    features = (rng.standard_normal((20, 6)) + labels[:, None]).astype(np.float32)
    torch = names.torch
    return torch.tensor(features), torch.tensor(edges, dtype=torch.long), torch.tensor(labels).long()


def gcn(names: Names, steps: int) -> list[float]:
    """Message passing by `index_select` and `scatter_add`, degrees to the power of -1/2, a masked loss."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    x, edge_index, y = _graph(names)

    class GCNConv(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, in_channels: int, out_channels: int) -> None:
            super().__init__()
            self.lin = nn.Linear(in_channels, out_channels, bias=False)
            self.bias = nn.Parameter(torch.empty(out_channels))
            self.reset_parameters()

        def reset_parameters(self) -> None:
            self.lin.reset_parameters()
            nn.init.zeros_(self.bias)

        def forward(self, x: Any, edge_index: Any) -> Any:
            x = self.lin(x)
            row, col = edge_index
            deg = torch.zeros(x.size(0), dtype=x.dtype).scatter_add_(0, col, torch.ones(col.size(0)))
            deg_inv_sqrt = deg.pow(-0.5)
            deg_inv_sqrt[deg_inv_sqrt == float("inf")] = 0
            norm = deg_inv_sqrt[row] * deg_inv_sqrt[col]
            messages = norm.view(-1, 1) * x.index_select(0, row)
            out = torch.zeros_like(x).index_add(0, col, messages)
            return out + self.bias

    conv1, conv2 = GCNConv(6, 8), GCNConv(8, 2)
    model = seeded(names, nn.ModuleDict({"conv1": conv1, "conv2": conv2}))
    mask = torch.zeros(20, dtype=torch.bool)
    mask[:10] = True
    optimizer = optim.Adam(
        [{"params": conv1.parameters(), "weight_decay": 5e-4}, {"params": conv2.parameters(), "weight_decay": 0}],
        lr=0.02,
    )
    losses = []
    for _ in range(steps):
        model.train()
        h = F.dropout(F.relu(model["conv1"](x, edge_index)), p=0.0, training=model.training)
        out = F.log_softmax(model.conv2(h, edge_index), dim=1)
        loss = F.nll_loss(out[mask], y[mask])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    acc = int((out.argmax(dim=-1)[~mask] == y[~mask]).sum()) / int((~mask).sum())
    assert 0 <= acc <= 1
    return losses


def gat(names: Names, steps: int) -> list[float]:
    """Attention over edges: a softmax by segments, of `scatter_reduce` and `index_add`."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    x, (src, dst), y = _graph(names)

    class GATLayer(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, fin: int, fout: int, heads: int) -> None:
            super().__init__()
            self.heads, self.fout = heads, fout
            self.proj = nn.Linear(fin, heads * fout, bias=False)
            # published: torch.Tensor(1, heads, fout)
            self.a_src = nn.Parameter(torch.empty(1, heads, fout))
            self.a_dst = nn.Parameter(torch.empty(1, heads, fout))
            nn.init.xavier_uniform_(self.a_src)
            nn.init.xavier_uniform_(self.a_dst)

        def forward(self, x: Any) -> Any:
            n = x.shape[0]
            h = self.proj(x).view(-1, self.heads, self.fout)
            score = F.leaky_relu((h * self.a_src).sum(-1)[src] + (h * self.a_dst).sum(dim=-1)[dst], 0.2)
            index = dst.unsqueeze(-1).expand_as(score)
            largest = torch.full((n, self.heads), -1e9).scatter_reduce(0, index, score.detach(), reduce="amax")
            e = (score - largest[dst]).exp()
            total = torch.zeros(n, self.heads).scatter_add(0, index, e)
            alpha = e / (total.index_select(0, dst) + 1e-16)
            out = torch.zeros(n, self.heads, self.fout)
            out.index_add_(0, dst, h[src] * alpha.unsqueeze(-1))
            return out.mean(dim=1)

    layers = nn.Sequential(GATLayer(6, 8, 3), nn.ELU(), GATLayer(8, 2, 2))
    seeded(names, layers)
    optimizer = optim.RAdam(layers.parameters(), lr=0.05)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(layers(x), y, weight=torch.tensor([1.0, 2.0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class _Corridor:
    """Six places in a row; going right at each is rewarded. Deterministic: what is drawn is the action."""

    def reset(self) -> Any:
        self.place = 0
        return self._state()

    def step(self, action: int) -> tuple[Any, float, bool]:
        self.place = max(0, self.place + (1 if action else -1))
        return self._state(), float(action) - 0.1, self.place >= 5

    def _state(self) -> Any:
        return np.eye(6, dtype=np.float32)[self.place]


def _choose(probs: Any, rng: np.random.Generator) -> int:
    """An action by these probabilities, drawn by NumPy: the same for both libraries."""
    assert abs(probs.sum().item() - 1.0) < 1e-5
    return int(rng.random() < probs.view(-1)[1].item())


def reinforce(names: Names, steps: int) -> list[float]:
    """Policy gradients: log-probabilities of an episode, discounted and normalised returns."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    rng, env = np.random.default_rng(0), _Corridor()
    eps = np.finfo(np.float32).eps.item()
    policy = seeded(names, nn.Sequential(nn.Linear(6, 8), nn.Dropout(p=0.0), nn.ReLU(), nn.Linear(8, 2)))
    optimizer = optim.Adam(policy.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        state, saved_log_probs, rewards = env.reset(), [], []
        for _t in range(1, 12):
            probs = F.softmax(policy(torch.from_numpy(state).float().unsqueeze(0)), dim=1)
            action = _choose(probs, rng)
            saved_log_probs.append(torch.log(probs)[:, action])
            state, reward, done = env.step(action)
            rewards.append(reward)
            if done:
                break
        R, policy_loss = 0.0, []
        returns: Any = deque()
        for r in rewards[::-1]:
            R = r + 0.99 * R
            returns.appendleft(R)
        returns = torch.tensor(returns)
        returns = (returns - returns.mean()) / (returns.std() + eps)
        for log_prob, R in zip(saved_log_probs, returns):
            policy_loss.append(-log_prob * R)
        optimizer.zero_grad()
        loss = torch.cat(policy_loss).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def actor_critic(names: Names, steps: int) -> list[float]:
    """Two heads on one trunk, a smooth L1 loss of values, an entropy bonus."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    rng, env = np.random.default_rng(1), _Corridor()

    class Policy(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.affine1 = nn.Linear(6, 16)
            self.action_head = nn.Linear(16, 2)
            self.value_head = nn.Linear(16, 1)

        def forward(self, x: Any) -> Any:
            x = F.relu(self.affine1(x))
            return F.softmax(self.action_head(x), dim=-1), self.value_head(x)

    model = seeded(names, Policy())
    optimizer = optim.Adam(model.parameters(), lr=3e-2)
    losses = []
    for _ in range(steps):
        state, saved, rewards = env.reset(), [], []
        for _t in range(10):
            probs, value = model(torch.from_numpy(state).float())
            action = _choose(probs, rng)
            entropy = -(probs * probs.log()).sum()
            saved.append((probs[action].log(), value, entropy))
            state, reward, done = env.step(action)
            rewards.append(reward)
            if done:
                break
        R = 0.0
        returns: list[float] = []
        for r in rewards[::-1]:
            R = r + 0.9 * R
            returns.insert(0, R)
        policy_losses, value_losses = [], []
        for (log_prob, value, entropy), R in zip(saved, returns):
            advantage = R - value.item()
            policy_losses.append(-log_prob * advantage - 0.01 * entropy)
            value_losses.append(F.smooth_l1_loss(value, torch.tensor([R])))
        optimizer.zero_grad()
        loss = torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def maml(names: Names, steps: int) -> list[float]:
    """Learning to learn sines: inner steps by `grad(create_graph=True)`, `functional_call`; the outer through all."""
    torch, nn, F, optim, func = names.torch, names.nn, names.F, names.optim, names.func
    rng = np.random.default_rng(0)
    net = seeded(names, nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)))
    meta = optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        meta.zero_grad()
        total: Any = 0.0
        for _task in range(3):
            amplitude, phase = rng.uniform(0.5, 2.0), rng.uniform(0.0, math.pi)
            x = torch.from_numpy(rng.uniform(-3, 3, (20, 1)).astype(np.float32))
            y = amplitude * torch.sin(x + phase)
            params = dict(net.named_parameters())
            for _inner in range(2):
                inner_loss = F.mse_loss(func.functional_call(net, params, (x[:10],)), y[:10])
                grads = torch.autograd.grad(inner_loss, tuple(params.values()), create_graph=True)
                params = {name: p - 0.05 * g for (name, p), g in zip(params.items(), grads)}
            total = total + F.mse_loss(func.functional_call(net, params, (x[10:],)), y[10:])
        total.backward()
        meta.step()
        losses.append(total.item() / 3)
    return losses


def own_parts(names: Names, steps: int) -> list[float]:
    """A `Function` with `save_for_backward`, an `Optimizer` with state, hooks on gradients, checkpointed blocks."""
    torch, nn, F = names.torch, names.nn, names.F

    class LegendrePolynomial3(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, input: Any) -> Any:
            ctx.save_for_backward(input)
            return 0.5 * (5 * input**3 - 3 * input)

        @staticmethod
        def backward(ctx: Any, grad_output: Any) -> Any:
            (input,) = ctx.saved_tensors
            return grad_output * 1.5 * (5 * input**2 - 1)

    class StraightThrough(torch.autograd.Function):  # type: ignore[misc, name-defined]
        @staticmethod
        def forward(ctx: Any, x: Any, levels: int) -> Any:
            return torch.round(x * levels) / levels

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            assert ctx.needs_input_grad == (True, False)
            return grad.clone(), None

    class SignMomentum(torch.optim.Optimizer):  # type: ignore[misc, name-defined]
        def __init__(self, params: Any, lr: float = 1e-2, beta: float = 0.9) -> None:
            if lr < 0.0:
                raise ValueError(f"Invalid learning rate: {lr}")
            super().__init__(params, dict(lr=lr, beta=beta))

        @torch.no_grad()  # type: ignore[untyped-decorator]
        def step(self, closure: Any = None) -> Any:
            loss = None
            if closure is not None:
                with torch.enable_grad():
                    loss = closure()
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    if len(state) == 0:
                        state["step"] = 0
                        state["momentum"] = torch.zeros_like(p)
                    state["step"] += 1
                    state["momentum"].mul_(group["beta"]).add_(p.grad, alpha=1 - group["beta"])
                    p.add_(torch.tanh(state["momentum"] * 100), alpha=-group["lr"])
            return loss

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(64, 16)
            self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 16), nn.GELU()) for _ in range(2))
            self.scale = nn.ParameterList([nn.Parameter(torch.ones(1)) for _ in range(2)])
            self.last = nn.Linear(16, 10)

        def forward(self, x: Any) -> Any:
            x = LegendrePolynomial3.apply(torch.tanh(self.first(x)))
            for block, scale in zip(self.blocks, self.scale):
                x = x + scale * names.checkpoint(block, x, use_reentrant=False)
            return self.last(StraightThrough.apply(x, 8))

    images, labels = digits(32)
    x, y = torch.from_numpy(images).flatten(1), torch.from_numpy(labels)
    model = seeded(names, Net())
    seen: list[float] = []
    model.last.weight.register_hook(lambda grad: grad * 0.5)
    model.blocks[0].register_full_backward_hook(lambda module, gin, gout: seen.append(gout[0].norm().item()))
    optimizer = SignMomentum(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.95)
    losses = []
    for _ in range(steps):

        def closure() -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
        scheduler.step()
    assert len(seen) == steps
    return [*losses, *seen[:2]]


SCRIPTS = (gcn, gat, reinforce, actor_critic, maml, own_parts)
