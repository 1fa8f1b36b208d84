"""The course's networks: small, ordinary, and ignorant of compression.

    network         layers                                                    glyphs 16x16
    MLP             flatten, 300, 100, classes                                0.11 M parameters
    VGGLike         three of (3x3 convolution, batch norm, ReLU, pool)        0.10 M
    ResNet8         a stem and three residual blocks                          0.08 M
    DepthwiseNet    a stem and three depthwise-separable blocks               0.02 M
    VGG16           the original, for counting on the meta device             138 M at 224x224

Every network takes float32 [n, channels, height, width] and gives logits [n, classes]. Convolutions in
front of a batch norm have no bias: the norm would subtract it again.
"""

import itertools

import torch
from torch import nn


class MLP(nn.Sequential):
    """A multi-layer perceptron after LeNet-300-100 (LeCun et al. 1998)."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, hidden: tuple[int, ...] = (300, 100)
    ) -> None:
        """Args: image shape (channels, height, width), number of classes, hidden widths."""
        widths = [shape[0] * shape[1] * shape[2], *hidden]
        layers = [nn.Flatten()]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers, nn.Linear(widths[-1], classes))


def convolution(
    inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Convolution with 'same' padding, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class VGGLike(nn.Sequential):
    """Three stages of 3x3 convolution and pooling, as VGG has them (Simonyan and Zisserman 2015)."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, widths: tuple[int, ...] = (32, 64, 128)
    ) -> None:
        """Args: image shape, number of classes, channels of each stage."""
        layers, inputs = [], shape[0]
        for outputs in widths:
            layers += [convolution(inputs, outputs), nn.MaxPool2d(2)]
            inputs = outputs
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
        super().__init__(*layers, *head)


class ResidualBlock(nn.Module):
    """relu(f(x) + shortcut(x)) with two 3x3 convolutions in f (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Args: channels in and out; the stride of the first convolution and the shortcut."""
        super().__init__()
        self.first = convolution(inputs, outputs, stride=stride)
        self.second = nn.Sequential(
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, inputs, h, w] -> [n, outputs, h / stride, w / stride]."""
        return self.relu(self.second(self.first(x)) + self.shortcut(x))


class ResNet8(nn.Sequential):
    """A stem and three residual blocks: eight layers with weights on the longest path."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, widths: tuple[int, ...] = (16, 32, 64)
    ) -> None:
        """Args: image shape, number of classes, channels of each block."""
        layers, inputs = [convolution(shape[0], widths[0])], widths[0]
        for index, outputs in enumerate(widths):
            layers.append(ResidualBlock(inputs, outputs, stride=2 if index else 1))
            inputs = outputs
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
        super().__init__(*layers, *head)


class DepthwiseNet(nn.Sequential):
    """Depthwise 3x3 then 1x1 convolutions, after MobileNet (Howard et al. 2017)."""

    def __init__(
        self, shape: tuple[int, int, int], classes: int, widths: tuple[int, ...] = (32, 64, 96)
    ) -> None:
        """Args: image shape, number of classes, channels of the stem and of each block."""
        layers, inputs = [convolution(shape[0], widths[0], stride=1)], widths[0]
        for outputs in [*widths[1:], widths[-1]]:
            stride = 2 if inputs != outputs else 1
            layers += [convolution(inputs, inputs, stride=stride, groups=inputs)]
            layers += [convolution(inputs, outputs, kernel=1)]
            inputs = outputs
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
        super().__init__(*layers, *head)


class VGG16(nn.Sequential):
    """VGG-16, configuration D of Simonyan and Zisserman 2015, table 1, for 224x224 RGB images.

    Build it under `torch.device("meta")` to count it without its half gigabyte of weights.
    """

    WIDTHS = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)

    def __init__(self, classes: int = 1000) -> None:
        """Args: number of classes. A width of 0 stands for pooling."""
        layers, inputs = [], 3
        for outputs in self.WIDTHS:
            if outputs == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        layers += [nn.Flatten(), nn.Linear(512 * 7 * 7, 4096), nn.ReLU()]
        layers += [nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes)]
        super().__init__(*layers)
