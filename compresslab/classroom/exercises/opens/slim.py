"""Lab 07, open: the best network of twenty thousand multiplications an image.

A network is a list of convolutions (weight, bias, stride, padding), each with as many groups as its weight
says, ReLU between them and a mean over the positions at the end:

    multiplications of a layer = out * (in / groups) * kernel height * kernel width * output height * width

A fully connected layer is a convolution whose kernel is as large as the picture, so that everything of the
lab can be written this way. Left out: norms, which are folded into weights and biases (lab 02).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens import networks

MULTIPLICATIONS, EXAMPLES, SIDE = 20_000, 4_000, 16
MOST_LAYERS, MOST_WEIGHTS = 16, 1_000_000
Layer = tuple[np.ndarray, np.ndarray, int, int]


def slim_network(images: np.ndarray, labels: np.ndarray, budget: int) -> tuple[Layer, ...]:
    """Smaller pictures early, where channels are few; the last map is read by one kernel of its size."""
    plan = ((4, 5, 2, 2, 1), (8, 3, 2, 1, 1), (52, 4, 1, 0, 1), (26, 1, 1, 0, 1))
    return _trained(images, labels, plan)


def _trained(images, labels, plan, epochs=28, rate=1e-2):
    """Train convolutions (out, kernel, stride, padding, groups) with norms, and fold these."""
    torch.manual_seed(0)
    blocks, inputs = [], images.shape[1]
    for number, (out, kernel, stride, padding, groups) in enumerate(plan):
        last = number + 1 == len(plan)
        blocks.append(nn.Conv2d(inputs, out, kernel, stride, padding, groups=groups, bias=last))
        blocks += [] if last else [nn.BatchNorm2d(out), nn.ReLU()]
        inputs = out
    network = nn.Sequential(*blocks)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    steps, step = epochs * -(-len(x) // 100), 0
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(100):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
            F.cross_entropy(network(x[batch]).mean((2, 3)), y[batch]).backward()
            optimizer.step()
            step += 1
    return tuple(_folded(network.eval()))


def _folded(network):
    for number, layer in enumerate(network):
        if not isinstance(layer, nn.Conv2d):
            continue
        weight, bias = layer.weight.detach(), torch.zeros(len(layer.weight))
        if layer.bias is not None:
            bias = layer.bias.detach()
        if number + 1 < len(network):
            norm = network[number + 1]
            factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
            weight = weight * factor[:, None, None, None]
            bias = norm.bias.detach() - norm.running_mean * factor
        yield weight.numpy(), bias.numpy(), layer.stride[0], layer.padding[0]


def _large_maps(images, labels, budget):
    """The plain way: 3x3 convolutions, and the picture is halved after the first two."""
    plan = ((3, 3, 1, 1, 1), (3, 3, 2, 1, 1), (8, 3, 2, 1, 1), (10, 3, 2, 1, 1), (26, 1, 1, 0, 1))
    return _trained(images, labels, plan)


def _one_layer(images, labels, budget):
    """A kernel as large as the picture, and nothing behind it."""
    return _trained(images, labels, ((26, SIDE, 1, 0, 1),), epochs=5)


def _untrained(images, labels, budget):
    plan = ((4, 5, 2, 2, 1), (8, 3, 2, 1, 1), (52, 4, 1, 0, 1), (26, 1, 1, 0, 1))
    return _trained(images, labels, plan, epochs=0)


def _too_much(images, labels, budget):
    plan = ((16, 3, 1, 1, 1), (32, 3, 2, 1, 1), (26, 1, 1, 0, 1))
    return _trained(images, labels, plan, epochs=0)


def multiplications(layers: Sequence[Layer]) -> int:
    """Of one image through these layers.

    Raises:
        ValueError: if a kernel is larger than the picture it meets, with its padding.
    """
    side, total = (SIDE, SIDE), 0
    for weight, _, stride, padding in layers:
        side = tuple(
            (s + 2 * padding - k) // stride + 1 for s, k in zip(side, weight.shape[2:], strict=True)
        )
        if min(side) < 1:
            raise ValueError(f"a kernel of {weight.shape[2:]} is larger than the picture it meets")
        total += weight.size * side[0] * side[1]
    return total


def measured(case: Case, layers: object) -> float | str:
    """Accuracy of the network; a sentence if it breaks the rules."""
    budget = case.args[2]
    wrong = _malformed(layers)
    if wrong:
        return wrong
    try:
        used = multiplications(layers)
    except ValueError as error:
        return str(error)
    if used > budget:
        return f"this network multiplies {used:,} times an image, allowed are {budget:,}"
    images, labels = networks.validation()
    return 100 * float((outputs(layers, images).argmax(1) == labels).mean())


def outputs(layers: Sequence[Layer], images: np.ndarray) -> np.ndarray:
    """Logits float32 [n, 26] of images [n, 256]."""
    x = torch.from_numpy(images).reshape(-1, 1, SIDE, SIDE)
    for number, (weight, bias, stride, padding) in enumerate(layers):
        x = torch.relu(x) if number else x
        weight, bias = torch.from_numpy(weight), torch.from_numpy(bias)
        x = F.conv2d(x, weight, bias, stride, padding, groups=x.shape[1] // weight.shape[1])
    return x.mean((2, 3)).numpy()


def _malformed(layers: object) -> str:
    if type(layers) not in (tuple, list) or not 1 <= len(layers) <= MOST_LAYERS:
        return f"there must be 1 to {MOST_LAYERS} layers, got {compare.show(layers)}"
    channels = 1
    for layer in layers:
        if type(layer) not in (tuple, list) or len(layer) != 4:
            return "a layer must be weight, bias, stride and padding"
        weight, bias, stride, padding = layer
        if not all(isinstance(a, np.ndarray) and a.dtype == np.float32 for a in (weight, bias)):
            return "every weight and bias must be a float32 array"
        if weight.ndim != 4 or not 1 <= weight.size <= MOST_WEIGHTS:
            return f"a weight must be [out, in / groups, height, width], got {weight.shape}"
        outputs, fan_in = weight.shape[:2]
        if channels % fan_in or outputs % (channels // fan_in):
            return f"a weight {weight.shape} does not take {channels} channels in equal groups"
        if bias.shape != (outputs,):
            return f"a bias must be [{outputs}], got {bias.shape}"
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            return "weights and biases must be finite"
        for name, value, least in (("stride", stride, 1), ("padding", padding, 0)):
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if not whole or not least <= value <= SIDE:
                return (
                    f"a {name} must be an integer from {least} to {SIDE}, got {compare.show(value)}"
                )
        channels = outputs
    if channels != networks.CLASSES:
        return f"the last layer must have {networks.CLASSES} outputs, got {channels}"
    return ""


def _cases(generator: np.random.Generator) -> list[Case]:
    x, y = networks.images()
    chosen = np.sort(generator.choice(len(x), EXAMPLES, replace=False))
    images = x[chosen].reshape(-1, 1, SIDE, SIDE)
    label = f"{MULTIPLICATIONS:,} multiplications an image, {EXAMPLES:,} images to train on"
    return [Case(label, (images, y[chosen], MULTIPLICATIONS))]


SLIM_NETWORK = Exercise(
    id="slim.slim_network",
    title="Twenty thousand multiplications",
    points=6,
    reference=slim_network,
    cases=_cases,
    lines=35,
    medals=Medals(
        bronze=78.5,
        silver=81.0,
        gold=83.0,
        measure=measured,
        unit="% of the validation images",
        plain=_large_maps,
    ),
    mistakes=(
        Mistake(
            "one layer",
            _one_layer,
            "One layer reads the whole picture at once. Kernels that slide over it use every weight in many "
            "places, and a small picture behind the first of them leaves room for the next.",
        ),
        Mistake(
            "nothing trained",
            _untrained,
            "The weights are as they were drawn. Train the network, and fold its norms into its weights.",
        ),
        Mistake(
            "over the budget",
            _too_much,
            "A layer multiplies out * (in / groups) * kernel * kernel times at every output position. "
            "Count them before you train.",
        ),
    ),
)

EXERCISES = (SLIM_NETWORK,)
