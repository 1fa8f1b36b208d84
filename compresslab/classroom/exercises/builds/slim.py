"""Lab 07: MobileNetV2's block, from its three convolutions to the connection around them."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake

SHAPES, COUNT, AROUND, LINEAR = "shapes", "parameters", "the connection", "a linear end"


class _Block(nn.Module):
    """The reference, with what people get wrong as options."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        expansion: int,
        *,
        groups: bool = True,
        bias: bool = False,
        end: bool = True,
        around: Callable = lambda i, o, s: i == o and s == 1,
        stride_at: int = 1,
        wide: bool = True,
        activation: type = nn.ReLU6,
        padding: int = 1,
        expand_at_one: bool = False,
    ) -> None:
        super().__init__()
        inner = inputs * expansion if wide else inputs
        strides = [stride if i == stride_at else 1 for i in range(3)]
        layers = []
        if expansion != 1 or expand_at_one:
            layers += [
                nn.Conv2d(inputs, inner, 1, strides[0], bias=bias),
                nn.BatchNorm2d(inner),
                activation(),
            ]
        of = inner if groups else 1
        layers += [nn.Conv2d(inner, inner, 3, strides[1], padding, groups=of, bias=bias)]
        layers += [nn.BatchNorm2d(inner), activation()]
        layers += [nn.Conv2d(inner, outputs, 1, strides[2], bias=bias), nn.BatchNorm2d(outputs)]
        layers += [] if end else [activation()]
        self.body = nn.Sequential(*layers)
        self.residual = around(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.body(x)
        return x + y if self.residual and x.shape == y.shape else y


def inverted_residual(inputs: int, outputs: int, stride: int, expansion: int) -> nn.Module:
    """MobileNetV2's block (Sandler et al. 2018, table 1 and figure 4)."""
    return _Block(inputs, outputs, stride, expansion)


def at_work(function: Callable) -> Callable:
    """What comes of the block in one stage, as arrays."""

    def run(stage, x, outputs, stride, expansion):
        torch.manual_seed(0)
        block, inputs = function(x.shape[1], outputs, stride, expansion), torch.from_numpy(x)
        if not isinstance(block, torch.nn.Module):
            return ("none",)
        block.eval()
        if stage == "parameters":
            groups = [m.groups for m in block.modules() if isinstance(m, torch.nn.Conv2d)]
            return "count", sum(p.numel() for p in block.parameters()), max(groups, default=0)
        if stage == "shapes":
            large = block(1e4 * inputs).detach().numpy()
            return "outputs", block(inputs).detach().numpy(), large
        if stage in ("the connection", "a linear end"):
            # With every norm's gain and shift at 0 the three convolutions give 0.
            norms, handles = [], []
            for module in block.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    seen = module.register_forward_hook(lambda m, inputs, y: norms.append(m))
                    handles.append(seen)
            block(inputs)  # in the order in which they run, not in which they were made
            for handle in handles:
                handle.remove()
            if not norms:
                return ("no norms",)
            with torch.no_grad():
                for norm in norms[-1:]:
                    norm.weight.zero_()
                    norm.bias.fill_(0.0 if stage == "the connection" else -3.0)
        return "outputs", block(inputs).detach().numpy()

    return run


def seen(value: tuple, stage, x, outputs, stride, expansion) -> str:
    """One sentence about a stage."""
    kind, *found = value
    if kind == "none":
        return "it hands back no module"
    if kind == "no norms":
        return "there is no batch norm in it"
    n, inputs, height, width = x.shape
    if stage == COUNT:
        inner = inputs * expansion
        wanted = 0 if expansion == 1 else inputs * inner + 2 * inner
        wanted += 9 * inner + 2 * inner + inner * outputs + 2 * outputs
        if found[1] != inner:
            return "no convolution has one group per channel of the wide part"
        return RIGHT if found[0] == wanted else "the number of parameters is another one"
    shape = (n, outputs, -(-height // stride), -(-width // stride))
    if found[0].shape != shape:
        return "the outputs have another shape"
    if stage == SHAPES:
        if not np.isfinite(found[0]).all():
            return "the outputs are not finite"
        # What comes out of ReLU6 is at most 6, and a fresh 1x1 kernel at most 1 / sqrt(channels).
        around = 1e4 * x if inputs == outputs and stride == 1 else 0
        bound = 6 * (inputs * expansion) ** 0.5 + 1
        return (
            RIGHT
            if np.abs(found[1] - around).max() < bound
            else "large activations are not cut off at 6"
        )
    same = inputs == outputs and stride == 1
    wanted = (x if same else np.zeros(shape, np.float32)) - (0 if stage == AROUND else 3)
    if np.allclose(found[0], wanted, atol=1e-4):
        return RIGHT
    if stage == LINEAR:
        return "what is negative does not come through"
    return "the input does not come through" if same else "something is added where nothing fits"


def _cases(generator: np.random.Generator) -> list[Case]:
    def case(
        stage: str, inputs: int, outputs: int, stride: int, expansion: int, size=(6, 8)
    ) -> Case:
        x = generator.normal(0, 1, (2, inputs, *size)).astype(np.float32)
        label = f"{inputs} to {outputs} channels, stride {stride}, expansion {expansion}"
        return Case(f"{stage}: {label}", (stage, x, outputs, stride, expansion), stage)

    return [
        case(SHAPES, 4, 6, 1, 3),
        case(SHAPES, 4, 4, 2, 2),
        case(SHAPES, 3, 8, 2, 6, (7, 5)),
        case(COUNT, 4, 6, 1, 3),
        case(COUNT, 8, 8, 2, 6),
        case(COUNT, 5, 7, 1, 1),
        case(AROUND, 4, 4, 1, 3),
        case(AROUND, 4, 6, 1, 2),
        case(AROUND, 4, 4, 2, 2, (1, 1)),
        case(LINEAR, 4, 4, 1, 3),
        case(LINEAR, 4, 6, 2, 2),
    ]


def _wrong(**options: object) -> Callable:
    return lambda inputs, outputs, stride, expansion: _Block(
        inputs, outputs, stride, expansion, **options
    )


INVERTED_RESIDUAL = Exercise(
    id="slim.inverted_residual",
    title="MobileNetV2's block",
    points=8,
    reference=inverted_residual,
    cases=_cases,
    harness=at_work,
    look=seen,
    lines=18,
    stages=((COUNT, 2), (SHAPES, 2), (AROUND, 2), (LINEAR, 2)),
    mistakes=(
        Mistake(
            "an ordinary convolution in the middle",
            _wrong(groups=False),
            "The 3x3 convolution is depthwise: `groups` is the number of its channels.",
        ),
        Mistake(
            "convolutions with a bias",
            _wrong(bias=True),
            "Each convolution is followed by a norm, which has a shift of its own: `bias=False`.",
        ),
        Mistake(
            "an activation at the end",
            _wrong(end=False),
            "The last 1x1 convolution ends with its norm: an activation would cut off half of what the "
            "narrow "
            "part can say (section 3.2 of the paper).",
        ),
        Mistake(
            "ReLU instead of ReLU6",
            _wrong(activation=nn.ReLU),
            "MobileNetV2's activations end at 6, which suits few bits: `nn.ReLU6`.",
        ),
        Mistake(
            "no connection around it",
            _wrong(around=lambda i, o, s: False),
            "Where input and output have the same shape, the input is added to the output.",
        ),
        Mistake(
            "a connection wherever shapes happen to fit",
            _wrong(around=lambda i, o, s: i == o),
            "The block has a connection if the stride is 1 and both widths are equal, whatever the "
            "image's size.",
        ),
        Mistake(
            "not widened",
            _wrong(wide=False),
            "Between the two 1x1 convolutions there are inputs x expansion channels.",
        ),
        Mistake(
            "no padding",
            _wrong(padding=0),
            "A 3x3 kernel with a padding of 1 keeps the size of the image.",
        ),
        Mistake(
            "widened where there is nothing to widen",
            _wrong(expand_at_one=True),
            "With an expansion of 1 the block begins with the depthwise convolution.",
        ),
    ),
)

EXERCISES = (INVERTED_RESIDUAL,)
