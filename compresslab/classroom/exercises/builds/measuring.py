"""Lab 00: parameters and MACs of any network, counted by hooks."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from compresslab.classroom.exercise import RIGHT, Case, Exercise, Mistake
from compresslab.measure.counts import count_layers

LINEAR, IMAGES, TWICE, LEFT = "linear layers", "convolutions", "layers that run twice", "as it was"


def count_network(network: nn.Module, x: torch.Tensor) -> tuple[int, int]:
    """The library's: parameters, and MACs of one example."""
    counts = count_layers(network, x[0])
    return sum(p.numel() for p in network.parameters()), sum(c.macs for c in counts)


def at_work(function: Callable) -> Callable:
    """The counts of a network that is made here, and how the network was left."""

    class Again(torch.nn.Module):
        """One layer that runs several times, and one that never does."""

        def __init__(self, width: int, times: int) -> None:
            super().__init__()
            self.inner, self.unused, self.times = (
                torch.nn.Linear(width, width),
                torch.nn.Linear(3, 2),
                times,
            )

        def forward(self, x):
            for _ in range(self.times):
                x = torch.relu(self.inner(x))
            return x

    def run(stage, sizes, shape):
        torch.manual_seed(0)
        nn, layers = torch.nn, []
        if stage == "convolutions":
            for inputs, outputs, kernel, stride, groups in sizes:
                layers += [
                    nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups),
                    nn.ReLU(),
                ]
                layers += [nn.BatchNorm2d(outputs)]
        elif stage == "layers that run twice":
            layers += [Again(sizes[0], sizes[1])]
        else:
            for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):  # noqa: RUF007  # noqa: RUF007  # noqa: RUF007
                norm = [nn.BatchNorm1d(outputs)] if stage == "as it was" else []
                layers += [nn.Linear(inputs, outputs), *norm, nn.ReLU()]
        network = nn.Sequential(*layers).train()
        before = {k: v.clone() for k, v in network.state_dict().items()}
        parameters, macs = function(network, torch.randn(shape))
        if stage != "as it was":
            return int(parameters), int(macs)
        hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())
        after = network.state_dict()
        same = all(bool(torch.equal(v, after[k])) for k, v in before.items())
        return hooks, bool(network.training), same

    return run


def seen(value: tuple, stage: str, sizes: tuple, shape: tuple) -> tuple | str:
    """The counts; of the last stage, one sentence."""
    if stage != LEFT:
        return value
    hooks, training, same = value
    if hooks:
        return "hooks are left on the network"
    if not training:
        return "the network is in another mode than before"
    return RIGHT if same else "the running means of its norms have changed"


def _cases(generator: np.random.Generator) -> list[Case]:
    width, other = (int(n) for n in generator.integers(5, 40, 2))
    sizes = (3, 4)
    return [
        Case("one layer, one example", (LINEAR, sizes, (1, 3)), LINEAR),
        Case("five examples are counted as one", (LINEAR, sizes, (5, 3)), LINEAR),
        Case("three layers", (LINEAR, (width, other, 7), (2, width)), LINEAR),
        Case("one convolution", (IMAGES, ((1, 2, 3, 1, 1),), (1, 1, 4, 4)), IMAGES),
        Case("a stride of 2", (IMAGES, ((3, 4, 3, 2, 1),), (2, 3, 8, 6)), IMAGES),
        Case(
            "depthwise, then 1x1",
            (IMAGES, ((6, 6, 3, 1, 6), (6, 8, 1, 1, 1)), (1, 6, 5, 7)),
            IMAGES,
        ),
        Case("one layer, run twice", (TWICE, (4, 2), (1, 4)), TWICE),
        Case("one layer, run five times", (TWICE, (other, 5), (3, other)), TWICE),
        Case("hooks gone, mode and norms as before", (LEFT, (3, 4, 2), (4, 3)), LEFT),
        Case("the same of a wider one", (LEFT, (width, 9), (6, width)), LEFT),
    ]


def _counted(
    of_batch: bool = False,
    from_shapes: bool = False,
    groups: bool = True,
    output: bool = True,
    evaluating: bool = True,
    removed: bool = True,
    back: bool = True,
    biases: bool = True,
) -> Callable:
    def count_network(network, x):
        macs, handles, mode = [0], [], network.training

        def hook(layer, inputs, out):
            if isinstance(layer, nn.Conv2d):
                seen = layer.in_channels // (layer.groups if groups else 1)
                place = out if output else inputs[0]
                macs[0] += (
                    layer.out_channels * seen * layer.weight[0, 0].numel() * place[0, 0].numel()
                )
            else:
                macs[0] += layer.in_features * out[0].numel()

        layers = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        if from_shapes:
            macs[0] = sum(m.weight.numel() for m in layers)
        else:
            handles = [m.register_forward_hook(hook) for m in layers]
            network.train(mode and not evaluating)
            with torch.no_grad():
                network(x)
            network.train(mode if back else False)
        for handle in handles if removed else ():
            handle.remove()
        of = len(x) if of_batch else 1
        parameters = [p for n, p in network.named_parameters() if biases or not n.endswith("bias")]
        return sum(p.numel() for p in parameters), macs[0] * of

    return count_network


COUNT_NETWORK = Exercise(
    id="measuring.count_network",
    title="Count any network",
    points=12,
    reference=count_network,
    cases=_cases,
    harness=at_work,
    look=seen,
    lines=18,
    stages=((LINEAR, 3), (IMAGES, 3), (TWICE, 3), (LEFT, 3)),
    mistakes=(
        Mistake(
            "the whole batch counted",
            _counted(of_batch=True),
            "MACs are those of *one* example, however many run through the network.",
        ),
        Mistake(
            "counted from the weights alone",
            _counted(from_shapes=True),
            "A convolution uses each weight once at every output position, and a layer that runs twice "
            "works "
            "twice: count in a forward hook, where the output is at hand.",
        ),
        Mistake(
            "groups forgotten",
            _counted(groups=False),
            "With groups an output channel sees only in_channels / groups input channels.",
        ),
        Mistake(
            "the input's positions",
            _counted(output=False),
            "A convolution multiplies once for every *output* position; with a stride these are fewer.",
        ),
        Mistake(
            "in training mode",
            _counted(evaluating=False),
            "A forward pass in training mode changes the running means of the batch norms: count in eval "
            "mode, "
            "and set the mode back.",
        ),
        Mistake(
            "the hooks are left behind",
            _counted(removed=False),
            "`register_forward_hook` hands back a handle: call its `remove()` when the counting is done, "
            "or every "
            "later pass counts on.",
        ),
        Mistake(
            "left in eval mode",
            _counted(back=False),
            "The network was in training mode when you were given it.",
        ),
        Mistake(
            "biases left out",
            _counted(biases=False),
            "Parameters are all of them: biases and the norms' too.",
        ),
    ),
)

EXERCISES = (COUNT_NETWORK,)
