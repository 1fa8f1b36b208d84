"""Slim blocks (轻量结构): drop-in replacements for a convolution, a head, a stack, an embedding.

Parameters and MACs on an output of s = height * width positions; k x k kernels, c channels in, m out. Every
convolution is followed by a batch norm (2 parameters a channel, no MACs) and a ReLU.

    block          weights                          MACs             source
    Standard       k^2 c m                          weights * s      the peer of all others
    Grouped        k^2 c m / g                      weights * s      Krizhevsky et al. 2012; with the shuffle
                                                                     Zhang et al. 2018, arXiv:1707.01083
    Separable      k^2 c + c m                      weights * s      Howard et al. 2017, arXiv:1704.04861
    TwoThrees      9 c m + 9 m^2   (for 5 x 5)      weights * s      Simonyan and Zisserman 2015
    InSeries       k c m + k m^2   (1xk, then kx1)  weights * s      Szegedy et al. 2016, arXiv:1512.00567
    SideBySide     k c m           (half each)      weights * s      the same, figure 7
    Bottleneck     c b + k^2 b^2 + b m              weights * s      He et al. 2016, arXiv:1512.03385

    PooledHead     c n + n                          c n              Lin et al. 2013, arXiv:1312.4400
    FlatHead       s c h + h + h n + n              s c h + h n      its peer: VGG's head
    Repeated       those of one block              times MACs       ALBERT: Lan et al. 2019, arXiv:1909.11942
    FactorisedEmbedding   v e + e d                 e d a token      the same, section 3.1 (lookups: no MAC)

Each class says its formula as a `cost`, which the tests hold against counted networks. All convolutions keep
height and width; where a block is to halve them, give `stride=2`, and s counts *output* positions (blocks
with several spatial steps take the stride in the first).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from compresslab.models import convolution

NORMS = (
    *(nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)


@dataclass(frozen=True)
class Cost:
    """Parameters, norms and biases included, and MACs of one example."""

    parameters: int
    macs: int

    def __add__(self, other: "Cost") -> "Cost":
        """Both together."""
        return Cost(self.parameters + other.parameters, self.macs + other.macs)


def convolution_cost(
    inputs: int, outputs: int, kernel: tuple[int, int], positions: int, groups: int = 1
) -> Cost:
    """Of a convolution and the norm behind it."""
    weights = kernel[0] * kernel[1] * (inputs // groups) * outputs
    return Cost(weights + 2 * outputs, weights * positions)


def _check(inputs: int, outputs: int, kernel: int, stride: int) -> None:
    if min(inputs, outputs) < 1:
        raise ValueError(f"inputs and outputs must be at least 1, got {inputs} and {outputs}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel must be odd and positive, to keep the size; got {kernel}")
    if stride < 1:
        raise ValueError(f"stride must be at least 1, got {stride}")


def _norm_relu(outputs: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(outputs), nn.ReLU()]


class Standard(nn.Sequential):
    """A k x k convolution: what the others replace."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        """Args: channels in and out, an odd kernel size, the stride."""
        _check(inputs, outputs, kernel, stride)
        super().__init__(*convolution(inputs, outputs, kernel, stride))

    @staticmethod
    def cost(inputs: int, outputs: int, positions: int, kernel: int = 3) -> Cost:
        """Positions are those of the output."""
        return convolution_cost(inputs, outputs, (kernel, kernel), positions)


class Grouped(nn.Sequential):
    """A convolution in g groups that do not see each other, and a shuffle that mixes them after."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 4
    ) -> None:
        """Args: as Standard; groups must divide both channel counts."""
        _check(inputs, outputs, kernel, stride)
        if groups < 1 or inputs % groups or outputs % groups:
            raise ValueError(f"groups must divide {inputs} and {outputs} channels, got {groups}")
        shuffle = [nn.ChannelShuffle(groups)] if groups > 1 else []
        super().__init__(*convolution(inputs, outputs, kernel, stride, groups), *shuffle)

    @staticmethod
    def cost(inputs: int, outputs: int, positions: int, kernel: int = 3, groups: int = 4) -> Cost:
        """A g-th of the standard weights."""
        return convolution_cost(inputs, outputs, (kernel, kernel), positions, groups)


class Separable(nn.Sequential):
    """One k x k filter a channel (depthwise), then a 1x1 that mixes channels (pointwise)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        """Args: as Standard."""
        _check(inputs, outputs, kernel, stride)
        depthwise = convolution(inputs, inputs, kernel, stride, groups=inputs)
        super().__init__(*depthwise, *convolution(inputs, outputs, 1))

    @staticmethod
    def cost(inputs: int, outputs: int, positions: int, kernel: int = 3) -> Cost:
        """About 1/m + 1/k^2 of the standard convolution."""
        spread = convolution_cost(inputs, inputs, (kernel, kernel), positions, groups=inputs)
        return spread + convolution_cost(inputs, outputs, (1, 1), positions)


class TwoThrees(nn.Sequential):
    """Two 3x3 convolutions see what one 5x5 sees: 18 weights a pair of channels instead of 25."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        """Args: channels in and out, the stride of the first."""
        _check(inputs, outputs, 3, stride)
        super().__init__(
            *convolution(inputs, outputs, 3, stride), *convolution(outputs, outputs, 3)
        )

    @staticmethod
    def cost(inputs: int, outputs: int, positions: int) -> Cost:
        """Replaces Standard with kernel 5."""
        first = convolution_cost(inputs, outputs, (3, 3), positions)
        return first + convolution_cost(outputs, outputs, (3, 3), positions)


def _line(
    inputs: int, outputs: int, kernel: tuple[int, int], stride: int | tuple[int, int]
) -> nn.Conv2d:
    padding = (kernel[0] // 2, kernel[1] // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)


class InSeries(nn.Sequential):
    """1 x k, then k x 1: together they see k x k."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        """Args: as Standard."""
        _check(inputs, outputs, kernel, stride)
        super().__init__(
            *(_line(inputs, outputs, (1, kernel), (1, stride)), *_norm_relu(outputs)),
            *(_line(outputs, outputs, (kernel, 1), (stride, 1)), *_norm_relu(outputs)),
        )

    @staticmethod
    def cost(inputs: int, outputs: int, positions: int, kernel: int = 3, stride: int = 1) -> Cost:
        """Two thirds for k = 3 and as many channels out as in; the first line strides along only."""
        first = convolution_cost(inputs, outputs, (1, kernel), stride * positions)
        return first + convolution_cost(outputs, outputs, (kernel, 1), positions)


class SideBySide(nn.Module):
    """Half of the outputs from 1 x k, half from k x 1: a cross instead of a square."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        """Args: as Standard; outputs must be even."""
        super().__init__()
        _check(inputs, outputs, kernel, stride)
        if outputs % 2:
            raise ValueError(f"outputs must be even, half for each direction; got {outputs}")
        self.across = _line(inputs, outputs // 2, (1, kernel), stride)
        self.down = _line(inputs, outputs // 2, (kernel, 1), stride)
        self.norm, self.relu = _norm_relu(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, inputs, h, w] -> [n, outputs, h / stride, w / stride]."""
        return self.relu(self.norm(torch.cat([self.across(x), self.down(x)], dim=1)))

    @staticmethod
    def cost(inputs: int, outputs: int, positions: int, kernel: int = 3) -> Cost:
        """A k-th of the standard weights."""
        return convolution_cost(inputs, outputs, (1, kernel), positions)


class Bottleneck(nn.Sequential):
    """1x1 down to few channels, k x k there, 1x1 up again."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, narrow: int | None = None
    ) -> None:
        """Args: as Standard; narrow: the channels in the middle, by default a quarter of the outputs."""
        _check(inputs, outputs, kernel, stride)
        narrow = max(1, outputs // 4) if narrow is None else narrow
        if narrow < 1:
            raise ValueError(f"narrow must be at least 1, got {narrow}")
        super().__init__(
            *convolution(inputs, narrow, 1, stride),
            *convolution(narrow, narrow, kernel),
            *convolution(narrow, outputs, 1),
        )

    @staticmethod
    def cost(
        inputs: int, outputs: int, positions: int, kernel: int = 3, narrow: int | None = None
    ) -> Cost:
        """The stride is taken by the first, so that all three work on `positions`."""
        narrow = max(1, outputs // 4) if narrow is None else narrow
        squeeze = convolution_cost(inputs, narrow, (1, 1), positions)
        middle = convolution_cost(narrow, narrow, (kernel, kernel), positions)
        return squeeze + middle + convolution_cost(narrow, outputs, (1, 1), positions)


# ---- heads ---------------------------------------------------------------------------------------
class PooledHead(nn.Sequential):
    """Average each channel over the image, then one small linear layer."""

    def __init__(self, inputs: int, classes: int) -> None:
        """Args: channels, classes."""
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))

    @staticmethod
    def cost(inputs: int, classes: int) -> Cost:
        """The same for an image of any size."""
        return Cost(inputs * classes + classes, inputs * classes)


class FlatHead(nn.Sequential):
    """Every position of every channel into a wide linear layer, as in AlexNet and VGG."""

    def __init__(self, inputs: int, positions: int, classes: int, hidden: int) -> None:
        """Args: channels, positions of the image it is given, classes, hidden width."""
        wide = nn.Linear(inputs * positions, hidden)
        super().__init__(nn.Flatten(), wide, nn.ReLU(), nn.Linear(hidden, classes))

    @staticmethod
    def cost(inputs: int, positions: int, classes: int, hidden: int) -> Cost:
        """Most of VGG-16's parameters are here."""
        macs = positions * inputs * hidden + hidden * classes
        return Cost(macs + hidden + classes, macs)


# ---- sharing -------------------------------------------------------------------------------------
class Repeated(nn.Module):
    """One block applied several times: its weights lie in the file once, its time is paid every time.

    Weights are shared, norms are not: what a batch norm has averaged over all depths fits none of them. With
    `own_norms=False` they are shared, too.
    """

    def __init__(self, block: nn.Module, times: int, own_norms: bool = True) -> None:
        """Args: a block whose output has its input's shape; how often it is applied; see above."""
        super().__init__()
        if times < 1:
            raise ValueError(f"times must be at least 1, got {times}")
        self.own_norms = own_norms
        others = [_twin(block) if own_norms else block for _ in range(times - 1)]
        self.steps = nn.ModuleList([block, *others])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block on its own output, again and again.

        Raises:
            ValueError: if the block changes the shape.
        """
        for step in self.steps:
            y = step(x)
            if y.shape != x.shape:
                raise ValueError(
                    f"block must keep the shape {list(x.shape)} to be repeated, got {list(y.shape)}"
                )
            x = y
        return x

    @staticmethod
    def cost(block: Cost, times: int, norms: int = 0) -> Cost:
        """Parameters once, but for the `norms` parameters of own norms, and MACs every time."""
        return Cost(block.parameters + (times - 1) * norms, times * block.macs)


def _twin(block: nn.Module) -> nn.Module:
    """A copy with norms of its own and everything else the very same tensors."""
    twin = copy.deepcopy(block)
    for name, module in twin.named_modules():
        if not isinstance(module, NORMS):
            original = block.get_submodule(name)
            module._parameters, module._buffers = original._parameters, original._buffers
    return twin


class FactorisedEmbedding(nn.Sequential):
    """Words into a narrow space, then into the wide one: v e + e d instead of v d."""

    def __init__(self, words: int, width: int, narrow: int) -> None:
        """Args: vocabulary, width d of the network, width e of the embedding."""
        if not 1 <= narrow <= width:
            raise ValueError(f"narrow must be 1 to {width}, got {narrow}")
        super().__init__(nn.Embedding(words, narrow), nn.Linear(narrow, width, bias=False))

    @staticmethod
    def cost(words: int, width: int, narrow: int, tokens: int) -> Cost:
        """A lookup is no multiplication."""
        return Cost(words * narrow + narrow * width, tokens * narrow * width)


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "standard": Standard,
    "grouped": Grouped,
    "separable": Separable,
    "1xk then kx1": InSeries,
    "1xk beside kx1": SideBySide,
    "bottleneck": Bottleneck,
}
"""Blocks that are built alike, from (inputs, outputs, kernel, stride)."""
