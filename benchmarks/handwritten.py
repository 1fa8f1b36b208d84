"""Image networks as people write them, small: what a user of the library may bring.

`HANDWRITTEN` maps a name to a function that builds the network; all take images [b, 3, 32, 32]. They are
written with the spellings of tutorials and papers' code on purpose: functions and methods, views, subclasses
with a forward of their own, padding of every kind.
"""

import torch
import torch.nn.functional as F
from torch import nn


class TutorialNet(nn.Module):
    """Two convolutions, two poolings, three linear layers, flattened by a function."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(400, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = torch.flatten(x, 1)
        x = F.relu(self.fc1(x))
        return self.fc3(F.relu(self.fc2(x)))


class DigitsNet(nn.Module):
    """Dropouts, pooling as a function, log-softmax at the end."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)
        self.dropout1, self.dropout2 = nn.Dropout2d(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(16 * 14 * 14, 32), nn.Linear(32, 10)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = self.dropout1(F.max_pool2d(x, 2))
        x = self.dropout2(F.relu(self.fc1(torch.flatten(x, 1))))
        return F.log_softmax(self.fc2(x), dim=1)


class OldDigitsNet(nn.Module):
    """ReLU behind the pooling, a view with a literal, a functional dropout."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 10, 5), nn.Conv2d(10, 20, 5)
        self.fc1, self.fc2 = nn.Linear(500, 50), nn.Linear(50, 10)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = x.view(-1, 500)
        x = F.dropout(F.relu(self.fc1(x)), training=self.training)
        return F.log_softmax(self.fc2(x), -1)


class SigmoidNet(nn.Module):
    """Average pooling and tanh, as in 1998."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5), nn.Conv2d(16, 120, 5)
        self.out = nn.Linear(120, 10)

    def forward(self, x):
        x = F.avg_pool2d(torch.tanh(self.c1(x)), 2)
        x = F.avg_pool2d(torch.sigmoid(self.c2(x)), 2)
        return self.out(torch.tanh(self.c3(x)).view(x.size(0), -1))


def conv_norm(i, o, k=3, s=1, g=1, act=nn.ReLU):
    """A convolution without bias, a norm, an activation."""
    layers = [nn.Conv2d(i, o, k, s, k // 2, groups=g, bias=False), nn.BatchNorm2d(o)]
    return nn.Sequential(*layers, *([act()] if act else []))


class Residual(nn.Module):
    """The basic block, with an activation in place."""

    def __init__(self, i, o, s):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o)
        self.relu = nn.ReLU(inplace=True)
        self.down = None if i == o and s == 1 else conv_norm(i, o, 1, s, act=None)

    def forward(self, x):
        identity = x if self.down is None else self.down(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


def resnet():
    """A stem with overlapping pooling, basic blocks, a mean."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Residual(8, 8, 1),
        Residual(8, 16, 2),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class PreActivation(nn.Module):
    """Norm and ReLU in front of the convolutions."""

    def __init__(self, i, o, s):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(i), nn.Conv2d(i, o, 3, s, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(o), nn.Conv2d(o, o, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(i, o, 1, s, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(x))
        short = self.short(out)
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + short


def preactivation():
    """Pre-activation blocks; the head begins with a norm."""
    body = [nn.Conv2d(3, 8, 3, 1, 1), PreActivation(8, 16, 2), PreActivation(16, 16, 1)]
    head = [nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)]
    return nn.Sequential(*body, *head)


class Inverted(nn.Module):
    """The block of MobileNetV2 or V3."""

    def __init__(self, i, o, s, act, squeeze=False):
        super().__init__()
        hidden = 3 * i
        layers = [conv_norm(i, hidden, 1, act=act), conv_norm(hidden, hidden, 3, s, hidden, act)]
        layers += [Squeeze(hidden)] if squeeze else []
        self.body = nn.Sequential(*layers, conv_norm(hidden, o, 1, act=None))
        self.same = s == 1 and i == o

    def forward(self, x):
        return x + self.body(x) if self.same else self.body(x)


class Squeeze(nn.Module):
    """Squeeze and excitation with a hard sigmoid."""

    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        scale = F.relu(self.fc1(F.adaptive_avg_pool2d(x, 1)))
        return x * F.hardsigmoid(self.fc2(scale))


class LinearSqueeze(nn.Module):
    """Squeeze and excitation with linear layers and views."""

    def __init__(self, channels):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, 4), nn.ReLU(inplace=True), nn.Linear(4, channels), nn.Sigmoid()
        )

    def forward(self, x):
        b, c, _, _ = x.size()
        y = x.mean(dim=(2, 3)).view(b, c)
        return x * self.fc(y).view(b, c, 1, 1)


class MobileNet(nn.Module):
    """Inverted residuals, a mean over pixels as a method, dropout before the head."""

    def __init__(self, act=nn.ReLU6, squeeze=False):
        super().__init__()
        self.features = nn.Sequential(
            conv_norm(3, 8, 3, 2, act=act),
            Inverted(8, 8, 1, act, squeeze),
            Inverted(8, 16, 2, act, squeeze),
            conv_norm(16, 32, 1, act=act),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x):
        x = self.features(x)
        return self.classifier(x.mean([2, 3]))


class Fire(nn.Module):
    """The module of SqueezeNet: two convolutions side by side."""

    def __init__(self, i, s, e):
        super().__init__()
        self.squeeze, self.act = nn.Conv2d(i, s, 1), nn.ReLU(inplace=True)
        self.one, self.three = nn.Conv2d(s, e, 1), nn.Conv2d(s, e, 3, padding=1)

    def forward(self, x):
        x = self.act(self.squeeze(x))
        return torch.cat([self.act(self.one(x)), self.act(self.three(x))], 1)


def squeezenet():
    """A convolution as the last layer, ceil-mode pooling, dropout in the classifier."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Fire(16, 4, 8),
        Fire(16, 4, 8),
        nn.Dropout(0.5),
        nn.Conv2d(16, 10, 1),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d((1, 1)),
        nn.Flatten(),
    )


class Dense(nn.Module):
    """The layer of DenseNet: what it computes stands beside what it read."""

    def __init__(self, i, growth):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(i), nn.Conv2d(i, growth, 3, padding=1, bias=False)

    def forward(self, x):
        return torch.cat((x, self.conv(torch.relu(self.norm(x)))), dim=1)


def densenet():
    """Dense layers and a transition with average pooling."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1),
        Dense(8, 4),
        Dense(12, 4),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 8, 1),
        nn.AvgPool2d(2, 2),
        Dense(8, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
    )


class Inception(nn.Module):
    """Four branches, one of them pooled with overlap."""

    def __init__(self, i):
        super().__init__()
        self.one, self.two = (
            conv_norm(i, 4, 1),
            nn.Sequential(conv_norm(i, 4, 1), conv_norm(4, 6, 3)),
        )
        self.three = nn.Sequential(
            nn.Conv2d(i, 4, (1, 5), padding=(0, 2)),
            nn.Conv2d(4, 4, (5, 1), padding=(2, 0)),
            nn.ReLU(),
        )
        self.four = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_norm(i, 4, 1))
        self.five = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_norm(i, 2, 1))

    def forward(self, x):
        branches = [self.one(x), self.two(x), self.three(x), self.four(x), self.five(x)]
        return torch.cat(branches, 1)


def inception():
    """Two blocks of branches."""
    return nn.Sequential(
        conv_norm(3, 8, 3, 2),
        Inception(8),
        Inception(20),
        nn.AvgPool2d(16),
        nn.Flatten(),
        nn.Linear(20, 10),
    )


class UNet(nn.Module):
    """Down and up again; the answer is an image."""

    def __init__(self, up="transposed"):
        super().__init__()
        self.down1, self.down2 = conv_norm(3, 8), conv_norm(8, 16)
        self.up = {
            "transposed": lambda: nn.ConvTranspose2d(16, 8, 2, stride=2),
            "nearest": lambda: nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(16, 8, 1)),
            "bilinear": lambda: nn.Sequential(
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
                nn.Conv2d(16, 8, 1),
            ),
        }[up]()
        self.last, self.out = conv_norm(16, 8), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        return self.out(self.last(torch.cat([one, self.up(two)], dim=1)))


class SamePadded(nn.Conv2d):
    """A subclass with a forward of its own: TensorFlow's padding."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x):
        return super().forward(self.pad(x))


class Scaled(nn.Linear):
    """A subclass that multiplies."""

    def forward(self, x):
        return 3 * super().forward(x)


class Normalising(nn.Module):
    """Images are normalised inside, by buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.48, 0.45, 0.4]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.22, 0.23, 0.25]).view(1, 3, 1, 1))
        self.body = nn.Sequential(conv_norm(3, 8, 3, 2), nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = Scaled(8, 10)

    def forward(self, x):
        return self.head(self.body((x - self.mean) / self.std))


class Paddings(nn.Module):
    """Padding of every kind, strides that differ, dilation, groups."""

    def __init__(self):
        super().__init__()
        self.a = SamePadded(3, 8, 3, 2)
        self.b = nn.Conv2d(8, 8, 3, padding="same", padding_mode="reflect")
        self.c = nn.Conv2d(8, 8, (3, 5), stride=(2, 1), padding=(1, 2))
        self.d = nn.Conv2d(8, 12, 3, padding=2, dilation=2, groups=4)
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        x = self.a(x).relu()
        x = F.leaky_relu(self.b(x), 0.1)
        x = F.elu(self.c(F.pad(x, (1, 0, 1, 0))))
        x = self.d(x).clamp(-1, 1)
        return self.head(F.adaptive_avg_pool2d(x, (1, 1)).squeeze(3).squeeze(2))


class GroupNormed(nn.Module):
    """Norms over groups of channels, which depend on the image."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 8, 3, 2), nn.GroupNorm(2, 8), nn.Conv2d(8, 16, 3)
        self.m, self.head = nn.GroupNorm(4, 16), nn.Linear(16, 10)

    def forward(self, x):
        x = F.silu(self.n(self.a(x)))
        x = F.gelu(self.m(self.b(x)))
        return self.head(torch.mean(x, dim=(-2, -1)))


class TwoHeads(nn.Module):
    """Two answers and a shared body."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv_norm(3, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.kind, self.place = nn.Linear(8, 10), nn.Linear(8, 4)

    def forward(self, x):
        x = self.body(x)
        return self.kind(x), self.place(x).sigmoid()


class AllConvolutional(nn.Module):
    """No linear layer; pooling over all that is left, whatever the size."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 12, 3, padding=1), nn.PReLU(12), nn.Conv2d(12, 12, 3, 2, 1), nn.PReLU()
        )
        self.last = nn.Conv2d(12, 10, 3, 2)

    def forward(self, x):
        x = self.last(self.layers(x))
        return F.avg_pool2d(x, x.size()[2:]).reshape(x.shape[0], 10)


class Perceptron(nn.Module):
    """Rows only; arithmetic with plain numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Linear(3072, 64), nn.BatchNorm1d(64), nn.Linear(64, 10)

    def forward(self, x):
        x = 2 * x.flatten(1) - 1
        return self.b(F.relu(self.n(self.a(x)))) / 2


def vgg():
    """Plain convolutions, an adaptive pooling to 2 x 2, a classifier with dropout."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(True), nn.MaxPool2d((2, 2))),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(kernel_size=2, stride=2)),
        nn.AdaptiveAvgPool2d((2, 2)),
        nn.Flatten(),
        *(nn.Linear(64, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 10)),
    )


HANDWRITTEN = {
    "tutorial": TutorialNet,
    "digits, log-softmax": DigitsNet,
    "digits, ReLU behind pooling": OldDigitsNet,
    "LeNet with tanh": SigmoidNet,
    "VGG": vgg,
    "ResNet": resnet,
    "ResNet, pre-activation": preactivation,
    "MobileNetV2": MobileNet,
    "MobileNetV3": lambda: MobileNet(nn.Hardswish, True),
    "EfficientNet": lambda: MobileNet(nn.SiLU, True),
    "SqueezeNet": squeezenet,
    "DenseNet": densenet,
    "Inception": inception,
    "U-Net, transposed": UNet,
    "U-Net, nearest": lambda: UNet("nearest"),
    "U-Net, bilinear": lambda: UNet("bilinear"),
    "normalised inside": Normalising,
    "paddings": Paddings,
    "group norms": GroupNormed,
    "two heads": TwoHeads,
    "all convolutional": AllConvolutional,
    "perceptron": Perceptron,
    "squeeze, linear": lambda: nn.Sequential(
        conv_norm(3, 8, 3, 2),
        LinearSqueeze(8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    ),
}
