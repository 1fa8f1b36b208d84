"""One bit a weight, and if wanted one bit an activation (二值化).

    sign(x) = +1 where x >= 0, else -1                          backward: g * 1[|x| <= 1]

The backward pass is the clipped straight-through estimator (Hubara et al. 2016,
https://arxiv.org/abs/1602.02830, equation 4). Three ways to use it:

    BinaryConnect   y = conv(x, sign(W))              weights clipped to [-1, 1] after every step, or drawn
                                                      +1 with probability clip((W + 1) / 2, 0, 1)
                                                      (Courbariaux et al. 2015, https://arxiv.org/abs/1511.00363)
    XNOR-Net        y = conv(sign(x), sign(W)) alpha K     alpha[n] = mean |W[n]|, K = the window's mean |x|
                                                      (Rastegari et al. 2016, https://arxiv.org/abs/1603.05279)
    TWN             y = conv(x, t) alpha              t = sign(W) where |W| > 0.7 mean |W|, else 0; alpha the
                                                      mean of those (Li et al. 2016, https://arxiv.org/abs/1605.04711)

alpha is what makes alpha * sign(W) the nearest to W there is: d/da |W - a s|^2 = 0 gives a = W.s / n.

A block of XNOR-Net is batch norm, sign, convolution, pooling, in this order: the norm centres what the sign
will cut, and pooling after the sign would give +1 nearly everywhere. The first layer (few channels) and
the last (few outputs) stay float.

Left out: packed ternary products, more than one bit by residual binarization.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from compresslab.network.edit import replaced
from compresslab.network.select import (
    check_weights,
    is_read_by_name,
    refuse_fast_path,
    refuse_hooks,
    with_own_weight,
)
from compresslab.training import Hook, Run

TERNARY_SHARE = 0.7


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


def sign(x: torch.Tensor) -> torch.Tensor:
    """+1 where x >= 0, else -1 (also for NaN), with the clipped straight-through gradient."""
    return _Sign.apply(x)


def stochastic_sign(x: torch.Tensor) -> torch.Tensor:
    """+1 with probability clip((x + 1) / 2, 0, 1), else -1: right on average; same gradient as `sign`."""
    noise = 2 * torch.rand_like(x) - 1
    # sign(x + noise) would clip the gradient where x + noise leaves [-1, 1]: the noise is a constant.
    return sign(x) + (torch.where(x > noise, 1.0, -1.0) - sign(x)).detach()


def channel_scale(weight: torch.Tensor) -> torch.Tensor:
    """XNOR-Net's alpha (equation 6): the mean magnitude of each output's weights, [N]."""
    return weight.abs().flatten(1).mean(1)


def ternarize(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """TWN's -1, 0, +1 (same shape, straight-through gradient) and alpha [N] of a weight [N, ...]."""
    magnitude = weight.abs()
    limit = TERNARY_SHARE * magnitude.flatten(1).mean(1)
    kept = magnitude > limit.reshape(-1, *[1] * (weight.ndim - 1))
    alpha = (magnitude * kept).flatten(1).sum(1) / kept.flatten(1).sum(1).clamp(min=1)
    signs = sign(weight)
    return signs + (signs * kept - signs).detach(), alpha


@dataclass(frozen=True)
class BinaryConfig:
    """What becomes a bit and what scales it.

    Attributes:
        activations: whether a layer takes the sign of its input.
        alpha: whether each output is scaled by its weights' mean magnitude.
        positions: whether each position is scaled by K, its window's mean input magnitude.
        stochastic: whether weights are drawn while training (BinaryConnect's second form).
        ternary: whether weights may be 0 as well; alpha is then TWN's.

    Raises:
        ValueError: for a combination that no paper means.
    """

    activations: bool = True
    alpha: bool = True
    positions: bool = False
    stochastic: bool = False
    ternary: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that have no meaning, by name."""
        if self.positions and not self.activations:
            raise ValueError("positions=True scales binary activations, got activations=False")
        if self.ternary and self.stochastic:
            raise ValueError("ternary weights are not drawn at random, got stochastic=True")


BINARY_CONNECT = BinaryConfig(activations=False, alpha=False)
BINARY_WEIGHTS = BinaryConfig(activations=False)
XNOR = BinaryConfig()


class Binary(nn.Module):
    """What the binary layers share; mixed into a layer that has a weight."""

    config: BinaryConfig

    @property
    def weight_bits(self) -> int:
        """Bits of a weight, as `measure` counts them."""
        return 2 if self.config.ternary else 1

    @property
    def activation_bits(self) -> int:
        """Bits of an input."""
        return 1 if self.config.activations else 32

    def binary_weight(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Signs (or -1, 0, +1) of the weight's shape, and alpha [N] or None."""
        if self.config.ternary:
            return ternarize(self.weight)
        draw = stochastic_sign if self.config.stochastic and self.training else sign
        return draw(self.weight), channel_scale(self.weight) if self.config.alpha else None

    def binary_input(self, x: torch.Tensor) -> torch.Tensor:
        """The input's signs, or itself."""
        return sign(x) if self.config.activations else x


class BinaryConv2d(Binary, nn.Conv2d):
    """A convolution of signs; arguments of nn.Conv2d, and a `BinaryConfig`. Zero padding stays zero."""

    def __init__(self, *arguments: object, config: BinaryConfig = XNOR, **options: object) -> None:
        super().__init__(*arguments, **options)
        if self.groups != 1 or self.dilation != (1, 1) or self.padding_mode != "zeros":
            raise ValueError("binary convolutions have groups=1, dilation=1 and zero padding")
        self.config = config

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, c, h, w] -> [b, N, h', w']."""
        signs, alpha = self.binary_weight()
        out = self._conv_forward(self.binary_input(x), signs, None)
        if alpha is not None:
            out = out * alpha[:, None, None]
        if self.config.positions:
            window = (self.kernel_size, self.stride, self.padding)
            out = out * F.avg_pool2d(x.abs().mean(1, keepdim=True), *window)
        return out if self.bias is None else out + self.bias[:, None, None]


class BinaryLinear(Binary, nn.Linear):
    """A linear layer of signs; arguments of nn.Linear, and a `BinaryConfig`."""

    def __init__(self, *arguments: object, config: BinaryConfig = XNOR, **options: object) -> None:
        super().__init__(*arguments, **options)
        self.config = config

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K] -> [..., N]."""
        signs, alpha = self.binary_weight()
        out = F.linear(self.binary_input(x), signs)
        if alpha is not None:
            out = out * alpha
        if self.config.positions:
            out = out * x.abs().mean(-1, keepdim=True)
        return out if self.bias is None else out + self.bias


class XnorNet(nn.Sequential):
    """The VGG-like network of `models` in XNOR-Net's blocks: same shapes, other order."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        widths: tuple[int, ...] = (32, 64, 128),
        config: BinaryConfig = XNOR,
        binary_edges: bool = False,
    ) -> None:
        """Args: image shape, classes, channels of each stage; `binary_edges` for the control."""

        def edge(layer: type, binary: type, *arguments: int, **options: object) -> nn.Module:
            if binary_edges:
                return binary(*arguments, config=config, **options)
            return layer(*arguments, **options)

        first = edge(nn.Conv2d, BinaryConv2d, shape[0], widths[0], 3, padding=1, bias=False)
        layers = [nn.BatchNorm2d(shape[0])] if binary_edges else []
        layers += [first, nn.MaxPool2d(2)]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.BatchNorm2d(inputs)]
            layers += [BinaryConv2d(inputs, outputs, 3, padding=1, bias=False, config=config)]
            layers += [nn.MaxPool2d(2)]
        # Behind a ReLU a binary last layer would see nothing but +1.
        layers += [nn.BatchNorm2d(widths[-1])] + ([] if binary_edges else [nn.ReLU()])
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(*layers, edge(nn.Linear, BinaryLinear, widths[-1], classes))


def binarize(model: nn.Module, config: BinaryConfig, edges: bool = False) -> nn.Module:
    """A copy of a network with binary convolutions and linear layers in place of its own.

    A layer that shares its weight with another module stays as it is, and so does one whose weight is read by
    name (the last one of nn.MultiheadAttention).

    Args:
        model: any module tree; weights are taken over.
        config: what becomes a bit.
        edges: whether the first and the last layer are replaced too.

    Raises:
        ValueError: if there is nothing to replace, a convolution has groups or dilation, or there is an
            nn.TransformerEncoderLayer whose fast path is not switched off.
    """
    check_weights(model)
    refuse_fast_path(model)
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    own = {n for n, m in with_own_weight(model).items() if not is_read_by_name(m)}
    inner = [n for n in (layers if edges else layers[1:-1]) if n in own]
    if not inner:
        raise ValueError(f"model must have a layer to binarize, got layers {layers}")
    refuse_hooks((name, model.get_submodule(name)) for name in inner)
    # Under every name that a layer has: one that stands in two places is one layer there.
    return replaced(model, {n: _binary_twin(model.get_submodule(n), config) for n in inner})


def _binary_twin(layer: nn.Conv2d | nn.Linear, config: BinaryConfig) -> nn.Module:
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        twin = BinaryLinear(layer.in_features, layer.out_features, bias=bias, config=config)
    else:
        shape = (layer.in_channels, layer.out_channels, layer.kernel_size)
        options = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
        options |= {"groups": layer.groups, "padding_mode": layer.padding_mode, "bias": bias}
        twin = BinaryConv2d(*shape, **options, config=config)
    twin.load_state_dict(layer.state_dict())
    for ours, theirs in zip(twin.parameters(), layer.parameters(), strict=True):
        ours.requires_grad_(theirs.requires_grad)
    return twin.train(layer.training)


class ClipWeights(Hook):
    """Keep the real weights of binary layers within [-1, 1], where their gradient is not 0."""

    def before_training(self, run: Run) -> None:
        """Find the layers."""
        self.layers = [m for m in run.model.modules() if isinstance(m, Binary)]

    @torch.no_grad()
    def after_step(self, run: Run) -> None:
        """Clip."""
        for layer in self.layers:
            layer.weight.clamp_(-1, 1)
