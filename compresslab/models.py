"""The course's networks: small, ordinary, and ignorant of compression.

    network         layers                                                    glyphs 16x16
    MLP             flatten, 300, 100, classes                                0.11 M parameters
    VGGLike         three of (3x3 convolution, batch norm, ReLU, pool)        0.10 M
    ResNet8         a stem and three residual blocks                          0.08 M
    DepthwiseNet    a stem and three depthwise-separable blocks               0.02 M
    VGG16           the original, for counting on the meta device             138 M at 224x224
    Encoder         a transformer encoder for tokens                          0.4 M (keywords)
    BiLSTM          a recurrent network that reads both ways                  0.1 M (keywords)

Every network takes float32 [n, channels, height, width], or tokens int64 [n, length], and gives logits
[n, classes]. Convolutions in front of a batch norm have no bias: the norm would subtract it again.
"""

import itertools
import math

import torch
from torch import fx, nn

from compresslab.data import Split

Shape = tuple[int, int, int]


def sizes_of(shape: Shape | Split, classes: int | None) -> tuple[Shape, int]:
    """Image shape and number of classes, as they were given or as a data set has them.

    Raises:
        ValueError: for a shape without a number of classes.
    """
    if isinstance(shape, Split):
        return shape.shape, len(shape.classes) if classes is None else classes
    if classes is None:
        raise ValueError("classes must be given with a shape; a data set knows both")
    return tuple(shape), classes


class MLP(nn.Sequential):
    """A multi-layer perceptron after LeNet-300-100 (LeCun et al. 1998)."""

    def __init__(
        self, shape: Shape | Split, classes: int | None = None, hidden: tuple[int, ...] = (300, 100)
    ) -> None:
        """Args: image shape (channels, height, width), number of classes, hidden widths; or a data set."""
        shape, classes = sizes_of(shape, classes)
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
        self,
        shape: Shape | Split,
        classes: int | None = None,
        widths: tuple[int, ...] = (32, 64, 128),
    ) -> None:
        """Args: image shape, number of classes, channels of each stage; a data set for the first two."""
        shape, classes = sizes_of(shape, classes)
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
        self,
        shape: Shape | Split,
        classes: int | None = None,
        widths: tuple[int, ...] = (16, 32, 64),
    ) -> None:
        """Args: image shape, number of classes, channels of each block; a data set for the first two."""
        shape, classes = sizes_of(shape, classes)
        layers, inputs = [convolution(shape[0], widths[0])], widths[0]
        for index, outputs in enumerate(widths):
            layers.append(ResidualBlock(inputs, outputs, stride=2 if index else 1))
            inputs = outputs
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
        super().__init__(*layers, *head)


class DepthwiseNet(nn.Sequential):
    """Depthwise 3x3 then 1x1 convolutions, after MobileNet (Howard et al. 2017)."""

    def __init__(
        self,
        shape: Shape | Split,
        classes: int | None = None,
        widths: tuple[int, ...] = (32, 64, 96),
    ) -> None:
        """Args: image shape, number of classes, channels of stem and blocks; or a data set."""
        shape, classes = sizes_of(shape, classes)
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


# ---- tokens --------------------------------------------------------------------------------------
class SelfAttention(nn.Module):
    """softmax(Q K^T / sqrt(d)) V in several heads (Vaswani et al. 2017, section 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        """Args: width of the tokens, a multiple of the number of heads.

        Raises:
            ValueError: if it is not.
        """
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of {heads} heads, got {width}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        # Nothing happens in it: a place to look at the scores [n, heads, length, length] from outside.
        self.scores = nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, x: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
        """[n, length, width], bool [n, length] (True: padding, not looked at) -> [n, length, width]."""
        n, length, width = x.shape
        each = width // self.heads
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, each).permute(2, 0, 3, 1, 4)
        scores = self.scores(q @ k.transpose(2, 3) / math.sqrt(each))
        # The lowest finite number, not -inf: a row of nothing but padding must not become NaN.
        weights = scores.masked_fill(nothing[:, None, None], _lowest(scores)).softmax(3)
        return self.out((weights @ v).transpose(1, 2).reshape(n, length, width))

    def macs(self, output: torch.Tensor) -> int:
        """The two products of tokens with tokens."""
        _, length, width = output.shape
        return 2 * length * length * width


class EncoderLayer(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x)): norms first, which trains without a warm-up."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        """Args: widths of tokens and of the feed-forward layer, heads."""
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, x: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
        """[n, length, width] -> the same."""
        x = x + self.attention(self.norm1(x), nothing)
        return x + self.feedforward(self.norm2(x))


class Reader(nn.Module):
    """From tokens' states to one vector: that of a place, or the mean over all that are no padding."""

    def __init__(self, place: int | None) -> None:
        """Args: which token, or None for the mean."""
        super().__init__()
        self.place = place

    def forward(self, x: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
        """[n, length, width] -> [n, width]."""
        if self.place is not None:
            return x[:, self.place]
        kept = ~nothing[:, :, None]
        return (x * kept).sum(1) / kept.sum(1).clamp(min=1)


def _lowest(scores: torch.Tensor) -> float:
    return torch.finfo(scores.dtype).min


def _check_tokens(tokens: torch.Tensor, positions: torch.Tensor) -> None:
    if tokens.ndim != 2 or tokens.shape[1] != len(positions):
        raise ValueError(f"tokens must be [n, {len(positions)}], got {list(tokens.shape)}")


# What asks for shapes and dtypes a tracer cannot follow: it keeps these calls as they are.
fx.wrap("_check_tokens")
fx.wrap("_lowest")


class Encoder(nn.Module):
    """A small BERT (Devlin et al. 2019) for classifying sequences."""

    def __init__(
        self,
        words: int,
        classes: int,
        length: int,
        width: int = 64,
        layers: int = 6,
        heads: int = 4,
        hidden: int | None = None,
        place: int | None = None,
    ) -> None:
        """Args: vocabulary, classes, tokens of a sequence, sizes (hidden: 4 * width), place as in Reader."""
        super().__init__()
        if place is not None and not 0 <= place < length:
            raise ValueError(f"place must be one of {length} tokens or None, got {place}")
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.positions = nn.Parameter(0.02 * torch.randn(length, width))
        with torch.no_grad():
            self.words.weight.mul_(0.02)
        hidden = hidden or 4 * width
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(layers))
        self.read = Reader(place)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def embed(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens int64 [n, length] -> states [n, length, width], and where there is nothing [n, length]."""
        _check_tokens(tokens, self.positions)
        return self.words(tokens) + self.positions, tokens == 0

    def classify(self, x: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
        """States -> logits [n, classes]."""
        return self.head(self.norm(self.read(x, nothing)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens int64 [n, length] -> logits [n, classes]."""
        x, nothing = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, nothing)
        return self.classify(x, nothing)


class BiLSTM(nn.Module):
    """Two recurrent layers, one from each end (Schuster and Paliwal 1997, on LSTM cells).

    It reads padding like any other word (whose vector is 0).
    """

    def __init__(
        self, words: int, classes: int, width: int = 48, hidden: int = 64, place: int | None = None
    ) -> None:
        """Args: vocabulary, classes, width of a word, of each direction, place as in Reader."""
        super().__init__()
        self.words = nn.Embedding(words, width, padding_idx=0)
        self.lstm = nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
        self.read = Reader(place)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens int64 [n, length] -> logits [n, classes]."""
        states, _ = self.lstm(self.words(tokens))
        return self.head(self.read(states, tokens == 0))
