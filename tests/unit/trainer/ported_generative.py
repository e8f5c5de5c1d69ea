"""Scripts about models that generate, as PyTorch's users know them, written anew for eight-by-eight digits and points.

Ideas: pytorch/examples (`dcgan`, `vae`), Gulrajani et al. 2017 (WGAN-GP), Kingma and Dhariwal 2018 (flows with
invertible linear maps), Ho et al. 2020 (DDPM), Miyato et al. 2018 (spectral normalisation). What is drawn comes from
NumPy, so that both libraries see the same.
"""

# ruff: noqa: B905  (as such scripts are written: names of the papers, plain zip)

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
from ported_support import Names, digits, seeded

__all__ = ["SCRIPTS"]


def _normal(names: Names, rng: np.random.Generator, *shape: int) -> Any:
    return names.torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def dcgan(names: Names, steps: int) -> list[float]:
    """Transposed convolutions against strided ones, `weights_init` by class name, two optimisers, real and fake."""
    torch, nn, optim = names.torch, names.nn, names.optim
    nz, ngf, ndf = 6, 4, 4

    def weights_init(m: Any) -> None:
        classname = m.__class__.__name__
        if classname.find("Conv") != -1:
            torch.nn.init.normal_(m.weight, 0.0, 0.02)
        elif classname.find("BatchNorm") != -1:
            torch.nn.init.normal_(m.weight, 1.0, 0.02)
            torch.nn.init.zeros_(m.bias)

    netG = nn.Sequential(
        nn.ConvTranspose2d(nz, ngf * 2, 2, 1, 0, bias=False),
        nn.BatchNorm2d(ngf * 2),
        nn.ReLU(True),
        nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False),
        nn.BatchNorm2d(ngf),
        nn.ReLU(True),
        nn.ConvTranspose2d(ngf, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
    )
    netD = nn.Sequential(
        nn.Conv2d(1, ndf, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False),
        nn.BatchNorm2d(ndf * 2),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(ndf * 2, 1, 2, 1, 0, bias=False),
        nn.Sigmoid(),
    )
    netG.apply(weights_init)
    netD.apply(weights_init)
    seeded(names, netG)
    seeded(names, netD, 1)
    criterion = nn.BCELoss()
    optimizerD = optim.Adam(netD.parameters(), lr=0.002, betas=(0.5, 0.999))
    optimizerG = optim.Adam(netG.parameters(), lr=0.002, betas=(0.5, 0.999))
    rng = np.random.default_rng(0)
    real = torch.from_numpy(digits(16)[0]).unsqueeze(1) * 2 - 1
    losses = []
    for _ in range(steps):
        netD.zero_grad()
        label = torch.full((16,), 1, dtype=real.dtype, device=real.device)
        output = netD(real).view(-1)
        errD_real = criterion(output, label)
        errD_real.backward()
        noise = _normal(names, rng, 16, nz, 1, 1)
        fake = netG(noise)
        label.fill_(0)
        output = netD(fake.detach()).view(-1)
        errD_fake = criterion(output, label)
        errD_fake.backward()
        errD = errD_real + errD_fake
        optimizerD.step()
        netG.zero_grad()
        label.fill_(1)
        errG = criterion(netD(fake).view(-1), label)
        errG.backward()
        optimizerG.step()
        losses.append(errD.item() + errG.item())
    return losses


def vae(names: Names, steps: int) -> list[float]:
    """The reparametrisation, and reconstruction plus Kullback-Leibler divergence."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    rng = np.random.default_rng(0)

    class VAE(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(64, 32)
            self.fc21 = nn.Linear(32, 4)
            self.fc22 = nn.Linear(32, 4)
            self.fc3 = nn.Linear(4, 32)
            self.fc4 = nn.Linear(32, 64)

        def encode(self, x: Any) -> Any:
            h1 = F.relu(self.fc1(x))
            return self.fc21(h1), self.fc22(h1)

        def reparameterize(self, mu: Any, logvar: Any) -> Any:
            std = torch.exp(0.5 * logvar)
            assert torch.randn_like(std).shape == std.shape
            eps = _normal(names, rng, *std.shape)
            return mu + eps * std

        def decode(self, z: Any) -> Any:
            return torch.sigmoid(self.fc4(F.relu(self.fc3(z))))

        def forward(self, x: Any) -> Any:
            mu, logvar = self.encode(x.view(-1, 64))
            return self.decode(self.reparameterize(mu, logvar)), mu, logvar

    def loss_function(recon_x: Any, x: Any, mu: Any, logvar: Any) -> Any:
        BCE = F.binary_cross_entropy(recon_x, x.view(-1, 64), reduction="sum")
        KLD = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
        return BCE + KLD

    data = torch.from_numpy(digits(32)[0]).unsqueeze(1)
    model = seeded(names, VAE())
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        recon_batch, mu, logvar = model(data)
        loss = loss_function(recon_batch, data, mu, logvar)
        loss.backward()
        losses.append(loss.item() / len(data))
        optimizer.step()
    with torch.no_grad():
        assert model.decode(torch.randn(3, 4)).cpu().view(3, 1, 8, 8).size() == (3, 1, 8, 8)
    return losses


def wgan_gp(names: Names, steps: int) -> list[float]:
    """A critic with a penalty on the gradient of its input: a gradient that is differentiated again."""
    torch, nn, optim = names.torch, names.nn, names.optim
    autograd = torch.autograd
    rng = np.random.default_rng(0)
    critic = seeded(
        names, nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16), nn.Softplus(), nn.Linear(16, 1))
    )
    generator = seeded(names, nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2)), 1)
    optimizer_D = optim.Adam(critic.parameters(), lr=1e-2, betas=(0.5, 0.9))
    optimizer_G = optim.RMSprop(generator.parameters(), lr=1e-3, centered=True)
    losses = []

    def gradient_penalty(real: Any, fake: Any) -> Any:
        alpha = torch.from_numpy(rng.random((real.size(0), 1)).astype(np.float32)).expand_as(real)
        interpolates = (alpha * real + ((1 - alpha) * fake)).requires_grad_(True)
        d_interpolates = critic(interpolates)
        gradients = autograd.grad(
            outputs=d_interpolates,
            inputs=interpolates,
            grad_outputs=torch.ones(d_interpolates.size()),
            create_graph=True,
            retain_graph=True,
            only_inputs=True,
        )[0]
        gradients = gradients.view(gradients.size(0), -1)
        return ((gradients.norm(2, dim=1) - 1) ** 2).mean()

    for _ in range(steps):
        angle = torch.from_numpy(rng.random(32).astype(np.float32)) * 2 * math.pi
        real = torch.stack((torch.cos(angle), torch.sin(angle)), dim=-1)
        for p in critic.parameters():
            p.requires_grad = True
        with torch.no_grad():
            fake = generator(_normal(names, rng, 32, 2))
        optimizer_D.zero_grad()
        d_loss = -torch.mean(critic(real)) + torch.mean(critic(fake)) + 10 * gradient_penalty(real, fake)
        d_loss.backward()
        optimizer_D.step()
        for p in critic.parameters():
            p.requires_grad = False
        optimizer_G.zero_grad()
        g_loss = -critic(generator(_normal(names, rng, 32, 2))).mean()
        g_loss.backward()
        optimizer_G.step()
        losses.append(d_loss.item())
    return losses


def normalising_flow(names: Names, steps: int) -> list[float]:
    """Affine couplings and invertible linear maps, whose log-determinant is `slogdet`'s; then the inverse."""
    torch, nn, optim = names.torch, names.nn, names.optim

    class InvertibleLinear(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.linalg.qr(torch.randn(dim, dim))[0])

        def forward(self, x: Any) -> Any:
            _sign, logabsdet = torch.slogdet(self.weight)
            return x @ self.weight.t(), logabsdet.expand(x.size(0))

        def inverse(self, z: Any) -> Any:
            return torch.linalg.solve(self.weight, z.T).T

    class AffineCoupling(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(dim // 2, 16), nn.ELU(), nn.Linear(16, dim))
            self.register_buffer("flip", torch.arange(dim - 1, -1, -1))

        def forward(self, x: Any) -> Any:
            x1, x2 = x[:, self.flip].chunk(2, dim=1)
            s, t = self.net(x1).chunk(2, 1)
            s = torch.tanh(s)
            return torch.cat([x1, x2 * s.exp() + t], dim=1), s.sum(-1)

        def inverse(self, z: Any) -> Any:
            x1, z2 = z.tensor_split(2, dim=1)
            s, t = self.net(x1).chunk(2, 1)
            return torch.cat([x1, (z2 - t) * torch.exp(-torch.tanh(s))], dim=1).flip(1)

    layers = nn.ModuleList([m for _ in range(3) for m in (InvertibleLinear(4), AffineCoupling(4))])
    seeded(names, layers)
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight += torch.eye(4)
    rng = np.random.default_rng(0)
    x = _normal(names, rng, 64, 4) @ _normal(names, rng, 4, 4) * 0.5
    optimizer = optim.Adamax(layers.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        z, log_det = x, torch.zeros(len(x))
        for layer in layers:
            z, ld = layer(z)
            log_det = log_det + ld
        log_prob = (-0.5 * z**2 - 0.5 * math.log(2 * math.pi)).sum(1) + log_det
        loss = -log_prob.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    with torch.no_grad():
        z = x
        for layer in layers:
            z, _ = layer(z)
        for layer in reversed(layers):
            z = layer.inverse(z)
        assert torch.allclose(z, x, atol=1e-3)
    return losses


def ddpm(names: Names, steps: int) -> list[float]:
    """A noise schedule in buffers, sinusoidal embeddings of time, an EMA by hand and by `AveragedModel`; sampling."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    T = 20

    class SinusoidalPositionEmbeddings(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, dim: int) -> None:
            super().__init__()
            self.dim = dim

        def forward(self, time: Any) -> Any:
            device = time.device
            half_dim = self.dim // 2
            embeddings = math.log(10000) / (half_dim - 1)
            embeddings = torch.exp(torch.arange(half_dim, device=device) * -embeddings)
            embeddings = time[:, None] * embeddings[None, :]
            return torch.cat((embeddings.sin(), embeddings.cos()), dim=-1)

    class Denoiser(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.time_mlp = nn.Sequential(SinusoidalPositionEmbeddings(8), nn.Linear(8, 16), nn.SiLU())
            self.inp = nn.Linear(64, 16)
            self.norm = nn.RMSNorm(16)
            self.out = nn.Linear(16, 64)

        def forward(self, x: Any, t: Any) -> Any:
            h = self.norm(F.silu(self.inp(x.flatten(1))) + self.time_mlp(t))
            return self.out(h).view_as(x)

    def extract(a: Any, t: Any, x_shape: Any) -> Any:
        out = a.gather(-1, t.cpu())
        return out.reshape(t.shape[0], *((1,) * (len(x_shape) - 1))).to(t.device)

    betas = torch.linspace(0.0001, 0.02, T)
    alphas = 1.0 - betas
    alphas_cumprod = torch.cumprod(alphas, dim=0)  # published: axis=0
    alphas_cumprod_prev = F.pad(alphas_cumprod[:-1], (1, 0), value=1.0)
    sqrt_alphas_cumprod = torch.sqrt(alphas_cumprod)
    sqrt_one_minus_alphas_cumprod = torch.sqrt(1.0 - alphas_cumprod)
    posterior_variance = betas * (1.0 - alphas_cumprod_prev) / (1.0 - alphas_cumprod)

    rng = np.random.default_rng(0)
    x_start = torch.from_numpy(digits(32)[0]).unsqueeze(1) * 2 - 1
    model = seeded(names, Denoiser())
    ema_model = copy.deepcopy(model).eval().requires_grad_(False)
    average = optim.swa_utils.AveragedModel(model, multi_avg_fn=optim.swa_utils.get_ema_multi_avg_fn(0.9))
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        t = torch.from_numpy(rng.integers(0, T, (32,))).long()
        noise = _normal(names, rng, *x_start.shape)
        x_noisy = (
            extract(sqrt_alphas_cumprod, t, x_start.shape) * x_start
            + extract(sqrt_one_minus_alphas_cumprod, t, x_start.shape) * noise
        )
        loss = F.huber_loss(model(x_noisy, t), noise)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for ema_p, p in zip(ema_model.parameters(), model.parameters()):
                ema_p.mul_(0.9).add_(p, alpha=0.1)
        average.update_parameters(model)
        losses.append(loss.item())

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def p_sample(x: Any, index: int) -> Any:
        t = torch.full((x.shape[0],), index, dtype=torch.long)
        mean = torch.rsqrt(extract(alphas, t, x.shape)) * (
            x - extract(betas, t, x.shape) * ema_model(x, t) / extract(sqrt_one_minus_alphas_cumprod, t, x.shape)
        )
        if index == 0:
            return mean
        return mean + torch.sqrt(extract(posterior_variance, t, x.shape)) * _normal(names, rng, *x.shape)

    img = _normal(names, rng, 2, 1, 8, 8)
    for index in reversed(range(T)):
        img = p_sample(img, index)
    assert torch.isfinite(img).all()
    return [*losses, (ema_model(x_noisy, t) - noise).square().mean().item(), average(x_noisy, t).abs().mean().item()]


def spectral_gan(names: Names, steps: int) -> list[float]:
    """Hinge losses for a critic whose weights are divided by their largest singular value (given to both libraries)."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    spectral_norm = nn.utils.parametrizations.spectral_norm
    critic = seeded(names, nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 1)))
    spectral_norm(critic[0], n_power_iterations=1)
    spectral_norm(critic[3])
    with torch.no_grad():  # the vectors of the power iteration are drawn: here they are not
        for name, buffer in critic.named_buffers():
            buffer.copy_(F.normalize(torch.ones(buffer.shape), dim=0, eps=1e-12))
            assert name.endswith(("_u", "_v"))
    real = torch.from_numpy(digits(16)[0]).unsqueeze(1)
    fake = torch.rot90(real, 1, (2, 3)).roll(shifts=(1, 2), dims=(2, 3))
    optimizer = optim.SGD(critic.parameters(), lr=0.5, momentum=0.9, nesterov=True)
    losses = []
    for _ in range(steps):
        loss = F.relu(1.0 - critic(real)).mean() + F.relu(1.0 + critic(fake)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


SCRIPTS = (dcgan, vae, wgan_gp, normalising_flow, ddpm, spectral_gan)
