"""The networks and images of the open exercises, as plain arrays: answers have no library.

They are always the glyphs and the trained starts that the package carries, whatever data set a lab runs
on, so that thresholds mean the same everywhere. An answer is handed training images; accuracy is taken from
others.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch

from compresslab.baselines import BASELINES, read

Arrays = tuple[np.ndarray, ...]
CLASSES = 26


@functools.cache
def _data():
    return BASELINES["mlp"].data()


@functools.cache
def mlp(seed: int) -> tuple[Arrays, Arrays]:
    """Weights [outputs, inputs] and biases of a trained perceptron 256-300-100-26, seed 0 to 2."""
    state = read("mlp", _data(), seed).state_dict()
    parts = [state[name].numpy() for name in state]
    return tuple(p for p in parts if p.ndim == 2), tuple(p for p in parts if p.ndim == 1)


@functools.cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """Training images float32 [8000, 256] and labels int64."""
    train = _data().train
    return train.x.flatten(1).numpy(), train.y.numpy()


@functools.cache
def teacher_logits() -> np.ndarray:
    """What the carried teacher says of every training image, float32 [8000, 26]."""
    teacher = read("teacher", _data(), 0)
    with torch.no_grad():
        return torch.cat([teacher(x) for x in _data().train.x.split(500)]).numpy()


def outputs(
    weights: Sequence[np.ndarray], biases: Sequence[np.ndarray], x: np.ndarray
) -> np.ndarray:
    """Logits of a perceptron with ReLU between its layers."""
    for number, (w, b) in enumerate(zip(weights, biases, strict=True)):
        x = x @ w.T + b
        x = np.maximum(x, 0) if number + 1 < len(weights) else x
    return x


@functools.cache
def validation() -> tuple[np.ndarray, np.ndarray]:
    """Validation images float32 [n, 256] and labels; the test images stay for the lab's own tables."""
    val = _data().val
    return val.x.flatten(1).numpy(), val.y.numpy()


def accuracy(weights: Sequence[np.ndarray], biases: Sequence[np.ndarray]) -> float:
    """Per cent of the validation images."""
    x, labels = validation()
    return 100 * float((outputs(weights, biases, x).argmax(1) == labels).mean())


def malformed(weights: object, biases: object, inputs: int = 256) -> str:
    """What is wrong with the arrays of a perceptron, as a sentence; "" if nothing is."""
    if type(weights) not in (tuple, list) or type(biases) not in (tuple, list):
        return "weights and biases must be tuples of arrays"
    if not 1 <= len(weights) == len(biases) <= 8:
        return f"there must be as many biases as weights, got {len(biases)} and {len(weights)}"
    for w, b in zip(weights, biases, strict=True):
        if not all(isinstance(a, np.ndarray) and a.dtype == np.float32 for a in (w, b)):
            return "every weight and bias must be a float32 array"
        if w.ndim != 2 or w.shape[1] != inputs or b.shape != (len(w),):
            return f"weight {w.shape} and bias {b.shape} do not take {inputs} inputs"
        if not (np.isfinite(w).all() and np.isfinite(b).all()):
            return "weights and biases must be finite"
        inputs = len(w)
    return "" if inputs == CLASSES else f"the last layer must have {CLASSES} outputs, got {inputs}"


def largest(weights: Sequence[torch.Tensor], remaining: float) -> list[torch.Tensor]:
    """Masks of the weights that stay: that fraction of all layers' together, by magnitude."""
    sizes = torch.cat([w.detach().abs().flatten() for w in weights])
    keep = int(remaining * len(sizes))
    border = sizes.sort(descending=True).values[keep] if keep < len(sizes) else -1.0
    return [w.detach().abs() > border for w in weights]


def descended(
    logits: Callable[[torch.Tensor], torch.Tensor],
    parameters: Sequence[torch.Tensor],
    images: np.ndarray,
    labels: np.ndarray,
    epochs: int = 20,
    rate: float = 2e-3,
) -> None:
    """Train tensors in place: Adam, batches of 100, a rate that falls to nothing, one order of the images."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    optimizer = torch.optim.Adam(parameters, rate)
    steps, step = max(1, epochs * -(-len(x) // 100)), 0
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(100):
            optimizer.param_groups[0]["lr"] = rate * (1 - step / steps)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits(x[batch]), y[batch]).backward()
            optimizer.step()
            step += 1
