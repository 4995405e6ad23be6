"""Small networks with every kind of coupling, with fixed, non-trivial weights."""

import torch
from torch import Tensor, nn


def fill(model: nn.Module) -> nn.Module:
    """Weights from a sine, batch-norm statistics that are not 0 and 1."""
    with torch.no_grad():
        for index, value in enumerate([*model.parameters(), *model.buffers()]):
            if value.is_floating_point():
                flat = torch.sin(0.7 * torch.arange(value.numel(), dtype=torch.float32) + index)
                value.copy_(flat.view(value.shape) * 0.5)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_var is not None
                module.running_var.abs_().add_(0.5)
    return model.eval()


class Chain(nn.Module):
    """conv, bn, relu, pool, flatten, fc, fc."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.fc1 = nn.Linear(6 * 16, 7)
        self.fc2 = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.relu(self.bn(self.conv1(x))), 2)
        return self.fc2(torch.relu(self.fc1(torch.flatten(x, 1))))


class Residual(nn.Module):
    """Two convolutions joined by an addition, a free one between them, a global mean at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 5, 3, padding=1)
        self.outer = nn.Conv2d(5, 6, 3, padding=1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        return self.fc(x.mean((2, 3)))


class Depthwise(nn.Module):
    """Pointwise and depthwise convolutions, the latter with two outputs per channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(6, 12, 3, padding=1, groups=6)
        self.c = nn.Conv2d(12, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x))))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Grouped(nn.Module):
    """A grouped convolution, a gate from its own mean (squeeze and excitation), a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3)
        self.b = nn.Conv2d(8, 16, 3, groups=4)
        self.bn = nn.BatchNorm2d(16)
        self.gate = nn.Linear(16, 16)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))
        self.c = nn.Conv2d(16, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.b(torch.relu(self.a(x)))) * self.scale
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))[:, :, None, None]
        return self.fc(self.c(x * gate).mean((-1, -2)))


class Dense(nn.Module):
    """Concatenation, then equal parts of it."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.b = nn.Conv2d(7, 6, 3, padding=1)
        self.c = nn.Conv2d(3, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, torch.relu(self.a(x))], dim=1)
        left, right = torch.relu(self.b(x)).chunk(2, dim=1)
        return self.fc(self.c(left + 2 * right).mean((2, 3)))


class Fixed(nn.Module):
    """Forward code that writes a number of channels down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.fc = nn.Linear(6 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(-1, 6 * 64))


class Odd(nn.Module):
    """An operation without a rule between two layers: a softmax over channels, and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(6, 5, 1)
        self.norm = nn.LayerNorm(5)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.softmax(self.a(x), dim=1)).mean((2, 3))
        return self.fc(self.norm(x))
