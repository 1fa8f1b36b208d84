"""Matrices of the language model for open exercises, with the moments of what reaches them.

    decibels = 10 log10( tr(W H W^T) / tr((W - Q) H (W - Q)^T) ),   H = X^T X / n of the layer's inputs X

The power of a layer's outputs over that of their error, on the text that H comes from.
"""

import functools

import numpy as np
import torch

from compresslab import pretrained
from compresslab.classroom.exercise import Case
from compresslab.data import corpus
from compresslab.network.select import linear_layers, matrix
from compresslab.network.taps import tapped
from compresslab.techniques import gptq

PASSAGES, ROWS = 24, 96
LAYERS = ("layers.0.attention.qkv", "layers.1.feedforward.0", "layers.2.attention.out")
"""Layers that differ in their inputs and in what they are for."""


@functools.cache
def moments(part: str) -> dict[str, np.ndarray]:
    """H of the layers' inputs on some passages of a part of the corpus, float64 [inputs, inputs]."""
    model = pretrained.language_model()
    text = corpus.load("python", part, 20_000).first(PASSAGES)
    found: dict[str, np.ndarray] = {}

    def keep(name: str, _layer: torch.nn.Module, x: tuple) -> None:
        found[name] = gptq.mean_hessian([x[0]]).numpy()

    layers = {name: model.get_submodule(name) for name in LAYERS}
    with torch.no_grad(), tapped(layers, before=keep):
        model(text.x)
    return found


@functools.cache
def _weights() -> dict[str, np.ndarray]:
    layers = linear_layers(pretrained.language_model())
    return {name: matrix(layers[name]).detach().numpy() for name in LAYERS}


def cases(generator: np.random.Generator) -> list[Case]:
    """Some rows of each layer with H of training text; what is hidden is H of other text."""
    found = []
    for name in LAYERS:
        weight = _weights()[name]
        rows = np.sort(generator.choice(len(weight), ROWS, replace=False))
        label = f"{ROWS} rows of {name}, {weight.shape[1]} inputs"
        args = (np.ascontiguousarray(weight[rows]), moments("train")[name])
        found.append(Case(label, args, hidden=(moments("val")[name],)))
    return found


def decibels(weight: np.ndarray, other: np.ndarray, moment: np.ndarray) -> float:
    """The outputs' power over the power of what `other` changes about them."""
    power, left = (((a @ moment) * a).sum() for a in (weight.astype(np.float64), weight - other))
    return float(10 * np.log10(power / max(left, 1e-30)))


def damped(moment: np.ndarray) -> np.ndarray:
    """H with a hundredth of its mean diagonal added, float64, as `gptq` has it."""
    h = moment.astype(np.float64)
    return h + gptq.DAMPING * np.trace(h) / len(h) * np.eye(len(h))
