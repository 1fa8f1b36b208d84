"""Quantization-aware fine-tuning of a Transformer: weights of two and three bits, before and after.

An article fine-tunes a trained BERT in few bits. Here a trained encoder's linear layers simulate integers
(weights by channel, each layer's input by tensor with its range at that moment; `ptq.prepare_layers`) and
it trains on through them, on labels. Controls: the same network without training (PTQ), and as many steps
more in floats. With activations of 8 bits the result runs on integers (`convert`): a row of its own.
"""

import copy

import torch
from torch import nn

from compresslab import pretrained
from compresslab.data import keywords
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, train
from compresslab.runtime.convert import convert
from compresslab.techniques.ptq import prepare_layers
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate

EPOCHS, RATE = 4, 0.004
TUNING, TUNING_RATE = 2, 0.001
WIDTHS, ON_INTEGERS = ((3, 8), (2, 8), (2, 4)), (2, 8)


def run(seed: int, size: int) -> Rows:
    """One trained encoder, and for each pair of widths PTQ and QAF."""
    data = keywords.load(train_size=size, seed=seed)
    floats = grow(
        lambda: pretrained.keyword_encoder(width=64, layers=3),
        *(data.train, EPOCHS, RATE, seed),
        **_options(RATE),
    )
    more = train(
        copy.deepcopy(floats), data.train, TUNING, TUNING_RATE, seed, **_options(TUNING_RATE)
    )
    rows = {"floats": _row(floats, more, data)}
    for weights, activations in WIDTHS:
        network = prepare_layers(floats, QuantConfig(weights, activations, dynamic=True))
        before = copy.deepcopy(network)
        train(network, data.train, TUNING, TUNING_RATE, seed, **_options(TUNING_RATE))
        rows[f"W{weights}A{activations}"] = _row(before, network, data)
        if (weights, activations) == ON_INTEGERS:
            name = f"W{weights}A{activations}, on integers"
            rows[name] = _row(convert(before.eval()), convert(network.eval()), data)
    return rows


def _options(rate: float) -> dict[str, object]:
    return {
        "batch_size": 64,
        "optimizer": lambda n: torch.optim.AdamW(n.parameters(), rate, weight_decay=0.05),
    }


def _row(before: nn.Module, after: nn.Module, data: object) -> dict[str, float]:
    return {
        "at once, %": evaluate(before.eval(), data.test),
        "fine-tuned, %": evaluate(after, data.test),
    }


EXPERIMENT = Experiment(
    question=(
        "A trained Transformer with weights of two bits: what does training through the "
        "quantizers bring back?"
    ),
    run=run,
    size=6_000,
    findings=(
        Finding(
            "With weights of two bits, fine-tuned, it comes within two points of the floats trained as long",
            lambda r: 2 - (r["floats"]["fine-tuned, %"] - r["W2A8"]["fine-tuned, %"]),
            "points",
        ),
        Finding(
            "On integers, fine-tuned, it is as accurate as its simulation, to within a point",
            lambda r: 1 - abs(r["W2A8"]["fine-tuned, %"] - r["W2A8, on integers"]["fine-tuned, %"]),
            "points",
        ),
    ),
)
