"""A real language model of today: SmolLM2, with outliers that nobody planted.

Its weights are read from the package's file, where they have 4 bits already, so formats for weights are
compared once the residual stream is turned and the weights lie on no grid any more. Activations, keys and
values, and pruning have no such past. Texts are Python's documentation; a look (a small size) takes the
first blocks alone.
"""

import copy

import torch
from torch import nn

from compresslab.gpt import divergence, perplexity
from compresslab.longer.experiment import SMALL, Experiment, Finding, Rows
from compresslab.network.select import linear_layers, matrix, set_matrix
from compresslab.numerics.microscaling import MXFP4, NVFP4, quantize
from compresslab.real.packages import weights_of
from compresslab.real.stand_ins import network, passages
from compresslab.techniques import key_values, one_shot, rotation
from compresslab.techniques.dynamic_inputs import round_inputs
from compresslab.techniques.weight_only import WeightConfig, round_to_nearest

LENGTH, STEP, FIRST_BLOCKS = 256, 64, 2
KEPT = ("head",)
"""A layer that reads floats in every row: in the model as it was it shares the table of words."""


def run(seed: int, size: int) -> Rows:
    """Perplexity and divergence of SmolLM2 after each way, on `size` tokens."""
    weights_of("smollm2")  # says what to install
    model = network("smollm2")
    if size <= SMALL:
        model.layers = model.layers[:FIRST_BLOCKS]
    length = min(LENGTH, size)
    test = passages("test", size // length, length, seed)
    known = _Once(model)
    text = list(passages("train", 2 * size // length, length, seed).x.split(1))
    rows = {"as it is": _row(model, known, test)}
    turned = rotation.rotated(model, text[:1])
    for name, one in (("as it is", model), ("turned", turned)):
        head = KEPT if "head" in linear_layers(one) else ()
        for bits, sharing in ((8, "layer"), (8, "token"), (4, "token")):
            few = round_inputs(one, bits, sharing, head)
            rows[f"{name}, inputs of {bits} bits, a scale a {sharing}"] = _row(few, known, test)
    for name, form in (("integers, groups of 32", None), ("MXFP4", MXFP4), ("NVFP4", NVFP4)):
        rows[f"turned, weights as {name}"] = _row(_rounded(turned, form), known, test)
    rows |= _remembered(known, test)
    for method in one_shot.METHODS:
        rows[f"{method}, half"] = _row(one_shot.prune(model, text, method), known, test)
    return rows


class _Once(nn.Module):
    """A model that is run once for every passage: its answers are asked for several times."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.found = model, {}

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [n, length] -> logits."""
        key = tuple(tokens.flatten().tolist())
        if key not in self.found:
            self.found[key] = self.model(tokens)
        return self.found[key]


def _row(one: nn.Module, model: nn.Module, test: object) -> dict[str, float]:
    one = _Once(one)
    far = divergence(one, model, test, 1)
    return {
        "perplexity": perplexity(one, test, 1),
        "divergence, nats": far.mean,
        "words changed, %": 100 * far.changed,
    }


def _rounded(model: nn.Module, form: object) -> nn.Module:
    """A copy whose linear layers, but for the head, have weights of four bits."""
    model = copy.deepcopy(model)
    for name, layer in linear_layers(model).items():
        if name not in KEPT:
            weight = matrix(layer)
            found = (
                quantize(weight, form) if form else round_to_nearest(weight, WeightConfig(4, 32))
            )
            set_matrix(layer, found.dequantize())
    return model


def _remembered(model: _Once, test: object) -> Rows:
    """The same with earlier tokens in few bits."""
    rows = {}
    for bits, keys in ((8, "channel"), (4, "channel"), (2, "channel"), (2, "token")):

        def caches(bits: int = bits, keys: str = keys) -> list[key_values.QuantizedCache]:
            return key_values.quantized_caches(model.model, bits, keys=keys)

        name = f"keys and values of {bits} bits, keys by {keys}"
        rows[name] = _row(_Reader(model.model, caches), model, test)
    return rows


class _Reader(nn.Module):
    """The model reading a passage some tokens at a time, through caches of its own."""

    def __init__(self, model: nn.Module, caches: object) -> None:
        super().__init__()
        self.model, self.caches = model, caches

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens [n, length] -> logits."""
        memory = self.caches()
        return torch.cat([self.model(part, memory) for part in tokens.split(STEP, 1)], 1)


def _times(rows: Rows, one: str, other: str) -> float:
    """How many times as far the one diverges as the other."""
    return rows[one]["divergence, nats"] / rows[other]["divergence, nats"]


def _inputs(rows: Rows, bits: int) -> float:
    """Inputs of so many bits, a scale a token: turned, beside as it is."""
    kind = f"inputs of {bits} bits, a scale a token"
    return _times(rows, f"turned, {kind}", f"as it is, {kind}")


def _integers(rows: Rows) -> float:
    """Integers beside the better of the two float formats."""
    ours = "turned, weights as integers, groups of 32"
    return max(_times(rows, ours, f"turned, weights as {n}") for n in ("MXFP4", "NVFP4"))


EXPERIMENT = Experiment(
    question="Rotations, four-bit floats, a memory of few bits, pruning at once: what of a real model?",
    run=run,
    size=1024,
    findings=(
        Finding(
            "Turned, inputs of 8 bits with a scale a token diverge less than half as far",
            lambda r: 0.5 - _inputs(r, 8),
            "of it",
        ),
        Finding(
            "Turned, inputs of 4 bits diverge less than half as far, which is still far",
            lambda r: 0.5 - _inputs(r, 4),
            "of it",
        ),
        Finding(
            "Turning does not mend one scale a layer: more than twenty times as far as a scale a token",
            lambda r: (
                _times(
                    r,
                    "turned, inputs of 8 bits, a scale a layer",
                    "turned, inputs of 8 bits, a scale a token",
                )
                - 20
            ),
            "times",
        ),
        Finding(
            "Turned and rounded to four bits, integers in groups of 32 diverge less than either float format",
            lambda r: 1 - _integers(r),
            "of the better one",
        ),
        Finding(
            "Keys and values of 4 bits change fewer than one word in twenty",
            lambda r: 5 - r["keys and values of 4 bits, keys by channel"]["words changed, %"],
            "%",
        ),
        Finding(
            "At 2 bits keys by channel diverge less than a quarter as far as keys by token",
            lambda r: (
                0.25
                - _times(
                    r,
                    "keys and values of 2 bits, keys by channel",
                    "keys and values of 2 bits, keys by token",
                )
            ),
            "of it",
        ),
        Finding(
            "Wanda diverges less than two fifths as far as magnitude",
            lambda r: 0.4 - _times(r, "wanda, half", "magnitude, half"),
            "of it",
        ),
        Finding(
            "Wanda diverges less than 1.6 times as far as SparseGPT",
            lambda r: 1.6 - _times(r, "wanda, half", "sparsegpt, half"),
            "times",
        ),
    ),
    note="SmolLM2-135M-Instruct; inputs rounded as they come, weights to nearest. Its weights come from a "
    "file of four bits: formats of four bits are compared on the turned network.",
    digits=3,
)
