"""EfficientNet-Lite0, trained on ImageNet: depthwise convolutions, ReLU6, dead channels.

The package holds the weights; the architecture is built here (Tan and Le 2019, arXiv:1905.11946, table 1, in
the Lite variant of 2020: ReLU6 for swish, no squeeze and excitation). Images are [b, 3, 224, 224] in -1..1,
smaller ones work as well; 1000 classes.

    stage          kernel   stride   expansion   channels   blocks
    stem             3        2          -           32        1
    inverted        3355355  1222121  1666666  16 24 40 80 112 192 320   1223341
    head             1        1          -         1280        1

Padding is TensorFlow's "same": behind a stride of 2 one pixel more on the right and below, in a module of its
own.
"""

from pathlib import Path

import torch
from torch import nn

from compresslab.real.packages import weights_of

EPSILON = 1e-3
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
"""Kernel, stride of the first block, expansion, channels, blocks."""


def efficientnet_lite0(path: Path | None = None) -> nn.Sequential:
    """The trained network, in evaluation mode.

    Args:
        path: the weights; if None, those of the installed package.

    Raises:
        ModuleNotFoundError: without the package, with the command that installs it.
        ValueError: for weights of another network.
    """
    path = path or weights_of("efficientnet")
    network = architecture()
    given = torch.load(path, weights_only=True, map_location="cpu")
    wanted = network.state_dict()
    # The file has its tensors in the order of execution, and so has the network.
    if [t.shape for t in given.values()] != [t.shape for t in wanted.values()]:
        raise ValueError(f"{path} does not hold the weights of EfficientNet-Lite0")
    network.load_state_dict(dict(zip(wanted, given.values(), strict=True)))
    return network.eval()


def architecture() -> nn.Sequential:
    """The network with random weights, in training mode."""
    layers: list[nn.Module] = [_unit(3, 32, 3, 2)]
    inputs = 32
    for kernel, stride, expansion, outputs, blocks in STAGES:
        for index in range(blocks):
            step = stride if index == 0 else 1
            layers.append(Inverted(inputs, outputs, kernel, step, expansion))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(1280, 1000)]
    return nn.Sequential(*layers, _unit(inputs, 1280, 1), *head)


class Inverted(nn.Module):
    """Expansion, depthwise convolution, projection; the input is added where shapes allow it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        layers = [_unit(inputs, hidden, 1)] if expansion > 1 else []
        layers.append(_unit(hidden, hidden, kernel, stride, hidden))
        self.body = nn.Sequential(*layers, _unit(hidden, outputs, 1, activated=False))
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b, inputs, h, w] -> [b, outputs, h / stride, w / stride]."""
        return x + self.body(x) if self.adds else self.body(x)


def _unit(
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int = 1,
    groups: int = 1,
    activated: bool = True,
) -> nn.Sequential:
    """Padding, convolution, norm, ReLU6."""
    total = kernel - stride
    padding = nn.ZeroPad2d((total // 2, total - total // 2) * 2) if stride > 1 else nn.Identity()
    border = kernel // 2 if stride == 1 else 0
    conv = nn.Conv2d(inputs, outputs, kernel, stride, border, groups=groups, bias=False)
    layers = [padding, conv, nn.BatchNorm2d(outputs, EPSILON)]
    return nn.Sequential(*layers, *([nn.ReLU6()] if activated else []))
