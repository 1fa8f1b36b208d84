"""Lab 10, open: a perceptron of signs, in its weights and behind every hidden layer.

    layer:        z = scale * (signs x) + bias,   signs -1 and 1, a scale for each row
    activation:   -1 where z < 0, else 1

The model answer trains float weights behind the signs (Courbariaux et al. 2016, algorithm 1), with the float
network's answers beside the labels.
"""

import numpy as np
import torch

from compresslab.classroom import compare
from compresslab.classroom.exercise import Case, Exercise, Medals, Mistake
from compresslab.classroom.exercises.opens import networks
from compresslab.classroom.exercises.opens.networks import Arrays

EXAMPLES = 4_000
Layer = tuple[np.ndarray, np.ndarray, np.ndarray]


def sign_network(
    weights: Arrays, biases: Arrays, images: np.ndarray, labels: np.ndarray
) -> tuple[Layer, ...]:
    """Trained through the signs, hidden values centred on their batch; the bias takes that over."""
    return _learned(weights, biases, images, labels, epochs=15)


class _Sign(torch.autograd.Function):
    """1 and -1; the gradient passes where the value is between them."""

    @staticmethod
    def forward(context: object, x: torch.Tensor) -> torch.Tensor:
        context.save_for_backward(x)
        return torch.where(x < 0, -1.0, 1.0)

    @staticmethod
    def backward(context: object, gradient: torch.Tensor) -> torch.Tensor:
        (x,) = context.saved_tensors
        return gradient * (x.abs() <= 1)


def _learned(weights, biases, images, labels, epochs, rate=1.5e-2):
    ws = [torch.tensor(w / np.abs(w).mean(1, keepdims=True) * 0.3) for w in weights]
    norms = [torch.nn.BatchNorm1d(len(w)) for w in ws]
    learned = [*ws, *(p for norm in norms for p in norm.parameters())]
    for tensor in learned:
        tensor.requires_grad_()

    def logits(x: torch.Tensor) -> torch.Tensor:
        for number, (w, norm) in enumerate(zip(ws, norms, strict=True)):
            x = norm(x @ _Sign.apply(w).T)
            x = _Sign.apply(x) if number + 1 < len(ws) else x
        return x

    networks.descended(logits, learned, images, labels, epochs, rate)
    found = []
    with torch.no_grad():
        x = torch.from_numpy(images)
        for number, (w, norm) in enumerate(zip(ws, norms, strict=True)):
            signs = torch.where(w < 0, -1.0, 1.0)
            z = x @ signs.T
            # The norm as a scale and a bias, with the means of all images.
            scale = norm.weight / (z.var(0) + norm.eps).sqrt()
            bias = norm.bias - z.mean(0) * scale
            found.append((signs.numpy().astype(np.int8), scale.numpy(), bias.numpy()))
            z = z * scale + bias
            x = torch.where(z < 0, -1.0, 1.0) if number + 1 < len(ws) else z
    return tuple(found)


def measured(case: Case, layers: object) -> float | str:
    """Accuracy of the network with these signs; a sentence if they break the rules."""
    weights = case.args[0]
    if type(layers) not in (tuple, list) or len(layers) != len(weights):
        return f"there must be {len(weights)} layers"
    for layer, w in zip(layers, weights, strict=True):
        if wrong := _wrong(layer, w.shape):
            return wrong
    x, labels = networks.validation()
    for number, (signs, scale, bias) in enumerate(layers):
        x = (x @ signs.T.astype(np.float32)) * scale + bias
        if number + 1 < len(layers):
            x = np.where(x < 0, np.float32(-1), np.float32(1))
    return 100 * float((x.argmax(1) == labels).mean())


def _wrong(layer: object, shape: tuple[int, int]) -> str:
    if type(layer) not in (tuple, list) or len(layer) != 3:
        return "a layer must be signs, scales and bias"
    signs, scale, bias = layer
    if not isinstance(signs, np.ndarray) or signs.dtype != np.int8 or signs.shape != shape:
        return f"signs must be int8 {shape}, got {compare.show(signs)}"
    if not (np.abs(signs) == 1).all():
        return "a sign must be -1 or 1"
    for name, part in (("scales", scale), ("bias", bias)):
        fine = isinstance(part, np.ndarray) and part.dtype == np.float32
        if not fine or part.shape != shape[:1] or not np.isfinite(part).all():
            return f"{name} must be finite, float32 {shape[:1]}, got {compare.show(part)}"
    return ""


def _cases(generator: np.random.Generator) -> list[Case]:
    x, y = networks.images()
    chosen = np.sort(generator.choice(len(x), EXAMPLES, replace=False))
    args = (*networks.mlp(int(generator.integers(3))), x[chosen], y[chosen])
    return [Case(f"a perceptron, {EXAMPLES:,} images to train on", args)]


# ---- other ways ------------------------------------------------------------------------------------
def _signs(w: np.ndarray) -> np.ndarray:
    return np.where(w < 0, -1, 1).astype(np.int8)


def _of_the_floats(weights, biases, images, labels):
    """The plain way: the signs of the float weights at the mean of their magnitudes, their biases."""
    return tuple((_signs(w), np.abs(w).mean(1), b) for w, b in zip(weights, biases, strict=True))


def _centred(weights, biases, images, labels):
    """As many ones as minus ones behind every hidden neuron, and nothing trained."""
    return _learned(weights, biases, images, labels, epochs=0)


def _last_layer_only(weights, biases, images, labels):
    layers = list(_centred(weights, biases, images, labels))
    x = images
    for signs, scale, bias in layers[:-1]:
        x = np.where(x @ signs.T * scale + bias < 0, -1, 1).astype(np.float32)
    head = _learned(weights[-1:], biases[-1:], x, labels, epochs=10)
    return (*layers[:-1], *head)


def _one_epoch(weights, biases, images, labels):
    return _learned(weights, biases, images, labels, epochs=1)


def _with_zeros(weights, biases, images, labels):
    return tuple(
        (np.sign(np.rint(w / np.abs(w).mean())).astype(np.int8), np.abs(w).mean(1), b)
        for w, b in zip(weights, biases, strict=True)
    )


SIGN_NETWORK = Exercise(
    id="binary.sign_network",
    title="A network of signs",
    points=12,
    reference=sign_network,
    cases=_cases,
    lines=40,
    medals=Medals(
        bronze=35.0,
        silver=60.0,
        gold=70.0,
        measure=measured,
        unit="% of the validation images",
        plain=_of_the_floats,
    ),
    mistakes=(
        Mistake(
            "the signs of the float weights",
            _of_the_floats,
            "Taking signs is right for one layer by itself. Behind a ReLU most values were 0 or "
            "above; now they "
            "are -1 and 1, and the biases of the floats do not fit them. Centre the values, and train.",
        ),
        Mistake(
            "centred, not trained",
            _centred,
            "Every neuron says -1 as often as 1 now, which is the best start. Train from here, with "
            "the gradient "
            "of lab 10's exercise on signs.",
        ),
        Mistake(
            "only the last layer trained",
            _last_layer_only,
            "The last layer makes up for what the others lost. Train all of them, float weights "
            "behind the signs.",
        ),
        Mistake(
            "an epoch only",
            _one_epoch,
            "This is the way. Signs change late: you have 20 seconds of processor time.",
        ),
        Mistake(
            "zeros among the signs",
            _with_zeros,
            "A sign is -1 or 1. A third value costs a second bit.",
        ),
    ),
)

EXERCISES = (SIGN_NETWORK,)
