"""A Transformer on bits: the linear layers of a trained encoder binarized at once, and trained as bits.

Binary weights, and activations in floats, as BinaryBERT (Bai et al. 2021) keeps them at first; then
activations as signs too, as BiT (Liu et al. 2022) does. Norms, embeddings and the head stay in floats.
Controls: the same network in floats, and the trained network's signs without training.
"""

import torch
from torch import nn

from compresslab import pretrained
from compresslab.data import keywords
from compresslab.longer.experiment import Experiment, Finding, Rows, grow, reached, train
from compresslab.network.edit import replaced
from compresslab.network.select import linear_layers
from compresslab.techniques import distill
from compresslab.techniques.binarize import BinaryConfig, BinaryLinear
from compresslab.training import evaluate

EPOCHS, RATE = 5, 0.003
WAYS = {
    "binary weights": BinaryConfig(activations=False),
    "binary weights and activations": BinaryConfig(),
}


def run(seed: int, size: int) -> Rows:
    """Floats, signs of the trained network, and both kinds of bits trained on from it, taught by it."""
    data = keywords.load(train_size=size, seed=seed)
    floats = grow(
        lambda: pretrained.keyword_encoder(width=64, layers=2),
        *(data.train, EPOCHS, RATE, seed),
        **_options(),
    )
    common = 100 * float(data.test.y.bincount().max()) / len(data.test.y)
    rows = {
        "floats": {"test accuracy, %": evaluate(floats, data.test)},
        "the most frequent keyword": {"test accuracy, %": common},
    }
    lesson = distill.Distillation(distill.cached(floats, data.train.x), 0.1, 2.0)
    for name, config in WAYS.items():
        network = binarized(floats, config)
        rows[f"{name}, at once"] = {"test accuracy, %": evaluate(network.eval(), data.test)}
        train(network, data.train, EPOCHS, RATE, seed, loss=lesson, **_options())
        rows[f"{name}, trained"] = {"test accuracy, %": evaluate(network, data.test)}
    return rows


def _options() -> dict[str, object]:
    return {"batch_size": 64, "optimizer": lambda n: torch.optim.AdamW(n.parameters(), RATE)}


def binarized(network: nn.Module, config: BinaryConfig) -> nn.Module:
    """A copy whose linear layers, but for the head, are binary, with the same numbers to begin with."""
    new = {}
    for name, layer in linear_layers(network).items():
        if name != "head":
            new[name] = BinaryLinear(layer.in_features, layer.out_features, config=config)
            new[name].load_state_dict(layer.state_dict())
    return replaced(network, new)


EXPERIMENT = Experiment(
    question="A Transformer whose linear layers are signs: what is left of it?",
    run=run,
    size=6_000,
    findings=(
        Finding(
            "Training brings the network on bits back by more than 30 points",
            lambda r: (
                reached(r, "binary weights and activations, trained")
                - reached(r, "binary weights and activations, at once")
                - 30
            ),
            "points",
        ),
        Finding(
            "With binary weights alone the trained network loses less than 4 points",
            lambda r: 4 - (reached(r, "floats") - reached(r, "binary weights, trained")),
            "points",
        ),
        Finding(
            "Activations as signs cost more than weights as signs do, after training",
            lambda r: (
                reached(r, "binary weights, trained")
                - reached(r, "binary weights and activations, trained")
                - (reached(r, "floats") - reached(r, "binary weights, trained"))
            ),
            "points",
        ),
    ),
)
