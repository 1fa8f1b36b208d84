"""Lab 12, open: a network in half a bit a weight, as a perfect coder would write it.

A layer is codes and the values that they stand for. What a file would take at best is, in bits,

    sum over layers of   n H(codes) + 32 (number of values),   H = -sum p log2 p   (Shannon 1948, theorem 4)

so that a layer of zeros costs nothing and a rare value more than a frequent one. Biases are not counted.
"""

import numpy as np
import torch

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens import networks
from compresslab.classroom.exercises.opens.networks import Arrays

BITS = 0.5
"""A weight."""
EXAMPLES = 4_000
Layer = tuple[np.ndarray, np.ndarray, np.ndarray]


def coded_network(
    weights: Arrays, biases: Arrays, images: np.ndarray, labels: np.ndarray, budget: int
) -> tuple[Layer, ...]:
    """Pruned little by little while it trains, then trained on as the values that it will have.

    One value for each sign: what more of them would cost is better spent on more weights.
    """
    return _trained(weights, biases, images, labels, budget)


def entropy_bits(codes: np.ndarray, values: int) -> float:
    """Bits of codes as a perfect coder writes them, and of the values they stand for."""
    counts = np.bincount(codes.ravel()).astype(np.float64)
    p = counts[counts > 0] / codes.size
    return float(-codes.size * (p * np.log2(p)).sum()) + 32 * values


def _trained(
    weights, biases, images, labels, budget, remaining=0.085, levels=1, epochs=(14, 14), rate=8e-3
):
    torch.manual_seed(0)
    ws = [torch.tensor(w, requires_grad=True) for w in weights]
    bs = [torch.tensor(b, requires_grad=True) for b in biases]
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam([*ws, *bs], rate)
    for phase, count in enumerate(epochs):
        steps, step = count * -(-len(x) // 100), 0
        for _ in range(count):
            for batch in torch.randperm(len(x)).split(100):
                part = 1.0 if phase else min(1.0, step / (0.7 * steps))
                if step % 20 == 0:
                    masks = networks.largest(ws, 1 - (1 - remaining) * (1 - (1 - part) ** 3))
                with torch.no_grad():
                    for w, mask in zip(ws, masks, strict=True):
                        w *= mask
                used = [_straight_through(w, levels) for w in ws] if phase else ws
                lr = rate * (1 - step / steps) + 1e-5
                optimizer.param_groups[0]["lr"] = lr / (3 if phase else 1)
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(_logits(used, bs, x[batch]), y[batch]).backward()
                optimizer.step()
                step += 1
    found = [w.detach() for w in ws]
    while True:
        found = [
            w * mask for w, mask in zip(found, networks.largest(found, remaining), strict=True)
        ]
        layers = _coded(found, bs, levels)
        if sum(entropy_bits(codes, len(values)) for codes, values, _ in layers) <= budget:
            return layers
        remaining *= 0.98


def _logits(weights, biases, x):
    for number, (w, b) in enumerate(zip(weights, biases, strict=True)):
        x = torch.nn.functional.linear(x, w, b)
        x = torch.relu(x) if number + 1 < len(weights) else x
    return x


def _straight_through(w, levels):
    codes, values = _clustered(w.detach(), levels)
    return w + (values[codes] - w).detach()


def _clustered(w, levels):
    """Zero, and for each sign values that are the means of equally many weights, then Lloyd's steps."""
    parts = [torch.zeros(1)]
    for side in (w[w > 0], w[w < 0]):
        if len(side):
            ordered = side.sort().values
            parts += [p.mean()[None] for p in ordered.tensor_split(levels) if len(p)]
    values = torch.cat(parts)
    for _ in range(4):
        codes = (w[..., None] - values).abs().argmin(-1)
        codes[w == 0] = 0
        sums = torch.zeros_like(values).index_add_(0, codes.flatten(), w.flatten())
        values = sums / torch.bincount(codes.flatten(), minlength=len(values)).clamp(min=1)
    return codes, values


def _coded(weights, biases, levels):
    layers = []
    for w, b in zip(weights, biases, strict=True):
        codes, values = _clustered(w, levels)
        layers.append((codes.numpy().astype(np.uint8), values.numpy(), b.detach().numpy()))
    return tuple(layers)


def _plain(weights, biases, images, labels, budget, levels=8):
    """The plain way: the largest weights, shared values, and as many as fit; nothing is trained."""
    ws, bs = [torch.from_numpy(w) for w in weights], [torch.from_numpy(b) for b in biases]
    remaining = 0.2
    while True:
        kept = [w * mask for w, mask in zip(ws, networks.largest(ws, remaining), strict=True)]
        layers = _coded(kept, bs, levels)
        if sum(entropy_bits(codes, len(values)) for codes, values, _ in layers) <= budget:
            return layers
        remaining *= 0.97


def _signs(weights, biases, images, labels, budget):
    """Two values a layer, and no zeros: a whole bit."""
    layers = []
    for w, b in zip(weights, biases, strict=True):
        size = np.abs(w).mean()
        layers.append(((w > 0).astype(np.uint8), np.array([-size, size], np.float32), b))
    return tuple(layers)


def _pruned_then_shared(weights, biases, images, labels, budget):
    """Trained while it is pruned, and not as the values that it will have."""
    return _trained(weights, biases, images, labels, budget, 0.075, levels=2, epochs=(14, 0))


def measured(case: Case, layers: object) -> float | str:
    """Accuracy of the network that the codes stand for; a sentence if they break the rules."""
    weights, budget = case.args[0], case.args[4]
    if type(layers) not in (tuple, list) or len(layers) != len(weights):
        return f"there must be {len(weights)} layers"
    for layer, w in zip(layers, weights, strict=True):
        wrong = _wrong(layer, w.shape)
        if wrong:
            return wrong
    used = sum(entropy_bits(codes, len(values)) for codes, values, _ in layers)
    if used > budget:
        return f"these codes and values take {used:,.0f} bits, allowed are {budget:,}"
    return networks.accuracy(
        [values[codes] for codes, values, _ in layers], [b for *_, b in layers]
    )


def _wrong(layer: object, shape: tuple[int, int]) -> str:
    if type(layer) not in (tuple, list) or len(layer) != 3:
        return "a layer must be codes, values and bias"
    if not all(isinstance(part, np.ndarray) for part in layer):
        return "codes, values and bias must be arrays"
    codes, values, bias = layer
    if codes.dtype != np.uint8 or codes.shape != shape:
        return f"codes must be uint8 {shape}, got {codes.dtype} {codes.shape}"
    if values.dtype != np.float32 or values.ndim != 1 or not 1 <= len(values) <= 256:
        return f"values must be float32 [1 to 256], got {values.dtype} {values.shape}"
    if codes.size and codes.max() >= len(values):
        return f"code {compare.show(codes.max())} has no value: there are {len(values)}"
    if bias.dtype != np.float32 or bias.shape != shape[:1]:
        return f"bias must be float32 {shape[:1]}, got {bias.dtype} {bias.shape}"
    return "" if np.isfinite(values).all() and np.isfinite(bias).all() else "values must be finite"


def _cases(generator: np.random.Generator) -> list[Case]:
    x, y = networks.images()
    chosen = np.sort(generator.choice(len(x), EXAMPLES, replace=False))
    weights, biases = networks.mlp(int(generator.integers(3)))
    count = sum(w.size for w in weights)
    budget = int(BITS * count)
    label = f"{count:,} weights in {budget:,} bits, {EXAMPLES:,} images to train on"
    return [Case(label, (weights, biases, x[chosen], y[chosen], budget))]


CODED_NETWORK = Exercise(
    id="combine.coded_network",
    title="Half a bit a weight",
    points=6,
    reference=coded_network,
    cases=_cases,
    lines=40,
    medals=Medals(
        bronze=50.0,
        silver=70.0,
        gold=78.0,
        measure=measured,
        unit="% of the validation images",
        plain=_plain,
    ),
    mistakes=(
        Mistake(
            "nothing trained",
            _plain,
            "The largest weights stay and share their values, and nothing is trained after that: the "
            "weights that stay can make up for much of what is gone.",
        ),
        Mistake(
            "signs alone",
            _signs,
            "Two values that are equally frequent cost a whole bit a weight. Three values of which one, "
            "zero, is that of nearly all weights cost less.",
        ),
        Mistake(
            "trained, and rounded after that",
            _pruned_then_shared,
            "The network was trained with weights of its own, and got its shared values at the end. Train on "
            "with the shared values in the forward pass.",
        ),
    ),
)

EXERCISES = (CODED_NETWORK,)
