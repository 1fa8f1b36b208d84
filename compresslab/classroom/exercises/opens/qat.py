"""Lab 03, open: weights and hidden activations in two bits, trained through the rounding.

    layer:        z = (codes * scale) x + bias,   codes -2 to 1, a scale for each row
    activation:   step * clip(round(z / step), 0, 3),   a step for each hidden layer

The model answer learns weights, scales and steps together (Esser et al. 2020, LSQ).
"""

import numpy as np
import torch

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens import networks
from compresslab.classroom.exercises.opens.networks import Arrays

EXAMPLES = 4_000
LOW, HIGH, TOP = -2, 1, 3
"""Least and largest code of a weight, and the largest of an activation."""
Layer = tuple[np.ndarray, np.ndarray, np.ndarray, float]


def two_by_two(
    weights: Arrays, biases: Arrays, images: np.ndarray, labels: np.ndarray
) -> tuple[Layer, ...]:
    """All that can be learned, learned together."""
    return _learned(weights, biases, images, labels, epochs=15)


def _through(x: torch.Tensor) -> torch.Tensor:
    """The nearest whole number; the gradient passes as if nothing were rounded."""
    return x + (x.round() - x).detach()


def _learned(weights, biases, images, labels, epochs, rate=2e-3, steps_too=True):
    ws = [torch.tensor(w) for w in weights]
    bs = [torch.tensor(b) for b in biases]
    # Codes of -2 and 1 then stand for what is beyond two deviations and one.
    scales = [1.4 * w.std(1, keepdim=True) for w in ws]
    steps = [torch.tensor(s) for s in _steps(weights, biases, images)]
    learned = [*ws, *bs, *(scales + steps if steps_too else [])]
    for tensor in learned:
        tensor.requires_grad_()

    def logits(x: torch.Tensor) -> torch.Tensor:
        for number, (w, b, s) in enumerate(zip(ws, bs, scales, strict=True)):
            s = s.abs() + 1e-6
            x = x @ (_through((w / s).clamp(LOW, HIGH)) * s).T + b
            if number < len(steps):
                step = steps[number].abs() + 1e-6
                x = _through((x / step).clamp(0, TOP)) * step
        return x

    networks.descended(logits, learned, images, labels, epochs, rate)
    with torch.no_grad():
        scales = [s.abs() + 1e-6 for s in scales]
        codes = [(w / s).clamp(LOW, HIGH).round() for w, s in zip(ws, scales, strict=True)]
        last = [float(s.abs() + 1e-6) for s in steps] + [1.0]
        return tuple(
            (c.numpy().astype(np.int8), s[:, 0].numpy(), b.detach().numpy(), step)
            for c, s, b, step in zip(codes, scales, bs, last, strict=True)
        )


def _steps(weights: Arrays, biases: Arrays, x: np.ndarray) -> list[float]:
    """A third of what 99 of 100 positive activations stay below, of each hidden layer."""
    found = []
    for w, b in list(zip(weights, biases, strict=True))[:-1]:
        x = np.maximum(x @ w.T + b, 0)
        found.append(float(np.quantile(x[x > 0], 0.99)) / TOP)
    return found


def measured(case: Case, layers: object) -> float | str:
    """Accuracy of the network with these codes; a sentence if they break the rules."""
    weights = case.args[0]
    if type(layers) not in (tuple, list) or len(layers) != len(weights):
        return f"there must be {len(weights)} layers"
    for layer, w in zip(layers, weights, strict=True):
        if wrong := _wrong(layer, w.shape):
            return wrong
    x, labels = networks.validation()
    for number, (codes, scale, bias, step) in enumerate(layers):
        x = x @ (codes * scale[:, None]).T + bias
        if number + 1 < len(layers):
            x = (np.clip(np.rint(x / step), 0, TOP) * step).astype(np.float32)
    return 100 * float((x.argmax(1) == labels).mean())


def _wrong(layer: object, shape: tuple[int, int]) -> str:
    if type(layer) not in (tuple, list) or len(layer) != 4:
        return "a layer must be codes, scales, bias and the step of its activations"
    codes, scale, bias, step = layer
    if not isinstance(codes, np.ndarray) or codes.dtype != np.int8 or codes.shape != shape:
        return f"codes must be int8 {shape}, got {compare.show(codes)}"
    if codes.size and not LOW <= int(codes.min()) <= int(codes.max()) <= HIGH:
        return f"a code must be {LOW} to {HIGH}, got {codes.min()} to {codes.max()}"
    for name, part in (("scales", scale), ("bias", bias)):
        fine = isinstance(part, np.ndarray) and part.dtype == np.float32
        if not fine or part.shape != shape[:1] or not np.isfinite(part).all():
            return f"{name} must be finite, float32 {shape[:1]}, got {compare.show(part)}"
    number = isinstance(step, float | int | np.floating) and not isinstance(step, bool)
    if not number or not 1e-30 < step < 1e30:
        return f"a step must be a number above 0, got {compare.show(step)}"
    return ""


def _cases(generator: np.random.Generator) -> list[Case]:
    x, y = networks.images()
    chosen = np.sort(generator.choice(len(x), EXAMPLES, replace=False))
    args = (*networks.mlp(int(generator.integers(3))), x[chosen], y[chosen])
    return [Case(f"a perceptron, {EXAMPLES:,} images to train on", args)]


# ---- other ways ------------------------------------------------------------------------------------
def _rounded(weights, biases, images, labels):
    """The plain way: the whole range, and nothing trained."""
    found = []
    steps = [*_steps(weights, biases, images), 1.0]
    for w, b, step in zip(weights, biases, steps, strict=True):
        scale = np.abs(w).max(1) / 2
        codes = np.clip(np.rint(w / scale[:, None]), LOW, HIGH).astype(np.int8)
        found.append((codes, scale, b, step))
    return tuple(found)


def _untrained(weights, biases, images, labels):
    return _learned(weights, biases, images, labels, epochs=0)


def _one_epoch(weights, biases, images, labels):
    return _learned(weights, biases, images, labels, epochs=1)


def _three_bits(weights, biases, images, labels):
    layers = _rounded(weights, biases, images, labels)
    return tuple((np.clip(c * 2, -4, 3).astype(np.int8), s, b, t) for c, s, b, t in layers)


def _trained_then_rounded(weights, biases, images, labels):
    ws, bs = ([torch.tensor(a, requires_grad=True) for a in part] for part in (weights, biases))

    def logits(x: torch.Tensor) -> torch.Tensor:
        for number, (w, b) in enumerate(zip(ws, bs, strict=True)):
            x = x @ w.T + b
            x = torch.relu(x) if number + 1 < len(ws) else x
        return x

    networks.descended(logits, [*ws, *bs], images, labels, 10)
    longer = (tuple(t.detach().numpy() for t in part) for part in (ws, bs))
    return _learned(*longer, images, labels, epochs=0)


TWO_BY_TWO = Exercise(
    id="qat.two_by_two",
    title="Two bits for weights and activations",
    points=12,
    reference=two_by_two,
    cases=_cases,
    lines=35,
    medals=Medals(
        bronze=66.0,
        silver=72.5,
        gold=79.0,
        measure=measured,
        unit="% of the validation images",
        plain=_rounded,
    ),
    mistakes=(
        Mistake(
            "rounded over the whole range",
            _rounded,
            "The largest weight of a row decides its scale, and nothing is trained: the network was "
            "made for "
            "floats.",
        ),
        Mistake(
            "good scales, not trained",
            _untrained,
            "The scales are sensible. Now train through the rounding: forward with codes, backward "
            "as if nothing "
            "had been rounded.",
        ),
        Mistake(
            "trained in floats, then rounded",
            _trained_then_rounded,
            "Training went on in floats, and rounding came after it. The codes must be in the "
            "forward pass while "
            "you train, so that the weights can make up for them.",
        ),
        Mistake(
            "an epoch only",
            _one_epoch,
            "This is the way. One epoch is not enough for two bits: you have 20 seconds of processor time.",
        ),
        Mistake(
            "codes of three bits",
            _three_bits,
            "A code of two bits is -2, -1, 0 or 1.",
        ),
    ),
)

EXERCISES = (TWO_BY_TWO,)
