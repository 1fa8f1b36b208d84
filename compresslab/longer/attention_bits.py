"""Few bits for attention or for feed-forward layers? Three plans of equal bytes.

It is said that convolutions bear few bits and attention needs many. In a Transformer's layer attention has
a third of the weights (4 w^2 of 12 w^2), feed-forward two thirds, so at equal bytes

    4 4 (4 bits for all)      6 3 (attention has six, feed-forward three)      2 5 (the other way)

all take 48 w^2 bits. Weights only, rounded to nearest by channel.
"""

import torch
from torch import nn

from compresslab import pretrained
from compresslab.data import corpus, keywords
from compresslab.gpt import perplexity
from compresslab.longer.experiment import Experiment, Finding, Rows, grow
from compresslab.network.select import linear_layers
from compresslab.techniques.ptq import prepare_layers
from compresslab.techniques.quantizer import QuantConfig
from compresslab.training import evaluate

PLANS = {
    "4 bits for all": (4, 4),
    "attention 6, feed-forward 3": (6, 3),
    "attention 2, feed-forward 5": (2, 5),
}
EPOCHS, RATE = 4, 0.004


def run(seed: int, size: int) -> Rows:
    """An encoder trained here, and the package's language model, under each plan."""
    data = keywords.load(train_size=size, seed=seed)
    encoder = grow(
        lambda: pretrained.keyword_encoder(width=64, layers=3),
        *(data.train, EPOCHS, RATE, seed),
        batch_size=64,
        optimizer=lambda n: torch.optim.AdamW(n.parameters(), RATE, weight_decay=0.05),
    )
    gpt = pretrained.language_model()
    passages = corpus.load("python", "test", 40_000).some(max(2, min(size // 60, 64)), seed)
    rows = {
        "floats": {
            "encoder: test accuracy, %": evaluate(encoder, data.test),
            "GPT: perplexity": perplexity(gpt, passages),
        }
    }
    for name, (attention, others) in PLANS.items():
        rows[name] = {
            "encoder: test accuracy, %": evaluate(_planned(encoder, attention, others), data.test),
            "GPT: perplexity": perplexity(_planned(gpt, attention, others), passages),
        }
    return rows


def _planned(model: nn.Module, attention: int, others: int) -> nn.Module:
    layers = linear_layers(model)
    bits = {
        n: attention if ".attention." in n else others
        for n in layers
        if n.startswith(("layers.", "blocks."))
    }
    bits |= {n: 8 for n in layers if n not in bits}
    return prepare_layers(model, QuantConfig(8, None, layers=bits))


ALIKE, MORE, FEWER = PLANS
READER, WRITER = "encoder: test accuracy, %", "GPT: perplexity"

EXPERIMENT = Experiment(
    question="At equal bytes: more bits for attention, or for the feed-forward layers?",
    run=run,
    size=6_000,
    findings=(
        Finding(
            "Two bits for attention cost the encoder more than three bits for its feed-forward layers do",
            lambda r: r[MORE][READER] - r[FEWER][READER],
            "points",
        ),
        Finding(
            "For the language model perplexity is then more than three times as high",
            lambda r: r[FEWER][WRITER] / r[MORE][WRITER] - 3,
            "times",
        ),
        Finding(
            "For the language model the same bits everywhere are better than either",
            lambda r: r[MORE][WRITER] / r[ALIKE][WRITER] - 1,
            "times",
        ),
    ),
    note="Heads have 8 bits in all plans.",
)
