"""Vision transformers: `vit:tiny`, or `vit:DEPTHxWIDTH` such as `vit:4x64`.

    z_0 = patches E + position,  z' = z + A(norm(z)),  z'' = z' + M(norm(z')),  logits = head(mean(norm(z)))
    A = concat_h softmax(Q_h K_h^T / sqrt(d)) V_h  W_o,     M(z) = W_2 gelu(W_1 z)

The image is cut into square patches, as small as the limits below allow: 7x7 of 4x4 pixels for 28x28, 8x8 of
4x4 for 32x32, 14x14 of 16x16 for 224x224. Heads are 64 wide, or one in a narrower network; W_1 is four
times as wide as the network. `tiny` is 12x192 with three heads. Layers are `patches`, `blocks.0.qkv`,
`blocks.0.proj`, `blocks.0.fc1`, `blocks.0.fc2`, ... and `fc`.

Differs from the paper: the mean of all tokens is read in place of a class token (Beyer et al. 2022: as good,
and simpler). No distillation, no windows, no dropout. Matrix products between activations have no weights;
pruning keeps what they tie together and removes hidden units of the MLPs only.

Example:
    >>> sum(p.numel() for p in build("tiny", (3, 224, 224), 1000).parameters())
    5717032

References:
    Dosovitskiy et al., An image is worth 16x16 words (ICLR 2021); Touvron et al., DeiT (ICML 2021), table 1.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from tersa.errors import UsageError
from tersa.models.family import LARGEST_WIDTH, Family, Shape, malformed

GRAMMAR = "vit:tiny|DEPTHxWIDTH (width below 64, or a multiple of it)"
TINY = (12, 192)
HEAD = 64
"""Width of one head."""
DEEPEST = 48
SMALL_IMAGE = 64
MOST_PATCHES = {True: 64, False: 196}
"""At most so many patches, for images up to `SMALL_IMAGE` and for larger ones."""


class Block(nn.Module):
    """Attention and an MLP, each behind a layer normalisation and around a shortcut.

    Args:
        width: of a token.
        heads: of the attention; they share the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.fc1 = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (N, T, D) of tokens (N, T, D)."""
        x = x + self.proj(self._attention(self.norm1(x)))
        return x + self.fc2(self.gelu(self.fc1(self.norm2(x))))

    def _attention(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).unflatten(2, (3, self.heads, -1))  # (N, T, 3, heads, d)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)  # (N, heads, T, d) each
        found = nn.functional.scaled_dot_product_attention(q, k, v)
        return found.transpose(1, 2).flatten(2)  # (N, T, D)


class VisionTransformer(nn.Module):
    """Patches, blocks, a normalisation, the mean over the tokens, one fully connected layer.

    Args:
        shape: (C, H, W) of one image.
        depth: blocks.
        width: of a token.
        classes: K, outputs.
        patch: side of a patch in pixels.
    """

    def __init__(self, shape: Shape, depth: int, width: int, classes: int, patch: int) -> None:
        super().__init__()
        channels, height, breadth = shape
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(torch.zeros(1, (height // patch) * (breadth // patch), width))
        self.blocks = nn.Sequential(*(Block(width, max(1, width // HEAD)) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.fc = nn.Linear(width, classes)

    def draw_(self) -> None:
        """Truncated normal weights of deviation 0.02 in linear layers and positions, biases of zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position  # (N, T, D)
        return self.fc(self.norm(self.blocks(tokens)).mean(1))


def patch_side(shape: Shape) -> int:
    """The smallest square patch that divides the image and keeps to `MOST_PATCHES`; 0 where none does.

    >>> patch_side((1, 28, 28)), patch_side((3, 224, 224)), patch_side((1, 8, 8)), patch_side((3, 37, 37))
    (4, 16, 1, 0)
    """
    _, height, width = shape
    most = MOST_PATCHES[max(height, width) <= SMALL_IMAGE]
    for side in range(1, min(height, width) // 2 + 1):
        if height % side == width % side == 0 and (height // side) * (width // side) <= most:
            return side
    return 0


def build(argument: str, shape: Shape, classes: int) -> nn.Module:
    """The network of `vit:ARGUMENT`."""
    depth, width = _sizes(argument)
    patch = patch_side(shape)
    if not patch:
        raise UsageError(
            f"model 'vit:{argument}' cuts images into equal square patches, which {shape[1]}x{shape[2]} "
            f"does not allow; use sides with a common divisor, such as 28x28, 32x32 or 224x224"
        )
    model = VisionTransformer(shape, depth, width, classes, patch)
    model.draw_()
    return model


def _sizes(argument: str) -> tuple[int, int]:
    """Depth and width."""
    if argument == "tiny":
        return TINY
    found = re.fullmatch(r"([0-9]{1,3})x([0-9]{1,6})", argument)
    if not found:
        raise malformed(GRAMMAR, argument, f"'{argument}' is neither tiny nor DEPTHxWIDTH")
    depth, width = int(found[1]), int(found[2])
    if not 1 <= depth <= DEEPEST:
        raise malformed(GRAMMAR, argument, f"depth {depth} is outside 1..{DEEPEST}")
    if not 1 <= width <= LARGEST_WIDTH or (width > HEAD and width % HEAD):
        raise malformed(GRAMMAR, argument, f"width {width} is neither below {HEAD} nor a multiple of it")
    return depth, width


FAMILY = Family(
    name="vit",
    grammar=GRAMMAR,
    default="tiny",
    smallest=2,
    build=build,
    about="vision transformer; tiny is DeiT-Ti with the mean of its tokens in place of a class token",
)
