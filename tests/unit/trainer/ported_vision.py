"""Scripts about images, as PyTorch's users know them, written anew for eight-by-eight digits.

Ideas: pytorch/examples (`mnist`, `siamese_network`, `super_resolution`, `fast_neural_style`), He et al. 2016 in its
CIFAR form, Ronneberger et al. 2015 (U-Net), Dosovitskiy et al. 2021 (ViT), Hinton et al. 2015 (distillation).
"""

# ruff: noqa: B905, PLW2901  (as such scripts are written: names of the papers, plain zip)

from __future__ import annotations

from typing import Any

import numpy as np
from ported_support import Names, digits, seeded

__all__ = ["SCRIPTS"]


def mnist(names: Names, steps: int) -> list[float]:
    """Two convolutions and two linear layers, a loader, Adadelta and StepLR; then a test."""
    torch, nn, F, optim, data = names.torch, names.nn, names.F, names.optim, names.data

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(1, 8, 3, 1)
            self.conv2 = nn.Conv2d(8, 16, 3, 1)
            self.dropout1 = nn.Dropout(0.0)
            self.dropout2 = nn.Dropout(0.0)
            self.fc1 = nn.Linear(64, 32)
            self.fc2 = nn.Linear(32, 10)

        def forward(self, x: Any) -> Any:
            x = self.conv1(x)
            x = F.relu(x)
            x = self.conv2(x)
            x = F.relu(x)
            x = F.max_pool2d(x, 2)
            x = self.dropout1(x)
            x = torch.flatten(x, 1)
            x = self.fc1(x)
            x = F.relu(x)
            x = self.dropout2(x)
            x = self.fc2(x)
            return F.log_softmax(x, dim=1)

    device = torch.device("cpu")
    images, labels = digits(steps * 32)
    dataset = data.TensorDataset(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels))
    train_loader = data.DataLoader(dataset, batch_size=32)
    test_loader = data.DataLoader(dataset, batch_size=100)
    model = seeded(names, Net().to(device))
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    losses = []
    for _epoch in range(1):
        model.train()
        for _batch_idx, (data_, target) in enumerate(train_loader):
            data_, target = data_.to(device), target.to(device)
            optimizer.zero_grad()
            output = model(data_)
            loss = F.nll_loss(output, target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.eval()
        test_loss, correct = 0.0, 0
        with torch.no_grad():
            for data_, target in test_loader:
                output = model(data_.to(device))
                test_loss += F.nll_loss(output, target, reduction="sum").item()
                pred = output.argmax(dim=1, keepdim=True)
                correct += pred.eq(target.view_as(pred)).sum().item()
        losses.append(test_loss / len(test_loader.dataset))
        scheduler.step()
    assert correct > 30
    return losses


def siamese(names: Names, steps: int) -> list[float]:
    """Two images through one trunk, and a loss on their pair; then triplets, with a margin."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim

    class SiameseNetwork(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.Flatten())
            self.fc = nn.Sequential(nn.Linear(72, 32), nn.ReLU(inplace=True), nn.Linear(32, 1))
            self.sigmoid = nn.Sigmoid()
            self.trunk.apply(self.init_weights)
            self.fc.apply(self.init_weights)

        def init_weights(self, m: Any) -> None:
            if isinstance(m, nn.Linear):
                nn.init.xavier_uniform_(m.weight)
                nn.init.constant_(m.bias, 0.01)  # published: m.bias.data.fill_(0.01)

        def forward_once(self, x: Any) -> Any:
            output = self.trunk(x)
            return output.view(output.size()[0], -1)

        def forward(self, input1: Any, input2: Any) -> Any:
            output = torch.cat((self.forward_once(input1), self.forward_once(input2)), 1)
            return self.sigmoid(self.fc(output))

    images, labels = digits(3 * 16)
    model = SiameseNetwork()
    assert float(model.fc[0].bias[0]) == np.float32(0.01)
    seeded(names, model)
    a, b, c = torch.from_numpy(images).unsqueeze(1).chunk(3)
    target = torch.from_numpy(labels[:16] == labels[16:32]).float()
    criterion, triplet = nn.BCELoss(), nn.TripletMarginLoss(margin=1.0, p=2)
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        outputs = model(a, b).squeeze()
        loss = criterion(outputs, target)
        anchor, positive, negative = (F.normalize(model.forward_once(x)) for x in (a, b, c))
        loss = (
            loss + triplet(anchor, positive, negative) + 0.1 * F.cosine_embedding_loss(anchor, negative, target * 2 - 1)
        )
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def super_resolution(names: Names, steps: int) -> list[float]:
    """PixelShuffle, orthogonal initialisation with a gain, and a bilinear base line."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    init = nn.init

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, upscale_factor: int) -> None:
            super().__init__()
            self.relu = nn.ReLU()
            self.conv1 = nn.Conv2d(1, 8, (5, 5), (1, 1), (2, 2))
            self.conv2 = nn.Conv2d(8, 8, (3, 3), (1, 1), (1, 1))
            self.conv4 = nn.Conv2d(8, upscale_factor**2, (3, 3), (1, 1), (1, 1))
            self.pixel_shuffle = nn.PixelShuffle(upscale_factor)
            init.orthogonal_(self.conv1.weight, init.calculate_gain("relu"))
            init.orthogonal_(self.conv4.weight)

        def forward(self, x: Any) -> Any:
            x = self.relu(self.conv1(x))
            x = self.relu(self.conv2(x))
            return self.pixel_shuffle(self.conv4(x))

    images, _ = digits(16)
    target = torch.from_numpy(images).unsqueeze(1)
    input_ = F.interpolate(target, scale_factor=0.5, mode="bilinear", align_corners=False)
    base = F.interpolate(input_, size=(8, 8), mode="bicubic", align_corners=True)
    model = seeded(names, Net(2))
    criterion = nn.MSELoss()
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    losses = [criterion(base, target).item()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = criterion(model(input_), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.isfinite(10 * np.log10(1 / losses[-1]))
    return losses[1:]


def neural_style(names: Names, steps: int) -> list[float]:
    """Features by hooks, Gram matrices, InstanceNorm, reflection padding, upsampling: a feed-forward net is trained."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim

    def gram_matrix(y: Any) -> Any:
        (b, ch, h, w) = y.size()
        features = y.view(b, ch, w * h)
        features_t = features.transpose(1, 2)
        return features.bmm(features_t) / (ch * h * w)

    class ConvLayer(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(
            self, in_channels: int, out_channels: int, kernel_size: int, stride: int, upsample: int | None = None
        ):
            super().__init__()
            self.upsample = upsample
            self.reflection_pad = nn.ReflectionPad2d(kernel_size // 2)
            self.conv2d = nn.Conv2d(in_channels, out_channels, kernel_size, stride)

        def forward(self, x: Any) -> Any:
            if self.upsample:
                x = F.interpolate(x, mode="nearest", scale_factor=self.upsample)
            return self.conv2d(self.reflection_pad(x))

    transformer = nn.Sequential(
        ConvLayer(1, 4, 3, 2),
        nn.InstanceNorm2d(4, affine=True),
        nn.ReLU(),
        ConvLayer(4, 1, 3, 1, upsample=2),
        nn.Tanh(),
    )
    vgg = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
    seeded(names, transformer)
    seeded(names, vgg, 1)
    for param in vgg.parameters():
        param.requires_grad = False
    vgg.eval()
    features: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            features[name] = output

        return hook

    handles = [vgg[1].register_forward_hook(keep("relu1")), vgg[3].register_forward_hook(keep("relu2"))]
    images, _ = digits(9)
    x = torch.from_numpy(images[:8]).unsqueeze(1)
    style = torch.from_numpy(images[8:]).unsqueeze(1).repeat(8, 1, 1, 1)
    vgg(style)
    gram_style = [gram_matrix(y) for y in features.values()]
    optimizer = optim.Adam(transformer.parameters(), 1e-2)
    mse_loss = nn.MSELoss()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        y = transformer(x)
        vgg(y)
        features_y = dict(features)
        vgg(x)
        content_loss = mse_loss(features_y["relu2"], features["relu2"])
        style_loss = 0.0
        for ft_y, gm_s in zip(features_y.values(), gram_style):
            gm_y = gram_matrix(ft_y)
            style_loss += mse_loss(gm_y, gm_s[:8, :, :])
        total_loss = content_loss + 10.0 * style_loss
        total_loss.backward()
        optimizer.step()
        losses.append(total_loss.item())
    for handle in handles:
        handle.remove()
    return losses


def resnet(names: Names, steps: int) -> list[float]:
    """Basic blocks with BatchNorm and shortcuts, SGD with momentum and cosine annealing, then `eval()`."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim

    class BasicBlock(nn.Module):  # type: ignore[misc, name-defined]
        expansion = 1

        def __init__(self, in_planes: int, planes: int, stride: int = 1) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(in_planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(planes)
            self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
            self.bn2 = nn.BatchNorm2d(planes)
            self.shortcut = nn.Sequential()
            if stride != 1 or in_planes != self.expansion * planes:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(in_planes, self.expansion * planes, kernel_size=1, stride=stride, bias=False),
                    nn.BatchNorm2d(self.expansion * planes),
                )

        def forward(self, x: Any) -> Any:
            out = F.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += self.shortcut(x)
            return F.relu(out)

    class ResNet(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, block: Any, num_blocks: list[int], num_classes: int = 10) -> None:
            super().__init__()
            self.in_planes = 4
            self.conv1 = nn.Conv2d(1, 4, kernel_size=3, stride=1, padding=1, bias=False)
            self.bn1 = nn.BatchNorm2d(4)
            self.layer1 = self._make_layer(block, 4, num_blocks[0], stride=1)
            self.layer2 = self._make_layer(block, 8, num_blocks[1], stride=2)
            self.layer3 = self._make_layer(block, 16, num_blocks[2], stride=2)
            self.linear = nn.Linear(16 * block.expansion, num_classes)
            for m in self.modules():
                if isinstance(m, nn.Conv2d):
                    nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
                elif isinstance(m, (nn.BatchNorm2d, nn.GroupNorm)):
                    nn.init.constant_(m.weight, 1)
                    nn.init.constant_(m.bias, 0)

        def _make_layer(self, block: Any, planes: int, num_blocks: int, stride: int) -> Any:
            strides = [stride] + [1] * (num_blocks - 1)
            layers = []
            for stride_ in strides:
                layers.append(block(self.in_planes, planes, stride_))
                self.in_planes = planes * block.expansion
            return nn.Sequential(*layers)

        def forward(self, x: Any) -> Any:
            out = F.relu(self.bn1(self.conv1(x)))
            out = self.layer3(self.layer2(self.layer1(out)))
            out = F.avg_pool2d(out, 2)
            out = out.view(out.size(0), -1)
            return self.linear(out)

    images, labels = digits(32)
    x, y = torch.from_numpy(images)[:, None], torch.tensor(labels)
    net = seeded(names, ResNet(BasicBlock, [2, 2, 2]))
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    losses = []
    for _ in range(steps):
        net.train()
        optimizer.zero_grad()
        outputs = net(x)
        loss = criterion(outputs, y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    net.eval()
    with torch.no_grad():
        outputs = net(x)
        _, predicted = outputs.max(1)
        assert predicted.eq(y).sum().item() > 8
        losses.append(criterion(outputs, y).item())
    return losses


def unet(names: Names, steps: int) -> list[float]:
    """Skip connections over a transposed convolution and an upsampling; binary masks, Dice and logits."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim

    def double_conv(in_channels: int, out_channels: int) -> Any:
        return nn.Sequential(
            nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1),
            nn.GroupNorm(2, out_channels),
            nn.LeakyReLU(0.1, inplace=True),
        )

    class UNet(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inc = double_conv(1, 4)
            self.down1 = nn.Sequential(nn.MaxPool2d(2), double_conv(4, 8))
            self.down2 = nn.Sequential(nn.MaxPool2d(2), double_conv(8, 8))
            self.up1 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv1 = double_conv(16, 8)
            self.up2 = nn.ConvTranspose2d(8, 4, kernel_size=2, stride=2)
            self.conv2 = double_conv(8, 4)
            self.outc = nn.Conv2d(4, 1, kernel_size=1)

        def forward(self, x: Any) -> Any:
            x1 = self.inc(x)
            x2 = self.down1(x1)
            x3 = self.down2(x2)
            up = self.up1(x3)
            diff_y, diff_x = x2.size()[2] - up.size()[2], x2.size()[3] - up.size()[3]
            up = F.pad(up, [diff_x // 2, diff_x - diff_x // 2, diff_y // 2, diff_y - diff_y // 2])
            x = self.conv1(torch.cat([x2, up], dim=1))
            up = self.up2(x)
            up = F.pad(up, [0, x1.shape[3] - up.shape[3], 0, x1.shape[2] - up.shape[2]])
            return self.outc(self.conv2(torch.cat([x1, up], dim=1)))

    images, _ = digits(8)
    x = torch.from_numpy(images[:, :7, :7].copy()).unsqueeze(1)
    masks = (x > 0.5).to(torch.float32)
    model = seeded(names, UNet())
    optimizer = optim.RMSprop(model.parameters(), lr=1e-3, weight_decay=1e-8, momentum=0.9)
    criterion = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0]))
    losses = []
    for _ in range(steps):
        pred = model(x)
        loss = criterion(pred, masks)
        inter = 2 * (torch.sigmoid(pred).squeeze(1) * masks.squeeze(1)).sum(dim=(-1, -2))
        sets_sum = torch.sigmoid(pred).squeeze(1).sum(dim=(-1, -2)) + masks.squeeze(1).sum(dim=(-1, -2))
        sets_sum = torch.where(sets_sum == 0, inter, sets_sum)
        loss += 1 - ((inter + 1e-6) / (sets_sum + 1e-6)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return losses


def vit(names: Names, steps: int) -> list[float]:
    """Patches by unfold, a class token, a learnt position, pre-norm attention by one product for q, k and v."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim

    class Attention(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, dim: int, heads: int) -> None:
            super().__init__()
            self.heads, self.scale = heads, (dim // heads) ** -0.5
            self.norm = nn.LayerNorm(dim)
            self.attend = nn.Softmax(dim=-1)
            self.to_qkv = nn.Linear(dim, dim * 3, bias=False)
            self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.0))

        def forward(self, x: Any) -> Any:
            b, n, d = x.shape
            x = self.norm(x)
            qkv = self.to_qkv(x).chunk(3, dim=-1)
            q, k, v = (t.reshape(b, n, self.heads, d // self.heads).permute(0, 2, 1, 3) for t in qkv)
            dots = torch.matmul(q, k.transpose(-1, -2)) * self.scale
            out = torch.matmul(self.attend(dots), v)
            return self.to_out(out.permute(0, 2, 1, 3).reshape(b, n, d))

    class ViT(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, dim: int = 16, depth: int = 2, heads: int = 2) -> None:
            super().__init__()
            self.to_patch = nn.Linear(4, dim)
            self.pos_embedding = nn.Parameter(torch.randn(1, 17, dim))
            self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
            self.layers = nn.ModuleList([])
            for _ in range(depth):
                ff = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 32), nn.GELU(), nn.Linear(32, dim))
                self.layers.append(nn.ModuleList([Attention(dim, heads), ff]))
            self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 10))

        def forward(self, img: Any) -> Any:
            x = F.unfold(img, kernel_size=2, stride=2).transpose(1, 2)
            x = self.to_patch(x)
            b, n, _ = x.shape
            x = torch.cat((self.cls_token.expand(b, -1, -1), x), dim=1)
            x += self.pos_embedding[:, : (n + 1)]
            for attn, ff in self.layers:
                x = attn(x) + x
                x = ff(x) + x
            return self.mlp_head(x[:, 0])

    images, labels = digits(32)
    x, y = torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels)
    model = seeded(names, ViT())
    optimizer = optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    warm = optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=5)
    cosine = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - 5)
    scheduler = optim.lr_scheduler.SequentialLR(optimizer, [warm, cosine], milestones=[5])
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    assert abs(scheduler.get_last_lr()[0]) < 1e-3
    return losses


def distillation(names: Names, steps: int) -> list[float]:
    """A student learns from a frozen teacher's softened outputs; the gradient is accumulated over micro-batches."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    images, labels = digits(64)
    x, y = torch.from_numpy(images).flatten(1), torch.from_numpy(labels)
    teacher = seeded(names, nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)), 1)
    student = seeded(names, nn.Sequential(nn.Linear(64, 8), nn.SiLU(), nn.Linear(8, 10)))
    optimizer = optim.NAdam(student.parameters(), lr=0.02)
    scheduler = optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
    T, alpha, accumulation_steps = 4.0, 0.5, 2
    kl = nn.KLDivLoss(reduction="batchmean")
    losses = []
    teacher.eval()
    for _ in range(steps):
        total = 0.0
        optimizer.zero_grad()
        for xb, yb in zip(x.split(32), y.split(32)):
            with torch.no_grad():
                teacher_logits = teacher(xb)
            logits = student(xb)
            soft = kl(F.log_softmax(logits / T, dim=-1), F.softmax(teacher_logits / T, dim=-1)) * (T * T)
            loss = (alpha * soft + (1 - alpha) * F.cross_entropy(logits, yb)) / accumulation_steps
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_value_(student.parameters(), clip_value=0.5)
        optimizer.step()
        scheduler.step(total)
        losses.append(total)
    return losses


SCRIPTS = (mnist, siamese, super_resolution, neural_style, resnet, unet, vit, distillation)
