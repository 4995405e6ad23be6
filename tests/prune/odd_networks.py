"""Small networks that are legal but unusual: weights without a layer, ties, values nobody saves."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Raw(nn.Module):
    """Functional layers on parameters of the network itself, around an ordinary convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(6, 3, 3, 3))
        self.conv = nn.Conv2d(6, 6, 1)
        self.v = nn.Parameter(torch.ones(5, 6))
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(torch.relu(F.conv2d(x, self.w))))
        return self.fc(torch.relu(F.linear(x.mean((2, 3)), self.v)))


class RawNorm(nn.Module):
    """Batch norm as a function, on parameters and buffers of the network itself."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.mean: Tensor
        self.var: Tensor
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("var", torch.ones(6))
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.conv(x), self.mean, self.var.abs(), self.weight, self.bias)
        return self.fc(torch.relu(x).mean((2, 3)))


class RawNormPlain(RawNorm):
    """The same with its buffers as they are."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.conv(x), self.mean, self.var, self.weight, self.bias, eps=1.0)
        return self.fc(torch.relu(x).mean((2, 3)))


class Borrowed(nn.Module):
    """A convolution that is never called: its weights are used by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(6, 5, 1)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(F.conv2d(x, self.a.weight, self.a.bias))
        return self.fc(torch.relu(self.b(x)).mean((2, 3)))


class Patches(nn.Conv2d):
    """A convolution that returns tokens: its channels are the last dimension."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).flatten(2).transpose(1, 2)


class ConvRelu(nn.Conv2d):
    """A convolution with its activation."""

    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


class Subclasses(nn.Module):
    """Layers with forward code of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = ConvRelu(3, 6, 1)
        self.b = Patches(6, 5, 2, stride=2)
        self.fc = nn.Linear(5, 4)
        self.out = nn.Linear(16 * 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.fc(self.b(self.a(x)))).flatten(1))


class Transposed(nn.Module):
    """A transposed convolution between ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.b = nn.Conv2d(6, 7, 1)
        self.fc = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(torch.relu(self.a(x))))
        return self.fc(torch.relu(self.b(x)).mean((2, 3)))


class Computed(nn.Module):
    """Weights computed from parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 5, 1))
        self.c = nn.Conv2d(5, 7, 1)
        self.fc = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.c(self.b(torch.relu(self.a(x))))).mean((2, 3)))


class Tied(nn.Module):
    """Two branches that read one hidden layer with the same weights and their own biases."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 8)
        self.a = nn.Linear(8, 7)
        self.b = nn.Linear(8, 7)
        self.b.weight = self.a.weight
        self.out = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.hidden(x.flatten(1)))
        return self.out(torch.relu(self.a(x)) + torch.sigmoid(self.b(x)))


class TwoNames(nn.Module):
    """One block under two names, called under both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.again = self.block
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.block(torch.relu(self.stem(x))))
        return self.fc(torch.relu(self.again(x)).mean((2, 3)))


class TwoDepthwise(nn.Module):
    """One depthwise convolution called twice, and known by a second name only from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.alias = nn.ModuleList([self.deep])
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.deep(torch.relu(self.stem(x))))
        return self.fc(torch.relu(self.alias[0](x)).mean((2, 3)))


class AutoEncoder(nn.Module):
    """The decoder is the encoder's weights, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.encode = nn.Linear(8, 5)
        self.out = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.encode(torch.relu(self.a(x.flatten(1)))))
        return self.out(torch.relu(F.linear(x, self.encode.weight.t())))


class Constant(nn.Module):
    """Values per channel that are no parameter, or computed from one; the ramp over positions is fine."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 1)
        self.b = nn.Conv2d(6, 5, 1)
        self.c = nn.Conv2d(5, 7, 1)
        self.plain = torch.linspace(0.5, 1.5, 6)[:, None, None]
        self.log = nn.Parameter(torch.zeros(5, 1, 1))
        self.ramp = torch.linspace(0.5, 1.5, 8)
        self.fc = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.a(x) * self.plain)
        x = torch.relu(self.b(x) * torch.exp(self.log))
        return self.fc((torch.relu(self.c(x)) * self.ramp).mean((2, 3)))


class Unsaved(nn.Module):
    """A buffer per channel that is not part of the saved state."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 7)
        self.scale: Tensor
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8), persistent=False)
        self.out = nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.b(torch.relu(self.a(x.flatten(1))) * self.scale)))


class Instance(nn.Module):
    """Instance norm with and without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1)
        self.affine = nn.InstanceNorm2d(6, affine=True)
        self.b = nn.Conv2d(6, 5, 3, padding=1)
        self.bare = nn.InstanceNorm2d(5)
        self.fc = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.affine(self.a(x)))
        return self.fc(torch.relu(self.bare(self.b(x))).mean((2, 3)))


class Partial(nn.Module):
    """A residual addition over a concatenation: a layer that makes only some channels of its group."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(3, 2, 1)
        self.rest = nn.Conv2d(3, 6, 1)
        self.whole = nn.Conv2d(3, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.narrow(x), self.rest(x)], 1)
        return self.fc(torch.relu(both + self.whole(x)).mean((2, 3)))


class Attention(nn.Module):
    """Self-attention, whose projections are functions on raw weights, after an ordinary layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 7, 1)
        self.b = nn.Conv2d(7, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(torch.relu(self.a(x))).flatten(2).transpose(1, 2)
        return self.fc(self.attention(x, x, x, need_weights=False)[0].mean(1))
