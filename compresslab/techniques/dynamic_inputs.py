"""What linear layers read in few bits, rounded as it comes: a simulation for any model.

    x' = s rint(x / s),    s = max|x| / (2^(b-1) - 1)         of one token, or of all that reaches the layer

No calibration: the scale is that of the numbers themselves. It is what `runtime.dynamic` computes on
integers at 8 bits a token; here bits and sharing are free, and nothing is faster. Weights stay as they are.
"""

from collections.abc import Sequence

import torch
from torch import nn

from compresslab.network.edit import plain_copy, replaced
from compresslab.network.select import linear_layers, refuse_fast_path

SHARING = ("token", "layer")
SMALLEST = 1e-8


class RoundedInput(nn.Module):
    """A layer that reads few bits.

    Args:
        layer: any module that takes one tensor, [..., inputs].
        bits: 2 to 8.
        sharing: "token" or "layer": what shares a scale.
    """

    def __init__(self, layer: nn.Module, bits: int, sharing: str) -> None:
        super().__init__()
        self.layer, self.high, self.sharing = layer, 2 ** (bits - 1) - 1, sharing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer, of the rounded x."""
        wide = x.float()
        size = wide.abs()
        top = size.amax(-1, keepdim=True) if self.sharing == "token" else size.amax()
        scale = top.clamp(min=SMALLEST) / self.high
        return self.layer(((wide / scale).round() * scale).to(x.dtype))


def round_inputs(
    model: nn.Module, bits: int, sharing: str = "token", skip: Sequence[str] = ()
) -> nn.Module:
    """A copy whose linear layers read few bits.

    Args:
        model: any module tree.
        bits: 2 to 8, signed.
        sharing: "token" or "layer": what shares a scale.
        skip: names of layers that go on reading floats.

    Raises:
        ValueError: for settings outside of these, a name that is no linear layer, or torch's own encoder
        layer
            with its fast path.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 2 to 8, got {bits!r}")
    if sharing not in SHARING:
        raise ValueError(f"sharing must be {' or '.join(SHARING)}, got {sharing!r}")
    refuse_fast_path(model)
    model = plain_copy(model).eval()
    layers = linear_layers(model)
    unknown = [name for name in skip if name not in layers]
    if unknown:
        raise ValueError(f"skip must name linear layers of the model, got {', '.join(unknown)}")
    chosen = {n: RoundedInput(m, bits, sharing) for n, m in layers.items() if n not in skip}
    return replaced(model, chosen).eval()
