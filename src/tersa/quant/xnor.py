"""XNOR-Net's layers: signs of weights and inputs, each with a factor, the inputs' one in floating point.

    y = conv(sign(x), sign(W)) alpha K,    alpha_o = mean |w_o|,    K = conv(mean over channels |x|, 1 / k^2)

K is a map of the inputs' mean magnitude under the kernel, (N, 1, H', W'); zeros beyond the border count. For
a fully connected layer it is the mean of the image's |x|, (N, 1). These layers read real values (the
normalised sums of the layer before), so that pooling comes before the sign, which changes nothing.

This is a float path: the product with K is not an integer, and no packed program holds it. `scale=channel`
leaves K out, and is an integer network; the paper reports that K matters little (section 3.2).

Example:
    >>> from tersa.quant.layers import QuantLinear, WeightForm
    >>> layer = Xnor(QuantLinear(2, 1, form=WeightForm(scale="channel")))
    >>> _ = layer.layer.weight.data.copy_(torch.tensor([[0.5, -0.25]]))
    >>> layer(torch.tensor([[2.0, 1.0]])).tolist()
    [[0.0]]
    >>> layer(torch.tensor([[2.0, -1.0]])).tolist()
    [[1.125]]

References:
    Rastegari et al., XNOR-Net (ECCV 2016), section 3.2, equations 10 and 11.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersa.quant.layers import QuantActivation, QuantConv2d, QuantLayer


class Xnor(nn.Module):
    """A layer of signs whose inputs' magnitude is put back.

    Args:
        layer: with 1-bit weights, reads signs.
        by: gradient of the inputs' sign.
    """

    def __init__(self, layer: QuantLayer, by: str = "ste") -> None:
        super().__init__()
        self.activation = QuantActivation(1, by)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Sums of signs times alpha and K."""
        return self.layer(self.activation(x)) * magnitude(x, self.layer)


def magnitude(x: Tensor, layer: QuantLayer) -> Tensor:
    """K of a layer's inputs, (N, 1, H', W') or (N, 1)."""
    size = x.abs().mean(1, keepdim=True)
    if not isinstance(layer, QuantConv2d):
        return size
    area = torch.full((1, 1, *layer.kernel_size), 1.0 / (layer.kernel_size[0] * layer.kernel_size[1]))
    return F.conv2d(size, area.to(size), None, layer.stride, layer.padding)
